//! How far narrow weights may move what a stack computes: a bound from the rounding of every weight, derived for every cell and
//! followed through its units, steps and layers.

use super::common::case::{Arrays, Case, Directions, Outcome};
use super::run;
use gatewise::Device;
use gatewise::cell::{Cell, Direction, Forget, GruCell, LstmCell, Pad, Parameters, Reset, WeightType};
use gatewise::nn::Merge;
use gatewise::plan::PlanKind;
use gatewise::reference::{RowState, UnitGates, step, unit_gates};
use ndarray::{Array2, Array3, ArrayView1, aview1, s};

/// How far a weight may lie from what it was before it was stored, `row_most` being the largest of its row.
///
/// Half a unit in the last place of 11 (f16, whose smallest step is 2^-24) or 8 (bf16) binary digits; half a step of
/// `row_most / 127` (int8).
fn rounding(kind: WeightType, weight: f64, row_most: f64) -> f64 {
    match kind {
        WeightType::F32 => 0.0,
        WeightType::F16 => (weight.abs() * 2_f64.powi(-11)).max(2_f64.powi(-25)),
        WeightType::Bf16 => weight.abs() * 2_f64.powi(-8),
        WeightType::Int8 => row_most / 254.0,
        kind => panic!("a weight type without a bound: {kind}"),
    }
}

/// A vector of the exact call, and how far each element of the narrow one may lie from it.
#[derive(Clone, Default)]
struct Vague {
    exact: Vec<f64>,
    off: Vec<f64>,
}

/// The sizes of a matrix' weights, and of their rounding.
struct Narrow {
    sizes: Array2<f64>,
    rounding: Array2<f64>,
}

impl Narrow {
    fn of(kind: WeightType, weight: &Array2<f32>) -> Self {
        let sizes = weight.mapv(|w| f64::from(w.abs()));
        let mut rounding = sizes.clone();
        for mut row in rounding.rows_mut() {
            let most = row.fold(0.0_f64, |most, &w| most.max(w));
            row.mapv_inplace(|w| self::rounding(kind, w, most));
        }
        Self { sizes, rounding }
    }

    /// How far the products are off. Primes mark the narrow call, here and below:
    ///
    /// ```text
    /// |W'v' - Wv| <= |W' - W| |v'| + |W| |v' - v|,   |v'| <= |v| + |v' - v|
    /// ```
    fn products(&self, v: &Vague) -> Vec<f64> {
        let row = |(sizes, rounding): (ArrayView1<'_, f64>, ArrayView1<'_, f64>)| {
            let terms = v.exact.iter().zip(&v.off).zip(sizes.iter().zip(rounding));
            terms.map(|((v, off), (size, rounding))| rounding * (v.abs() + off) + size * off).sum()
        };
        self.sizes.rows().into_iter().zip(self.rounding.rows()).map(row).collect()
    }
}

/// One layer and direction of the exact call.
struct Layer {
    cell: Cell,
    exact: Parameters<f64>,
    weight_ih: Narrow,
    weight_hh: Narrow,
    weight_hr: Option<Narrow>,
}

/// A gate that is off by `off`, at the most.
fn at_most(gate: f64, off: f64) -> f64 {
    (gate + off).min(1.0)
}

impl Layer {
    fn new(cell: Cell, kind: WeightType, p: &Parameters) -> Self {
        Self {
            cell,
            exact: p.map(f64::from),
            weight_ih: Narrow::of(kind, &p.weight_ih),
            weight_hh: Narrow::of(kind, &p.weight_hh),
            weight_hr: p.weight_hr.as_ref().map(|weight| Narrow::of(kind, weight)),
        }
    }

    /// How far h and s are off after a step that begins with them off by so much.
    ///
    /// A pre-activation is off by `a`, the sum of both sides' products. The sigmoid's slope is at most 1/4, the tanh's at most 1,
    /// and |tanh(s)| is at most |s| and 1; i, f, o, r and z lie within [0, 1].
    fn step(&self, x: &Vague, h: &Vague, s: &Vague) -> RowState<f64> {
        let (input, recurrent) = (self.weight_ih.products(x), self.weight_hh.products(h));
        match &self.cell {
            // h = tanh(a)
            Cell::Rnn(_) => RowState { h: input.iter().zip(&recurrent).map(|(x, h)| x + h).collect(), s: vec![] },
            Cell::Lstm(cell) => self.lstm_step(cell, [x, h, s], (&input, &recurrent)),
            Cell::Gru(cell) => RowState { h: self.gru_step(cell, [x, h], (&input, &recurrent)), s: vec![] },
            cell => panic!("a cell without a test: {cell:?}"),
        }
    }

