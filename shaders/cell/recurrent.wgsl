// Computes a unit's new state and output from its sums, at one step of a row. Another file defines where the state lies. It gives
// - `h_before`, `s_before`: the unit's own state before the step, or the initial state after a reset;
// - `h_in_products`: h as the products read it, perhaps with a dropout mask;
// - `put_h`, `put_s`: write the unit's state after the step;
// - `put_scratch`: writes the value that the second product of a step reads; `put_update`, `update_gate`: keep z until that product;
// - `put_y`, `y_at`: the output at a step of the sequence;
// - `takes_input(at) -> bool`: whether the sums include the input projection; `projected(at, unit)`: the input projected beforehand;
// - `vectors_of(at) -> u32`: the offset of the vectors; and in `dims` the fields `scalars`, `hidden` and `time`;
// - `save_gates`: keeps the pre-activations for a backward pass;
// - `moves`, `moves_cell`: whether h or s of a unit takes its new value, or keeps the old one at random (zoneout).
//
// A cell whose state passes through two dependent products takes two stages per step: a GRU that resets before the matrix product
// (RESET, then CANDIDATE) and an LSTM with projection (WHOLE, then PROJECT).
// CPU twin: `reference::layer_with_noise`.

override FLAGS: bool = false;       // `flags` says which rows take part
override HOLD: bool = false;        // a skipped step repeats the row's last output instead of zero
override PROJECTED: bool = false;   // h is a projection, left to the PROJECT stage

// A step of a row: `z` is the layer or direction, `time` the step's place in the sequence, `last` whether to write the layer's output.
struct RowStep { z: u32, row: u32, time: u32, flag: u32, reverse: bool, last: bool }

fn is_reset(at: RowStep) -> bool {
    return (at.flag & FLAG_RESET) != 0u;
}

fn emit(at: RowStep, unit: u32, stage: u32, h_next: f32) {
    var h = h_next;
    if !moves(at, unit) {
        h = h_before(at, unit, stage);
    }
    put_h(at, unit, h);
    if at.last {
        put_y(at, at.time, unit, h);
    }
}

// Ends a skipped step: the state stays, and the output is padding.
fn skip(at: RowStep, unit: u32, stage: u32) {
    put_h(at, unit, h_before(at, unit, stage));
    if at.last {
        var padding = 0.0;
        let first = select(at.time == 0u, at.time + 1u == dims.time, at.reverse);
        if HOLD && !first {
            padding = y_at(at, select(at.time - 1u, at.time + 1u, at.reverse), unit);
        }
        put_y(at, at.time, unit, padding);
    }
}

// The projected input of the unit's gates.
fn input_side(at: RowStep, unit: u32, x_sum: vec4<f32>) -> vec4<f32> {
    if takes_input(at) {
        let v = vectors_of(at);
        return rescale(GATES, x_sum, v, dims.hidden, SCALE_INPUT, unit) + gates_at(GATES, v, dims.hidden, BIAS, unit);
    }
    return projected(at, unit);
}

fn peepholes(at: RowStep, unit: u32) -> vec3<f32> {
    if !PEEPHOLE {
        return vec3<f32>();
    }
    let v = vectors_of(at);
    return vec3(
        vector_at(v, dims.hidden, PEEPHOLE_ROWS, unit),
        vector_at(v, dims.hidden, PEEPHOLE_ROWS + 1u, unit),
        vector_at(v, dims.hidden, PEEPHOLE_ROWS + 2u, unit));
}

fn whole(at: RowStep, unit: u32, x: vec4<f32>, a: vec4<f32>) {
    if CELL == RNN {
        save_gates(at, unit, x + a);
        emit(at, unit, WHOLE, candidate(dims.scalars, x.x + a.x));
    } else if CELL == GRU {
        let bias = vec4(0.0, 0.0, vector_at(vectors_of(at), dims.hidden, CANDIDATE_BIAS, unit), 0.0);
        let state_side = a + bias;
        save_gates(at, unit, vec4(x.x + state_side.x, x.y + state_side.y, x.z, state_side.z));
        emit(at, unit, WHOLE, gru_update(dims.scalars, x, state_side, h_before(at, unit, WHOLE)));
    } else {
        let after = lstm_update(dims.scalars, x + a, peepholes(at, unit), s_before(at, unit));
        save_gates(at, unit, x + a);
        var s = after.s;
        if !moves_cell(at, unit) {
            s = s_before(at, unit);
        }
        put_s(at, unit, s);
        if PROJECTED {
            put_scratch(at, unit, after.h);
        } else {
            emit(at, unit, WHOLE, after.h);
        }
    }
}

// Computes a unit's state after a stage of the step from its sums: those of h and, in a wave, also those of the input.
fn finish(at: RowStep, unit: u32, stage: u32, sum: vec4<f32>, x_sum: vec4<f32>) {
    if (at.flag & FLAG_VALID) == 0u {
        // The row skips this step: the stage that writes h keeps it. If the row is reset, the cell state returns to its initial value.
        if CELL == LSTM && stage == WHOLE {
            put_s(at, unit, s_before(at, unit));
        }
        if stage == CANDIDATE || stage == PROJECT || (stage == WHOLE && !PROJECTED) {
            skip(at, unit, stage);
        }
        return;
    }
    if stage == PROJECT {
        emit(at, unit, stage, rescale(1u, sum, vectors_of(at), dims.hidden, SCALE_PROJECTION, unit).x);
        return;
    }
    let x = input_side(at, unit, x_sum);
    let a = rescale(GATES, sum, vectors_of(at), dims.hidden, SCALE_HIDDEN, unit);
    if stage == WHOLE {
        whole(at, unit, x, a);
    } else if stage == RESET {
        let reset_h = open_gate(dims.scalars, x.x + a.x) * h_in_products(at, unit, stage);
        save_gates(at, unit, vec4(x.x + a.x, x.y + a.y, x.z, reset_h));
        put_scratch(at, unit, reset_h);
        put_update(at, unit, open_gate(dims.scalars, x.y + a.y));
    } else {
        save_gates(at, unit, vec4(x.xy, x.z + a.z, x.w));
        let n = candidate(dims.scalars, x.z + a.z);
        emit(at, unit, stage, gru_mix(update_gate(at, unit), n, h_before(at, unit, stage)));
    }
}
