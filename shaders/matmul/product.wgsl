// A tile of a matrix product: a workgroup of 16 x 16 computes 64 x 64 of it, an invocation 4 x 4, from tiles of both operands in
// workgroup memory. Every sum runs along the depth, in one order.
// The kernel that includes this gives `load_a(row, k)` and `load_b(k, column)`, zeros beyond the operands, and `dims.depth`.

const TILE: u32 = 64u;      // rows and columns of the output per workgroup
const DEPTH: u32 = 16u;     // elements of the depth per iteration
const SIDE: u32 = 16u;      // invocations along either axis

var<workgroup> a_tile: array<vec4<f32>, DEPTH * SIDE>;   // 4 rows per word
var<workgroup> b_tile: array<vec4<f32>, DEPTH * SIDE>;   // 4 columns per word

// The first row and column of an invocation's part.
fn corner(group: vec3<u32>, local: vec3<u32>) -> vec2<u32> {
    return group.yx * TILE + local.yx * 4u;
}

// Adds the product to the sums of an invocation's part; each column of the matrix is a row of the product. In every iteration, each
// invocation fetches one word of either tile. `from_a` is (depth, group of four rows), `from_b` is (group of four columns, depth). The
// kernel chooses them so that invocations which are neighbours along x fetch neighbours in memory.
fn add_product(
    group: vec3<u32>, local: vec3<u32>, from_a: vec2<u32>, from_b: vec2<u32>, before: mat4x4<f32>,
) -> mat4x4<f32> {
    var sums = before;
    let row = group.y * TILE + from_a.y * 4u;
    let column = group.x * TILE + from_b.x * 4u;
    for (var k = 0u; k < dims.depth; k += DEPTH) {
        let a_k = k + from_a.x;
        a_tile[from_a.x * SIDE + from_a.y] =
            vec4(load_a(row, a_k), load_a(row + 1u, a_k), load_a(row + 2u, a_k), load_a(row + 3u, a_k));
        let b_k = k + from_b.y;
        b_tile[from_b.y * SIDE + from_b.x] =
            vec4(load_b(b_k, column), load_b(b_k, column + 1u), load_b(b_k, column + 2u), load_b(b_k, column + 3u));
        workgroupBarrier();
        for (var d = 0u; d < DEPTH; d++) {
            let a_word = a_tile[d * SIDE + local.y];
            let b_word = b_tile[d * SIDE + local.x];
            sums[0] += a_word.x * b_word;
            sums[1] += a_word.y * b_word;
            sums[2] += a_word.z * b_word;
            sums[3] += a_word.w * b_word;
        }
        workgroupBarrier();
    }
    return sums;
}
