// A tile of a matrix product: up to 16 rows of a source times the packed weights of one unit, all its gates at once.
// The kernel that includes this gives `weight_word(at) -> vec4<u32>` and `source_word(at) -> vec4<f32>`, a struct `RowSource` with
// the field `lane`, and `source_row(source, row) -> u32`: the first element of a row of the tile.
// Either `tile_rows.wgsl` or `tile_lanes.wgsl` follows it with `product`, and with `add_part` for weights that are kept.
//
// Packed weights, in words of 16 bytes: [blocks of 8 units][steps along the depth][words of a step][8 units]. A step covers 4
// elements of the depth for all gates, or 16 elements of a single gate; either way 16 weights per unit. In f32 it takes one word per
// gate, in f16 and bf16 two words, in int8 one word. The depth is padded with zeros to a multiple of 16.
// Host twin: `gpu::recurrent::pack`.

override ROWS: u32 = 1u;            // rows of a tile: 1, 2, 4, 8 or 16
override GATES: u32 = 4u;           // gates of a unit in the packed weights
override USED: u32 = 15u;           // bit g: the product needs gate g
override WEIGHT_TYPE: u32 = 0u;
override STRADDLE: bool = false;    // rows of the source begin anywhere, not at whole words only
override TAIL: bool = false;        // the depth is no multiple of the elements per loop iteration

const WEIGHT_F32: u32 = 0u;
const WEIGHT_F16: u32 = 1u;
const WEIGHT_BF16: u32 = 2u;
const WEIGHT_INT8: u32 = 3u;

const BLOCK: u32 = 8u;              // units whose words are adjacent

// A packed matrix: its first word, its number of gates, and the bits of the gates that a product needs. `gates` and `used` are constants
// wherever a matrix is made.
struct Matrix { first: u32, gates: u32, used: u32 }

// The words of one step of a unit's weights: as many as the type and the gates take, zeros for the rest.
struct StepWords { a: vec4<u32>, b: vec4<u32>, c: vec4<u32>, d: vec4<u32> }

// The steps that cover 16 elements of the depth: four, or one if there is a single gate.
struct Part { a: StepWords, b: StepWords, c: StepWords, d: StepWords }

// The sums of 16 rows: one column per row, one component per gate.
struct Tile { a: mat4x4<f32>, b: mat4x4<f32>, c: mat4x4<f32>, d: mat4x4<f32> }

// Elements of the depth that one step of the weights covers.
fn step_depth(m: Matrix) -> u32 {
    if m.gates == 1u {
        return 16u;
    }
    return 4u;
}

// Words of one step of a block.
fn step_words(m: Matrix) -> u32 {
    if WEIGHT_TYPE == WEIGHT_INT8 {
        return BLOCK;
    }
    if WEIGHT_TYPE == WEIGHT_F16 || WEIGHT_TYPE == WEIGHT_BF16 {
        return 2u * BLOCK;
    }
    if m.gates == 1u {
        return 4u * BLOCK;
    }
    return m.gates * BLOCK;
}

// The word of a unit's weights that the step at depth `k` begins with.
fn unit_word(m: Matrix, unit: u32, depth: u32, k: u32) -> u32 {
    let steps = ((depth + 15u) & ~15u) / step_depth(m);
    return m.first + ((unit / BLOCK) * steps + k / step_depth(m)) * step_words(m) + unit % BLOCK;
}

fn halves(low: u32, high: u32) -> vec4<f32> {
    return vec4(unpack2x16float(low), unpack2x16float(high));
}

// The upper halves of four 32-bit floats.
fn brains(low: u32, high: u32) -> vec4<f32> {
    return bitcast<vec4<f32>>(vec4(low << 16u, low & 0xffff0000u, high << 16u, high & 0xffff0000u));
}

fn load_step(m: Matrix, word: u32) -> StepWords {
    var s = StepWords();
    if WEIGHT_TYPE == WEIGHT_INT8 {
        s.a = weight_word(word);
        return s;
    }
    if WEIGHT_TYPE == WEIGHT_F16 || WEIGHT_TYPE == WEIGHT_BF16 {
        s.a = weight_word(word);
        s.b = weight_word(word + BLOCK);
        return s;
    }
    if m.gates == 1u || (m.used & 1u) != 0u {
        s.a = weight_word(word);
    }
    if m.gates == 1u || (m.gates > 1u && (m.used & 2u) != 0u) {
        s.b = weight_word(word + BLOCK);
    }
    if m.gates == 1u || (m.gates > 2u && (m.used & 4u) != 0u) {
        s.c = weight_word(word + 2u * BLOCK);
    }
    if m.gates == 1u || (m.gates > 3u && (m.used & 8u) != 0u) {
        s.d = weight_word(word + 3u * BLOCK);
    }
    return s;
}

