//! Losses, and the end of a training step.

use gatewise::op::{Adam, Clip, PointLoss, RmsProp, Rule, Sgd, Update};
use gatewise::reference::{self, clip_coefficient};
use ndarray::{ArrayView1, ArrayView2};

use super::{Case, EDGES, Slot, WORKGROUPS, grid, n, wide};
use crate::support::{Tolerance, uniform};

/// Rows of scores with their targets, some of them ignored.
fn scores(rows: usize, classes: usize) -> (Vec<f32>, Vec<f32>) {
    let mut x = uniform(91, rows * classes, 6.0);
    // Where an exponential by itself overflows, or all but one vanish.
    x.iter_mut().step_by(29).for_each(|x| *x *= 40.0);
    let target = |row: usize| if row % 4 == 2 { -1.0 } else { ((row * 7 + 3) % classes) as f32 };
    (x, (0..rows).map(target).collect())
}

const SCORES: [(usize, usize); 8] = [(1, 1), (3, 2), (5, 63), (4, 64), (6, 65), (3, 200), (70, 5), (0, 5)];

/// A grid of one workgroup per row. If folded, the last group of the second axis may have no row.
fn rows_grid(rows: usize, folded: bool) -> [u32; 3] {
    if folded { [n(rows.div_ceil(2).max(1)), 2, 1] } else { [n(rows.max(1)), 1, 1] }
}

pub(crate) fn softmax_cross_entropy() -> Vec<Case> {
    let one = |(at, (rows, classes)): (usize, (usize, usize))| {
        let (x, targets) = scores(rows, classes);
        let (x64, targets64) = (wide(&x), wide(&targets));
        let x_view = ArrayView2::from_shape((rows, classes), &x64).expect("fits");
        let y = reference::softmax_cross_entropy(x_view, ArrayView1::from(&targets64)).expect("room");
        let size = WORKGROUPS[at % WORKGROUPS.len()];
        Case {
            name: format!("[{rows}, {classes}] workgroup {size}"),
            constants: vec![("WORKGROUP_SIZE", n(size))],
            dims: vec![n(rows), n(classes)],
            buffers: vec![Slot::floats(&x), Slot::floats(&targets), Slot::output(rows).near(0, y)],
            grid: rows_grid(rows, at % 2 == 1),
            tolerance: Tolerance { abs: 2e-5, rel: 2e-6 },
        }
    };
    let mut cases: Vec<Case> = SCORES.into_iter().enumerate().map(one).collect();
    // A row with a NaN has no loss; its neighbours have.
    let nan = f64::NAN;
    let x = [1.0, f32::NAN, 2.0, 0.0, 0.0, 0.0, f32::NAN, 1.0, 1.0];
    cases.push(Case {
        name: "NaN".to_owned(),
        constants: vec![("WORKGROUP_SIZE", 64)],
        dims: vec![3, 3],
        buffers: vec![
            Slot::floats(&x),
            Slot::floats(&[0.0, 1.0, 2.0]),
            Slot::output(3).near(0, [nan, 3.0_f64.ln(), nan]),
        ],
        grid: [3, 1, 1],
        tolerance: Tolerance { abs: 2e-6, rel: 2e-6 },
    });
    cases
}

pub(crate) fn softmax_cross_entropy_grad() -> Vec<Case> {
    let one = |(at, (rows, classes)): (usize, (usize, usize))| {
        let (x, targets) = scores(rows, classes);
        let (x64, targets64) = (wide(&x), wide(&targets));
        let (scale, dy) = (0.3_f32, -1.5_f32);
        let x_view = ArrayView2::from_shape((rows, classes), &x64).expect("fits");
        let scaled = f64::from(scale) * f64::from(dy);
        let dx = reference::softmax_cross_entropy_grad(x_view, ArrayView1::from(&targets64), scaled).expect("room");
        let size = WORKGROUPS[at % WORKGROUPS.len()];
        Case {
            name: format!("[{rows}, {classes}] workgroup {size}"),
            constants: vec![("WORKGROUP_SIZE", n(size))],
            dims: vec![n(rows), n(classes), scale.to_bits()],
            buffers: vec![
                Slot::floats(&x),
                Slot::floats(&targets),
                Slot::floats(&[dy]),
                Slot::output(dx.len()).near(0, dx.iter().copied()),
            ],
            grid: rows_grid(rows, at % 2 == 1),
            tolerance: Tolerance { abs: 2e-6, rel: 1e-5 },
        }
    };
    SCORES.into_iter().enumerate().map(one).collect()
}

