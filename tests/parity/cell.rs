//! The kernels of the recurrent layers: the input projection, and the stages of a time step, forward and back.

mod cooperative;
mod grad;
mod matrices;
mod project;
mod scan;
mod step;
mod step_cases;

use gatewise::cell::{Activation, Cell, Forget, GruCell, LstmCell, Mix, Parameters, Reset, RnnCell, WeightType};
use gatewise::gpu::KernelCell;
use ndarray::{Array2, ArrayView1};

pub(crate) use cooperative::scan_cooperative;
pub(crate) use grad::{recurrent_step_grad, recurrent_step_grad_lanes};
pub(crate) use matrices::emulated;
pub(crate) use project::{project_lanes, project_matrix_float, project_matrix_half, project_rows};
pub(crate) use scan::{scan_lanes, scan_rows};
pub(crate) use step_cases::{
    recurrent_step, recurrent_step_lanes, recurrent_step_matrix_float, recurrent_step_matrix_half,
};

use super::POISON;
use crate::support::uniform;

/// How the invocations of a kernel divide a product.
#[derive(Clone, Copy, Debug)]
struct Tile {
    rows: usize,
    units: usize,
    /// Slices of the depth; one in kernels that do not slice it.
    slices: usize,
}

const fn tile(rows: usize, units: usize, slices: usize) -> Tile {
    Tile { rows, units, slices }
}

/// Activations that no two gates share, with parameters that matter.
const GATE: Activation = Activation::HardSigmoid { alpha: 0.3, beta: 0.4 };
const CANDIDATE: Activation = Activation::ScaledTanh { alpha: 1.3, beta: 0.7 };
const OUTPUT: Activation = Activation::LeakyRelu { alpha: 0.3 };

/// Every option of every cell, each at least once.
fn cells() -> Vec<Cell> {
    let (lstm, gru) = (LstmCell::default(), GruCell::default());
    vec![
        RnnCell::default().into(),
        RnnCell { activation: CANDIDATE, gate_clip: Some(0.3), bias: true }.into(),
        lstm.into(),
        LstmCell { gate: GATE, candidate: CANDIDATE, output: OUTPUT, peephole: true, ..lstm }.into(),
        LstmCell { forget: Forget::Never, gate_clip: Some(0.4), ..lstm }.into(),
        LstmCell { forget: Forget::Coupled, cell_clip: Some(0.3), output: OUTPUT, ..lstm }.into(),
        LstmCell { peephole: true, gate_clip: Some(0.5), cell_clip: Some(0.5), ..LstmCell::LECTURE }.into(),
        gru.into(),
        GruCell { gate: GATE, candidate: CANDIDATE, mix: Mix::TakesNew, gate_clip: Some(0.6), ..gru }.into(),
    ]
}

/// Cells whose state passes through two dependent products.
fn two_stage_cells() -> Vec<Cell> {
    vec![
        GruCell { gate: GATE, ..GruCell::LECTURE }.into(),
        GruCell { reset: Reset::Before, candidate: CANDIDATE, gate_clip: Some(0.5), ..GruCell::default() }.into(),
        LstmCell { projection: Some(0), ..LstmCell::default() }.into(),
        LstmCell { projection: Some(0), forget: Forget::Coupled, peephole: true, ..LstmCell::default() }.into(),
    ]
}

/// One layer and direction: its parameters as the reference reads them, and as the kernels do.
struct Layer {
    exact: Parameters<f64>,
    packed: KernelCell,
}

impl Layer {
    /// Weights of one magnitude for every depth, so that no gate saturates.
    fn new(cell: &Cell, input: usize, hidden: usize, kind: WeightType, seed: u64) -> Self {
        let mut seeds = seed * 100..;
        let mut array = |spec: &gatewise::cell::ParameterSpec| {
            let depth = if spec.shape.len() == 2 { spec.shape[1] } else { 1 };
            let scale = if spec.name == "peephole" { 0.5 } else { 1.5 / (depth as f32).sqrt() };
            let numbers = uniform(seeds.next().unwrap_or_default(), spec.shape.iter().product(), scale);
            Ok(ndarray::ArrayD::from_shape_vec(spec.shape.clone(), numbers).expect("as many"))
        };
        let given = Parameters::collect(cell, input, hidden, &mut array).expect("every parameter");
        let exact = kind.round_parameters(given.clone()).map(f64::from);
        Self { exact, packed: KernelCell::new(cell, hidden, &given, kind).expect("room") }
    }

    /// The parameters of its activations and its clips, named as the uniforms' fields.
    fn scalars(&self) -> Vec<(String, u32)> {
        let names = ["gate_alpha", "gate_beta", "candidate_alpha", "candidate_beta", "output_alpha", "output_beta"];
        let names = names.into_iter().chain(["gate_clip", "cell_clip"]).map(|name| format!("scalars.{name}"));
        names.zip(self.packed.scalars.clone()).collect()
    }
}

/// The products of a matrix of `gates * units` rows with `x`, a unit's gates side by side.
fn product(weight: &Array2<f64>, gates: usize, unit: usize, x: &[f64]) -> Vec<f64> {
    let units = weight.nrows() / gates;
    (0..gates).map(|gate| weight.row(gate * units + unit).dot(&ArrayView1::from(x))).collect()
}

/// Packed matrices one behind the other in words of 16 bytes, with poison before and between them: the words, where the first
/// one begins, and how far apart they are.
fn row_of(matrices: &[Vec<u32>], first: usize, gap: usize) -> (Vec<u32>, usize, usize) {
    let mut words = vec![POISON.to_bits(); 4 * first];
    for matrix in matrices {
        words.extend(matrix);
        words.extend(vec![POISON.to_bits(); 4 * gap]);
    }
    (words, first, matrices.first().map_or(0, |matrix| matrix.len() / 4 + gap))
}

/// The `override`s of a kernel's product: those of matrices, whose `tile` is a workgroup's part, or of `common/tile.wgsl`.
fn product_constants(
    kernel: &str,
    tile: Tile,
    kind: WeightType,
    gates: usize,
    depth: usize,
) -> Vec<(&'static str, u32)> {
    if kernel.contains("matrix") {
        matrices::constants(tile, kind, gates, depth)
    } else {
        tile_constants(tile, kind, gates, depth)
    }
}

/// The `override`s of `common/tile.wgsl`.
fn tile_constants(tile: Tile, kind: WeightType, gates: usize, depth: usize) -> Vec<(&'static str, u32)> {
    let flag = |set: bool| u32::from(set);
    vec![
        ("ROWS", super::n(tile.rows)),
        ("UNITS", super::n(tile.units)),
        ("GATES", super::n(gates)),
        ("WEIGHT_TYPE", kind as u32),
        ("STRADDLE", flag(!depth.is_multiple_of(4))),
        ("TAIL", flag(!depth.is_multiple_of(if gates == 1 { 16 } else { 8 }))),
    ]
}
