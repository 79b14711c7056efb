// A tile of a matrix product: up to 16 rows of a source against the packed weights of one unit, all its gates at once.
// The kernel that includes this gives `weight_word(at) -> vec4<u32>` and `source_word(at) -> vec4<f32>`, a struct `Source` with
// the field `lane`, and `source_row(source, row) -> u32`: where a row of the tile begins, in elements.
// Either `tile_rows.wgsl` or `tile_lanes.wgsl` follows it with `product`.
//
// Packed weights, in words of 16 bytes: [blocks of 8 units][steps along the depth][words of a step][8 units]. A step covers 4
// elements of the depth for all gates, or 16 of them where there is one gate; either way 16 weights a unit. It takes a word a
// gate in f32, two words in f16 and bf16 and one in int8. The depth is padded with zeros to a multiple of 16.
// Host twin: `gpu::recurrent::pack`.

override ROWS: u32 = 1u;            // rows of a tile: 1, 2, 4, 8 or 16
override GATES: u32 = 4u;           // gates of a unit in the packed weights
override USED: u32 = 15u;           // bit g: the product needs gate g
override WEIGHT_TYPE: u32 = 0u;
override STRADDLE: bool = false;    // rows of the source begin anywhere, not at whole words only
override TAIL: bool = false;        // the depth ends within what a turn of the loop covers

const WEIGHT_F32: u32 = 0u;
const WEIGHT_F16: u32 = 1u;
const WEIGHT_BF16: u32 = 2u;
const WEIGHT_INT8: u32 = 3u;

const BLOCK: u32 = 8u;              // units whose words lie side by side

// The sums of 16 rows, one column a row, one component a gate.
struct Tile { a: mat4x4<f32>, b: mat4x4<f32>, c: mat4x4<f32>, d: mat4x4<f32> }

// The weights' elements of the depth in one step.
fn step_depth() -> u32 {
    if GATES == 1u {
        return 16u;
    }
    return 4u;
}

// Words of one step of a block.
fn step_words() -> u32 {
    if WEIGHT_TYPE == WEIGHT_INT8 {
        return BLOCK;
    }
    if WEIGHT_TYPE == WEIGHT_F16 || WEIGHT_TYPE == WEIGHT_BF16 {
        return 2u * BLOCK;
    }
    if GATES == 1u {
        return 4u * BLOCK;
    }
    return GATES * BLOCK;
}

// The word of a unit's weights that the step at depth `k` begins with.
fn unit_word(weights: u32, unit: u32, depth: u32, k: u32) -> u32 {
    let steps = ((depth + 15u) & ~15u) / step_depth();
    return weights + ((unit / BLOCK) * steps + k / step_depth()) * step_words() + unit % BLOCK;
}

fn halves(low: u32, high: u32) -> vec4<f32> {
    return vec4(unpack2x16float(low), unpack2x16float(high));
}

// The upper halves of four 32-bit floats.
fn brains(low: u32, high: u32) -> vec4<f32> {
    return bitcast<vec4<f32>>(vec4(low << 16u, low & 0xffff0000u, high << 16u, high & 0xffff0000u));
}

// The 16 weights of a step: a column a gate, or a column every 4 elements of the depth.
fn step_weights(word: u32) -> mat4x4<f32> {
    if WEIGHT_TYPE == WEIGHT_INT8 {
        let q = weight_word(word);
        return mat4x4(
            vec4<f32>(unpack4xI8(q.x)), vec4<f32>(unpack4xI8(q.y)), vec4<f32>(unpack4xI8(q.z)), vec4<f32>(unpack4xI8(q.w)));
    }
    if WEIGHT_TYPE == WEIGHT_F16 {
        let low = weight_word(word);
        let high = weight_word(word + BLOCK);
        return mat4x4(halves(low.x, low.y), halves(low.z, low.w), halves(high.x, high.y), halves(high.z, high.w));
    }
    if WEIGHT_TYPE == WEIGHT_BF16 {
        let low = weight_word(word);
        let high = weight_word(word + BLOCK);
        return mat4x4(brains(low.x, low.y), brains(low.z, low.w), brains(high.x, high.y), brains(high.z, high.w));
    }
    var w = mat4x4<f32>();
    if GATES == 1u || (USED & 1u) != 0u {
        w[0] = bitcast<vec4<f32>>(weight_word(word));
    }
    if GATES == 1u || (GATES > 1u && (USED & 2u) != 0u) {
        w[1] = bitcast<vec4<f32>>(weight_word(word + BLOCK));
    }
    if GATES == 1u || (GATES > 2u && (USED & 4u) != 0u) {
        w[2] = bitcast<vec4<f32>>(weight_word(word + 2u * BLOCK));
    }
    if GATES == 1u || (GATES > 3u && (USED & 8u) != 0u) {
        w[3] = bitcast<vec4<f32>>(weight_word(word + 3u * BLOCK));
    }
    return w;
}

// Four elements of a row that begins at `first`, zeros beyond its end: what follows in the source may be anything.
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

// Adds 4 elements of a row times 4 elements of the weights' depth, for every gate in use.
fn weigh(v: vec4<f32>, w: mat4x4<f32>, sum: vec4<f32>) -> vec4<f32> {
    var total = sum;
    if GATES == 1u || (USED & 1u) != 0u {
        total.x += dot(v, w[0]);
    }
    if GATES > 1u && (USED & 2u) != 0u {
        total.y += dot(v, w[1]);
    }
    if GATES > 2u && (USED & 4u) != 0u {
        total.z += dot(v, w[2]);
    }
    if GATES > 3u && (USED & 8u) != 0u {
        total.w += dot(v, w[3]);
    }
    return total;
}

// One column of a step's weights as weights of the only gate.
fn only_gate(w: vec4<f32>) -> mat4x4<f32> {
    return mat4x4(w, vec4<f32>(), vec4<f32>(), vec4<f32>());
}

// A tile's rows by number, for loops.
fn tile_rows(t: Tile) -> array<vec4<f32>, 16> {
    return array<vec4<f32>, 16>(
        t.a[0], t.a[1], t.a[2], t.a[3], t.b[0], t.b[1], t.b[2], t.b[3],
        t.c[0], t.c[1], t.c[2], t.c[3], t.d[0], t.d[1], t.d[2], t.d[3]);
}
