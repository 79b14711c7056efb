// What the kernels of one time step share: the bindings, where a row's state lies, and the walk from a unit's sums to its new
// state and output. The kernels differ in how they come by the sums.
//
// A cell whose state passes through two dependent products takes two dispatches a step: a GRU that resets before the matmul
// (RESET, then CANDIDATE) and an LSTM with projection (WHOLE, then PROJECT). `current` is what the products read. With one
// dispatch a step, h moves to `next` and the two buffers change places. With two, h stays where it is: the first dispatch reads
// it and leaves a scratch value in `next`; for the second one the buffers have changed places.
//
// A pass whose gradients are wanted (SAVE) leaves what they need: the gates' pre-activations in the place of their input's side,
// and the state before every step in `own`. Where h is masked on its way into the products, `current` and `next` hold it masked.
// CPU twin: `reference::layer_with_noise`.

override STAGE: u32 = 0u;
override FLAGS: bool = false;       // `flags` says which rows take part
override HOLD: bool = false;        // a skipped step repeats the row's last output instead of zero
override PROJECTED: bool = false;   // h is a projection, left to the PROJECT dispatch
override REVERSE: u32 = 0u;         // bit d: direction d walks from the last step to the first
override WAVE: bool = false;        // z counts layers, each a step behind the one below, rather than directions
override SAVE: bool = false;        // leaves what the backward pass needs

const WHOLE: u32 = 0u;
const RESET: u32 = 1u;
const CANDIDATE: u32 = 2u;
const PROJECT: u32 = 3u;

const FLAG_VALID: u32 = 1u;
const FLAG_RESET: u32 = 2u;

struct RecurrentDims {
    scalars: CellScalars,
    noise: Noise,
    step: u32,              // steps that the lowest layer has done before this one
    time: u32,
    batch: u32,
    hidden: u32,
    out: u32,               // width of h
    directions: u32,        // of the layer: the stride of y
    direction: u32,         // the one of z = 0
    first_step: u32,        // the step that gates_x begins with
    steps: u32,             // steps that gates_x holds
    weights: u32,           // where the weights of z = 0 begin, in words of 16 bytes, and how far apart those of z are
    weights_stride: u32,
    input_weights: u32,     // the same for the input's side of the layers above the lowest, from z = 1 on
    input_stride: u32,
    vectors: u32,           // where the vectors of z = 0 begin
    h: u32,                 // elements of z = 0: h, and what a reset returns it to;
    h_initial: u32,
    scratch: u32,           // r h, or o output(s) before the projection;
    s: u32,                 // in `own`: the cell state, what a reset returns it to,
    s_initial: u32,
    update: u32,            // and z, between the two dispatches of a step
    history_h: u32,         // with SAVE, in `own`: h around every step of the chunk, [directions, steps + 1, batch, out],
    history_s: u32,         // the cell state likewise, or an RNN's pre-activations [directions, steps, batch, hidden],
    history_initial: u32,   // and the h that a reset returns to, no element of it masked
}

@group(0) @binding(0) var<uniform> dims: RecurrentDims;
@group(0) @binding(1) var<storage, read_write> gates_x: array<vec4<f32>>;   // [directions, steps, batch, hidden], a component a gate
@group(0) @binding(2) var<storage, read> weights: array<vec4<u32>>; // packed, see tile.wgsl
@group(0) @binding(3) var<storage, read> vectors: array<f32>;       // [z, VECTOR_ROWS, hidden]
@group(0) @binding(4) var<storage, read> flags: array<u32>;         // [time, batch]
@group(0) @binding(5) var<storage, read> current: array<vec4<f32>>; // regions of [z, batch, out or hidden]
@group(0) @binding(6) var<storage, read_write> next: array<f32>;    // the same regions
@group(0) @binding(7) var<storage, read_write> own: array<f32>;     // [z, batch, hidden]: what only its own unit touches
@group(0) @binding(8) var<storage, read_write> y: array<f32>;       // [time, batch, directions, out]

struct Place { z: u32, row: u32, time: u32, flag: u32 }

