// The input projection with the rows of a tile shared within a subgroup.

override UNITS: u32 = 64u;      // units of a workgroup, a multiple of the largest subgroup

@compute @workgroup_size(UNITS)
fn project_lanes(@builtin(global_invocation_id) id: vec3<u32>, @builtin(subgroup_invocation_id) lane: u32) {
    let first_row = id.y * ROWS;
    let present = min(id.x, dims.hidden - 1u);
    let t = product(weights_of(id.z), rows_of(id.z, first_row, lane), present, dims.depth, 0u, dims.depth);
    if id.x < dims.hidden {
        store_rows(id.z, first_row, id.x, t);
    }
}
