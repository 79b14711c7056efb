//! A single cell as the kernels read it.

use super::pack::{Packed, pack_vectors};
use super::special::Specialization;
use crate::cell::{Cell, Parameters, WeightType};
use crate::error::Result;

/// One layer and direction of a cell as the recurrent kernels read it: for tests and tools that run a single kernel
/// ([`GpuDevice::run_kernel`](crate::gpu::GpuDevice::run_kernel)).
#[derive(Clone, Debug)]
pub struct KernelCell {
    /// Values of the `override`s of `shaders/common/cell.wgsl`.
    pub constants: Vec<(&'static str, u32)>,
    /// The struct `CellScalars` of `shaders/common/cell.wgsl`, as the bits of its words.
    pub scalars: Vec<u32>,
    /// `weight_ih`, packed as `shaders/common/tile.wgsl` says.
    pub input: Vec<u32>,
    /// `weight_hh`, packed as `shaders/common/tile.wgsl` says.
    pub recurrent: Vec<u32>,
    /// `weight_hr`, packed as `shaders/common/tile.wgsl` says; empty if the cell does not project.
    pub projection: Vec<u32>,
    /// `[VECTOR_ROWS, hidden]`, as `shaders/cell/vectors.wgsl` says.
    pub vectors: Vec<f32>,
}

impl KernelCell {
    /// Packs the parameters of a cell of `hidden` units. They must fit the cell ([`Parameters::check`]).
    ///
    /// # Errors
    /// [`Error::OutOfMemory`](crate::Error::OutOfMemory).
    pub fn new(cell: &Cell, hidden: usize, parameters: &Parameters, kind: WeightType) -> Result<Self> {
        let Specialization { constants, scalars } = Specialization::of(cell);
        let gates = cell.gates().len();
        let input = Packed::new(parameters.weight_ih.view(), gates, kind)?;
        let recurrent = Packed::new(parameters.weight_hh.view(), gates, kind)?;
        let projection = Packed::projection(parameters, kind)?;
        let vectors = pack_vectors(cell, hidden, parameters, [&input.scales, &recurrent.scales, &projection.scales])?;
        Ok(Self {
            constants,
            scalars: bytemuck::cast_slice(&[scalars]).to_vec(),
            input: input.words,
            recurrent: recurrent.words,
            projection: projection.words,
            vectors,
        })
    }
}
