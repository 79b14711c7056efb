//! The schedule of a training pass.

use super::{AdapterClass, Chunk, Limits, OP, Plan, PlanKind, Problem, Tile};
use crate::cell::Cell;
use crate::error::Result;

/// The schedule of a forward pass that keeps what gradients need, and of its way back.
#[derive(Clone, Debug)]
pub(crate) struct TrainingPlan {
    /// A dispatch a step; its chunks are those of the tape.
    pub(crate) forward: Plan,
    /// How a step back is tiled, in invocations of [`TrainingPlan::columns`] units.
    pub(crate) back: Tile,
    /// Units of an invocation on the way back: 1 or 4.
    pub(crate) columns: usize,
    /// Rows of `hidden` elements that a step of a row leaves for the weights' gradients.
    pub(crate) rows: GradientRows,
}

/// What a step of a row leaves for the weights' gradients, in rows of `hidden` elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct GradientRows {
    /// Gradients by the gates come first; then the input's side of the candidate of a GRU that resets after the matmul, or
    /// what an LSTM projects.
    pub(crate) second: usize,
    /// Then those by the peepholes.
    pub(crate) peephole: usize,
    /// All of them.
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
    /// Plans a pass whose tape has chunks of `checkpoint` steps at most, where that is asked for.
    pub(crate) fn new(problem: Problem, limits: &Limits, checkpoint: Option<usize>) -> Result<Self> {
        // What a tape holds has been computed by tiles wherever gradients are compared.
        let tiles = Limits { matrices: Vec::new(), ..limits.clone() };
        let mut forward = Plan::new(problem.clone(), &tiles, Some(PlanKind::Step))?;
        let cell = problem.cells[0];
        let rows = GradientRows::of(&cell);
        let state_rows = (problem.cells.len() * problem.batch * size_of::<f32>()) as u64;
        let (hidden, out) = (problem.hidden as u64, problem.out() as u64);
        let projected = if cell.projection().is_some() { out } else { 0 };
        let gates = hidden * problem.projected_gates() as u64;
        let gradients = hidden * rows.count as u64 + projected;
        let history = out + hidden;
        // Beside its steps a history has the last state, the initial one and what passes between two dispatches.
        let fixed = state_rows * (2 * history + hidden);
        let step = state_rows * gates.max(gradients).max(history);
        limits.check(OP, "one step's tape in bytes", fixed + step, limits.binding_bytes)?;
        let longest = usize::try_from((limits.binding_bytes - fixed) / step.max(1)).unwrap_or(usize::MAX);
        let projected = forward.chunks.first().map_or(usize::MAX, |chunk| chunk.steps);
        let longest = longest.min(projected).min(checkpoint.unwrap_or(usize::MAX)).max(1);
        let depth = problem.gates() * problem.hidden;
        let columns = match limits.class {
            AdapterClass::Software => 4,
            // Few units leave a GPU idle unless each is an invocation's own.
            AdapterClass::Hardware if problem.out() * problem.batch.div_ceil(8) >= 1 << 14 => 4,
            AdapterClass::Hardware => 1,
        };
        let units = problem.out().max(problem.hidden).div_ceil(columns);
        let back = Tile::of_step(limits, problem.batch, units, problem.cells.len(), depth);
        let time = problem.time;
        forward.chunks = Chunk::all(time, longest);
        forward.project =
            Tile::of_projection(limits, longest.min(time) * problem.batch, problem.hidden, problem.cells.len());
        forward.check(limits)?;
        Ok(Self { forward, back, columns, rows })
    }
}

#[cfg(test)]
mod tests {
    use super::{Limits, Problem, TrainingPlan};
    use crate::cell::{LstmCell, WeightType};
    use crate::plan::Matrices;

    /// Matrices have taller workgroups than tiles: chunks cut for those would be too long for these.
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
        assert_eq!((other.project_matrices, other.step_matrices), (None, None));
        assert!((other.chunks[0].steps * 3).div_ceil(other.project.rows) <= 40, "{other}");
        assert!(other.chunks.len() > 1, "{other}");
    }
}
