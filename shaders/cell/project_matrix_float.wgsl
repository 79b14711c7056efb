// The input projection by cooperative matrices of f32.

@compute @workgroup_size(WORKGROUP_SIZE)
fn project_matrix_float(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
    @builtin(subgroup_id) subgroup: u32,
) {
    project_matrix(group, lane, subgroup);
}