// The 16 weights of a step: one column per gate, or one column per 4 elements of the depth.
fn unpack_step(s: StepWords) -> mat4x4<f32> {
    if WEIGHT_TYPE == WEIGHT_INT8 {
        let q = s.a;
        return mat4x4(
            vec4<f32>(unpack4xI8(q.x)), vec4<f32>(unpack4xI8(q.y)), vec4<f32>(unpack4xI8(q.z)), vec4<f32>(unpack4xI8(q.w)));
    }
    if WEIGHT_TYPE == WEIGHT_F16 {
        return mat4x4(halves(s.a.x, s.a.y), halves(s.a.z, s.a.w), halves(s.b.x, s.b.y), halves(s.b.z, s.b.w));
    }
    if WEIGHT_TYPE == WEIGHT_BF16 {
        return mat4x4(brains(s.a.x, s.a.y), brains(s.a.z, s.a.w), brains(s.b.x, s.b.y), brains(s.b.z, s.b.w));
    }
    return mat4x4(
        bitcast<vec4<f32>>(s.a), bitcast<vec4<f32>>(s.b), bitcast<vec4<f32>>(s.c), bitcast<vec4<f32>>(s.d));
}

fn step_weights(m: Matrix, word: u32) -> mat4x4<f32> {
    return unpack_step(load_step(m, word));
}

// The weights of a part: one matrix per 4 elements of its depth.
fn part_weights(m: Matrix, p: Part) -> array<mat4x4<f32>, 4> {
    let w = unpack_step(p.a);
    if m.gates == 1u {
        return array(only_gate(w[0]), only_gate(w[1]), only_gate(w[2]), only_gate(w[3]));
    }
    return array(w, unpack_step(p.b), unpack_step(p.c), unpack_step(p.d));
}

// Four elements of a row that begins at `first`, zeros beyond its end: the source may hold anything there.
fn four(first: u32, k: u32, depth: u32) -> vec4<f32> {
    if TAIL && k >= depth {
        return vec4<f32>();
    }
    let at = first + k;
    var v = source_word(at / 4u);
    if STRADDLE {
        let next = source_word(min(at / 4u + 1u, (first + depth - 1u) / 4u));
        switch at % 4u {
            case 1u: { v = vec4(v.yzw, next.x); }
            case 2u: { v = vec4(v.zw, next.xy); }
            case 3u: { v = vec4(v.w, next.xyz); }
            default: {}
        }
    }
    if TAIL {
        v = select(vec4<f32>(), v, vec4(k, k + 1u, k + 2u, k + 3u) < vec4(depth));
    }
    return v;
}

// Adds the product of 4 elements of a row with the weights of these 4 elements of the depth, for every gate in use.
fn weigh(m: Matrix, v: vec4<f32>, w: mat4x4<f32>, sum: vec4<f32>) -> vec4<f32> {
    var total = sum;
    if m.gates == 1u || (m.used & 1u) != 0u {
        total.x += dot(v, w[0]);
    }
    if m.gates > 1u && (m.used & 2u) != 0u {
        total.y += dot(v, w[1]);
    }
    if m.gates > 2u && (m.used & 4u) != 0u {
        total.z += dot(v, w[2]);
    }
    if m.gates > 3u && (m.used & 8u) != 0u {
        total.w += dot(v, w[3]);
    }
    return total;
}

// One column of a step's weights as weights of the only gate.
fn only_gate(w: vec4<f32>) -> mat4x4<f32> {
    return mat4x4(w, vec4<f32>(), vec4<f32>(), vec4<f32>());
}

// A tile's row by its index, for loops. It is selected, not indexed: drivers would put an array into memory or turn it into branches, and
// llvmpipe would generate three times as much code.
fn tile_row(t: Tile, row: u32) -> vec4<f32> {
    var sums = t.a[0];
    if ROWS > 1u {
        sums = select(sums, t.a[1], row == 1u);
    }
    if ROWS > 2u {
        sums = select(sums, t.a[2], row == 2u);
        sums = select(sums, t.a[3], row == 3u);
    }
    if ROWS > 4u {
        sums = select(sums, t.b[0], row == 4u);
        sums = select(sums, t.b[1], row == 5u);
        sums = select(sums, t.b[2], row == 6u);
        sums = select(sums, t.b[3], row == 7u);
    }
    if ROWS > 8u {
        sums = select(sums, t.c[0], row == 8u);
        sums = select(sums, t.c[1], row == 9u);
        sums = select(sums, t.c[2], row == 10u);
        sums = select(sums, t.c[3], row == 11u);
        sums = select(sums, t.d[0], row == 12u);
        sums = select(sums, t.d[1], row == 13u);
        sums = select(sums, t.d[2], row == 14u);
        sums = select(sums, t.d[3], row == 15u);
    }
    return sums;
}
