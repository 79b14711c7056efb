// The common part of the backward kernels of one time step: the bindings, and the equations that lead from the gradients with respect to
// a later step's gates to those of this step's gates. The kernels differ in the way in which they compute the sums.
//
// A dispatch multiplies the gradients with respect to the gates of step `later` with the transposed recurrent weights. The result is the
// gradient with respect to h after the step before it; the dispatch goes on with that step's equations. If h passed through two
// dependent products, two dispatches take them in reverse order: CANDIDATE then RESET, PROJECT then WHOLE. Values that a unit passes
// from step to step lie in regions of [directions, batch, out or hidden]. With one dispatch per step they move from `current` to
// `next`, and the two buffers change places. With two dispatches, the first one always reads the first buffer and writes the second,
// the second one does the reverse, and each keeps the values for its next step in its `next`.
//
// Gradients with respect to the gates lie gate by gate, like the rows of the weights. Behind them lie: for a GRU that resets after the
// matrix product, the input part of the candidate; for a cell with a projection, the values that it projects; for a cell with
// peepholes, the peepholes' gradients.
// CPU twin: `reference::layer_backward_with_noise`.

override STAGE: u32 = 0u;
override TWO_STAGES: bool = false;
override FLAGS: bool = false;       // `flags` says which rows take part
override RESETS: bool = false;      // `flags` may say that a row returns to its initial state
override HOLD: bool = false;        // a skipped step repeated the row's last output
override PROJECTED: bool = false;
override CLIP: bool = false;        // the gradient with respect to the state is clamped between two steps
override REVERSE: u32 = 0u;         // bit d: direction d ran from the last step to the first

struct RecurrentGradDims {
    scalars: CellScalars,
    noise: Noise,
    later: u32,             // the step whose gates' gradients are multiplied first; equal to `time` behind the last step
    time: u32,
    batch: u32,
    hidden: u32,
    out: u32,               // width of h
    direction: u32,         // the direction of z = 0
    first_step: u32,        // the step that `gates` begins with
    steps: u32,             // steps that `gates` holds
    weights: u32,           // offset of the first direction's weights, in words of 16 bytes, and the stride to the next direction
    weights_stride: u32,
    peepholes: u32,         // in elements of `weights`: [directions, 3, hidden]
    history_h: u32,         // offsets in `history`, which the forward pass wrote (`step_memory.wgsl`)
    history_s: u32,
    rows: u32,              // rows of `hidden` elements in `d_gates`, per step and row of the batch
    second_row: u32,        // the row of the candidate's input part, or of the values that are projected
    peephole_row: u32,      // the first row of the peepholes
    projected: u32,         // offset in `d_gates`: gradients with respect to the projection's result, [directions, steps, batch, out]
    source: u32,            // the region of the product's rows: `source_width` elements each, read from `source_first` on
    source_width: u32,
    source_first: u32,
    depth: u32,
    gates: u32,             // region of gradients with respect to the gates, [directions, batch, gates, hidden]
    scratch: u32,           // region of those with respect to the projection's result
    through_reset: u32,     // region of those with respect to h through the reset gate
    carry_h: u32,           // region of those with respect to h, past the products
    carry_s: u32,           // region of those with respect to the cell state
    held: u32,              // region of those with respect to an output that later steps repeat
    initial_h: u32,         // regions of those with respect to the initial state
    initial_s: u32,
    dy: u32,                // offset of the output's gradients
    dy_direction: u32,      // stride of `dy` from one direction to the next
    dy_width: u32,          // width of a row of `dy`
    clip: f32,
}

@group(0) @binding(0) var<uniform> dims: RecurrentGradDims;
@group(0) @binding(1) var<storage, read> gates: array<vec4<f32>>;   // pre-activations [directions, steps, batch, hidden]
@group(0) @binding(2) var<storage, read> weights: array<vec4<u32>>; // packed transposes, see tile.wgsl, and peepholes
@group(0) @binding(3) var<storage, read> flags: array<u32>;         // [time, batch]
@group(0) @binding(4) var<storage, read> history: array<f32>;       // states before every step
@group(0) @binding(5) var<storage, read> dy: array<f32>;            // [.., time, batch, dy_width]
@group(0) @binding(6) var<storage, read> current: array<vec4<f32>>; // regions
@group(0) @binding(7) var<storage, read_write> next: array<f32>;    // the same regions
@group(0) @binding(8) var<storage, read_write> d_gates: array<f32>; // [directions, steps, batch, rows, hidden], in order of time

