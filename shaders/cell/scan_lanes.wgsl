// `scan_rows` with the rows shared within a subgroup. An invocation owns a whole unit.

override UNITS: u32 = 64u;      // units of the workgroup, a multiple of the largest subgroup

// The product with kept or streamed weights over the whole depth.
fn state_product(m: Matrix, source: RowSource, kept: ptr<function, array<Part, 8>>, unit: u32) -> Tile {
    if KEPT > 0u {
        return kept_product(m, source, kept, PITCH, 0u);
    }
    return product(m, source, unit, whole_parts(dims.out), 0u, whole_parts(dims.out));
}

@compute @workgroup_size(UNITS * LAYERS)
fn scan_lanes(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_id) local: vec3<u32>,
    @builtin(subgroup_invocation_id) lane: u32,
) {
    let z = select(group.z, local.x / UNITS, LAYERS > 1u);
    let unit = local.x % UNITS;
    let first_row = group.y * ROWS;
    let rows = min(ROWS, dims.batch - first_row);
    let present = min(unit, dims.hidden - 1u);
    for (var row = 0u; row < rows; row++) {
        load_state(z, first_row + row, unit);
    }
    var kept = keep(state_weights(z, USED), present, dims.out, 0u);
    var kept_below = array<Part, 8>();
    if LAYERS > 1u && z > 0u {
        kept_below = keep(input_weights(z), present, dims.out, 0u);
    }
    workgroupBarrier();
    for (var iteration = 0u; iteration < dims.steps + LAYERS - 1u; iteration++) {
        here = select(iteration % 2u, 0u, STAGES > 1u);
        let takes = takes_part(z, iteration);
        var t_x = Tile();
        if takes {
            let source = state_source(z, lane, reset_rows(z, first_row, iteration));
            let t = state_product(state_weights(z, first_gates()), source, &kept, present);
            if LAYERS > 1u && z > 0u {
                t_x = state_product(input_weights(z), below_source(z, lane), &kept_below, present);
            }
            if unit < dims.hidden {
                for (var row = 0u; row < rows; row++) {
                    finish(row_step_of(z, first_row + row, iteration), unit, first_stage(), tile_row(t, row), tile_row(t_x, row));
                }
            }
        }
        workgroupBarrier();
        if STAGES > 1u {
            if takes {
                var second = Tile();
                if CELL == GRU {
                    second = state_product(state_weights(z, 4u), scratch_source(z, lane), &kept, present);
                } else {
                    let all = whole_parts(dims.hidden);
                    let projecting = min(unit, dims.out - 1u);
                    second = product(projection_weights(z), scratch_source(z, lane), projecting, all, 0u, all);
                }
                if unit < dims.out {
                    for (var row = 0u; row < rows; row++) {
                        let stage = select(PROJECT, CANDIDATE, CELL == GRU);
                        finish(row_step_of(z, first_row + row, iteration), unit, stage, tile_row(second, row), tile_row(t_x, row));
                    }
                }
            }
            workgroupBarrier();
        }
    }
    for (var row = 0u; row < rows; row++) {
        store_state(z, first_row + row, unit);
    }
}
