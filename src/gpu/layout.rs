//! The host side of the kernels that move elements.

use super::ops::{WORKGROUP_SIZE, each, fold, word};
use crate::error::{Error, Result};
use crate::gpu::arguments::RowWords;
use crate::gpu::kept::buffer::Buffer;
use crate::gpu::kept::kernel::{Constants, GATHER_ROWS, STRIDED_COPY};
use crate::gpu::kept::uniform::uniform;
use crate::gpu::submit::recorder::Recorder;
use crate::op::StridedLayout;
use crate::plan::Work;

/// Largest number of axes of an array that `strided_copy` copies.
pub(crate) const AXES: usize = 8;

uniform! {
    struct StridedCopyDims {
        extents: [u32; AXES],
        from_strides: [i32; AXES],
        to_strides: [i32; AXES],
        count: u32,
        from_offset: u32,
        to_offset: u32,
        /// Fills the struct up to a multiple of 16 bytes.
        unused: u32,
    }
    struct GatherRowsDims { count: u32, columns: u32 }
}

/// Copies an array of `shape` from strided places of `x` to strided places of `y`.
pub(crate) fn strided_copy(
    recorder: &mut Recorder,
    shape: &[usize],
    (x, from): (&Buffer, &StridedLayout),
    (y, to): (&Buffer, &StridedLayout),
) -> Result<()> {
    let op = STRIDED_COPY.name;
    let device = recorder.device().clone();
    let n = |size: usize| word(&device, op, size);
    let limit = |needed: usize| Error::Limit {
        op,
        what: "axes",
        needed: needed as u64,
        limit: AXES as u64,
        adapter: device.adapter().name.clone(),
    };
    let unused = AXES.checked_sub(shape.len()).ok_or_else(|| limit(shape.len()))?;
    let mut dims = StridedCopyDims {
        extents: [1; AXES],
        from_strides: [0; AXES],
        to_strides: [0; AXES],
        count: n(shape.iter().product())?,
        from_offset: n(from.offset)?,
        to_offset: n(to.offset)?,
        unused: 0,
    };
    for (axis, &extent) in shape.iter().enumerate() {
        let signed = |stride: isize| {
            i32::try_from(stride).map_err(|_| Error::Limit {
                op,
                what: "a stride in elements",
                needed: stride.unsigned_abs() as u64,
                limit: i32::MAX as u64,
                adapter: device.adapter().name.clone(),
            })
        };
        dims.extents[unused + axis] = n(extent)?;
        dims.from_strides[unused + axis] = signed(from.strides[axis])?;
        dims.to_strides[unused + axis] = signed(to.strides[axis])?;
    }
    let count: usize = shape.iter().product();
    // Each element takes a division and a remainder per axis.
    let work = Work::each(count, 1).products(100 * count as u64);
    let grid = fold(&device, op, count.div_ceil(WORKGROUP_SIZE), work)?;
    let bound = recorder.bind(&STRIDED_COPY, &Constants::new(), vec![x.clone(), y.clone()])?;
    recorder.dispatch(bound, &dims, &grid)
}

/// Picks rows of `table [.., columns]`; `rows` holds `count` indices of rows that exist.
pub(crate) fn gather_rows(
    recorder: &mut Recorder,
    table: &Buffer,
    (rows, words): (&Buffer, RowWords),
    [count, columns]: [usize; 2],
) -> Result<Buffer> {
    let op = GATHER_ROWS.name;
    let device = recorder.device().clone();
    let dims = GatherRowsDims { count: word(&device, op, count)?, columns: word(&device, op, columns)? };
    let constants = vec![("FLOAT_ROWS", u32::from(words == RowWords::Floats))];
    each(recorder, &GATHER_ROWS, &constants, &[table, rows], &dims, count * columns)
}
