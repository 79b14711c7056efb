// y = a b, or y += a b, for operands whose rows and columns lie anywhere: transposes, columns of a wider row and a depth walked
// from its end are values of the strides. A workgroup of 16 x 16 computes a tile of 64 x 64, an invocation 4 x 4 of it. Every sum
// runs along the depth from what y holds, in one order: a product taken in pieces gives the same bits.
// CPU twin: `reference::matmul`, on strided views.

override ACCUMULATE: bool = false;      // y += a b
override A_BY_ROWS: bool = false;       // neighbours in memory are rows of a, not its depth

const TILE: u32 = 64u;      // rows and columns of the output a workgroup
const DEPTH: u32 = 16u;     // elements of the depth a round
const SIDE: u32 = 16u;      // invocations along either axis

struct MatmulStridedDims {
    rows: u32,
    depth: u32,
    columns: u32,
    a_offset: u32,
    a_row: i32,         // strides
    a_depth: i32,
    gap: u32,           // elements of a that are left out before row `gap_row` and before place `gap_depth` of the depth
    gap_row: u32,
    gap_depth: u32,
    b_offset: u32,
    b_depth: i32,
    b_column: i32,
    y_offset: u32,
}

@group(0) @binding(0) var<uniform> dims: MatmulStridedDims;
@group(0) @binding(1) var<storage, read> a: array<f32>;         // [rows, depth] by its strides
@group(0) @binding(2) var<storage, read> b: array<f32>;         // [depth, columns] by its strides
@group(0) @binding(3) var<storage, read_write> y: array<f32>;   // [rows, columns], from y_offset on

var<workgroup> a_tile: array<vec4<f32>, DEPTH * SIDE>;   // 4 rows a word
var<workgroup> b_tile: array<vec4<f32>, DEPTH * SIDE>;   // 4 columns a word

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
    let row = group.y * TILE + local.y * 4u;
    let column = group.x * TILE + local.x * 4u;
    var sum0 = held(row, column);
    var sum1 = held(row + 1u, column);
    var sum2 = held(row + 2u, column);
    var sum3 = held(row + 3u, column);

    // Each invocation fetches one word of either tile, neighbours from neighbouring memory.
    let fetched = select(local.xy, local.yx, A_BY_ROWS);
    let a_row = group.y * TILE + fetched.y * 4u;
    for (var k = 0u; k < dims.depth; k += DEPTH) {
        let a_k = k + fetched.x;
        a_tile[fetched.x * SIDE + fetched.y] =
            vec4(load_a(a_row, a_k), load_a(a_row + 1u, a_k), load_a(a_row + 2u, a_k), load_a(a_row + 3u, a_k));
        let b_k = k + local.y;
        b_tile[local.y * SIDE + local.x] =
            vec4(load_b(b_k, column), load_b(b_k, column + 1u), load_b(b_k, column + 2u), load_b(b_k, column + 3u));
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