/// Predictions, goals in [0, 1], and weights of which some are zero.
fn points(rows: usize, columns: usize) -> (Vec<f32>, Vec<f32>, Vec<f32>) {
    let mut x = uniform(92, rows * columns, 4.0);
    x.iter_mut().step_by(13).for_each(|x| *x *= 30.0);
    let goals = uniform(93, rows * columns, 0.5).into_iter().map(|y| y + 0.5).collect();
    let weights: Vec<f32> = (0..rows).map(|row| if row % 3 == 1 { 0.0 } else { 1.0 }).collect();
    for (at, x) in x.iter_mut().enumerate() {
        if weights[at / columns] == 0.0 {
            *x = f32::NAN;
        }
    }
    (x, goals, weights)
}

fn point_cases(gradient: bool) -> Vec<Case> {
    let mut cases = Vec::new();
    let shapes = [[1, 1], [3, 5], [9, 7], [1, 64], [65, 1], [4, 63], [0, 3], [2, 300]];
    for loss in PointLoss::ALL {
        for (at, [rows, columns]) in shapes.into_iter().enumerate() {
            let (x, goals, weights) = points(rows, columns);
            let (x64, goals64, weights64) = (wide(&x), wide(&goals), wide(&weights));
            let matrix = |x| ArrayView2::from_shape((rows, columns), x).expect("fits");
            let (x_view, goals_view) = (matrix(&x64), matrix(&goals64));
            let weights_view = ArrayView1::from(&weights64);
            let (scale, dy, size) = (0.7_f32, -2.5_f32, WORKGROUPS[at % WORKGROUPS.len()]);
            let inputs = [Slot::floats(&x), Slot::floats(&goals), Slot::floats(&weights)];
            let (buffers, dims) = if gradient {
                let scaled = f64::from(scale) * f64::from(dy);
                let dx = reference::point_loss_grad(loss, x_view, goals_view, weights_view, scaled).expect("room");
                let rest = [Slot::floats(&[dy]), Slot::output(dx.len()).near(0, dx)];
                (inputs.into_iter().chain(rest).collect(), vec![n(rows), n(columns), scale.to_bits()])
            } else {
                let parts = reference::point_loss(loss, x_view, goals_view, weights_view).expect("room");
                let rest = [Slot::output(parts.len()).near(0, parts)];
                (inputs.into_iter().chain(rest).collect(), vec![n(rows), n(columns)])
            };
            cases.push(Case {
                name: format!("{loss:?} [{rows}, {columns}] workgroup {size}"),
                constants: vec![("WORKGROUP_SIZE", n(size)), ("LOSS", loss as u32)],
                dims,
                buffers,
                grid: grid(rows * columns, size, at % 2 == 1),
                tolerance: Tolerance { abs: 4e-6, rel: 4e-6 },
            });
        }
    }
    cases
}

pub(crate) fn point_loss() -> Vec<Case> {
    point_cases(false)
}

pub(crate) fn point_loss_grad() -> Vec<Case> {
    point_cases(true)
}

/// Elements that one invocation of `partial_sums` adds up.
const RUN: usize = 64;

