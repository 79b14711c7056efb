// A cooperative scan: a chunk of time in one dispatch, for layers that are too large for one workgroup. The workgroups along x share
// the units of a direction, for ROWS rows. Each keeps its weights in registers if they fit. An invocation owns a slice of a unit's
// weights along the depth, and completes the step of one row.
//
// With REDO, there is one workgroup along x. It computes BLOCKS blocks of UNITS units one after another, and reads the weights at every
// step.

override BLOCKS: u32 = 1u;

// Whether this dispatch computes the chunk: the one with REDO if the call was aborted, else the cooperative one.
fn is_wanted(invocation: u32) -> bool {
    if invocation == 0u {
        atomicStore(&leaving, select(0u, 1u, atomicLoad(&exchange[ABORTED]) != 0u));
    }
    return (workgroupUniformLoad(&leaving) != 0u) == REDO;
}

// Whether all of h has arrived. The answer is the same for all invocations of the workgroup.
fn is_there() -> bool {
    if REDO {
        storageBarrier();
        return true;
    }
    return workgroupUniformLoad(&leaving) == 0u;
}

// Adds the products of a row with a part of kept weights.
fn add_kept(m: Matrix, row: u32, k: u32, p: Part, sum: vec4<f32>) -> vec4<f32> {
    var total = add_row(m, row, k, PITCH, unpack_step(p.a), sum);
    if m.gates > 1u {
        total = add_row(m, row, k + 4u, PITCH, unpack_step(p.b), total);
        total = add_row(m, row, k + 8u, PITCH, unpack_step(p.c), total);
        total = add_row(m, row, k + 12u, PITCH, unpack_step(p.d), total);
    }
    return total;
}

// Computes the slice `begin .. end` of the product of a row of h with a unit's weights. Rows are computed one after another, so that the
// code stays small. Weights that are not kept are read again for each row.
fn row_product(
    m: Matrix, row: u32, kept: ptr<function, array<Part, 8>>, unit: u32, depth: u32, begin: u32, end: u32,
) -> vec4<f32> {
    var sum = vec4<f32>();
    if KEPT == 0u {
        var word = unit_word(m, unit, depth, begin);
        for (var k = begin; k < end; k += step_depth(m)) {
            sum = add_row(m, row, k, depth, step_weights(m, word), sum);
            word += step_words(m);
        }
    }
    if KEPT > 0u {
        sum = add_kept(m, row, begin, (*kept)[0], sum);
    }
    if KEPT > 1u {
        sum = add_kept(m, row, begin + 16u, (*kept)[1], sum);
    }
    if KEPT > 2u {
        sum = add_kept(m, row, begin + 32u, (*kept)[2], sum);
    }
    if KEPT > 3u {
        sum = add_kept(m, row, begin + 48u, (*kept)[3], sum);
    }
    if KEPT > 4u {
        sum = add_kept(m, row, begin + 64u, (*kept)[4], sum);
    }
    if KEPT > 5u {
        sum = add_kept(m, row, begin + 80u, (*kept)[5], sum);
    }
    if KEPT > 6u {
        sum = add_kept(m, row, begin + 96u, (*kept)[6], sum);
    }
    if KEPT > 7u {
        sum = add_kept(m, row, begin + 112u, (*kept)[7], sum);
    }
    return sum;
}

@compute @workgroup_size(UNITS, SLICES)
fn scan_cooperative(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_id) local: vec3<u32>,
    @builtin(local_invocation_index) invocation: u32,
) {
    if !is_wanted(invocation) {
        return;
    }
    let z = group.z;
    let slice = local.y;
    let first_row = group.y * ROWS;
    let row = first_row + slice;
    let ends = slice < ROWS && row < dims.batch;
    let first_unit = group.x * UNITS + local.x;
    let depth = whole_parts(dims.hidden);
    var begin = slice * 16u * KEPT;
    var end = depth;
    if KEPT == 0u {
        let part = part_of(depth, slice);
        begin = part.x;
        end = part.y;
    }
    let m = state_weights(z, USED);
    var kept = keep(m, min(first_unit, dims.hidden - 1u), dims.hidden, begin);
    for (var block = 0u; block < BLOCKS; block++) {
        let unit = first_unit + block * UNITS;
        if ends && unit < dims.hidden {
            load_state(z, row, unit);
        }
    }
    if REDO {
        storageBarrier();
    }
    for (var done = 0u; done < dims.steps; done++) {
        let step = dims.first_step + done;
        fetch_h(z, first_row, step, invocation);
        if !is_there() {
            return;
        }
        let source = RowSource(0u, z, first_row, step);
        for (var block = 0u; block < BLOCKS; block++) {
            let unit = first_unit + block * UNITS;
            let present = min(unit, dims.hidden - 1u);
            var sum = vec4<f32>();
            for (var of_tile = 0u; of_tile < min(ROWS, dims.batch - first_row); of_tile++) {
                let found = row_product(m, source_row(source, of_tile), &kept, present, depth, begin, end);
                if SLICES > 1u {
                    partial[(of_tile * SLICES + slice) * UNITS + local.x] = found;
                } else {
                    sum = found;
                }
            }
            if SLICES > 1u {
                workgroupBarrier();
                if ends {
                    sum = gathered(slice, local.x);
                }
            }
            if ends && unit < dims.hidden {
                finish(row_step_of(z, row, step), unit, WHOLE, sum, vec4<f32>());
            }
            if BLOCKS > 1u {
                workgroupBarrier();
            }
        }
        // The words must be written before another workgroup waits for them, and h must be read before it changes.
        workgroupBarrier();
        if REDO {
            storageBarrier();
        }
    }
    for (var block = 0u; block < BLOCKS; block++) {
        let unit = first_unit + block * UNITS;
        if ends && unit < dims.hidden {
            store_state(z, row, unit);
        }
    }
}
