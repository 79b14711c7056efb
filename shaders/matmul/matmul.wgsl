// y = a b + bias for many rows. A workgroup of 16 x 16 computes a tile of 64 x 64, an invocation 4 x 4 of it, from tiles of
// both operands in workgroup memory.
// CPU twin: `reference::matmul`.

override A_TRANSPOSED: bool = false;    // a lies as [depth, rows]
override B_TRANSPOSED: bool = false;    // b lies as [columns, depth]

const TILE: u32 = 64u;      // rows and columns of the output a workgroup
const DEPTH: u32 = 16u;     // elements of K a round
const SIDE: u32 = 16u;      // invocations along either axis

struct MatmulDims { rows: u32, depth: u32, columns: u32, a_row: u32, y_offset: u32, has_bias: u32 }

@group(0) @binding(0) var<uniform> dims: MatmulDims;
@group(0) @binding(1) var<storage, read> a: array<f32>;         // [a_row + rows, depth], read from row a_row on; transposed from row 0
@group(0) @binding(2) var<storage, read> b: array<f32>;         // [depth, columns]
@group(0) @binding(3) var<storage, read> bias: array<f32>;      // [columns]
@group(0) @binding(4) var<storage, read_write> y: array<f32>;   // [rows, columns], from y_offset on

var<workgroup> a_tile: array<vec4<f32>, DEPTH * SIDE>;   // 4 rows a word
var<workgroup> b_tile: array<vec4<f32>, DEPTH * SIDE>;   // 4 columns a word

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
    let row = group.y * TILE + local.y * 4u;
    let column = group.x * TILE + local.x * 4u;
    var sum0 = vec4<f32>();
    var sum1 = vec4<f32>();
    var sum2 = vec4<f32>();
    var sum3 = vec4<f32>();

    // Each invocation fetches one word of either tile: local.x runs along memory in both.
    let from_a = select(local.xy, local.yx, A_TRANSPOSED);
    let from_b = select(local.xy, local.yx, B_TRANSPOSED);
    let a_row = group.y * TILE + from_a.y * 4u;
    let b_column = group.x * TILE + from_b.x * 4u;
    for (var k = 0u; k < dims.depth; k += DEPTH) {
        let a_k = k + from_a.x;
        a_tile[from_a.x * SIDE + from_a.y] =
            vec4(load_a(a_row, a_k), load_a(a_row + 1u, a_k), load_a(a_row + 2u, a_k), load_a(a_row + 3u, a_k));
        let b_k = k + from_b.y;
        b_tile[from_b.y * SIDE + from_b.x] = vec4(
            load_b(b_k, b_column), load_b(b_k, b_column + 1u), load_b(b_k, b_column + 2u), load_b(b_k, b_column + 3u)
        );
        workgroupBarrier();
        for (var d = 0u; d < DEPTH; d++) {
            let a_word = a_tile[d * SIDE + local.y];
            let b_word = b_tile[d * SIDE + local.x];
            sum0 += a_word.x * b_word;
            sum1 += a_word.y * b_word;
            sum2 += a_word.z * b_word;
            sum3 += a_word.w * b_word;
        }
        workgroupBarrier();
    }
    store(row, column, sum0);
    store(row + 1u, column, sum1);
    store(row + 2u, column, sum2);
    store(row + 3u, column, sum3);
}
