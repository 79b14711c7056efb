// A time step by cooperative matrices of f16.

@compute @workgroup_size(WORKGROUP_SIZE)
fn recurrent_step_matrix_half(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
    @builtin(subgroup_id) subgroup: u32,
) {
    recurrent_step_matrix(group, groups, lane, subgroup);
}
