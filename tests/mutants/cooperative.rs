//! Planted faults in the scan over several workgroups: in its exchange, and in the second attempt after it is given up.

use super::Slip;

const fn slip(right: &'static str, wrong: &'static str, likely: &'static str) -> Slip {
    Slip { kernel: "scan_cooperative", right, wrong, likely }
}

pub(super) const SLIPS: &[Slip] = &[
    // cell/exchange_memory.wgsl: phases and slots
    slip("return ((step + 1u) / 2u) % 2u;", "return (step / 2u) % 2u;", "First"),
    slip("return ((step + 1u) / 2u) % 2u;", "return 0u;", "First"),
    slip("return ((step + 1u) / 2u) % 2u;", "return step % 2u;", "First"),
    slip("(2u * z + step % 2u) * dims.batch", "(2u * z + (step + 1u) % 2u) * dims.batch", "First"),
    slip("(2u * z + step % 2u) * dims.batch", "2u * z * dims.batch", "First"),
    slip("(2u * z + step % 2u) * dims.batch", "(z + step % 2u) * dims.batch", "directions: (0, 2)"),
    slip("let step = step_of(at) + 1u;", "let step = step_of(at);", "First"),
    slip("(bits & ~1u) | phase(step)", "bits | phase(step)", "First"),
    slip("(bits & ~1u) | phase(step)", "bits", "First"),
    slip("if (bits & 1u) == phase(step) {", "if true {", "Stale"),
    slip("own_h = h;", "", "Whole"),
    slip("poll < dims.polls", "poll < 0u", "Whole"),
    // Giving up
    slip("give_up(TIRED);", "", "Stale"),
    slip("atomicOr(&exchange[ABORTED], why);", "", "Stale"),
    slip("atomicStore(&leaving, 1u);\n}", "}", "Stale"),
    slip("(workgroupUniformLoad(&leaving) != 0u) == REDO", "!REDO", "Left"),
    slip("(workgroupUniformLoad(&leaving) != 0u) == REDO", "true", "Idle"),
    slip("(workgroupUniformLoad(&leaving) != 0u) == REDO", "(workgroupUniformLoad(&leaving) != 0u) != REDO", "Whole"),
    slip("return workgroupUniformLoad(&leaving) == 0u;", "workgroupBarrier();\n    return true;", "Stale"),
    // The operands of the products
    slip("!REDO && step > dims.first_step", "!REDO && step > 0u", "chunk: (2"),
    slip(
        "h = h_rows[in_region(dims.h, z, at.row, unit)];",
        "h = h_rows[in_region(dims.h_initial, z, at.row, unit)];",
        "Whole",
    ),
    slip(
        "h = h_rows[in_region(dims.h_initial, z, at.row, unit)];",
        "h = h_rows[in_region(dims.h, z, at.row, unit)];",
        "flags: true",
    ),
    slip("row < min(ROWS, dims.batch - first_row)", "row < ROWS", "Whole"),
    slip("min(source.first_row + row, dims.batch - 1u)", "row", "Redo"),
    slip("select(dims.hidden, 0u, REDO && !resets)", "select(dims.hidden, 0u, REDO)", "Redo"),
    slip("return h_rows[in_region(dims.h_initial, at.z, at.row, unit)];", "return own_h;", "flags: true"),
    slip("return s_rows[in_region(dims.s_initial, at.z, at.row, unit)];", "return own_s;", "flags: true"),
    slip("return s_rows[in_region(dims.s_after, at.z, at.row, unit)];", "return own_s;", "Redo"),
    // Entering and leaving
    slip(
        "exchange[slot(z, row, dims.first_step) + unit]",
        "exchange[slot(z, row, dims.first_step + 1u) + unit]",
        "Redo",
    ),
    slip("own_s = s_rows[in_region(dims.s, z, row, unit)];", "own_s = 0.0;", "Lstm"),
    slip("slot(z, row, dims.first_step + dims.steps) + unit", "slot(z, row, dims.first_step) + unit", "chunk: (1, 3)"),
    slip("let after = in_region(dims.h_after, z, row, unit);", "let after = in_region(dims.h, z, row, unit);", "Whole"),
    slip(
        "return region + (z * dims.batch + row) * dims.hidden + unit;",
        "return region + row * dims.hidden + unit;",
        "(0, 2)",
    ),
    // cell/scan_cooperative.wgsl
    slip(
        "let unit = first_unit + block * UNITS;\n            let present",
        "let unit = first_unit;\n            let present",
        "Redo",
    ),
    slip("let first_row = group.y * ROWS;", "let first_row = 0u;", "Whole"),
    slip("var begin = slice * 16u * KEPT;", "var begin = 0u;", "Whole"),
    slip("workgroupBarrier();\n        if REDO {", "if REDO {", "Whole"),
    // cell/walk.wgsl
    slip("dims.time - dims.first_step - dims.steps, at.reverse", "dims.first_step, at.reverse", "chunk: (2"),
    slip("(REVERSE >> direction_of(z)) & 1u", "(REVERSE >> z) & 1u", "directions: (1"),
    slip("select(step, dims.time - 1u - step, is_reverse(z))", "step", "reverse: 2"),
    slip("dims.directions + direction_of(at.z)) * dims.out", "dims.directions) * dims.out", "(0, 2)"),
];
