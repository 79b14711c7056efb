// y = a b + bias for few rows, for which the tiles of `matmul` would be mostly empty. There is one invocation per output element;
// neighbours read neighbouring columns of b.
// CPU twin: `reference::matmul`.

override WORKGROUP_SIZE: u32 = 64u;

@compute @workgroup_size(WORKGROUP_SIZE)
fn matmul_rows(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let at = flat_index(id, groups, WORKGROUP_SIZE);
    if at >= dims.rows * dims.columns {
        return;
    }
    let column = at % dims.columns;
    let row = at / dims.columns;
    let a_begin = select((dims.a_row + row) * dims.depth, row, A_TRANSPOSED);
    let a_step = select(1u, dims.rows, A_TRANSPOSED);
    let b_begin = select(column, column * dims.depth, B_TRANSPOSED);
    let b_step = select(dims.columns, 1u, B_TRANSPOSED);
    var sum = 0.0;
    for (var k = 0u; k < dims.depth; k++) {
        sum += a[a_begin + k * a_step] * b[b_begin + k * b_step];
    }
    if dims.has_bias != 0u {
        sum += bias[column];
    }
    y[dims.y_offset + at] = sum;
}
