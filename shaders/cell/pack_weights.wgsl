// Packs a matrix of f32 weights, or its transpose, for the products of tile.wgsl. An invocation writes 4 elements of the depth of a
// unit's columns.
// CPU twin: `gpu::recurrent::pack`, which packs narrow weights as well.

override WORKGROUP_SIZE: u32 = 64u;
override GATES: u32 = 4u;       // columns that an invocation of the product owns
override WORDS: u32 = 0u;       // 0 reads x by elements, 1 by words of 4 along the depth, 2 by words of 4 columns of a unit

const ALONG_DEPTH: u32 = 1u;
const ALONG_COLUMNS: u32 = 2u;

const BLOCK: u32 = 8u;          // units whose words are adjacent

// Column c of unit u is column `u * unit_columns + c * gate_columns` of the source. The gates of a unit lie `hidden` rows of the
// weights apart; the columns of a transpose are adjacent.
struct PackWeightsDims {
    padded_units: u32,      // sizes of the packed matrix
    padded_depth: u32,
    units: u32,
    depth: u32,
    columns: u32,           // columns of the source; columns beyond them are packed as zeros
    unit_columns: u32,
    gate_columns: u32,
    column_stride: u32,     // elements of the source from one column to the next
    depth_stride: u32,      // elements of the source along the depth
    from_offset: u32,
    to_word: u32,
}

@group(0) @binding(0) var<uniform> dims: PackWeightsDims;
@group(0) @binding(1) var<storage, read> x: array<vec4<f32>>;       // [..] from from_offset on
@group(0) @binding(2) var<storage, read_write> y: array<vec4<f32>>; // [blocks, steps, words, 8 units] from to_word on

fn is_there(column: u32, k: u32) -> bool {
    return column < dims.columns && k < dims.depth;
}

fn place(column: u32, k: u32) -> u32 {
    return dims.from_offset + column * dims.column_stride + k * dims.depth_stride;
}

fn element(column: u32, k: u32) -> f32 {
    if !is_there(column, k) {
        return 0.0;
    }
    let at = place(column, k);
    return x[at / 4u][at % 4u];
}

fn word(column: u32, k: u32) -> vec4<f32> {
    if !is_there(column, k) {
        return vec4<f32>();
    }
    return x[place(column, k) / 4u];
}

@compute @workgroup_size(WORKGROUP_SIZE)
fn pack_weights(@builtin(global_invocation_id) id: vec3<u32>) {
    let unit = id.x;
    let k = id.y * 4u;
    if unit >= dims.padded_units {
        return;
    }
    let first = unit * dims.unit_columns;
    // One column per gate.
    var w = mat4x4<f32>();
    if WORDS == ALONG_COLUMNS {
        w = transpose(mat4x4(word(first, k), word(first, k + 1u), word(first, k + 2u), word(first, k + 3u)));
    }
    let to = dims.to_word + (unit / BLOCK * (dims.padded_depth / 4u) + id.y) * GATES * BLOCK + unit % BLOCK;
    for (var gate = 0u; gate < GATES; gate++) {
        let column = first + gate * dims.gate_columns;
        var four = w[gate];
        if unit >= dims.units {
            four = vec4<f32>();
        } else if WORDS == ALONG_DEPTH {
            four = word(column, k);
        } else if WORDS != ALONG_COLUMNS {
            four = vec4(element(column, k), element(column, k + 1u), element(column, k + 2u), element(column, k + 3u));
        }
        y[to + gate * BLOCK] = four;
    }
}
