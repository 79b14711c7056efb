// The input projection by cooperative matrices.

// The first row and unit of a workgroup.
struct Corner { direction: u32, row: u32, unit: u32 }

fn store_stripe(corner: Corner, stripe: u32, sums: Sums, worker: Worker) {
    put_sums(sums, worker.gate * AREA);
    workgroupBarrier();
    for (var i = worker.lane; i < AREA; i += WORKGROUP_SIZE) {
        let of_tile = stripe * SIDE + i / SIDE;
        let row = corner.row + of_tile;
        let unit = corner.unit + i % SIDE;
        if row < dims.rows && unit < dims.hidden {
            let v = dims.vectors + corner.direction * VECTOR_ROWS * dims.hidden;
            let sum = rescale(GATES, found_sums(0u, i, of_tile), v, dims.hidden, SCALE_INPUT, unit);
            put_gates(corner.direction, row, unit, sum + gates_at(GATES, v, dims.hidden, BIAS, unit));
        }
    }
    // All values must be read before they are written again.
    workgroupBarrier();
}

fn project_matrix(group: vec3<u32>, lane: u32, subgroup: u32) {
    let corner = Corner(group.z, group.y * TALL, group.x * SIDE);
    let worker = Worker(lane, min(subgroup, GATES - 1u), corner.unit, dims.hidden);
    let source = rows_of(corner.direction, corner.row, 0u);
    var a = Sums();
    var b = Sums();
    add_products(source, weights_of(corner.direction), dims.depth, 0u, worker, &a, &b);
    store_stripe(corner, 0u, a, worker);
    store_stripe(corner, 1u, b, worker);
}
