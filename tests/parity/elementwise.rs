//! Activations and operations on two operands.

use gatewise::cell::Activation;
use gatewise::op::{Binary, Math};
use gatewise::reference;
use ndarray::{ArrayView1, ArrayView2};

use super::{Case, EDGES, Slot, WORKGROUPS, grid, n, wide};
use crate::support::{Tolerance, uniform};

/// Every activation with ONNX's default parameters, and with parameters that distinguish `alpha` from `beta`.
pub(crate) fn activations() -> Vec<Activation> {
    let distinct = [
        Activation::LeakyRelu { alpha: 0.3 },
        Activation::ThresholdedRelu { alpha: 0.4 },
        Activation::ScaledTanh { alpha: 1.7, beta: 0.6 },
        Activation::HARD_SIGMOID_KERAS3,
        Activation::HardSigmoid { alpha: 0.4, beta: 0.2 },
        Activation::Elu { alpha: 0.7 },
        Activation::Affine { alpha: 0.6, beta: -0.3 },
    ];
    Activation::ALL.into_iter().chain(distinct).collect()
}

/// Where activations change their formula, overflow or lose digits.
pub(super) const TRICKY: [f32; 47] = [
    0.0,
    -0.0,
    1e-8,
    -1e-8,
    1e-4,
    -1e-4,
    0.019,
    0.021,
    -0.099,
    -0.101,
    0.249,
    0.251,
    -0.249,
    -0.251,
    0.3,
    0.401,
    0.999,
    -0.999,
    1.001,
    2.501,
    -2.501,
    3.001,
    -3.001,
    4.6,
    -4.6,
    9.0,
    -9.0,
    14.9,
    15.1,
    -15.1,
    44.0,
    -44.0,
    86.9,
    -86.9,
    88.9,
    -88.9,
    100.0,
    -100.0,
    1e3,
    -1e3,
    1e4,
    -1e4,
    1e30,
    -1e30,
    f32::INFINITY,
    f32::NEG_INFINITY,
    f32::NAN,
];

pub(crate) fn unary() -> Vec<Case> {
    let mut cases = Vec::new();
    let one = |activation: Activation, what: &str, x: &[f32], size: usize, folded: bool| {
        let (code, alpha, beta) = activation.code();
        // The equation itself in the wider type; results beyond f32 become infinite.
        let y = x.iter().map(|&x| reference::activate(activation, f64::from(x))).collect::<Vec<_>>();
        Case {
            name: format!("{activation:?} {what} workgroup {size}"),
            constants: vec![("ACTIVATION", code), ("WORKGROUP_SIZE", n(size))],
            dims: vec![n(x.len()), alpha.to_bits(), beta.to_bits()],
            buffers: vec![Slot::floats(x), Slot::output(x.len()).near(0, y)],
            grid: grid(x.len(), size, folded),
            tolerance: Tolerance::ELEMENTWISE,
        }
    };
    for activation in activations() {
        cases.push(one(activation, "tricky", &TRICKY, 64, false));
        cases.push(one(activation, "random", &uniform(31, 65, 5.0), 64, false));
    }
    for (at, len) in EDGES.into_iter().enumerate() {
        let size = WORKGROUPS[at % WORKGROUPS.len()];
        cases.push(one(Activation::Tanh, &format!("[{len}]"), &uniform(32, len, 3.0), size, at % 2 == 1));
    }
    cases
}

/// Where elementary functions overflow, leave their domain or round.
const DOMAIN_EDGES: [f32; 24] = [
    -88.0,
    -103.0,
    -110.0,
    88.7,
    88.8,
    1e-30,
    1.0,
    0.999,
    1.001,
    4.0,
    1e30,
    -1.0,
    -0.5,
    -1.5,
    0.5,
    2.5,
    -2.5,
    8_388_609.0,
    -8_388_609.0,
    3e38,
    -3e38,
    f32::INFINITY,
    f32::NEG_INFINITY,
    f32::NAN,
];

