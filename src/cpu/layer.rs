//! The packed weights of one layer in one direction of time.

mod call;
mod skipped;

use ndarray::{Array2, IxDyn};

pub(super) use self::call::{LayerCall, StateBuffers};

use super::memory::AlignedVec;
use super::pack::{Operand, PanelLayout, Panels};
use super::product::RoundedRows;
use super::simd::Verified;
use crate::cell::{Cell, Parameters, Stage, WeightType};
use crate::error::Result;
use crate::memory;

const OP: &str = "Recurrent";
/// Rows whose input projection is computed at once. They are enough to use a panel from the second-level cache many
/// times, and few enough that the result is still in a cache when its step comes.
const CHUNK_ROWS: usize = 256;
/// Rows of a step that are multiplied by some panels at once, so that the product stays in the first-level cache. A multiple of
/// every tile's height.
const GROUP_ROWS: usize = 48;
/// Panels that are multiplied by a group of rows at once. If the rows are few, several panels are multiplied at once:
/// their updates are independent and overlap.
const fn group_panels(rows: usize) -> usize {
    if rows == 0 { 1 } else { GROUP_ROWS.div_ceil(rows) }
}

/// Numbers from one panel to the next in [`LayerCall::gates`]. One row more than needed: if all panels began at multiples of 4096
/// bytes, they would compete for the same lines of the first-level cache.
fn gates_stride(layout: &PanelLayout, rows: usize) -> usize {
    (rows + 1) * layout.width()
}

/// The packed weights of one layer and direction.
pub(super) struct LayerWeights {
    cell: Cell,
    stages: Vec<PackedStage>,
    /// `[3, padded hidden]`; empty without peepholes.
    peephole: AlignedVec<f32>,
    instructions: Verified,
}

/// The products of one stage of a step.
struct PackedStage {
    stage: Stage,
    input: Option<Panels>,
    state: Panels,
}

/// The panels in which a stage's gates lie.
fn stage_layout(cell: &Cell, stage: Stage, hidden: usize, set: Verified) -> PanelLayout {
    let (gates, blocks, units): (&'static [usize], usize, usize) = match (stage, cell.gates().len()) {
        (Stage::Reset, _) => (&[0, 1], 2, hidden),
        (Stage::Candidate, _) => (&[2], 4, hidden),
        (Stage::Project, _) => (&[0], 4, cell.output_size(hidden)),
        (Stage::Whole, 4) => (&[0, 1, 2, 3], 1, hidden),
        (Stage::Whole, 3) => (&[0, 1, 2], 1, hidden),
        (Stage::Whole, _) => (&[0], 4, hidden),
    };
    PanelLayout::new(gates, blocks, units, set)
}

impl PackedStage {
    fn new(layout: PanelLayout, stage: Stage, p: &Parameters, kind: WeightType, set: Verified) -> Result<Self> {
        let panels = |weight, bias, operand| Panels::new(layout, weight, bias, (kind, operand), set);
        let (state, input) = match (stage, &p.weight_hr) {
            (Stage::Project, Some(weight_hr)) => (panels(weight_hr, None, Operand::State)?, None),
            _ => (
                panels(&p.weight_hh, p.bias_hh.as_ref(), Operand::State)?,
                Some(panels(&p.weight_ih, p.bias_ih.as_ref(), Operand::Input)?),
            ),
        };
        Ok(Self { stage, input, state })
    }
}

impl LayerWeights {
    /// Packs parameters that fit the cell.
    pub(super) fn new(cell: &Cell, hidden: usize, p: &Parameters, kind: WeightType, set: Verified) -> Result<Self> {
        let lanes = set.lanes();
        let pack = |&stage: &Stage| PackedStage::new(stage_layout(cell, stage, hidden, set), stage, p, kind, set);
        let padded = hidden.next_multiple_of(lanes);
        let peephole = |p: &Array2<f32>| {
            let weight = |at: usize| p.row(at / padded).get(at % padded).copied().unwrap_or(0.0);
            AlignedVec::collect(OP, 3 * padded, (0..3 * padded).map(weight))
        };
        Ok(Self {
            cell: *cell,
            stages: cell.stages().iter().map(pack).collect::<Result<_>>()?,
            peephole: p.peephole.as_ref().map(peephole).transpose()?.unwrap_or_default(),
            instructions: set,
        })
    }

