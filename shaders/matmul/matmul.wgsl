// y = a b + bias for many rows, in tiles (`product.wgsl`).
// CPU twin: `reference::matmul`.

fn load_a(row: u32, k: u32) -> f32 {
    if row >= dims.rows || k >= dims.depth {
        return 0.0;
    }
    if A_TRANSPOSED {
        return a[k * dims.rows + row];
    }
    return a[(dims.a_row + row) * dims.depth + k];
}

fn load_b(k: u32, column: u32) -> f32 {
    if k >= dims.depth || column >= dims.columns {
        return 0.0;
    }
    if B_TRANSPOSED {
        return b[column * dims.depth + k];
    }
    return b[k * dims.columns + column];
}

fn store(row: u32, column: u32, sum: vec4<f32>) {
    if row >= dims.rows {
        return;
    }
    for (var j = 0u; j < 4u && column + j < dims.columns; j++) {
        var value = sum[j];
        if dims.has_bias != 0u {
            value += bias[column + j];
        }
        y[dims.y_offset + row * dims.columns + column + j] = value;
    }
}

@compute @workgroup_size(SIDE, SIDE)
fn matmul(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) local: vec3<u32>) {
    let from_a = select(local.xy, local.yx, A_TRANSPOSED);
    let from_b = select(local.xy, local.yx, B_TRANSPOSED);
    let sums = add_product(group, local, from_a, from_b, mat4x4<f32>());
    let at = corner(group, local);
    store(at.x, at.y, sums[0]);
    store(at.x + 1u, at.y, sums[1]);
    store(at.x + 2u, at.y, sums[2]);
    store(at.x + 3u, at.y, sums[3]);
}
