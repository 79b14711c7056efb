// Packs a matrix of f32 weights, or its transpose, for the products of tile.wgsl. An invocation writes one element.
// CPU twin: `gpu::recurrent::pack`, which packs narrow weights as well.

override WORKGROUP_SIZE: u32 = 64u;
override GATES: u32 = 4u;       // columns that an invocation of the product owns

const BLOCK: u32 = 8u;          // units whose words lie side by side

// Column c of unit u is number `u * unit_columns + c * gate_columns` of the source's columns: the gates of a unit lie `hidden`
// rows of the weights apart, the columns of a transpose side by side.
struct PackWeightsDims {
    count: u32,             // elements to write
    units: u32,
    depth: u32,
    columns: u32,           // of the source; zeros stand for what is beyond them
    unit_columns: u32,
    gate_columns: u32,
    column_stride: u32,     // elements of the source from one column to the next,
    depth_stride: u32,      // and along the depth
    from_offset: u32,
    to_offset: u32,
}

@group(0) @binding(0) var<uniform> dims: PackWeightsDims;
@group(0) @binding(1) var<storage, read> x: array<f32>;         // [..] from from_offset on
@group(0) @binding(2) var<storage, read_write> y: array<f32>;   // [blocks, steps, words, 8 units, 4] from to_offset on

@compute @workgroup_size(WORKGROUP_SIZE)
fn pack_weights(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let at = flat_index(id, groups, WORKGROUP_SIZE);
    if at >= dims.count {
        return;
    }
    let words = select(GATES, 4u, GATES == 1u);
    let step_depth = select(4u, 16u, GATES == 1u);
    let steps = ((dims.depth + 15u) & ~15u) / step_depth;
    let element = at % 4u;
    let unit_of_block = (at / 4u) % BLOCK;
    let word = (at / (4u * BLOCK)) % words;
    let step = (at / (4u * BLOCK * words)) % steps;
    let unit = at / (4u * BLOCK * words * steps) * BLOCK + unit_of_block;

    let gate = select(word, 0u, GATES == 1u);
    let k = select(step * 4u + element, step * 16u + word * 4u + element, GATES == 1u);
    let column = unit * dims.unit_columns + gate * dims.gate_columns;
    var value = 0.0;
    if unit < dims.units && k < dims.depth && column < dims.columns {
        value = x[dims.from_offset + column * dims.column_stride + k * dims.depth_stride];
    }
    y[dims.to_offset + at] = value;
}
