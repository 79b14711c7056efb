// The state of a cooperative scan. Each workgroup owns some units, and passes their h to the others through `exchange`, one word per
// unit. Nothing orders one workgroup's writes for another, so a word itself says which step it belongs to: the lowest bit of h is a
// phase. The words of a step lie in slot step % 2, and the phase changes whenever a slot is written again. No workgroup gets ahead of a
// neighbour whose words it still waits for, so a slot's words are at most one phase ahead of a reader. For that reason a reader waits
// for every word, even for one that a reset then replaces.
//
// Only the products read h without its lowest bit: `own_h` goes to `y` and into the unit's own next step. The products read
// h (1 + d), |d| <= 2^-23, so a pre-activation is off by at most 2^-23 sum |w h|. Rounding alone may put a sum of n products off by
// n 2^-24 sum |w h|, so the exchange adds no more error than two more products would.
//
// No API promises that all workgroups run concurrently. A reader polls a limited number of times. Then it raises ABORTED, which every
// reader checks, and all workgroups return. The state before the chunk has not been written to, so a dispatch with REDO, which
// otherwise does nothing, computes the chunk again: one workgroup for all units of its rows, with all bits of h in the two slots. An
// infinite or NaN h cannot carry a phase and is left to REDO, too. Once raised, ABORTED stays for the rest of the call.

override REDO: bool = false;        // one workgroup computes an aborted chunk again
override PITCH: u32 = 16u;          // elements of a row of h: whole parts, zeros behind the last unit
override STATE: u32 = 16u;          // ROWS * PITCH; 1 with REDO

@group(0) @binding(1) var<storage, read> gates_x: array<vec4<f32>>; // [directions, steps, batch, hidden], one component per gate
@group(0) @binding(5) var<storage, read_write> h_rows: array<f32>;  // regions of [z, batch, hidden]
@group(0) @binding(6) var<storage, read_write> s_rows: array<f32>;  // regions of [z, batch, hidden]
@group(0) @binding(7) var<storage, read_write> y: array<f32>;       // [time, batch, directions, hidden]
@group(0) @binding(8) var<storage, read_write> exchange: array<atomic<u32>>;    // ABORTED, then [z, 2 slots, batch, PITCH]

const ABORTED: u32 = 0u;
const TIRED: u32 = 1u;          // bit of the word ABORTED: a reader polled in vain
const NOT_FINITE: u32 = 2u;     // bit of the word ABORTED: h is infinite or NaN

var<workgroup> state: array<f32, STATE>;    // [ROWS, PITCH]: h before the step
var<workgroup> leaving: atomic<u32>;        // whether an invocation has given up

// The state of the invocation's only unit and row, unless REDO.
var<private> own_h: f32;
var<private> own_s: f32;

// The rows of the workgroup before a step.
struct RowSource { lane: u32, z: u32, first_row: u32, step: u32 }

fn direction_of(z: u32) -> u32 {
    return dims.direction + z;
}

// The slot of h after `step` steps: a multiple of 4 words.
fn slot(z: u32, row: u32, step: u32) -> u32 {
    return dims.exchange + ((2u * z + step % 2u) * dims.batch + row) * PITCH;
}

// Slots begin as zeros: the first words have phase 1.
fn phase(step: u32) -> u32 {
    return ((step + 1u) / 2u) % 2u;
}

fn source_row(source: RowSource, row: u32) -> u32 {
    if REDO {
        return slot(source.z, min(source.first_row + row, dims.batch - 1u), source.step);
    }
    return row * PITCH;
}

fn exchanged(at: u32) -> f32 {
    return bitcast<f32>(atomicLoad(&exchange[at]));
}

fn source_word(at: u32) -> vec4<f32> {
    let i = 4u * at;
    if REDO {
        return vec4(exchanged(i), exchanged(i + 1u), exchanged(i + 2u), exchanged(i + 3u));
    }
    return vec4(state[i], state[i + 1u], state[i + 2u], state[i + 3u]);
}

fn row_step_of(z: u32, row: u32, step: u32) -> RowStep {
    let time = time_at(z, step);
    return RowStep(z, row, time, flag_of(time, row), is_reverse(z), true);
}

// The step of `at`, counted in the order of processing.
fn step_of(at: RowStep) -> u32 {
    return time_at(at.z, at.time);
}

fn in_region(region: u32, z: u32, row: u32, unit: u32) -> u32 {
    return region + (z * dims.batch + row) * dims.hidden + unit;
}

