// The common part of the kernels of all recurrent schedules: the uniform, the buffers that they bind in the same way, and the indices
// into them. The file behind this one defines where the state lies, and `direction_of(z)`: the direction of the layer that z stands for.

override REVERSE: u32 = 0u;         // bit d: direction d runs from the last step to the first

// Offsets are in elements and belong to z = 0, unless said otherwise. A schedule leaves fields that it does not need at 0.
struct RecurrentDims {
    scalars: CellScalars,
    noise: Noise,
    time: u32,
    batch: u32,
    hidden: u32,
    out: u32,               // width of h
    directions: u32,        // directions of the layer: the stride of y
    direction: u32,         // the direction of z = 0
    first_step: u32,        // the first step of the chunk, in the order of processing
    steps: u32,             // steps of the chunk
    step: u32,              // dispatch per step: steps that the lowest layer has done before this one
    weights: u32,           // the recurrent weights, in words of 16 bytes, and the stride from one z to the next
    weights_stride: u32,
    input_weights: u32,     // the input weights of z = 1, for layers above the lowest, and their stride
    input_stride: u32,
    projection: u32,        // the weights that project h, and their stride
    projection_stride: u32,
    vectors: u32,
    h: u32,                 // h before the chunk; except in a cooperative scan, h after the chunk takes its place
    h_after: u32,           // cooperative scan: h after the chunk
    h_initial: u32,         // the h that a reset restores
    s: u32,                 // the cell state before the chunk, after it and after a reset, as for h
    s_after: u32,
    s_initial: u32,
    scratch: u32,           // dispatch per step: r h, or o output(s) before the projection
    update: u32,            // dispatch per step: z between the two dispatches of a step
    history_h: u32,         // training: h around every step of the chunk, [directions, steps + 1, batch, out]
    history_s: u32,         // training: the cell state around every step, or an RNN's pre-activations [directions, steps, batch, hidden]
    history_initial: u32,   // training: the h that a reset restores, without any mask
    exchange: u32,          // cooperative scan: words that workgroups pass to each other, a multiple of 4
    polls: u32,             // cooperative scan: reads of a word of `exchange` before the reader gives up
}

@group(0) @binding(0) var<uniform> dims: RecurrentDims;
@group(0) @binding(2) var<storage, read> weights: array<vec4<u32>>; // packed, see tile.wgsl
@group(0) @binding(3) var<storage, read> vectors: array<f32>;       // [z, VECTOR_ROWS, hidden]
@group(0) @binding(4) var<storage, read> flags: array<u32>;         // [time, batch]

fn weight_word(at: u32) -> vec4<u32> {
    return weights[at];
}

fn vector_element(at: u32) -> f32 {
    return vectors[at];
}

fn vectors_of(at: RowStep) -> u32 {
    return dims.vectors + at.z * VECTOR_ROWS * dims.hidden;
}

fn flag_of(time: u32, row: u32) -> u32 {
    if FLAGS {
        return flags[time * dims.batch + row];
    }
    return FLAG_VALID;
}

fn state_weights(z: u32, used: u32) -> Matrix {
    return Matrix(dims.weights + z * dims.weights_stride, GATES, used);
}

fn input_weights(z: u32) -> Matrix {
    return Matrix(dims.input_weights + (z - 1u) * dims.input_stride, GATES, USED);
}

fn is_reverse(z: u32) -> bool {
    return ((REVERSE >> direction_of(z)) & 1u) != 0u;
}

// The place in the sequence of step `step`, where steps are counted in the order of processing.
fn time_at(z: u32, step: u32) -> u32 {
    return select(step, dims.time - 1u - step, is_reverse(z));
}

// Index of the unit's gates in `gates_x`. A chunk holds its steps in the order of time.
fn gates_index(at: RowStep, unit: u32) -> u32 {
    let first = select(dims.first_step, dims.time - dims.first_step - dims.steps, at.reverse);
    return ((direction_of(at.z) * dims.steps + at.time - first) * dims.batch + at.row) * dims.hidden + unit;
}

fn projected(at: RowStep, unit: u32) -> vec4<f32> {
    let i = gates_index(at, unit);
    if GATES == 1u {
        return vec4(gates_x[i / 4u][i % 4u], 0.0, 0.0, 0.0);
    }
    return gates_x[i];
}

fn y_index(at: RowStep, time: u32, unit: u32) -> u32 {
    return ((time * dims.batch + at.row) * dims.directions + direction_of(at.z)) * dims.out + unit;
}

fn y_at(at: RowStep, time: u32, unit: u32) -> f32 {
    return y[y_index(at, time, unit)];
}

fn put_y(at: RowStep, time: u32, unit: u32, h: f32) {
    y[y_index(at, time, unit)] = h;
}
