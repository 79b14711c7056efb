// The rows of the vectors of a layer and direction, `hidden` elements each: biases, peepholes, scales of int8 weights.
// Host twin: `gpu::recurrent::pack`.

const BIAS: u32 = 0u;           // 4 rows, one per gate: the sum of the input bias and the recurrent bias
const SCALE_HIDDEN: u32 = 4u;   // 4 rows: scales of the recurrent weights
const SCALE_INPUT: u32 = 8u;    // 4 rows: scales of the input's weights
const PEEPHOLE_ROWS: u32 = 12u; // 3 rows: i, f and o
const CANDIDATE_BIAS: u32 = 15u;    // the recurrent bias of a GRU's candidate, which its reset gate weighs
const SCALE_PROJECTION: u32 = 16u;

const VECTOR_ROWS: u32 = 17u;