// The rows of a tile in a region of `current`.
struct Source {
    lane: u32,
    z: u32,
    first_row: u32,
    time: u32,
    region: u32,
    initial: u32,   // the region of a row that is reset
    width: u32,
}

fn weight_word(at: u32) -> vec4<u32> {
    return weights[at];
}

fn source_word(at: u32) -> vec4<f32> {
    return current[at];
}

fn vector_element(at: u32) -> f32 {
    return vectors[at];
}

fn flag_of(time: u32, row: u32) -> u32 {
    if FLAGS {
        return flags[time * dims.batch + row];
    }
    return FLAG_VALID;
}

// Rows beyond the batch repeat its last one; nobody looks at their sums.
fn source_row(source: Source, row: u32) -> u32 {
    let clamped = min(source.first_row + row, dims.batch - 1u);
    var region = source.region;
    if FLAGS && source.initial != source.region && (flag_of(source.time, clamped) & FLAG_RESET) != 0u {
        region = source.initial;
    }
    return region + (source.z * dims.batch + clamped) * source.width;
}

// Whether the layer of z has a step to do in this dispatch.
fn takes_part(z: u32) -> bool {
    return !WAVE || (dims.step >= z && dims.step - z < dims.time);
}

fn is_reverse(z: u32) -> bool {
    return ((REVERSE >> select(dims.direction + z, dims.direction, WAVE)) & 1u) != 0u;
}

// The step that z is at, in the order of the sequence.
fn time_of(z: u32) -> u32 {
    let step = select(dims.step, dims.step - z, WAVE);
    return select(step, dims.time - 1u - step, is_reverse(z));
}

fn units() -> u32 {
    if STAGE == PROJECT {
        return dims.out;
    }
    return dims.hidden;
}

// What the stage's product reads: h, or the scratch value.
fn state_source(z: u32, first_row: u32, lane: u32) -> Source {
    if STAGE == CANDIDATE || STAGE == PROJECT {
        return Source(lane, z, first_row, time_of(z), dims.scratch, dims.scratch, dims.hidden);
    }
    return Source(lane, z, first_row, time_of(z), dims.h, dims.h_initial, dims.out);
}

// The output of the layer below z at the step that z is at: its h, one dispatch ago. Where a row is skipped h is not the
// output, but the row is skipped here, too.
fn below_source(z: u32, first_row: u32, lane: u32) -> Source {
    return Source(lane, z - 1u, first_row, time_of(z), dims.h, dims.h, dims.out);
}

fn state_depth() -> u32 {
    if STAGE == CANDIDATE || STAGE == PROJECT {
        return dims.hidden;
    }
    return dims.out;
}

fn state_weights(z: u32) -> u32 {
    return dims.weights + z * dims.weights_stride;
}

fn input_weights(z: u32) -> u32 {
    return dims.input_weights + (z - 1u) * dims.input_stride;
}

fn vectors_of(z: u32) -> u32 {
    return dims.vectors + z * VECTOR_ROWS * dims.hidden;
}

// Index of a unit of a row in a region of the given width.
fn in_region(region: u32, width: u32, at: Place, unit: u32) -> u32 {
    return region + (at.z * dims.batch + at.row) * width + unit;
}

fn is_reset(at: Place) -> bool {
    return (at.flag & FLAG_RESET) != 0u;
}

// Index of the state of a unit before the step, or after it, in a history of `own`. A direction's history runs along time.
fn in_history(region: u32, width: u32, at: Place, unit: u32, after: u32) -> u32 {
    let done = dims.step - dims.first_step + after;
    let place = select(done, dims.steps - done, is_reverse(at.z));
    return region + (((dims.direction + at.z) * (dims.steps + 1u) + place) * dims.batch + at.row) * width + unit;
}

// The unit's own h before the step.
fn h_before(at: Place, unit: u32) -> f32 {
    if SAVE && is_reset(at) {
        return own[in_region(dims.history_initial, dims.out, at, unit)];
    }
    if SAVE {
        return own[in_history(dims.history_h, dims.out, at, unit, 0u)];
    }
    return h_in_products(at, unit);
}

