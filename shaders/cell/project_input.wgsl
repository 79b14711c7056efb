// The input projection: for every step, row and direction, the product of x with the weights of a unit's gates, plus the biases that
// can be added beforehand. A unit's gates are stored next to each other, and steps in the order of time.
// CPU twin: `reference::matmul`.

struct ProjectDims {
    rows: u32,              // steps times batch
    depth: u32,             // features of x
    hidden: u32,
    weights: u32,           // offset of the first direction's weights, in words of 16 bytes, and the stride to the next direction
    weights_stride: u32,
    vectors: u32,           // offset of the first direction's vectors; directions are VECTOR_ROWS * hidden apart
    first_forward: u32,     // the row of x that a forward direction begins with
    first_reverse: u32,     // the row of x that a reverse direction begins with
}

override REVERSE: u32 = 0u;     // bit d: direction d runs from the last step to the first

@group(0) @binding(0) var<uniform> dims: ProjectDims;
@group(0) @binding(1) var<storage, read> x: array<vec4<f32>>;           // [all steps' rows, depth]
@group(0) @binding(2) var<storage, read> weights: array<vec4<u32>>;     // packed, see tile.wgsl
@group(0) @binding(3) var<storage, read> vectors: array<f32>;           // [directions, VECTOR_ROWS, hidden]
@group(0) @binding(4) var<storage, read_write> gates_x: array<f32>;     // [directions, rows, hidden, 1 or 4 gates]

struct RowSource { lane: u32, first_row: u32, origin: u32 }

fn weight_word(at: u32) -> vec4<u32> {
    return weights[at];
}

fn source_word(at: u32) -> vec4<f32> {
    return x[at];
}

fn vector_element(at: u32) -> f32 {
    return vectors[at];
}

// Rows beyond the end repeat the last one; their sums are not used.
fn source_row(source: RowSource, row: u32) -> u32 {
    return (source.origin + min(source.first_row + row, dims.rows - 1u)) * dims.depth;
}

fn rows_of(direction: u32, first_row: u32, lane: u32) -> RowSource {
    let origin = select(dims.first_forward, dims.first_reverse, ((REVERSE >> direction) & 1u) != 0u);
    return RowSource(lane, first_row, origin);
}

fn weights_of(direction: u32) -> Matrix {
    return Matrix(dims.weights + direction * dims.weights_stride, GATES, USED);
}

fn put_gates(direction: u32, row: u32, unit: u32, sum: vec4<f32>) {
    let at = (direction * dims.rows + row) * dims.hidden + unit;
    if GATES == 1u {
        gates_x[at] = sum.x;
    } else {
        gates_x[4u * at] = sum.x;
        gates_x[4u * at + 1u] = sum.y;
        gates_x[4u * at + 2u] = sum.z;
        gates_x[4u * at + 3u] = sum.w;
    }
}

fn store_rows(direction: u32, first_row: u32, unit: u32, t: Tile) {
    let v = dims.vectors + direction * VECTOR_ROWS * dims.hidden;
    let bias = gates_at(GATES, v, dims.hidden, BIAS, unit);
    for (var row = 0u; row < min(ROWS, dims.rows - first_row); row++) {
        let sum = rescale(GATES, tile_row(t, row), v, dims.hidden, SCALE_INPUT, unit) + bias;
        put_gates(direction, first_row + row, unit, sum);
    }
}