pub(crate) fn partial_sums() -> Vec<Case> {
    let mut cases = Vec::new();
    let options = [(false, None), (true, None), (true, Some(0.4_f32)), (false, Some(0.4))];
    for (at, count) in EDGES.into_iter().chain([2048, 4095, 4096, 4097, 9000, 17_000]).enumerate() {
        let (norm, limit) = options[at % options.len()];
        cases.push(partial_case(uniform(94, count, 1.0), norm, limit, WORKGROUPS[at % WORKGROUPS.len()], at % 2 == 1));
    }
    // Squares of these overflow or vanish; their norms do not.
    for scale in [3e19, 3e36, 1e-22, 1e-30] {
        cases.push(partial_case(uniform(94, 1000, scale), true, None, 64, false));
        let one_large: Vec<f32> = uniform(94, 1000, 1.0).into_iter().chain([scale]).collect();
        cases.push(partial_case(one_large, true, None, 64, false));
    }
    cases.push(partial_case(vec![3.4e38, 1.0], true, None, 64, false));
    cases.push(partial_case(vec![0.0; 70], true, None, 64, false));
    for odd in [f32::INFINITY, f32::NEG_INFINITY, f32::NAN] {
        let x = |place: usize| (0..200).map(|at| if at == place { odd } else { 1e30 }).collect();
        cases.extend([0, 77, 199].map(|place| partial_case(x(place), true, None, 64, false)));
    }
    cases
}

fn partial_case(x: Vec<f32>, norm: bool, limit: Option<f32>, size: usize, folded: bool) -> Case {
    let element = |&x: &f32| f64::from(limit.map_or(x, |limit| x.clamp(-limit, limit)));
    let sum = |run: &[f32]| -> f64 {
        let elements = run.iter().map(element);
        if norm { elements.map(|x| x * x).sum::<f64>().sqrt() } else { elements.sum() }
    };
    let sums: Vec<f64> = x.chunks(size * RUN).map(sum).collect();
    let runs = n(sums.len().max(1));
    Case {
        name: format!(
            "[{}] from {:e} on, norm {norm} limit {limit:?} workgroup {size}",
            x.len(),
            x.first().unwrap_or(&0.0)
        ),
        constants: vec![
            ("WORKGROUP_SIZE", n(size)),
            ("NORM", u32::from(norm)),
            ("CLAMPED", u32::from(limit.is_some())),
        ],
        dims: vec![n(x.len()), 3, limit.unwrap_or_default().to_bits()],
        buffers: vec![Slot::floats(&x), Slot::output(3 + sums.len()).near(3, sums)],
        grid: if folded { [runs.div_ceil(2), 2, 1] } else { [runs, 1, 1] },
        tolerance: if norm { Tolerance { abs: 0.0, rel: 3e-6 } } else { Tolerance { abs: 2e-4, rel: 2e-6 } },
    }
}

pub(crate) fn total_sum() -> Vec<Case> {
    let one = |(at, count): (usize, usize)| {
        let (x, size) = (uniform(95, count, 1.0), WORKGROUPS[at % WORKGROUPS.len()]);
        let sum = -1.75 * wide(&x).iter().sum::<f64>();
        Case {
            name: format!("[{count}] workgroup {size}"),
            constants: vec![("WORKGROUP_SIZE", n(size))],
            dims: vec![n(count), (-1.75_f32).to_bits()],
            buffers: vec![Slot::floats(&x), Slot::output(1).near(0, [sum])],
            grid: [1, 1, 1],
            tolerance: Tolerance { abs: 1e-4, rel: 2e-6 },
        }
    };
    EDGES.into_iter().chain([1000, 5000]).enumerate().map(one).collect()
}

