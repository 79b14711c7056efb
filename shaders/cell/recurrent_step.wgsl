// One time step of one layer, all directions: the product of the recurrent weights with the state, the gates and the state
// update in one dispatch. An invocation owns one unit, all its gates included, of one row.
//
// A cell whose state passes through two dependent products takes two dispatches a step: a GRU that resets before the matmul
// (RESET, then CANDIDATE) and an LSTM with projection (WHOLE, then PROJECT).
// CPU twin: `reference::layer`.

override WORKGROUP_SIZE: u32 = 64u;
override STAGE: u32 = 0u;
override GATES: u32 = 4u;           // gate rows of a unit in `weights`
override FLAGS: bool = false;       // `flags` says which rows take part
override HOLD: bool = false;        // a skipped step repeats the row's last output instead of zero
override PROJECTED: bool = false;   // h is a projection, left to the PROJECT dispatch
override REVERSE: u32 = 0u;         // bit d: direction d walks from the last step to the first

const WHOLE: u32 = 0u;
const RESET: u32 = 1u;
const CANDIDATE: u32 = 2u;
const PROJECT: u32 = 3u;

const FLAG_VALID: u32 = 1u;
const FLAG_RESET: u32 = 2u;

struct RecurrentDims {
    scalars: CellScalars,
    step: u32,              // steps done before this one
    time: u32,
    batch: u32,
    hidden: u32,
    out: u32,               // width of h
    directions: u32,        // of the layer: the stride of y
    direction: u32,         // the first one of this dispatch
    first_step: u32,        // the step that gates_x begins with
    steps: u32,             // steps that gates_x holds
    weights: u32,           // where this stage's weights begin, and how far apart the directions' are
    weights_stride: u32,
    h: u32,                 // offsets in `state`: h before the step,
    h_next: u32,            // h after it,
    s: u32,                 // the cell state,
    h_initial: u32,         // what a reset returns to,
    s_initial: u32,
    scratch: u32,           // r h, or o output(s) before the projection,
    update: u32,            // and z, between the two dispatches of a step
}

@group(0) @binding(0) var<uniform> dims: RecurrentDims;
@group(0) @binding(1) var<storage, read> gates_x: array<f32>;       // [directions, steps, batch, hidden, gates]
@group(0) @binding(2) var<storage, read> weights: array<vec4<f32>>; // [directions, depth / 4, GATES, units], then the projection
@group(0) @binding(3) var<storage, read> vectors: array<f32>;       // [directions, (GATES biases, 3 peepholes), hidden]
@group(0) @binding(4) var<storage, read> flags: array<u32>;         // [time, batch]
@group(0) @binding(5) var<storage, read_write> state: array<f32>;   // regions of [directions, batch, out or hidden]
@group(0) @binding(6) var<storage, read_write> y: array<f32>;       // [time, batch, directions, out]

struct Place { direction: u32, row: u32, time: u32, flag: u32 }

// Index of a unit of a row in a state region of the given width.
fn in_region(region: u32, width: u32, at: Place, unit: u32) -> u32 {
    return region + (at.direction * dims.batch + at.row) * width + unit;
}

fn h_index(at: Place, unit: u32) -> u32 {
    return in_region(select(dims.h, dims.h_initial, (at.flag & FLAG_RESET) != 0u), dims.out, at, unit);
}

fn s_index(at: Place, unit: u32) -> u32 {
    return in_region(select(dims.s, dims.s_initial, (at.flag & FLAG_RESET) != 0u), dims.hidden, at, unit);
}

fn weigh(word: u32, units: u32, v: vec4<f32>, sum: vec4<f32>) -> vec4<f32> {
    var total = sum;
    if STAGE != CANDIDATE {
        total.x += dot(weights[word], v);
        if GATES > 1u {
            total.y += dot(weights[word + units], v);
        }
    }
    if GATES > 2u && STAGE != RESET {
        total.z += dot(weights[word + 2u * units], v);
    }
    if GATES > 3u {
        total.w += dot(weights[word + 3u * units], v);
    }
    return total;
}

// The unit's rows of the weights times `state[source ..]`.
fn product(at: Place, unit: u32, units: u32, source: u32, depth: u32) -> vec4<f32> {
    var sum = vec4<f32>();
    var word = dims.weights + at.direction * dims.weights_stride + unit;
    let whole = depth & ~3u;
    for (var k = 0u; k < whole; k += 4u) {
        let first = source + k;
        sum = weigh(word, units, vec4(state[first], state[first + 1u], state[first + 2u], state[first + 3u]), sum);
        word += GATES * units;
    }
    if whole < depth {
        // The weights are padded with zeros, the state is not: beyond its end lies another row.
        var v = vec4<f32>();
        for (var k = whole; k < depth; k++) {
            v[k - whole] = state[source + k];
        }
        sum = weigh(word, units, v, sum);
    }
    return sum;
}

fn gate_bias(at: Place, unit: u32) -> vec4<f32> {
    let first = at.direction * (GATES + 3u) * dims.hidden + unit;
    var bias = vec4<f32>();
    for (var g = 0u; g < GATES; g++) {
        bias[g] = vectors[first + g * dims.hidden];
    }
    return bias;
}