    /// A peephole p, which no type rounds, adds p s to the pre-activations of i and f, and p times the new s to that of o. A clip of
    /// s brings s' and s no further apart.
    ///
    /// ```text
    /// |(f s + i g)' - (f s + i g)| <= f' |s' - s| + |f' - f| |s| + i' |g' - g| + |i' - i| |g|
    /// |(o tanh(s))' - o tanh(s)|   <= o' |s' - s| + |o' - o| |tanh(s)|
    /// ```
    fn lstm_step(
        &self,
        cell: &LstmCell,
        [x, h, s]: [&Vague; 3],
        (input, recurrent): (&[f64], &[f64]),
    ) -> RowState<f64> {
        let before = RowState { h: h.exact.clone(), s: s.exact.clone() };
        let gates = unit_gates(&self.cell, &self.exact, &x.exact, &before);
        let after = step(&self.cell, &self.exact, &x.exact, &before);
        let hidden = gates.len();
        let (mut m, mut s_off) = (Vague::default(), Vec::new());
        for (u, gate) in gates.iter().enumerate() {
            let a = |block: usize| input[block * hidden + u] + recurrent[block * hidden + u];
            let peephole = |row: usize| self.exact.peephole.as_ref().map_or(0.0, |p| p[[row, u]].abs());
            let (candidate, output) = if cell.forget == Forget::Gate { (2, 3) } else { (1, 2) };
            let i = (a(0) + peephole(0) * s.off[u]) / 4.0;
            let f = match cell.forget {
                Forget::Gate => (a(1) + peephole(1) * s.off[u]) / 4.0,
                Forget::Coupled => i,
                Forget::Never => 0.0,
            };
            let new =
                at_most(gate.kept, f) * s.off[u] + f * s.exact[u].abs() + at_most(gate.written, i) * a(candidate) + i;
            let o = (a(output) + peephole(2) * new) / 4.0;
            m.exact.push(gate.read * after.s[u].tanh());
            m.off.push(at_most(gate.read, o) * new + o * after.s[u].abs().min(1.0));
            s_off.push(new);
        }
        let h = self.weight_hr.as_ref().map_or_else(|| m.off.clone(), |weight| weight.products(&m));
        RowState { h, s: s_off }
    }

    /// ```text
    /// |(W r h)' - W r h|               the operand is off by r' |h' - h| + |r' - r| |h|
    /// |(r (W h + b))' - r (W h + b)|   <= r' |(W h)' - W h| + |r' - r| |W h + b|
    /// |h'_t - h_t|                     <= written' |n' - n| + kept' |h' - h| + |z' - z| |h - n|
    /// ```
    ///
    /// Of z and 1 - z one is how much of n is written, the other how much of h is kept.
    fn gru_step(&self, cell: &GruCell, [x, h]: [&Vague; 2], (input, recurrent): (&[f64], &[f64])) -> Vec<f64> {
        let before = RowState { h: h.exact.clone(), s: vec![] };
        let gates = unit_gates(&self.cell, &self.exact, &x.exact, &before);
        let hidden = gates.len();
        let gate_off = |block: usize, u: usize| (input[block * hidden + u] + recurrent[block * hidden + u]) / 4.0;
        let state_side: Vec<f64> = match cell.reset {
            Reset::Before => {
                let exact = gates.iter().zip(&h.exact).map(|(gate, h)| gate.read * h).collect();
                let off = |(u, gate): (usize, &UnitGates<f64>)| {
                    let r = gate_off(0, u);
                    at_most(gate.read, r) * h.off[u] + r * h.exact[u].abs()
                };
                let reset = Vague { exact, off: gates.iter().enumerate().map(off).collect() };
                self.weight_hh.products(&reset)[2 * hidden..].to_vec()
            }
            Reset::After => {
                let products = self.exact.weight_hh.dot(&ArrayView1::from(&h.exact));
                let of_unit = |(u, gate): (usize, &UnitGates<f64>)| {
                    let (r, row) = (gate_off(0, u), 2 * hidden + u);
                    let biased = products[row] + self.exact.bias_hh.as_ref().map_or(0.0, |b| b[row]);
                    at_most(gate.read, r) * recurrent[row] + r * biased.abs()
                };
                gates.iter().enumerate().map(of_unit).collect()
            }
        };
        let of_unit = |(u, gate): (usize, &UnitGates<f64>)| {
            let (z, n) = (gate_off(1, u), input[2 * hidden + u] + state_side[u]);
            at_most(gate.written, z) * n + at_most(gate.kept, z) * h.off[u] + z * (h.exact[u].abs() + 1.0)
        };
        gates.iter().enumerate().map(of_unit).collect()
    }
}

