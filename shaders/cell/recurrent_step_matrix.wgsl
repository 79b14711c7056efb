// `recurrent_step` by cooperative matrices, for a batch of many rows.

fn finish_stripe(group: vec3<u32>, last: bool, stripe: u32, sums: Sums, x_sums: Sums, worker: Worker) {
    put_sums(sums, worker.gate * AREA);
    if WAVE {
        put_sums(x_sums, (MOST_GATES + worker.gate) * AREA);
    }
    workgroupBarrier();
    for (var i = worker.lane; i < AREA; i += WORKGROUP_SIZE) {
        let of_tile = stripe * SIDE + i / SIDE;
        let row = group.y * TALL + of_tile;
        let unit = worker.first_unit + i % SIDE;
        if row < dims.batch && unit < worker.units {
            var x_sum = vec4<f32>();
            if WAVE {
                x_sum = found_sums(1u, i, of_tile);
            }
            finish(row_step_of(group.z, row, last), unit, STAGE, found_sums(0u, i, of_tile), x_sum);
        }
    }
    // All values must be read before they are written again.
    workgroupBarrier();
}

fn recurrent_step_matrix(group: vec3<u32>, groups: vec3<u32>, lane: u32, subgroup: u32) {
    let z = group.z;
    if !takes_part(z) {
        return;
    }
    let last = !WAVE || z + 1u == groups.z;
    let first_row = group.y * TALL;
    let worker = Worker(lane, min(subgroup, GATES - 1u), group.x * SIDE, units());
    var a = Sums();
    var b = Sums();
    add_products(state_source(z, first_row, 0u), state_weights(z, USED), state_depth(), 0u, worker, &a, &b);
    var a_x = Sums();
    var b_x = Sums();
    if WAVE && z > 0u {
        add_products(below_source(z, first_row, 0u), input_weights(z), dims.out, 1u, worker, &a_x, &b_x);
    }
    finish_stripe(group, last, 0u, a, a_x, worker);
    finish_stripe(group, last, 1u, b, b_x, worker);
}