    /// Unpacks the parameters.
    pub(super) fn parameters(&self, input: usize, hidden: usize) -> Result<Parameters> {
        let mut p = Parameters::collect(&self.cell, input, hidden, |spec| memory::zero_array(OP, IxDyn(&spec.shape)))?;
        for stage in &self.stages {
            match (stage.stage, &mut p.weight_hr) {
                (Stage::Project, Some(weight_hr)) => stage.state.unpack(weight_hr.view_mut(), None),
                _ => stage.state.unpack(p.weight_hh.view_mut(), p.bias_hh.as_mut()),
            }
            if let Some(panels) = &stage.input {
                panels.unpack(p.weight_ih.view_mut(), p.bias_ih.as_mut());
            }
        }
        let padded = hidden.next_multiple_of(self.instructions.lanes());
        if let Some(peephole) = &mut p.peephole {
            peephole.indexed_iter_mut().for_each(|((row, unit), p)| *p = self.peephole[row * padded + unit]);
        }
        Ok(p)
    }

    /// Multiply-adds per step and row.
    pub(super) fn step_work(&self) -> usize {
        let work = |panels: &Panels| panels.layout.panels() * panels.layout.width() * panels.depth;
        self.stages.iter().map(|stage| work(&stage.state)).sum()
    }

    /// Rows whose input projection is computed at once, at most.
    fn chunk_rows(time: usize, batch: usize) -> usize {
        CHUNK_ROWS.max(batch).min(time * batch)
    }

    /// Numbers of [`LayerCall::gates`].
    pub(super) fn gates_len(&self, time: usize, batch: usize) -> usize {
        let rows = Self::chunk_rows(time, batch);
        let inputs = self.stages.iter().filter_map(|stage| stage.input.as_ref());
        inputs.map(|input| input.layout.panels() * gates_stride(&input.layout, rows)).sum()
    }

    /// Grows a thread's buffers to the lengths that a call needs, whichever rows its steps skip. `stride` is that of the
    /// state's rows.
    pub(super) fn reserve(
        &self,
        buffers: &mut ThreadBuffers,
        (time, batch, stride): (usize, usize, usize),
        skips: bool,
    ) -> Result<()> {
        let rows = Self::chunk_rows(time, batch);
        let (mut product, mut unpacked, mut rounded) = (0, 0, 0);
        let mut gathered = batch * stride;
        for stage in &self.stages {
            let layout = stage.state.layout;
            let group = |rows: usize| rows * group_panels(rows).min(layout.panels()) * layout.width();
            product = product.max((1..=GROUP_ROWS.min(batch)).map(group).max().unwrap_or(0));
            if stage.state.rounds_operand() {
                rounded = rounded.max(RoundedRows::words(stage.state.depth));
            }
            if let Some(input) = &stage.input {
                unpacked = unpacked.max(input.unpacked_len(rows));
                gathered = gathered.max(rows * input.depth);
            }
        }
        buffers.gathered.reserve(OP, if skips { gathered } else { 0 })?;
        buffers.product.reserve(OP, product)?;
        buffers.unpacked.reserve(OP, unpacked)?;
        buffers.rounded.reserve(OP, rounded * batch)?;
        buffers.scales.reserve(OP, if rounded > 0 { batch } else { 0 })
    }
}

/// The buffers that one thread has for itself.
#[derive(Default)]
pub(super) struct ThreadBuffers {
    /// The rows of a product's operand that take part in it, if others lie between them.
    gathered: AlignedVec<f32>,
    /// `W h + b_hh` of some panels.
    product: AlignedVec<f32>,
    /// A panel of narrow weights as `f32`.
    unpacked: AlignedVec<f32>,
    /// A state rounded to 16 bits, and the factor of each row.
    rounded: AlignedVec<u32>,
    scales: AlignedVec<f32>,
}
