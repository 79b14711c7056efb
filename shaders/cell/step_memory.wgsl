// The state of the kernels of one time step lies in buffers: each step is a dispatch.
//
// The products read `current`. With one dispatch per step, h moves to `next` and the two buffers change places. With two dispatches, h
// stays in its buffer: the first dispatch reads it and writes a scratch value to `next`, and the second dispatch is bound to the
// buffers in the other order.
//
// A training pass (SAVE) keeps the values that gradients need: pre-activations take the place of the projected input, and `own` keeps
// the state before every step. If a dropout mask is applied to h for the products, `current` and `next` hold the masked values.

override STAGE: u32 = 0u;
override WAVE: bool = false;        // z counts layers, each one step behind the layer below, rather than directions
override SAVE: bool = false;        // keeps the values that the backward pass needs

@group(0) @binding(1) var<storage, read_write> gates_x: array<vec4<f32>>;   // [directions, steps, batch, hidden], one component per gate
@group(0) @binding(5) var<storage, read> current: array<vec4<f32>>; // regions of [z, batch, out or hidden]
@group(0) @binding(6) var<storage, read_write> next: array<f32>;    // the same regions
@group(0) @binding(7) var<storage, read_write> own: array<f32>;     // [z, batch, hidden]: values that only their own unit reads
@group(0) @binding(8) var<storage, read_write> y: array<f32>;       // [time, batch, directions, out]

// The rows of a tile in a region of `current`.
struct RowSource {
    lane: u32,
    z: u32,
    first_row: u32,
    time: u32,
    region: u32,
    initial: u32,   // the region of a row that is reset
    width: u32,
}

fn source_word(at: u32) -> vec4<f32> {
    return current[at];
}

// Rows beyond the batch repeat its last one; their sums are not used.
fn source_row(source: RowSource, row: u32) -> u32 {
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

fn direction_of(z: u32) -> u32 {
    return select(dims.direction + z, dims.direction, WAVE);
}

// The step that z is at, in the order of the sequence.
fn time_of(z: u32) -> u32 {
    return time_at(z, select(dims.step, dims.step - z, WAVE));
}

fn row_step_of(z: u32, row: u32, last: bool) -> RowStep {
    let time = time_of(z);
    return RowStep(z, row, time, flag_of(time, row), is_reverse(z), last);
}

fn units() -> u32 {
    if STAGE == PROJECT {
        return dims.out;
    }
    return dims.hidden;
}

// The rows that the stage's product reads: h, or the scratch values.
fn state_source(z: u32, first_row: u32, lane: u32) -> RowSource {
    if STAGE == CANDIDATE || STAGE == PROJECT {
        return RowSource(lane, z, first_row, time_of(z), dims.scratch, dims.scratch, dims.hidden);
    }
    return RowSource(lane, z, first_row, time_of(z), dims.h, dims.h_initial, dims.out);
}

// The output of the layer below z at the step that z is at: its h, one dispatch ago. If a row is skipped, h is not the output, but
// the row is skipped here, too.
fn below_source(z: u32, first_row: u32, lane: u32) -> RowSource {
    return RowSource(lane, z - 1u, first_row, time_of(z), dims.h, dims.h, dims.out);
}

fn state_depth() -> u32 {
    if STAGE == CANDIDATE || STAGE == PROJECT {
        return dims.hidden;
    }
    return dims.out;
}

// Index of a unit of a row in a region of the given width.
fn in_region(region: u32, width: u32, at: RowStep, unit: u32) -> u32 {
    return region + (at.z * dims.batch + at.row) * width + unit;
}

// Index of the state of a unit before the step, or after it, in a history of `own`. A direction's history runs along time.
fn in_history(region: u32, width: u32, at: RowStep, unit: u32, after: u32) -> u32 {
    let done = dims.step - dims.first_step + after;
    let place = select(done, dims.steps - done, at.reverse);
    return region + (((dims.direction + at.z) * (dims.steps + 1u) + place) * dims.batch + at.row) * width + unit;
}

fn h_before(at: RowStep, unit: u32, stage: u32) -> f32 {
    if SAVE && is_reset(at) {
        return own[in_region(dims.history_initial, dims.out, at, unit)];
    }
    if SAVE {
        return own[in_history(dims.history_h, dims.out, at, unit, 0u)];
    }
    return h_in_products(at, unit, stage);
}

fn h_in_products(at: RowStep, unit: u32, stage: u32) -> f32 {
    let i = in_region(select(dims.h, dims.h_initial, is_reset(at)), dims.out, at, unit);
    if stage == CANDIDATE || stage == PROJECT {
        return next[i];
    }
    return current[i / 4u][i % 4u];
}

fn put_h(at: RowStep, unit: u32, h: f32) {
    if SAVE {
        if is_reset(at) {
            own[in_history(dims.history_h, dims.out, at, unit, 0u)] = h_before(at, unit, STAGE);
        }
        own[in_history(dims.history_h, dims.out, at, unit, 1u)] = h;
    }
    let factor = recurrent_factor(dims.noise, dims.direction + at.z, at.row * dims.out + unit);
    next[in_region(dims.h, dims.out, at, unit)] = h * factor;
}

fn s_before(at: RowStep, unit: u32) -> f32 {
    if SAVE && !is_reset(at) {
        return own[in_history(dims.history_s, dims.hidden, at, unit, 0u)];
    }
    return own[in_region(select(dims.s, dims.s_initial, is_reset(at)), dims.hidden, at, unit)];
}

fn put_s(at: RowStep, unit: u32, s: f32) {
    if SAVE {
        if is_reset(at) {
            own[in_history(dims.history_s, dims.hidden, at, unit, 0u)] = s_before(at, unit);
        }
        own[in_history(dims.history_s, dims.hidden, at, unit, 1u)] = s;
    } else {
        own[in_region(dims.s, dims.hidden, at, unit)] = s;
    }
}

// Index of a unit's element in a mask that covers all steps.
fn mask_index(at: RowStep, width: u32, unit: u32) -> u32 {
    return (at.time * dims.batch + at.row) * width + unit;
}

fn moves(at: RowStep, unit: u32) -> bool {
    return !ZONEOUT_H || moves_h(dims.noise, dims.direction + at.z, mask_index(at, dims.out, unit));
}

fn moves_cell(at: RowStep, unit: u32) -> bool {
    return !ZONEOUT_S || moves_s(dims.noise, dims.direction + at.z, mask_index(at, dims.hidden, unit));
}

fn put_scratch(at: RowStep, unit: u32, value: f32) {
    next[in_region(dims.scratch, dims.hidden, at, unit)] = value;
}

fn put_update(at: RowStep, unit: u32, z: f32) {
    own[in_region(dims.update, dims.hidden, at, unit)] = z;
}

fn update_gate(at: RowStep, unit: u32) -> f32 {
    return own[in_region(dims.update, dims.hidden, at, unit)];
}

// In a wave the layers above the lowest compute their input projection in the same dispatch.
fn takes_input(at: RowStep) -> bool {
    return WAVE && at.z > 0u;
}

// Keeps the unit's pre-activations for the backward pass, and for a GRU also the recurrent part of its candidate.
fn save_gates(at: RowStep, unit: u32, a: vec4<f32>) {
    if SAVE && GATES == 1u {
        // Neighbouring units share a word of `gates_x`.
        own[dims.history_s + gates_index(at, unit)] = a.x;
    } else if SAVE {
        gates_x[gates_index(at, unit)] = a;
    }
}