pub(crate) fn judge_step() -> Vec<Case> {
    let mut cases = Vec::new();
    let fresh = [0.0, 0.0, 0.0, 1.0, 0.0];
    let stopped = [f32::NAN, 7.5, 0.0, 0.0, f32::from_bits(41)];
    let mut add = |what: &str, loss: f32, norms: &[f32], limit: Option<f32>, before: [f32; 5], after: Slot| {
        cases.push(Case {
            name: format!("{what}, {} norms, limit {limit:?}", norms.len()),
            constants: vec![("CLIPPED", u32::from(limit.is_some())), ("WORKGROUP_SIZE", 64)],
            dims: vec![n(norms.len()), 42, limit.unwrap_or_default().to_bits()],
            buffers: vec![Slot::floats(&[loss]), Slot::floats(norms), Slot::floats(&before), after],
            grid: [1, 1, 1],
            tolerance: Tolerance { abs: 0.0, rel: 3e-6 },
        });
    };
    let after = |loss: f32, norm: f64, coefficient: f64, good: bool| {
        let good = if good { 1.0 } else { 0.0 };
        Slot::output(5).near(0, [f64::from(loss), norm, coefficient, good]).exactly(4, [f32::from_bits(42)])
    };
    for (at, count) in [1, 3, 64, 65, 300].into_iter().enumerate() {
        let norms: Vec<f32> = uniform(96, count, 2.0).into_iter().map(f32::abs).collect();
        let norm = wide(&norms).iter().map(|x| x * x).sum::<f64>().sqrt();
        for limit in [None, Some(0.5), Some(1e4)] {
            let last = [1.0, 2.0, 3.0, 1.0, f32::from_bits(at as u32)];
            let before = if at % 2 == 0 { fresh } else { last };
            add("good", -0.25, &norms, limit, before, after(-0.25, norm, clip_coefficient(norm, limit), true));
        }
    }
    // Squares of these overflow or vanish; their norms do not.
    for norms in [[3e19, 4e19], [3e37, 4e37], [3e-30, 4e-30], [3e30, 4e-30]] {
        let norm = wide(&norms).iter().map(|x| x * x).sum::<f64>().sqrt();
        add("good", 1.0, &norms, Some(10.0), fresh, after(1.0, norm, clip_coefficient(norm, Some(10.0)), true));
    }
    for (loss, norms, norm) in [
        (f32::NAN, [3.0, 4.0], 5.0),
        (f32::INFINITY, [3.0, 4.0], 5.0),
        (1.0, [f32::NAN, 1.0], f64::NAN),
        (1.0, [f32::INFINITY, f32::NAN], f64::NAN),
        (1.0, [1.0, f32::INFINITY], f64::INFINITY),
        // Each number fits f32; their sum does not.
        (1.0, [3e38, 3e38], f64::INFINITY),
    ] {
        add("not finite", loss, &norms, Some(1.0), fresh, after(loss, norm, 0.0, false));
    }
    add("stopped", 1.0, &[4.0], Some(1.0), stopped, Slot::output(5).exactly(0, stopped));
    // No gradient at all.
    add("good", 1.0, &[], Some(1.0), fresh, after(1.0, 0.0, 1.0, true));
    cases
}

