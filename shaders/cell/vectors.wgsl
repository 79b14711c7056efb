// Where a layer and direction keeps its vectors of `hidden` elements: biases, peepholes, scales of int8 weights.
// Host twin: `gpu::recurrent::pack`.

const BIAS: u32 = 0u;           // 4 rows, a gate each: the biases of both sides where they are summed
const SCALE_HIDDEN: u32 = 4u;   // 4 rows: scales of the recurrent weights
const SCALE_INPUT: u32 = 8u;    // 4 rows: scales of the input's weights
const PEEPHOLE_ROWS: u32 = 12u; // 3 rows: i, f and o
const CANDIDATE_BIAS: u32 = 15u;    // the state's side of a GRU's candidate, which its reset gate weighs
const SCALE_PROJECTION: u32 = 16u;

const VECTOR_ROWS: u32 = 17u;

// The kernel that includes this gives `vector_element(at) -> f32`.
fn vector_at(vectors: u32, hidden: u32, row: u32, unit: u32) -> f32 {
    return vector_element(vectors + row * hidden + unit);
}

// One element for each gate from 4 rows on.
fn gates_at(vectors: u32, hidden: u32, row: u32, unit: u32) -> vec4<f32> {
    var v = vec4<f32>();
    v.x = vector_at(vectors, hidden, row, unit);
    if GATES > 1u {
        v.y = vector_at(vectors, hidden, row + 1u, unit);
    }
    if GATES > 2u {
        v.z = vector_at(vectors, hidden, row + 2u, unit);
    }
    if GATES > 3u {
        v.w = vector_at(vectors, hidden, row + 3u, unit);
    }
    return v;
}

// The sums of a product with int8 weights, in units of the weights.
fn rescale(sum: vec4<f32>, vectors: u32, hidden: u32, row: u32, unit: u32) -> vec4<f32> {
    if WEIGHT_TYPE == WEIGHT_INT8 {
        return sum * gates_at(vectors, hidden, row, unit);
    }
    return sum;
}