// What the products read of it.
fn h_in_products(at: Place, unit: u32) -> f32 {
    let i = in_region(select(dims.h, dims.h_initial, is_reset(at)), dims.out, at, unit);
    if STAGE == CANDIDATE || STAGE == PROJECT {
        return next[i];
    }
    return current[i / 4u][i % 4u];
}

fn s_before(at: Place, unit: u32) -> f32 {
    if SAVE && !is_reset(at) {
        return own[in_history(dims.history_s, dims.hidden, at, unit, 0u)];
    }
    return own[in_region(select(dims.s, dims.s_initial, is_reset(at)), dims.hidden, at, unit)];
}

fn y_index(at: Place, time: u32, unit: u32) -> u32 {
    if WAVE {
        return (time * dims.batch + at.row) * dims.out + unit;
    }
    return ((time * dims.batch + at.row) * dims.directions + dims.direction + at.z) * dims.out + unit;
}

// Index of a unit's element in a mask of every step.
fn mask_index(at: Place, width: u32, unit: u32) -> u32 {
    return (at.time * dims.batch + at.row) * width + unit;
}

fn leave_h(at: Place, unit: u32, h: f32) {
    if SAVE {
        if is_reset(at) {
            own[in_history(dims.history_h, dims.out, at, unit, 0u)] = h_before(at, unit);
        }
        own[in_history(dims.history_h, dims.out, at, unit, 1u)] = h;
    }
    let factor = recurrent_factor(dims.noise, dims.direction + at.z, at.row * dims.out + unit);
    next[in_region(dims.h, dims.out, at, unit)] = h * factor;
}

fn leave_s(at: Place, unit: u32, s: f32) {
    if SAVE {
        if is_reset(at) {
            own[in_history(dims.history_s, dims.hidden, at, unit, 0u)] = s_before(at, unit);
        }
        own[in_history(dims.history_s, dims.hidden, at, unit, 1u)] = s;
    } else {
        own[in_region(dims.s, dims.hidden, at, unit)] = s;
    }
}

fn emit(at: Place, unit: u32, h_next: f32, last: bool) {
    var h = h_next;
    if ZONEOUT_H && !moves_h(dims.noise, dims.direction + at.z, mask_index(at, dims.out, unit)) {
        h = h_before(at, unit);
    }
    leave_h(at, unit, h);
    if last {
        y[y_index(at, at.time, unit)] = h;
    }
}

// A skipped step: the state stays, the output is padding.
fn skip(at: Place, unit: u32, last: bool) {
    leave_h(at, unit, h_before(at, unit));
    if last {
        var padding = 0.0;
        let first = select(at.time == 0u, at.time + 1u == dims.time, is_reverse(at.z));
        if HOLD && !first {
            padding = y[y_index(at, select(at.time - 1u, at.time + 1u, is_reverse(at.z)), unit)];
        }
        y[y_index(at, at.time, unit)] = padding;
    }
}

// Index of the unit's gates in `gates_x`: a reverse direction's chunk holds its steps in the order of time.
fn gates_index(at: Place, unit: u32) -> u32 {
    var place = dims.step - dims.first_step;
    if is_reverse(at.z) {
        place = dims.steps - 1u - place;
    }
    let z = select(dims.direction + at.z, 0u, WAVE);
    return ((z * dims.steps + place) * dims.batch + at.row) * dims.hidden + unit;
}

// The input's side of the unit's gates: projected beforehand, or in a layer above the lowest the sums of this dispatch.
fn input_side(at: Place, unit: u32, x_sum: vec4<f32>) -> vec4<f32> {
    if WAVE && at.z > 0u {
        let v = vectors_of(at.z);
        return rescale(x_sum, v, dims.hidden, SCALE_INPUT, unit) + gates_at(v, dims.hidden, BIAS, unit);
    }
    let i = gates_index(at, unit);
    if GATES == 1u {
        return vec4(gates_x[i / 4u][i % 4u], 0.0, 0.0, 0.0);
    }
    return gates_x[i];
}