fn peepholes(at: Place, unit: u32) -> vec3<f32> {
    if !PEEPHOLE {
        return vec3<f32>();
    }
    let first = (at.direction * (GATES + 3u) + GATES) * dims.hidden + unit;
    return vec3(vectors[first], vectors[first + dims.hidden], vectors[first + 2u * dims.hidden]);
}

fn input_side(at: Place, unit: u32) -> vec4<f32> {
    let step = dims.step - dims.first_step;
    // A reverse direction's chunk holds its steps in the order of time.
    let place = select(step, dims.steps - 1u - step, is_reverse(at.direction));
    let first = (((at.direction * dims.steps + place) * dims.batch + at.row) * dims.hidden + unit) * GATES;
    var x = vec4<f32>();
    for (var g = 0u; g < GATES; g++) {
        x[g] = gates_x[first + g];
    }
    return x;
}

fn is_reverse(direction: u32) -> bool {
    return ((REVERSE >> direction) & 1u) != 0u;
}

fn y_index(at: Place, time: u32, unit: u32) -> u32 {
    return ((time * dims.batch + at.row) * dims.directions + at.direction) * dims.out + unit;
}

fn emit(at: Place, unit: u32, h: f32) {
    state[in_region(dims.h_next, dims.out, at, unit)] = h;
    y[y_index(at, at.time, unit)] = h;
}

// A skipped step: the state stays, the output is padding.
fn skip(at: Place, unit: u32) {
    state[in_region(dims.h_next, dims.out, at, unit)] = state[h_index(at, unit)];
    var padding = 0.0;
    if HOLD && dims.step > 0u {
        padding = y[y_index(at, select(at.time - 1u, at.time + 1u, is_reverse(at.direction)), unit)];
    }
    y[y_index(at, at.time, unit)] = padding;
}

fn whole(at: Place, unit: u32) {
    let x = input_side(at, unit);
    let a = product(at, unit, dims.hidden, h_index(at, 0u), dims.out) + gate_bias(at, unit);
    if CELL == RNN {
        emit(at, unit, candidate(dims.scalars, x.x + a.x));
    } else if CELL == GRU {
        emit(at, unit, gru_update(dims.scalars, x, a, state[h_index(at, unit)]));
    } else {
        let next = lstm_update(dims.scalars, x + a, peepholes(at, unit), state[s_index(at, unit)]);
        state[in_region(dims.s, dims.hidden, at, unit)] = next.s;
        if PROJECTED {
            state[in_region(dims.scratch, dims.hidden, at, unit)] = next.h;
        } else {
            emit(at, unit, next.h);
        }
    }
}

fn reset_gates(at: Place, unit: u32) {
    let a = input_side(at, unit) + product(at, unit, dims.hidden, h_index(at, 0u), dims.out) + gate_bias(at, unit);
    state[in_region(dims.scratch, dims.hidden, at, unit)] = open_gate(dims.scalars, a.x) * state[h_index(at, unit)];
    state[in_region(dims.update, dims.hidden, at, unit)] = open_gate(dims.scalars, a.y);
}

fn reset_candidate(at: Place, unit: u32) {
    let a = product(at, unit, dims.hidden, in_region(dims.scratch, dims.hidden, at, 0u), dims.hidden);
    let n = candidate(dims.scalars, input_side(at, unit).z + a.z + gate_bias(at, unit).z);
    emit(at, unit, gru_mix(state[in_region(dims.update, dims.hidden, at, unit)], n, state[h_index(at, unit)]));
}

fn project(at: Place, unit: u32) {
    emit(at, unit, product(at, unit, dims.out, in_region(dims.scratch, dims.hidden, at, 0u), dims.hidden).x);
}

@compute @workgroup_size(WORKGROUP_SIZE)
fn recurrent_step(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let unit = id.x;
    let units = select(dims.hidden, dims.out, STAGE == PROJECT);
    if unit >= units {
        return;
    }
    let direction = dims.direction + id.z;
    let time = select(dims.step, dims.time - 1u - dims.step, is_reverse(direction));
    for (var row = id.y; row < dims.batch; row += groups.y) {
        var flag = FLAG_VALID;
        if FLAGS {
            flag = flags[time * dims.batch + row];
        }
        let at = Place(direction, row, time, flag);
        if (flag & FLAG_VALID) == 0u {
            // The stage that writes h skips it; the cell state returns to its initial value if the row is reset.
            if CELL == LSTM && STAGE == WHOLE {
                state[in_region(dims.s, dims.hidden, at, unit)] = state[s_index(at, unit)];
            }
            if STAGE == CANDIDATE || STAGE == PROJECT || (STAGE == WHOLE && !PROJECTED) {
                skip(at, unit);
            }
        } else if STAGE == WHOLE {
            whole(at, unit);
        } else if STAGE == RESET {
            reset_gates(at, unit);
        } else if STAGE == CANDIDATE {
            reset_candidate(at, unit);
        } else {
            project(at, unit);
        }
    }
}