struct RowStep { direction: u32, row: u32, step: u32, time: u32, flag: u32 }

// The rows of a tile in the region `dims.source`.
struct RowSource { lane: u32, direction: u32, first_row: u32 }

fn weight_word(at: u32) -> vec4<u32> {
    return weights[at];
}

fn source_word(at: u32) -> vec4<f32> {
    return current[at];
}

// Rows beyond the batch repeat its last one; their sums are not used.
fn source_row(source: RowSource, row: u32) -> u32 {
    let clamped = min(source.first_row + row, dims.batch - 1u);
    return dims.source + (source.direction * dims.batch + clamped) * dims.source_width + dims.source_first;
}

fn weights_of(direction: u32) -> Matrix {
    return Matrix(dims.weights + direction * dims.weights_stride, GATES, USED);
}

fn units() -> u32 {
    if STAGE == PROJECT || (STAGE == WHOLE && !PROJECTED) {
        return dims.out;
    }
    return dims.hidden;
}

// Number of invocations of a row: each has GATES units.
fn blocks() -> u32 {
    return (units() + GATES - 1u) / GATES;
}

fn is_reverse(direction: u32) -> bool {
    return ((REVERSE >> direction) & 1u) != 0u;
}

fn row_step_of(direction: u32, row: u32, step: u32) -> RowStep {
    let time = select(step, dims.time - 1u - step, is_reverse(direction));
    var flag = FLAG_VALID;
    if FLAGS {
        flag = flags[time * dims.batch + row];
    }
    return RowStep(direction, row, step, time, flag);
}

fn is_valid(at: RowStep) -> bool {
    return !FLAGS || (at.flag & FLAG_VALID) != 0u;
}

fn is_reset(at: RowStep) -> bool {
    return RESETS && (at.flag & FLAG_RESET) != 0u;
}

fn in_region(region: u32, width: u32, at: RowStep, unit: u32) -> u32 {
    return region + (at.direction * dims.batch + at.row) * width + unit;
}

// Reads a value that the unit's own previous dispatch wrote.
fn carried(region: u32, width: u32, at: RowStep, unit: u32) -> f32 {
    let i = in_region(region, width, at, unit);
    if TWO_STAGES {
        return next[i];
    }
    return current[i / 4u][i % 4u];
}

fn leave(region: u32, width: u32, at: RowStep, unit: u32, value: f32) {
    next[in_region(region, width, at, unit)] = value;
}

// Reads a value that the other dispatch of the step wrote.
fn from_other(region: u32, width: u32, at: RowStep, unit: u32) -> f32 {
    let i = in_region(region, width, at, unit);
    return current[i / 4u][i % 4u];
}

// Index of a row of `hidden` or `out` elements of a direction's step, in the order of time.
fn chunk_row(at: RowStep) -> u32 {
    let done = at.step - dims.first_step;
    let place = select(done, dims.steps - 1u - done, is_reverse(at.direction));
    return (at.direction * dims.steps + place) * dims.batch + at.row;
}

fn before_step(region: u32, width: u32, at: RowStep, unit: u32) -> f32 {
    let done = at.step - dims.first_step;
    let place = select(done, dims.steps - done, is_reverse(at.direction));
    return history[region + ((at.direction * (dims.steps + 1u) + place) * dims.batch + at.row) * width + unit];
}

fn pre_activations(at: RowStep, unit: u32) -> vec4<f32> {
    let i = chunk_row(at) * dims.hidden + unit;
    if CELL == RNN {
        return vec4(history[dims.history_s + i], 0.0, 0.0, 0.0);
    }
    return gates[i];
}

fn peephole(at: RowStep, row: u32, unit: u32) -> f32 {
    let i = dims.peepholes + (at.direction * 3u + row) * dims.hidden + unit;
    return bitcast<f32>(weights[i / 4u][i % 4u]);
}

fn peepholes(at: RowStep, unit: u32) -> vec3<f32> {
    if !PEEPHOLE {
        return vec3<f32>();
    }
    return vec3(peephole(at, 0u, unit), peephole(at, 1u, unit), peephole(at, 2u, unit));
}

// Writes an element of the gradients that the weights' gradients are computed from.
fn store(at: RowStep, row: u32, unit: u32, value: f32) {
    d_gates[(chunk_row(at) * dims.rows + row) * dims.hidden + unit] = value;
}

// Number of gates of the cell.
fn gate_count() -> u32 {
    if CELL == RNN {
        return 1u;
    }
    if CELL == GRU || FORGET != FORGET_GATE {
        return 3u;
    }
    return 4u;
}

