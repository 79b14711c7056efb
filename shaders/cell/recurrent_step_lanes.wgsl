// `recurrent_step` with the rows of a tile shared within a subgroup.

override UNITS: u32 = 64u;      // units of a workgroup, a multiple of the largest subgroup

@compute @workgroup_size(UNITS)
fn recurrent_step_lanes(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_id) local: vec3<u32>,
    @builtin(subgroup_invocation_id) lane: u32,
) {
    let z = group.z;
    if !takes_part(z) {
        return;
    }
    let last = !WAVE || z + 1u == groups.z;
    let first_row = group.y * ROWS;
    let unit = group.x * UNITS + local.x;
    let present = min(unit, units() - 1u);

    let depth = state_depth();
    let t = product(state_weights(z, USED), state_source(z, first_row, lane), present, depth, 0u, depth);
    var t_x = Tile();
    if WAVE && z > 0u {
        t_x = product(input_weights(z), below_source(z, first_row, lane), present, dims.out, 0u, dims.out);
    }
    if unit < units() {
        for (var row = 0u; row < min(ROWS, dims.batch - first_row); row++) {
            finish(row_step_of(z, first_row + row, last), unit, STAGE, tile_row(t, row), tile_row(t_x, row));
        }
    }
}
