// Flat index of an invocation. A dispatch is limited to 65,535 workgroups per axis, so large grids are folded into x and y.

fn flat_index(id: vec3<u32>, groups: vec3<u32>, workgroup_size: u32) -> u32 {
    return id.y * (groups.x * workgroup_size) + id.x;
}
