// A scan: a chunk of time in one dispatch. A workgroup computes all steps of ROWS rows, for a direction or for all layers of a stack.
// The state stays in workgroup memory, the weights in registers if they fit. An invocation owns a slice of a unit's weights along the
// depth, and completes the step of one row.

override UNITS: u32 = 64u;      // units of the workgroup
override SLICES: u32 = 1u;      // slices of the depth, at least as many as rows
override PARTIAL: u32 = 1u;     // LAYERS * ROWS * SLICES * UNITS if there are several slices; twice as many if there are several layers

var<workgroup> partial: array<vec4<f32>, PARTIAL>;

// The index of the partial sum of a row, slice and unit. `term` is 0 for the product of h, and 1 for that of the input.
fn partial_at(term: u32, z: u32, row: u32, slice: u32, unit: u32) -> u32 {
    return ((((term * LAYERS + behind(z)) * ROWS + row) * SLICES) + slice) * UNITS + unit;
}

fn share(term: u32, z: u32, slice: u32, unit: u32, t: Tile) {
    for (var row = 0u; row < ROWS; row++) {
        partial[partial_at(term, z, row, slice, unit)] = tile_row(t, row);
    }
}

// The sum of a row over all slices.
fn gather(term: u32, z: u32, row: u32, unit: u32) -> vec4<f32> {
    var sum = vec4<f32>();
    for (var slice = 0u; slice < SLICES; slice++) {
        sum += partial[partial_at(term, z, row, slice, unit)];
    }
    return sum;
}

// Slice `slice` of a streamed product.
fn slice_product(m: Matrix, source: RowSource, unit: u32, depth: u32, slice: u32) -> Tile {
    let all = whole_parts(depth);
    let part = whole_parts((all + SLICES - 1u) / SLICES);
    return product(m, source, unit, all, min(slice * part, all), min((slice + 1u) * part, all));
}

// Slice `slice` of the product with kept or streamed weights.
fn state_product(m: Matrix, source: RowSource, kept: ptr<function, array<Part, 8>>, unit: u32, slice: u32) -> Tile {
    if KEPT > 0u {
        return kept_product(m, source, kept, PITCH, slice * 16u * KEPT);
    }
    return slice_product(m, source, unit, dims.out, slice);
}

@compute @workgroup_size(UNITS, SLICES, LAYERS)
fn scan_rows(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) local: vec3<u32>) {
    let z = select(group.z, local.z, LAYERS > 1u);
    let unit = local.x;
    let slice = local.y;
    let first_row = group.y * ROWS;
    let row = first_row + slice;
    let ends = slice < ROWS && row < dims.batch;
    let present = min(unit, dims.hidden - 1u);
    if ends {
        load_state(z, row, unit);
    }
    var kept = keep(state_weights(z, USED), present, dims.out, slice * 16u * KEPT);
    var kept_below = array<Part, 8>();
    if takes_input(RowStep(z, 0u, 0u, 0u, false, false)) {
        kept_below = keep(input_weights(z), present, dims.out, slice * 16u * KEPT);
    }
    workgroupBarrier();
    for (var iteration = 0u; iteration < dims.steps + LAYERS - 1u; iteration++) {
        here = select(iteration % 2u, 0u, STAGES > 1u);
        let takes = takes_part(z, iteration);
        var at = RowStep();
        var t = Tile();
        var t_x = Tile();
        if takes {
            if ends {
                at = row_step_of(z, row, iteration);
            }
            let source = state_source(z, 0u, reset_rows(z, first_row, iteration));
            t = state_product(state_weights(z, first_gates()), source, &kept, present, slice);
            if LAYERS > 1u && z > 0u {
                t_x = state_product(input_weights(z), below_source(z, 0u), &kept_below, present, slice);
            }
        }
        var sum = t.a[0];
        var sum_x = t_x.a[0];
        if SLICES > 1u {
            share(0u, z, slice, unit, t);
            if LAYERS > 1u {
                share(1u, z, slice, unit, t_x);
            }
            workgroupBarrier();
            if ends {
                sum = gather(0u, z, slice, unit);
                if LAYERS > 1u {
                    sum_x = gather(1u, z, slice, unit);
                }
            }
        }
        if takes && ends && unit < dims.hidden {
            finish(at, unit, first_stage(), sum, sum_x);
        }
        workgroupBarrier();
        if STAGES > 1u {
            var second = Tile();
            if takes && CELL == GRU {
                second = state_product(state_weights(z, 4u), scratch_source(z, 0u), &kept, present, slice);
            } else if takes {
                let projecting = min(unit, dims.out - 1u);
                second = slice_product(projection_weights(z), scratch_source(z, 0u), projecting, dims.hidden, slice);
            }
            sum = second.a[0];
            if SLICES > 1u {
                share(0u, z, slice, unit, second);
                workgroupBarrier();
                if ends {
                    sum = gather(0u, z, slice, unit);
                }
            }
            if takes && ends && unit < dims.out {
                finish(at, unit, select(PROJECT, CANDIDATE, CELL == GRU), sum, sum_x);
            }
            workgroupBarrier();
        }
    }
    if ends {
        store_state(z, row, unit);
    }
}
