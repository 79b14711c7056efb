// The backward pass of one time step of a layer, all directions: the product of the transposed recurrent weights with the gradients
// with respect to the gates of the step after it, and the step's own equations, in one dispatch. An invocation owns GATES units of
// ROWS rows, or, if there are several SLICES, a slice of their product along the depth.

@compute @workgroup_size(UNITS, SLICES)
fn recurrent_step_grad(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) local: vec3<u32>) {
    let direction = dims.direction + group.z;
    let first_row = group.y * ROWS;
    let block = group.x * UNITS + local.x;
    let present = min(block, blocks() - 1u);
    let slice = local.y;

    let part = part_of(dims.depth, slice);
    let t = product(weights_of(direction), RowSource(0u, direction, first_row), present, dims.depth, part.x, part.y);
    if SLICES > 1u {
        let sums = whole_row(t, slice, local.x);
        let row = first_row + slice;
        if slice < ROWS && row < dims.batch && block < blocks() {
            finish_block(direction, row, block, sums);
        }
        return;
    }
    if block < blocks() {
        for (var row = 0u; row < min(ROWS, dims.batch - first_row); row++) {
            finish_block(direction, first_row + row, block, tile_row(t, row));
        }
    }
}