fn h_before(at: RowStep, unit: u32, stage: u32) -> f32 {
    if RESETS && is_reset(at) {
        return h_rows[in_region(dims.h_initial, at.z, at.row, unit)];
    }
    if REDO {
        return exchanged(slot(at.z, at.row, step_of(at)) + unit);
    }
    return own_h;
}

fn h_in_products(at: RowStep, unit: u32, stage: u32) -> f32 {
    return h_before(at, unit, stage);
}

fn give_up(why: u32) {
    atomicOr(&exchange[ABORTED], why);
    atomicStore(&leaving, 1u);
}

fn put_h(at: RowStep, unit: u32, h: f32) {
    let step = step_of(at) + 1u;
    let bits = bitcast<u32>(h);
    let word = slot(at.z, at.row, step) + unit;
    if REDO {
        atomicStore(&exchange[word], bits);
        return;
    }
    own_h = h;
    if (bits & 0x7f800000u) == 0x7f800000u {
        give_up(NOT_FINITE);
    }
    atomicStore(&exchange[word], (bits & ~1u) | phase(step));
}

fn s_before(at: RowStep, unit: u32) -> f32 {
    if RESETS && is_reset(at) {
        return s_rows[in_region(dims.s_initial, at.z, at.row, unit)];
    }
    if REDO {
        return s_rows[in_region(dims.s_after, at.z, at.row, unit)];
    }
    return own_s;
}

fn put_s(at: RowStep, unit: u32, s: f32) {
    own_s = s;
    if REDO {
        s_rows[in_region(dims.s_after, at.z, at.row, unit)] = s;
    }
}

// A step has one product, that of h.
fn takes_input(at: RowStep) -> bool {
    return false;
}

fn put_scratch(at: RowStep, unit: u32, value: f32) {
}

fn put_update(at: RowStep, unit: u32, z: f32) {
}

fn update_gate(at: RowStep, unit: u32) -> f32 {
    return 0.0;
}

// Waits for a word of `step`.
fn receive(word: u32, step: u32) -> f32 {
    for (var poll = 0u; poll < dims.polls; poll++) {
        let bits = atomicLoad(&exchange[word]);
        if (bits & 1u) == phase(step) {
            return bitcast<f32>(bits);
        }
        if atomicLoad(&exchange[ABORTED]) != 0u {
            atomicStore(&leaving, 1u);
            return 0.0;
        }
    }
    give_up(TIRED);
    return 0.0;
}

// Copies h before a step to the memory that the products read. At a chunk's first step it comes from the state, later from the other
// workgroups, and after a reset from the initial state.
fn fetch_h(z: u32, first_row: u32, step: u32, invocation: u32) {
    for (var row = 0u; row < min(ROWS, dims.batch - first_row); row++) {
        let at = row_step_of(z, first_row + row, step);
        let resets = RESETS && is_reset(at);
        let words = slot(z, at.row, step);
        // With REDO all of h is there already.
        let count = select(dims.hidden, 0u, REDO && !resets);
        for (var unit = invocation; unit < count; unit += UNITS * SLICES) {
            var h = 0.0;
            if !REDO && step > dims.first_step {
                h = receive(words + unit, step);
            } else if !resets {
                h = h_rows[in_region(dims.h, z, at.row, unit)];
            }
            if resets {
                h = h_rows[in_region(dims.h_initial, z, at.row, unit)];
            }
            if REDO {
                atomicStore(&exchange[words + unit], bitcast<u32>(h));
            } else {
                state[row * PITCH + unit] = h;
            }
        }
    }
}

// Reads a unit's state before the chunk.
fn load_state(z: u32, row: u32, unit: u32) {
    own_h = h_rows[in_region(dims.h, z, row, unit)];
    if CELL == LSTM {
        own_s = s_rows[in_region(dims.s, z, row, unit)];
    }
    if REDO {
        atomicStore(&exchange[slot(z, row, dims.first_step) + unit], bitcast<u32>(own_h));
        if CELL == LSTM {
            s_rows[in_region(dims.s_after, z, row, unit)] = own_s;
        }
    }
}

// Writes a unit's state after the chunk; REDO has written s already.
fn store_state(z: u32, row: u32, unit: u32) {
    let after = in_region(dims.h_after, z, row, unit);
    if REDO {
        h_rows[after] = exchanged(slot(z, row, dims.first_step + dims.steps) + unit);
        return;
    }
    h_rows[after] = own_h;
    if CELL == LSTM {
        s_rows[in_region(dims.s_after, z, row, unit)] = own_s;
    }
}
