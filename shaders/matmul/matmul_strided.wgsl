// y = a b, or y += a b, for operands with any strides: transposes, columns of a wider row, and a depth in reverse order. Every sum
// begins with the value of y, so a product computed by slices of the depth gives the same bits.
// CPU twin: `reference::matmul`, on strided views.

@group(0) @binding(1) var<storage, read> a: array<f32>;         // [rows, depth] by its strides
@group(0) @binding(2) var<storage, read> b: array<f32>;         // [depth, columns] by its strides
@group(0) @binding(3) var<storage, read_write> y: array<f32>;   // [rows, columns], from y_offset on

fn load_a(row: u32, k: u32) -> f32 {
    if row >= dims.rows || k >= dims.depth {
        return 0.0;
    }
    var at = i32(dims.a_offset) + i32(row) * dims.a_row + i32(k) * dims.a_depth;
    if row >= dims.gap_row || k >= dims.gap_depth {
        at += i32(dims.gap);
    }
    return a[at];
}

fn load_b(k: u32, column: u32) -> f32 {
    if k >= dims.depth || column >= dims.columns {
        return 0.0;
    }
    return b[i32(dims.b_offset) + i32(k) * dims.b_depth + i32(column) * dims.b_column];
}

fn held(row: u32, column: u32) -> vec4<f32> {
    var sum = vec4<f32>();
    if ACCUMULATE && row < dims.rows {
        for (var j = 0u; j < 4u && column + j < dims.columns; j++) {
            sum[j] = y[dims.y_offset + row * dims.columns + column + j];
        }
    }
    return sum;
}

fn store(row: u32, column: u32, sum: vec4<f32>) {
    if row >= dims.rows {
        return;
    }
    for (var j = 0u; j < 4u && column + j < dims.columns; j++) {
        y[dims.y_offset + row * dims.columns + column + j] = sum[j];
    }
}

@compute @workgroup_size(SIDE, SIDE)
fn matmul_strided(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) local: vec3<u32>) {
    let at = corner(group, local);
    let before = mat4x4(held(at.x, at.y), held(at.x + 1u, at.y), held(at.x + 2u, at.y), held(at.x + 3u, at.y));
    let sums = add_product(group, local, select(local.xy, local.yx, A_BY_ROWS), local.xy, before);
    store(at.x, at.y, sums[0]);
    store(at.x + 1u, at.y, sums[1]);
    store(at.x + 2u, at.y, sums[2]);
    store(at.x + 3u, at.y, sums[3]);
}