pub(crate) fn math() -> Vec<Case> {
    let one = |function: Math, x: &[f32], size: usize, folded: bool| {
        let x64 = wide(x);
        let y = reference::math(function, ArrayView1::from(&x64)).expect("room");
        // The wider type overflows later.
        #[expect(clippy::cast_possible_truncation, reason = "to the type whose infinities are wanted")]
        let y = y.iter().map(|&y| f64::from(y as f32));
        Case {
            name: format!("{function:?} [{}] workgroup {size}", x.len()),
            constants: vec![("FUNCTION", function as u32), ("WORKGROUP_SIZE", n(size))],
            dims: vec![n(x.len())],
            buffers: vec![Slot::floats(x), Slot::output(x.len()).near(0, y)],
            grid: grid(x.len(), size, folded),
            // WGSL lets `exp` err by 3 + 2 |x| units in the last place.
            tolerance: Tolerance { abs: 1e-6, rel: 3e-5 },
        }
    };
    let functions = [Math::Exp, Math::Log, Math::Sqrt, Math::Abs, Math::Floor, Math::Ceil];
    let mut cases = Vec::new();
    for (at, function) in functions.into_iter().enumerate() {
        cases.push(one(function, &DOMAIN_EDGES, 64, false));
        cases.push(one(function, &uniform(33, [65, 129][at % 2], 4.0), WORKGROUPS[at % 3], at % 2 == 1));
    }
    for (at, len) in EDGES.into_iter().enumerate() {
        cases.push(one(Math::Ceil, &uniform(34, len, 3.0), WORKGROUPS[at % WORKGROUPS.len()], at % 2 == 1));
    }
    cases
}

pub(crate) fn binary() -> Vec<Case> {
    let mut cases = Vec::new();
    let mut add =
        |op: Binary, rows: usize, columns: usize, [a_stride, a_offset, b_stride, b_offset]: [usize; 4], at: usize| {
            let size = WORKGROUPS[at % WORKGROUPS.len()];
            let span = |stride: usize, offset: usize| {
                if rows * columns == 0 { 0 } else { (rows - 1) * stride + offset + columns }
            };
            let a = uniform(41, span(a_stride, a_offset), 2.0);
            let b = uniform(42, span(b_stride, b_offset), 2.0);
            let part = |x: &[f32], stride: usize, offset: usize| -> Vec<f64> {
                let row = |row: usize| wide(&x[row * stride + offset..][..columns]);
                if columns == 0 { Vec::new() } else { (0..rows).flat_map(row).collect() }
            };
            let (a64, b64) = (part(&a, a_stride, a_offset), part(&b, b_stride, b_offset));
            let matrix = |x| ArrayView2::from_shape((rows, columns), x).expect("fits");
            let y = reference::binary(op, matrix(&a64), matrix(&b64)).expect("room");
            cases.push(Case {
                name: format!(
                    "{op:?} [{rows}, {columns}] a {a_stride}+{a_offset} b {b_stride}+{b_offset} workgroup {size}"
                ),
                constants: vec![("OPERATION", op as u32), ("WORKGROUP_SIZE", n(size))],
                dims: [rows, columns, a_stride, a_offset, b_stride, b_offset].map(n).to_vec(),
                buffers: vec![Slot::floats(&a), Slot::floats(&b), Slot::output(y.len()).near(0, y.iter().copied())],
                grid: grid(y.len(), size, at % 2 == 1),
                tolerance: Tolerance::ELEMENTWISE,
            });
        };
    for (at, op) in Binary::ALL.into_iter().enumerate() {
        add(op, 3, 7, [7, 0, 7, 0], 0);
        add(op, 5, 13, [26, 0, 26, 13], at);
        add(op, 2, 33, [40, 3, 50, 9], at + 1);
    }
    for (at, len) in EDGES.into_iter().enumerate() {
        add(Binary::Sub, 1, len, [len, 0, len, 0], at);
        add(Binary::Sub, len, 1, [2, 0, 3, 1], at);
    }
    cases
}
