//! Chooses the kernel that computes a product of rows and packed weights.

use crate::cell::WeightType;
use crate::gpu::kept::kernel::{
    Constants, Kernel, PROJECT_LANES, PROJECT_MATRIX_FLOAT, PROJECT_MATRIX_HALF, PROJECT_ROWS, RECURRENT_STEP,
    RECURRENT_STEP_LANES, RECURRENT_STEP_MATRIX_FLOAT, RECURRENT_STEP_MATRIX_HALF,
};
use crate::plan::{Limits, Matrices, Method, Plan, ProductTiles, Tile};

/// The kernel of a product, and the `override`s of its tile.
pub(super) struct Product {
    pub(super) kernel: &'static Kernel,
    pub(super) constants: Constants,
}

impl Product {
    /// The input projection of a layer that reads `depth` features.
    pub(super) fn of_projection(limits: &Limits, plan: &Plan, depth: usize) -> Self {
        let (kind, gates) = (plan.problem().weight_type, plan.problem().gates());
        if let Some(matrices) = plan.project.matrices {
            let kernel = match matrices {
                Matrices::Half => &PROJECT_MATRIX_HALF,
                Matrices::Float => &PROJECT_MATRIX_FLOAT,
            };
            return Self { kernel, constants: matrix_constants(limits, matrices, kind, gates, depth, 1) };
        }
        let kernel = match plan.project.tile.method {
            Method::Rows => &PROJECT_ROWS,
            Method::Lanes => &PROJECT_LANES,
        };
        Self { kernel, constants: tile_constants(&plan.project.tile, kind, gates, depth) }
    }

    /// A stage of a step whose product has `gates` gates and a depth of `depth` elements.
    pub(super) fn of_step(limits: &Limits, plan: &Plan, tiles: &ProductTiles, gates: usize, depth: usize) -> Self {
        let kind = plan.problem().weight_type;
        if let Some(matrices) = tiles.matrices {
            let kernel = match matrices {
                Matrices::Half => &RECURRENT_STEP_MATRIX_HALF,
                Matrices::Float => &RECURRENT_STEP_MATRIX_FLOAT,
            };
            let constants = matrix_constants(limits, matrices, kind, gates, depth, plan.kind().products());
            return Self { kernel, constants };
        }
        let kernel = match tiles.tile.method {
            Method::Rows => &RECURRENT_STEP,
            Method::Lanes => &RECURRENT_STEP_LANES,
        };
        Self { kernel, constants: sliced_constants(&tiles.tile, kind, gates, depth) }
    }
}

/// The `override`s of `shaders/common/tile_matrix.wgsl`.
fn matrix_constants(
    limits: &Limits,
    matrices: Matrices,
    kind: WeightType,
    gates: usize,
    depth: usize,
    products: usize,
) -> Constants {
    let mut constants = product_constants(kind, gates, depth, matrices.size());
    constants.extend([("WORKGROUP_SIZE", small(Matrices::invocations(limits, gates))), ("PRODUCTS", small(products))]);
    constants
}

/// The `override`s of `shaders/common/tile_slices.wgsl`, for a product whose depth may be divided into slices.
pub(super) fn sliced_constants(tile: &Tile, kind: WeightType, gates: usize, depth: usize) -> Constants {
    let mut constants = tile_constants(tile, kind, gates, depth);
    if tile.method == Method::Rows {
        let partial = if tile.slices > 1 { tile.rows * tile.slices * tile.units } else { 1 };
        constants.extend([("SLICES", small(tile.slices)), ("PARTIAL", small(partial))]);
    }
    constants
}

/// The `override`s of `shaders/common/tile_rows.wgsl` and `tile_lanes.wgsl`.
fn tile_constants(tile: &Tile, kind: WeightType, gates: usize, depth: usize) -> Constants {
    let mut constants = product_constants(kind, gates, depth, if gates == 1 { 16 } else { 8 });
    constants.extend([("ROWS", small(tile.rows)), ("UNITS", small(tile.units))]);
    constants
}

/// The `override`s of any product whose loop covers `span` elements of the depth per iteration.
fn product_constants(kind: WeightType, gates: usize, depth: usize, span: usize) -> Constants {
    vec![
        ("GATES", small(gates)),
        ("USED", (1 << gates) - 1),
        ("WEIGHT_TYPE", kind as u32),
        ("STRADDLE", u32::from(!depth.is_multiple_of(4))),
        ("TAIL", u32::from(!depth.is_multiple_of(span))),
    ]
}

fn small(size: usize) -> u32 {
    u32::try_from(size).unwrap_or(u32::MAX)
}