// Writes a gate's gradient through the recurrent part, for the product of the next dispatch and for the weights.
fn leave_gate(at: RowStep, gate: u32, unit: u32, value: f32) {
    next[in_region(dims.gates, gate_count() * dims.hidden, at, gate * dims.hidden + unit)] = value;
    store(at, gate, unit, value);
}

// Writes the gradient with respect to the cell state before the step. If the row is reset, it goes to the initial state instead.
fn leave_s(at: RowStep, unit: u32, ds: f32) {
    var handed = ds;
    if RESETS {
        var initial = carried(dims.initial_s, dims.hidden, at, unit);
        if is_reset(at) {
            initial += ds;
            handed = 0.0;
        }
        leave(dims.initial_s, dims.hidden, at, unit, initial);
    }
    leave(dims.carry_s, dims.hidden, at, unit, handed);
}

fn within(x: f32) -> f32 {
    if CLIP {
        return clip(x, dims.clip);
    }
    return x;
}

// The gradient with respect to the unit's h before step `later`, or after the last step.
fn h_gradient(direction: u32, row: u32, unit: u32, sum: f32) -> f32 {
    let at = row_step_of(direction, row, min(dims.later, dims.time - 1u));
    var dh = carried(dims.carry_h, dims.out, at, unit);
    let is_last = dims.later >= dims.time;
    if !is_last && is_valid(at) {
        var products = sum;
        if STAGE == CANDIDATE {
            products += from_other(dims.through_reset, dims.hidden, at, unit);
        }
        dh = within(dh + products * recurrent_factor(dims.noise, direction, row * dims.out + unit));
    }
    if RESETS {
        var initial = carried(dims.initial_h, dims.out, at, unit);
        if !is_last && is_reset(at) {
            initial += dh;
            dh = 0.0;
        }
        leave(dims.initial_h, dims.out, at, unit, initial);
    }
    return dh;
}

// Ends a step that a unit skips: gradients pass through unchanged.
fn skip(at: RowStep, unit: u32) {
    for (var row = 0u; row < dims.rows; row++) {
        store(at, row, unit, 0.0);
    }
    for (var gate = 0u; gate < gate_count(); gate++) {
        next[in_region(dims.gates, gate_count() * dims.hidden, at, gate * dims.hidden + unit)] = 0.0;
    }
    if CELL == LSTM {
        leave_s(at, unit, carried(dims.carry_s, dims.hidden, at, unit));
    }
}

fn rnn(at: RowStep, unit: u32, dh: f32) {
    leave_gate(at, 0u, unit, dh * candidate_slope(dims.scalars, pre_activations(at, unit).x));
}

fn lstm(at: RowStep, unit: u32, dm: f32) {
    var ds = carried(dims.carry_s, dims.hidden, at, unit);
    var kept = 0.0;
    if ZONEOUT_S && !moves_s(dims.noise, at.direction, (at.time * dims.batch + at.row) * dims.hidden + unit) {
        kept = ds;
        ds = 0.0;
    }
    let s = before_step(dims.history_s, dims.hidden, at, unit);
    let d = lstm_update_grad(dims.scalars, pre_activations(at, unit), peepholes(at, unit), s, dm, ds);
    leave_gate(at, 0u, unit, d.a.x);
    leave_gate(at, 1u, unit, d.a.y);
    leave_gate(at, 2u, unit, d.a.z);
    if FORGET == FORGET_GATE {
        leave_gate(at, 3u, unit, d.a.w);
    }
    if PROJECTED {
        store(at, dims.second_row, unit, d.m);
    }
    if PEEPHOLE {
        store(at, dims.peephole_row, unit, d.p.x);
        store(at, dims.peephole_row + 1u, unit, d.p.y);
        store(at, dims.peephole_row + 2u, unit, d.p.z);
    }
    leave_s(at, unit, within(d.s + kept));
}

// Writes the gradients of the update gate and the candidate; if the reset comes after the matrix product, those of the reset gate as well.
// Returns the gradient with respect to h, past the products.
fn gru(at: RowStep, unit: u32, dh: f32) -> f32 {
    let a = pre_activations(at, unit);
    let h = before_step(dims.history_h, dims.out, at, unit);
    if STAGE == CANDIDATE {
        let d = gru_mix_grad(dims.scalars, a.y, a.z, h, dh);
        leave_gate(at, 1u, unit, d.z);
        leave_gate(at, 2u, unit, d.n);
        return d.h;
    }
    let r = open_gate(dims.scalars, a.x);
    let d = gru_mix_grad(dims.scalars, a.y, a.z + r * a.w, h, dh);
    leave_gate(at, 0u, unit, d.n * a.w * gate_slope(dims.scalars, a.x));
    leave_gate(at, 1u, unit, d.z);
    leave_gate(at, 2u, unit, r * d.n);
    store(at, dims.second_row, unit, d.n);
    return d.h;
}

