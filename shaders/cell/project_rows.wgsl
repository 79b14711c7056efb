// The input projection. Every invocation reads all rows of its tile.

override UNITS: u32 = 64u;      // units of a workgroup

@compute @workgroup_size(UNITS)
fn project_rows(@builtin(global_invocation_id) id: vec3<u32>) {
    let unit = id.x;
    if unit >= dims.hidden {
        return;
    }
    let first_row = id.y * ROWS;
    let t = product(weights_of(id.z), rows_of(id.z, first_row, 0u), unit, dims.depth, 0u, dims.depth);
    store_rows(id.z, first_row, unit, t);
}