/// A rule with the flags and numbers of its uniform, from the rule's own definition.
struct Written {
    rule: Rule,
    flags: Vec<(&'static str, u32)>,
    /// rate, decay, momentum, dampened, kept, rest, eps, root, at a step
    numbers: fn(&Update) -> [f64; 8],
}

fn written() -> Vec<Written> {
    const SGD: Sgd = Sgd { momentum: 0.0, dampening: 0.0, nesterov: false, weight_decay: 0.0 };
    const MOMENTUM: Sgd = Sgd { momentum: 0.8, dampening: 0.3, nesterov: false, weight_decay: 0.05 };
    const NESTEROV: Sgd = Sgd { momentum: 0.8, dampening: 0.0, nesterov: true, weight_decay: 0.0 };
    const PROP: RmsProp = RmsProp { alpha: 0.9, eps: 1e-3, weight_decay: 0.05, momentum: 0.0, centered: false };
    const BOTH: RmsProp = RmsProp { momentum: 0.7, centered: true, ..PROP };
    const ADAM: Adam = Adam { betas: [0.8, 0.9], eps: 1e-3, weight_decay: 0.05, decoupled: false, amsgrad: false };
    let sgd = |rule: Sgd, flags: &[(&'static str, u32)], numbers| Written {
        rule: rule.into(),
        flags: [&[("RULE", 0)], flags].concat(),
        numbers,
    };
    let prop = |rule: RmsProp, flags: &[(&'static str, u32)], numbers| Written {
        rule: rule.into(),
        flags: [&[("RULE", 1)], flags].concat(),
        numbers,
    };
    let adam = |rule: Adam, flags: &[(&'static str, u32)], numbers| Written {
        rule: rule.into(),
        flags: [&[("RULE", 2)], flags].concat(),
        numbers,
    };
    fn adam_numbers(update: &Update) -> [f64; 8] {
        let power = |beta: f64| beta.powi(update.step as i32);
        let (size, root) = (update.rate / (1.0 - power(0.8)), (1.0 - power(0.9)).sqrt());
        [size, 0.05, 0.0, 0.2, 0.9, 0.1, 1e-3, root]
    }
    vec![
        sgd(SGD, &[], |u| [u.rate, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0]),
        sgd(MOMENTUM, &[("MOMENTUM", 1)], |u| [u.rate, 0.05, 0.8, 0.7, 0.0, 0.0, 0.0, 0.0]),
        sgd(NESTEROV, &[("MOMENTUM", 1), ("NESTEROV", 1)], |u| [u.rate, 0.0, 0.8, 1.0, 0.0, 0.0, 0.0, 0.0]),
        prop(PROP, &[], |u| [u.rate, 0.05, 0.0, 0.0, 0.9, 0.1, 1e-3, 0.0]),
        prop(RmsProp { momentum: 0.7, ..PROP }, &[("MOMENTUM", 1)], |u| [u.rate, 0.05, 0.7, 0.0, 0.9, 0.1, 1e-3, 0.0]),
        prop(RmsProp { centered: true, ..PROP }, &[("CENTERED", 1)], |u| [u.rate, 0.05, 0.0, 0.0, 0.9, 0.1, 1e-3, 0.0]),
        prop(BOTH, &[("MOMENTUM", 1), ("CENTERED", 1)], |u| [u.rate, 0.05, 0.7, 0.0, 0.9, 0.1, 1e-3, 0.0]),
        adam(ADAM, &[], adam_numbers),
        adam(Adam { amsgrad: true, ..ADAM }, &[("AMSGRAD", 1)], adam_numbers),
        adam(Adam { decoupled: true, ..ADAM }, &[("DECOUPLED", 1)], |u| {
            let mut numbers = adam_numbers(u);
            numbers[1] = 1.0 - 0.05 * u.rate;
            numbers
        }),
    ]
}

pub(crate) fn optimizer_step() -> Vec<Case> {
    let mut cases = Vec::new();
    for (at, written) in written().into_iter().enumerate() {
        let rule = written.rule;
        for (step, len, clip, good) in [
            (1, 65, Clip::default(), true),
            (4, 130, Clip::value(0.3), true),
            (3, 63, Clip::default(), false),
            (2, [0, 1, 64, 200][at % 4], Clip::value(0.3), true),
        ] {
            let slots = rule.slots().len();
            // Mean squares are larger than squared means, so that no deviation is NaN.
            let kept = uniform(103, slots * len, 0.1).into_iter().enumerate();
            let kept = kept.map(|(k, x)| match (k / len.max(1), rule) {
                // Above and below the mean squares.
                (2, Rule::Adam(_)) => 4.0 * x.abs(),
                (2, _) => x,
                _ => x.abs() + 0.2,
            });
            let kept: Vec<f32> = kept.collect();
            let kept = if matches!(rule, Rule::RmsProp(RmsProp { centered: true, momentum: 0.0, .. })) {
                kept.iter().enumerate().map(|(k, &x)| if k >= len { 0.3 * (x - 0.3) } else { x }).collect()
            } else {
                kept
            };
            let (p, g) = (uniform(101, len, 1.0), uniform(102, len, 1.0));
            cases.push(UpdateCase { p, g, kept, clip, good, step, overflows: false }.written(&written, at));
        }
        if matches!(rule, Rule::RmsProp(RmsProp { centered: true, .. })) {
            // The variance is below zero, or it is the difference of two squares that overflow.
            for (overflows, g, square, mean) in [(false, 2.0, 0.3, 0.8), (true, 1e20, f32::INFINITY, 4e19)] {
                let slots = rule.slots().into_iter().map(|name| match name {
                    "square_avg" => square,
                    "grad_avg" => mean,
                    _ => 0.5,
                });
                let kept = slots.flat_map(|slot| [slot; 70]).collect();
                let (p, g) = (uniform(101, 70, 1.0), vec![g; 70]);
                let case = UpdateCase { p, g, kept, clip: Clip::default(), good: true, step: 5, overflows };
                cases.push(case.written(&written, at));
            }
        }
    }
    cases
}

/// The inputs of an update.
struct UpdateCase {
    p: Vec<f32>,
    g: Vec<f32>,
    /// `[slots, elements]`
    kept: Vec<f32>,
    clip: Clip,
    /// Whether the verdict on the step is good.
    good: bool,
    step: u64,
    /// Whether a square is beyond f32, so that the reference must compute in f32, too.
    overflows: bool,
}

impl UpdateCase {
    fn written(&self, Written { rule, flags, numbers }: &Written, at: usize) -> Case {
        let Self { p, g, kept, clip, good, step, overflows } = self;
        let (len, slots) = (p.len(), rule.slots().len());
        let update = Update::new(*rule, 0.02, *step);
        let coefficient = 0.4_f32;
        let (mut moved, mut after) = (wide(p), wide(kept));
        for k in (0..len).filter(|_| *good) {
            let own = (0..slots).map(|slot| kept[slot * len + k]);
            let own: Vec<f64> = if *overflows {
                let mut own: Vec<f32> = own.collect();
                moved[k] = update.apply(p[k], coefficient * clip.clamp(g[k]), &mut own).into();
                wide(&own)
            } else {
                let mut own: Vec<f64> = own.map(f64::from).collect();
                let g = f64::from(coefficient) * clip.clamp(f64::from(g[k]));
                moved[k] = update.apply(f64::from(p[k]), g, &mut own);
                own
            };
            own.iter().enumerate().for_each(|(slot, &value)| after[slot * len + k] = value);
        }
        assert!(moved.iter().all(|p| p.is_finite()), "{rule:?}: the reference moves parameters to numbers");
        let verdict = [1.0, 2.0, coefficient, if *good { 1.0 } else { 0.0 }, f32::from_bits(9)];
        let size = WORKGROUPS[at % WORKGROUPS.len()];
        let [count, first] = [n(len), u32::from(*step == 1)];
        let numbers = numbers(&update).map(|x| (x as f32).to_bits());
        let own = [("CLAMPED", u32::from(clip.value.is_some())), ("WORKGROUP_SIZE", n(size))];
        Case {
            name: format!("{rule:?} step {step} [{len}] {clip:?} good {good} overflows {overflows} workgroup {size}"),
            constants: flags.iter().copied().chain(own).collect(),
            dims: [count, first, clip.value.unwrap_or_default().to_bits()].into_iter().chain(numbers).collect(),
            buffers: vec![
                Slot::floats(p),
                Slot::floats(g),
                Slot::floats(kept),
                Slot::floats(&verdict),
                Slot::output(len).near(0, moved),
                Slot::output(slots * len).near(0, after),
            ],
            grid: grid(len, size, at % 2 == 1),
            tolerance: Tolerance { abs: 1e-6, rel: 2e-6 },
        }
    }
}