// Completes a step's first dispatch, from a unit's sum of the product with the gates' gradients of step `later`.
fn begin(direction: u32, row: u32, unit: u32, sum: f32) {
    let dh_after = h_gradient(direction, row, unit, sum);
    if dims.later == 0u {
        let at = row_step_of(direction, row, 0u);
        leave(dims.carry_h, dims.out, at, unit, dh_after);
        if CELL == LSTM && !TWO_STAGES {
            leave(dims.carry_s, dims.hidden, at, unit, carried(dims.carry_s, dims.hidden, at, unit));
            if RESETS {
                leave(dims.initial_s, dims.hidden, at, unit, carried(dims.initial_s, dims.hidden, at, unit));
            }
        }
        return;
    }
    let at = row_step_of(direction, row, dims.later - 1u);
    let mask_index = (at.time * dims.batch + row) * dims.out + unit;
    let d_output = dy[dims.dy + direction * dims.dy_direction + (at.time * dims.batch + row) * dims.dy_width + unit];
    var held = 0.0;
    if HOLD {
        held = carried(dims.held, dims.out, at, unit);
    }
    if !is_valid(at) {
        if HOLD {
            leave(dims.held, dims.out, at, unit, held + d_output);
        }
        leave(dims.carry_h, dims.out, at, unit, dh_after);
        if STAGE == PROJECT {
            leave(dims.scratch, dims.out, at, unit, 0.0);
            d_gates[dims.projected + chunk_row(at) * dims.out + unit] = 0.0;
        } else {
            skip(at, unit);
        }
        return;
    }
    var dh = dh_after + d_output + held;
    if HOLD {
        leave(dims.held, dims.out, at, unit, 0.0);
    }
    var past = 0.0;
    if ZONEOUT_H && !moves_h(dims.noise, direction, mask_index) {
        past = dh;
        dh = 0.0;
    }
    if STAGE == PROJECT {
        leave(dims.scratch, dims.out, at, unit, dh);
        d_gates[dims.projected + chunk_row(at) * dims.out + unit] = dh;
    } else if CELL == RNN {
        rnn(at, unit, dh);
    } else if CELL == LSTM {
        lstm(at, unit, dh);
    } else {
        past += gru(at, unit, dh);
    }
    leave(dims.carry_h, dims.out, at, unit, past);
}

// Completes a step's second dispatch, from a unit's sum of the product within the step.
fn end(direction: u32, row: u32, unit: u32, sum: f32) {
    let at = row_step_of(direction, row, dims.later - 1u);
    if STAGE == WHOLE {
        if is_valid(at) {
            lstm(at, unit, sum);
        } else {
            skip(at, unit);
        }
        return;
    }
    // The gradient of z, which the first dispatch wrote, is passed on with that of r.
    let z = dims.hidden + unit;
    leave(dims.gates, gate_count() * dims.hidden, at, z, from_other(dims.gates, gate_count() * dims.hidden, at, z));
    if !is_valid(at) {
        leave_gate(at, 0u, unit, 0.0);
        return;
    }
    let a = pre_activations(at, unit);
    let factor = recurrent_factor(dims.noise, direction, row * dims.out + unit);
    let h = before_step(dims.history_h, dims.out, at, unit) * factor;
    leave_gate(at, 0u, unit, sum * h * gate_slope(dims.scalars, a.x));
    leave(dims.through_reset, dims.hidden, at, unit, sum * open_gate(dims.scalars, a.x));
}

// Completes either dispatch, from a unit's sum of a row.
fn finish(direction: u32, row: u32, unit: u32, sum: f32) {
    if STAGE == RESET || (STAGE == WHOLE && PROJECTED) {
        end(direction, row, unit, sum);
    } else {
        begin(direction, row, unit, sum);
    }
}

// Completes either dispatch for all units of an invocation, from their sums of a row.
fn finish_block(direction: u32, row: u32, block: u32, sums: vec4<f32>) {
    for (var column = 0u; column < GATES; column++) {
        let unit = block * GATES + column;
        if unit < units() {
            finish(direction, row, unit, sums[column]);
        }
    }
}
