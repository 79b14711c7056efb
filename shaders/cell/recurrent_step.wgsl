// One time step of a layer, all directions, or of all layers at once (WAVE): the product of the recurrent weights with the state, the
// gates and the state update in one dispatch. An invocation owns a unit with all its gates, for ROWS rows, or, if there are several
// SLICES, a slice of its product along the depth. Weights are read once for all of these rows.

@compute @workgroup_size(UNITS, SLICES)
fn recurrent_step(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_id) local: vec3<u32>,
) {
    let z = group.z;
    if !takes_part(z) {
        return;
    }
    let last = !WAVE || z + 1u == groups.z;
    let first_row = group.y * ROWS;
    let unit = group.x * UNITS + local.x;
    let present = min(unit, units() - 1u);
    let slice = local.y;

    let depth = state_depth();
    let part = part_of(depth, slice);
    let t = product(state_weights(z, USED), state_source(z, first_row, 0u), present, depth, part.x, part.y);
    var t_x = Tile();
    if WAVE && z > 0u {
        let part = part_of(dims.out, slice);
        t_x = product(input_weights(z), below_source(z, first_row, 0u), present, dims.out, part.x, part.y);
    }
    if SLICES > 1u {
        let sum = whole_row(t, slice, local.x);
        var sum_x = vec4<f32>();
        if WAVE && z > 0u {
            sum_x = whole_row(t_x, slice, local.x);
        }
        let row = first_row + slice;
        if slice < ROWS && row < dims.batch && unit < units() {
            finish(row_step_of(z, row, last), unit, STAGE, sum, sum_x);
        }
        return;
    }
    if unit < units() {
        for (var row = 0u; row < min(ROWS, dims.batch - first_row); row++) {
            finish(row_step_of(z, first_row + row, last), unit, STAGE, tile_row(t, row), tile_row(t_x, row));
        }
    }
}
