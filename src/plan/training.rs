//! The schedule of a forward pass with its tape, and of the backward pass.

use super::{AdapterClass, Chunk, Limits, OP, Plan, PlanKind, Problem, ProductTiles, Schedule, Tile};
use crate::cell::Cell;
use crate::error::Result;

/// The schedule of a forward pass that keeps the values that gradients need, and of the backward pass.
#[derive(Clone, Debug)]
pub(crate) struct TrainingPlan {
    /// The forward pass: one dispatch per step. Its chunks are those of the tape.
    pub(crate) forward: Plan,
    /// The tiles of a step of the forward pass.
    pub(crate) step: ProductTiles,
    /// The tile of a step of the backward pass, whose invocations have [`TrainingPlan::columns`] units each.
    pub(crate) back: Tile,
    /// Units of an invocation of the backward pass: 1 or 4.
    pub(crate) columns: usize,
    /// Rows of `hidden` elements that a step writes for the weights' gradients, per row of the batch.
    pub(crate) rows: GradientRows,
}

/// The order of the values that a step writes for the weights' gradients, in rows of `hidden` elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct GradientRows {
    /// The first row behind the gradients with respect to the gates. It holds the input part of the candidate of a GRU that resets
    /// after the matrix product, or the values that an LSTM projects.
    pub(crate) second: usize,
    /// The first row of the gradients with respect to the peepholes.
    pub(crate) peephole: usize,
    /// Number of rows.
    pub(crate) count: usize,
}

impl GradientRows {
    fn of(cell: &Cell) -> Self {
        let second = cell.gates().len();
        let peephole = second + usize::from(cell.resets_after() || cell.projection().is_some());
        Self { second, peephole, count: peephole + if cell.peephole() { 3 } else { 0 } }
    }
}

impl TrainingPlan {
    /// Plans a pass. If `checkpoint` is given, a chunk of the tape has at most that number of steps.
    pub(crate) fn new(problem: Problem, limits: &Limits, checkpoint: Option<usize>) -> Result<Self> {
        // Training uses no cooperative matrices: its gradients are compared with those of passes that computed their tape by tiles.
        let tiles = Limits { matrices: Vec::new(), ..limits.clone() };
        problem.check(&tiles)?;
        let step = ProductTiles::of_step(&tiles, &problem, PlanKind::Step);
        let why = "asked for".to_owned();
        let mut forward = Plan::scheduled(problem.clone(), &tiles, Schedule::Steps(step), why)?;
        let cell = problem.cells[0];
        let rows = GradientRows::of(&cell);
        let state_rows = (problem.cells.len() * problem.batch * size_of::<f32>()) as u64;
        let (hidden, out) = (problem.hidden as u64, problem.out() as u64);
        let projected = if cell.projection().is_some() { out } else { 0 };
        let gates = hidden * problem.projected_gates() as u64;
        let gradients = hidden * rows.count as u64 + projected;
        let history = out + hidden;
        // Besides one state per step, a history has one more state, the initial state and the values between two dispatches of a step.
        let fixed = state_rows * (2 * history + hidden);
        let step_bytes = state_rows * gates.max(gradients).max(history);
        limits.check(OP, "one step's tape in bytes", fixed + step_bytes, limits.binding_bytes)?;
        let longest = usize::try_from((limits.binding_bytes - fixed) / step_bytes.max(1)).unwrap_or(usize::MAX);
        let projected = forward.chunks.first().map_or(usize::MAX, |chunk| chunk.steps);
        let longest = longest.min(projected).min(checkpoint.unwrap_or(usize::MAX)).max(1);
        let depth = problem.gates() * problem.hidden;
        let columns = match limits.class {
            AdapterClass::Software => 4,
            // If there are few units, a GPU is idle unless each has an invocation of its own.
            AdapterClass::Hardware if problem.out() * problem.batch.div_ceil(8) >= 1 << 14 => 4,
            AdapterClass::Hardware => 1,
        };
        let units = problem.out().max(problem.hidden).div_ceil(columns);
        let back = Tile::of_step(limits, problem.batch, units, problem.cells.len(), depth);
        let time = problem.time;
        forward.chunks = Chunk::all(time, longest);
        let rows_at_once = longest.min(time) * problem.batch;
        forward.project.tile = Tile::of_projection(limits, rows_at_once, problem.hidden, problem.cells.len());
        forward.check(limits)?;
        Ok(Self { forward, step, back, columns, rows })
    }
}

#[cfg(test)]
mod tests {
    use super::{Limits, Problem, TrainingPlan};
    use crate::cell::{LstmCell, WeightType};
    use crate::plan::Matrices;

    /// Checks that chunks are planned for tiles: workgroups of matrices have more rows, so chunks planned for them would be too long.
    #[test]
    fn a_pass_is_cut_for_the_tiles_that_it_runs_by() {
        let problem = Problem {
            cells: vec![LstmCell::default().into()],
            input: 8,
            hidden: 32,
            layers: 1,
            merged: false,
            weight_type: WeightType::F32,
            time: 400,
            batch: 3,
        };
        let limits = Limits { subgroup: 32, subgroup_most: 32, workgroups: 40, ..Limits::portable() };
        let with = Limits { matrices: Matrices::ALL.to_vec(), ..limits.clone() };
        let [plan, other] =
            [limits, with].map(|limits| TrainingPlan::new(problem.clone(), &limits, None).expect("fits").forward);
        assert_eq!(plan, other);
        assert_eq!((other.project.matrices, other.schedule.step().and_then(|step| step.matrices)), (None, None));
        assert!((other.chunks[0].steps * 3).div_ceil(other.project.tile.rows) <= 40, "{other}");
        assert!(other.chunks.len() > 1, "{other}");
    }
}