// Leaves the unit's pre-activations for the backward pass, and beside a GRU's what its candidate's state side is made of.
fn save_gates(at: Place, unit: u32, a: vec4<f32>) {
    if SAVE && GATES == 1u {
        // Neighbouring units share a word of `gates_x`.
        own[dims.history_s + gates_index(at, unit)] = a.x;
    } else if SAVE {
        gates_x[gates_index(at, unit)] = a;
    }
}

fn peepholes(at: Place, unit: u32) -> vec3<f32> {
    if !PEEPHOLE {
        return vec3<f32>();
    }
    let v = vectors_of(at.z);
    return vec3(
        vector_at(v, dims.hidden, PEEPHOLE_ROWS, unit),
        vector_at(v, dims.hidden, PEEPHOLE_ROWS + 1u, unit),
        vector_at(v, dims.hidden, PEEPHOLE_ROWS + 2u, unit));
}

fn whole(at: Place, unit: u32, x: vec4<f32>, a: vec4<f32>, last: bool) {
    if CELL == RNN {
        save_gates(at, unit, x + a);
        emit(at, unit, candidate(dims.scalars, x.x + a.x), last);
    } else if CELL == GRU {
        let bias = vec4(0.0, 0.0, vector_at(vectors_of(at.z), dims.hidden, CANDIDATE_BIAS, unit), 0.0);
        let state_side = a + bias;
        save_gates(at, unit, vec4(x.x + state_side.x, x.y + state_side.y, x.z, state_side.z));
        emit(at, unit, gru_update(dims.scalars, x, state_side, h_before(at, unit)), last);
    } else {
        let after = lstm_update(dims.scalars, x + a, peepholes(at, unit), s_before(at, unit));
        save_gates(at, unit, x + a);
        var s = after.s;
        if ZONEOUT_S && !moves_s(dims.noise, dims.direction + at.z, mask_index(at, dims.hidden, unit)) {
            s = s_before(at, unit);
        }
        leave_s(at, unit, s);
        if PROJECTED {
            next[in_region(dims.scratch, dims.hidden, at, unit)] = after.h;
        } else {
            emit(at, unit, after.h, last);
        }
    }
}

// From a unit's sums, of its state's side and of its input's side where there are any, to its state after the step. `last`: it
// belongs to the layer whose output is wanted.
fn finish(z: u32, row: u32, unit: u32, sum: vec4<f32>, x_sum: vec4<f32>, last: bool) {
    let time = time_of(z);
    let at = Place(z, row, time, flag_of(time, row));
    if (at.flag & FLAG_VALID) == 0u {
        // The stage that writes h skips it; the cell state returns to its initial value if the row is reset.
        if CELL == LSTM && STAGE == WHOLE {
            leave_s(at, unit, s_before(at, unit));
        }
        if STAGE == CANDIDATE || STAGE == PROJECT || (STAGE == WHOLE && !PROJECTED) {
            skip(at, unit, last);
        }
        return;
    }
    if STAGE == PROJECT {
        emit(at, unit, rescale(sum, vectors_of(z), dims.hidden, SCALE_PROJECTION, unit).x, last);
        return;
    }
    let x = input_side(at, unit, x_sum);
    let a = rescale(sum, vectors_of(z), dims.hidden, SCALE_HIDDEN, unit);
    if STAGE == WHOLE {
        whole(at, unit, x, a, last);
    } else if STAGE == RESET {
        let reset_h = open_gate(dims.scalars, x.x + a.x) * h_in_products(at, unit);
        save_gates(at, unit, vec4(x.x + a.x, x.y + a.y, x.z, reset_h));
        next[in_region(dims.scratch, dims.hidden, at, unit)] = reset_h;
        own[in_region(dims.update, dims.hidden, at, unit)] = open_gate(dims.scalars, x.y + a.y);
    } else {
        save_gates(at, unit, vec4(x.xy, x.z + a.z, x.w));
        let n = candidate(dims.scalars, x.z + a.z);
        emit(at, unit, gru_mix(own[in_region(dims.update, dims.hidden, at, unit)], n, h_before(at, unit)), last);
    }
}
