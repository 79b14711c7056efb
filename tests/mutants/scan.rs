//! Planted faults in the kernels that scan a chunk of time, and in the fragments that they share.

use super::Slip;
use super::cell::slip;

pub(super) const SLIPS: &[Slip] = &[
    // cell/scan_memory.wgsl: the regions of the state
    slip("scan_rows", "((region * LAYERS + select(0u, z, LAYERS > 1u)) * ROWS", "(region * LAYERS * ROWS", "layers: 3"),
    slip("scan_rows", "* ROWS + row) * PITCH", "* ROWS) * PITCH", "rows: 2"),
    slip("scan_lanes", "select(source.region, INITIAL, from_initial)", "source.region", "flags: true"),
    slip("scan_lanes", "((source.reset >> row) & 1u)", "(source.reset & 1u)", "rows: 2"),
    slip("scan_lanes", "select(here, INITIAL, RESETS && is_reset(at))", "here", "flags: true"),
    slip("scan_lanes", "select(1u - here, 0u, STAGES > 1u)", "select(here, 0u, STAGES > 1u)", ""),
    slip("scan_lanes", "RowSource(lane, z, 1u, 0u)", "RowSource(lane, z, 0u, 0u)", "Projected"),
    slip("scan_lanes", "RowSource(lane, z - 1u, here, 0u)", "RowSource(lane, z, here, 0u)", "layers: 3"),
    slip("scan_lanes", "state[in_state(1u, at, unit)] = h;", "", "layers: 3"),
    slip("scan_rows", "h_rows[dims.h_initial + i]", "h_rows[dims.h + i]", "flags: true"),
    slip("scan_lanes", "(dims.steps + behind(z)) % 2u", "dims.steps % 2u", "layers: 3"),
    slip(
        "scan_lanes",
        "(behind(at.z) * ROWS + at.row % ROWS) * dims.hidden",
        "(at.row % ROWS) * dims.hidden",
        "layers: 3",
    ),
    slip("scan_rows", "s_rows[dims.s_initial + (at.z", "s_rows[dims.s + (at.z", "flags: true"),
    slip(
        "scan_rows",
        "own[in_own(at, unit)] = s_rows[dims.s + (z *",
        "own[in_own(at, unit)] = s_rows[dims.s + (0u *",
        "",
    ),
    slip(
        "scan_lanes",
        "s_rows[dims.s + (z * dims.batch + row) * dims.hidden + unit] =",
        "s_rows[dims.s + unit] =",
        "Lstm",
    ),
    // the places that it reads and writes
    slip("scan_rows", "iteration >= z && iteration - z < dims.steps", "iteration >= z", "layers: 3"),
    slip("scan_rows", "dims.first_step + iteration - behind(z)", "dims.first_step + iteration", "layers: 3"),
    slip("scan_rows", "select(step, dims.time - 1u - step, is_reverse(z))", "step", "reverse: 2"),
    slip(
        "scan_rows",
        "1u << row, (flag_of(time, first_row + row)",
        "1u << row, (flag_of(time, first_row)",
        "flags: true",
    ),
    slip("scan_rows", "dims.weights + z * dims.weights_stride", "dims.weights", ""),
    slip("scan_rows", "(z - 1u) * dims.input_stride", "z * dims.input_stride", "layers: 3"),
    slip("scan_lanes", "dims.vectors + at.z * VECTOR_ROWS", "dims.vectors + VECTOR_ROWS", ""),
    slip("scan_lanes", "dims.directions + direction_of(at.z)) * dims.out", "dims.directions) * dims.out", ""),
    slip("scan_rows", "(direction_of(at.z) * dims.steps + at.time - first)", "(at.time - first)", "directions: (1, 1)"),
    // cell/recurrent.wgsl: padding
    slip(
        "scan_rows",
        "select(at.time - 1u, at.time + 1u, at.reverse)",
        "select(at.time + 1u, at.time - 1u, at.reverse)",
        "hold: true",
    ),
    slip("scan_lanes", "HOLD && !first", "HOLD", "hold: true"),
    // cell/scan_rows.wgsl
    slip("scan_rows", "(((term * LAYERS + behind(z)) * ROWS", "((term * LAYERS * ROWS", "layers: 3"),
    slip("scan_rows", "(((term * LAYERS", "(((LAYERS", "layers: 3"),
    slip("scan_rows", "+ slice) * UNITS + unit;", "+ slice) * UNITS;", "slices: 2"),
    slip("scan_rows", "slice < SLICES; slice++", "slice + 1u < SLICES; slice++", "slices: 2"),
    slip("scan_rows", "min((slice + 1u) * part, all)", "all", "slices: 4"),
    slip("scan_rows", "PITCH, slice * 16u * KEPT)", "PITCH, 0u)", "slices: 2"),
    slip(
        "scan_rows",
        "(z, USED), present, dims.out, slice * 16u * KEPT)",
        "(z, USED), present, dims.out, 0u)",
        "slices: 2",
    ),
    slip("scan_rows", "slice < ROWS && row < dims.batch", "slice < ROWS", "rows: 2"),
    slip("scan_rows", "let first_row = group.y * ROWS;", "let first_row = group.y;", "rows: 2"),
    slip("scan_rows", "at = row_step_of(z, row, iteration);", "at = row_step_of(z, first_row, iteration);", "rows: 2"),
    slip(
        "scan_rows",
        "sum = gather(0u, z, slice, unit);\n                if",
        "sum = gather(0u, z, 0u, unit);\n                if",
        "rows: 2",
    ),
    // cell/scan_lanes.wgsl
    slip("scan_lanes", "min(ROWS, dims.batch - first_row);\n    let present", "ROWS;\n    let present", "rows: 2"),
    slip("scan_lanes", "select(iteration % 2u, 0u, STAGES > 1u)", "iteration % 2u", "stage"),
    slip(
        "scan_lanes",
        "below_source(z, lane), &kept_below, present)",
        "below_source(z, lane), &kept, present)",
        "layers: 3",
    ),
    slip("scan_lanes", "state_weights(z, 4u), scratch_source", "state_weights(z, 2u), scratch_source", "Gru"),
    slip("scan_lanes", "select(PROJECT, CANDIDATE, CELL == GRU)", "PROJECT", "Gru"),
    slip("scan_lanes", "dims.projection + z * dims.projection_stride", "dims.projection", "layers: 2"),
    slip("scan_rows", "dims.projection + z * dims.projection_stride", "dims.projection", "layers: 2"),
    slip("scan_rows", "keep(state_weights(z, USED), present", "keep(state_weights(0u, USED), present", "layers: 2"),
    slip("scan_rows", "time - dims.first_step - dims.steps, at.reverse", "first_step, at.reverse", "chunk: (1, 3)"),
    slip("scan_lanes", "time - dims.first_step - dims.steps, at.reverse", "first_step, at.reverse", "chunk: (1, 3)"),
    // common/kept.wgsl
    slip("scan_rows", "min(begin + 16u * i, last)", "min(begin + 16u, last)", ""),
    slip("scan_lanes", "case 1u: { kept[1] = part; }", "case 1u: { kept[0] = part; }", "kept: 2"),
    slip("scan_rows", "p.c = load_step(m, word + 2u * step);", "p.c = load_step(m, word + step);", ""),
];
