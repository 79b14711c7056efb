// `recurrent_step_grad` with the rows of a tile shared within a subgroup.

override UNITS: u32 = 64u;      // invocations of a workgroup, a multiple of the largest subgroup

@compute @workgroup_size(UNITS)
fn recurrent_step_grad_lanes(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_id) local: vec3<u32>,
    @builtin(subgroup_invocation_id) lane: u32,
) {
    let direction = dims.direction + group.z;
    let first_row = group.y * ROWS;
    let block = group.x * UNITS + local.x;
    let present = min(block, blocks() - 1u);

    let source = RowSource(lane, direction, first_row);
    let t = product(weights_of(direction), source, present, dims.depth, 0u, dims.depth);
    if block < blocks() {
        for (var row = 0u; row < min(ROWS, dims.batch - first_row); row++) {
            finish_block(direction, first_row + row, block, tile_row(t, row));
        }
    }
}