/// The exact output, and how far every element of output and state may be off. A state that is given is exact, and so is one that a
/// reset returns to; a step that is skipped leaves the state as it was, exact or not.
fn bound(case: &Case, arrays: &Arrays<f32>) -> (Array3<f64>, Outcome<f64>) {
    assert_ne!(case.directions, Directions::Both(Merge::Mul), "errors of a product are not the product of errors");
    let (valid, resets, ways) = (case.valid(), case.resets(), case.ways());
    let given = |array: &Array3<f32>, row: usize, b: usize| {
        let exact: Vec<f64> = array.slice(s![row, b, ..]).iter().map(|&x| f64::from(x)).collect();
        Vague { off: vec![0.0; exact.len()], exact }
    };
    let mut below = (arrays.x.mapv(f64::from), Array3::zeros(arrays.x.dim()));
    let (mut h_off, mut s_off) = (Array3::zeros(arrays.h.dim()), Array3::zeros(arrays.s.dim()));
    for (at, parameters) in arrays.parameters.iter().enumerate() {
        let mut outputs = (Vec::new(), Vec::new());
        for (way, ((direction, cell), p)) in ways.iter().zip(parameters).enumerate() {
            let (row, layer) = (at * ways.len() + way, Layer::new(*cell, case.weight_type, p));
            let shape = (case.time, case.batch, arrays.h.dim().2);
            let mut y = (Array3::zeros(shape), Array3::zeros(shape));
            for b in 0..case.batch {
                let (mut h, mut s) = (given(&arrays.h, row, b), given(&arrays.s, row, b));
                let mut held = Vague { exact: vec![0.0; shape.2], off: vec![0.0; shape.2] };
                for k in 0..case.time {
                    let t = if *direction == Direction::Forward { k } else { case.time - 1 - k };
                    if resets.as_ref().is_some_and(|resets| resets[[t, b]]) {
                        (h, s) = (given(&arrays.h, row, b), given(&arrays.s, row, b));
                    }
                    if valid[[t, b]] {
                        let of = |array: &Array3<f64>| array.slice(s![t, b, ..]).to_vec();
                        let x = Vague { exact: of(&below.0), off: of(&below.1) };
                        let off = layer.step(&x, &h, &s);
                        let exact = step(cell, &layer.exact, &x.exact, &RowState { h: h.exact, s: s.exact });
                        h = Vague { exact: exact.h, off: off.h };
                        s = Vague { exact: exact.s, off: off.s };
                        held = h.clone();
                    } else if case.instructions.pad == Pad::Zero {
                        held = Vague { exact: vec![0.0; shape.2], off: vec![0.0; shape.2] };
                    }
                    y.0.slice_mut(s![t, b, ..]).assign(&aview1(&held.exact));
                    y.1.slice_mut(s![t, b, ..]).assign(&aview1(&held.off));
                }
                h_off.slice_mut(s![row, b, ..]).assign(&aview1(&h.off));
                s_off.slice_mut(s![row, b, ..]).assign(&aview1(&s.off));
            }
            outputs.0.push(y.0);
            outputs.1.push(y.1);
        }
        below = (case.merged(outputs.0), case.merged(outputs.1));
    }
    (below.0, Outcome { y: below.1, h: h_off, s: s_off })
}

/// Scales a matrix so that no row's sizes add up to more than `most`.
fn scale_rows(weight: Option<&mut Array2<f32>>, most: f32) {
    if let Some(weight) = weight {
        let largest = weight.rows().into_iter().map(|row| row.fold(0.0, |sum, w| sum + w.abs())).fold(0.0, f32::max);
        weight.mapv_inplace(|w| w * most / largest);
    }
}

/// Runs the case by weights that do not amplify what they meet, and compares every element with the specification whose weights
/// are not rounded.
#[track_caller]
pub(crate) fn stays_within_bounds(device: &Device, kind: PlanKind, case: &Case) {
    let mut arrays = case.arrays();
    for p in arrays.parameters.iter_mut().flatten() {
        for (weight, most) in
            [(Some(&mut p.weight_ih), 1.0), (Some(&mut p.weight_hh), 0.5), (p.weight_hr.as_mut(), 1.0)]
        {
            scale_rows(weight, most);
        }
    }
    let exact = Case { weight_type: WeightType::F32, ..case.clone() };
    let (expected, noise) = exact.expectation(&arrays).expect("a tame cell");
    let (y, bound) = bound(case, &arrays);
    assert_eq!(y, expected.y, "a bound of another call");
    let (plan, got) = run(device, kind, case, &arrays);
    let (mut most, mut largest) = (0.0_f64, 0.0_f64);
    let parts = [(&got.y, &expected.y, &bound.y), (&got.h, &expected.h, &bound.h), (&got.s, &expected.s, &bound.s)];
    for (got, expected, bound) in parts {
        for ((&got, &expected), &bound) in got.iter().zip(expected).zip(bound) {
            let off = (f64::from(got) - expected).abs();
            assert!(off <= bound + noise, "off by {off}, at most {bound} + {noise}\n{plan}\n{case:#?}");
            (most, largest) = (most.max(off), largest.max(bound));
        }
    }
    // The narrow type does change the numbers, and the bound does not let everything pass.
    let sensible: f64 = match case.weight_type {
        WeightType::F32 => 0.0,
        WeightType::F16 => 2e-3,
        WeightType::Bf16 => 0.03,
        WeightType::Int8 => 0.1,
        kind => panic!("a weight type without a bound: {kind}"),
    };
    assert!(most > noise, "off by {most} only: was it rounded at all?\n{plan}\n{case:#?}");
    assert!(largest < sensible.min(200.0 * most), "{largest} says little of {most}\n{plan}\n{case:#?}");
}
