// The state of the scans lies in workgroup memory: a workgroup computes all steps of a chunk for a few rows of the batch. It has one
// layer and direction, or all layers of a stack, each one step behind the layer below (LAYERS). No other workgroup reads its rows.
//
// h alternates between two regions after every step. A cell of two stages keeps h in the first region, where only its own unit
// changes it, and scratch values in the second. A third region holds the initial h, which a reset restores.

override LAYERS: u32 = 1u;          // layers of a workgroup; if there are several, z counts layers rather than directions
override STAGES: u32 = 1u;          // dependent products of a step
override PITCH: u32 = 16u;          // elements of a row of a region: whole parts, zeros behind the last unit
override STATE: u32 = 32u;          // elements of all regions
override OWN: u32 = 1u;             // LAYERS * ROWS * hidden if the cell has s, or keeps z between its stages

@group(0) @binding(1) var<storage, read> gates_x: array<vec4<f32>>; // [directions, steps, batch, hidden], one component per gate
@group(0) @binding(5) var<storage, read_write> h_rows: array<f32>;  // [z, batch, out], perhaps the initial values behind them
@group(0) @binding(6) var<storage, read_write> s_rows: array<f32>;  // [z, batch, hidden], perhaps the initial values behind them
@group(0) @binding(7) var<storage, read_write> y: array<f32>;       // [time, batch, directions, out]

var<workgroup> state: array<f32, STATE>;    // [2 or 3 regions, LAYERS, ROWS, PITCH]
var<workgroup> own: array<f32, OWN>;        // [LAYERS, ROWS, hidden]: values that only their own unit reads

// The region that holds h before the current step.
var<private> here: u32;

const INITIAL: u32 = 2u;

// The rows of the workgroup in a region. If bit r of `reset` is set, the initial values of row r are read instead.
struct RowSource { lane: u32, z: u32, region: u32, reset: u32 }

// Elements are not stored as vectors: invocations of different units write neighbouring elements, and a vector would be one location.
fn source_word(at: u32) -> vec4<f32> {
    return vec4(state[4u * at], state[4u * at + 1u], state[4u * at + 2u], state[4u * at + 3u]);
}

fn region_row(region: u32, z: u32, row: u32) -> u32 {
    return ((region * LAYERS + select(0u, z, LAYERS > 1u)) * ROWS + row) * PITCH;
}

fn source_row(source: RowSource, row: u32) -> u32 {
    let from_initial = RESETS && ((source.reset >> row) & 1u) != 0u;
    return region_row(select(source.region, INITIAL, from_initial), source.z, row);
}

fn direction_of(z: u32) -> u32 {
    return dims.direction + select(z, 0u, LAYERS > 1u);
}

// Steps by which z is behind the lowest layer.
fn behind(z: u32) -> u32 {
    return select(0u, z, LAYERS > 1u);
}

fn takes_part(z: u32, iteration: u32) -> bool {
    return LAYERS == 1u || (iteration >= z && iteration - z < dims.steps);
}

// The step that z is at, in the order of the sequence.
fn time_of(z: u32, iteration: u32) -> u32 {
    return time_at(z, dims.first_step + iteration - behind(z));
}

fn row_step_of(z: u32, row: u32, iteration: u32) -> RowStep {
    let time = time_of(z, iteration);
    return RowStep(z, row, time, flag_of(time, row), is_reverse(z), LAYERS == 1u || z + 1u == LAYERS);
}

// A word whose bit r is set if row r of the workgroup is reset in this step.
fn reset_rows(z: u32, first_row: u32, iteration: u32) -> u32 {
    var reset = 0u;
    if RESETS {
        let time = time_of(z, iteration);
        for (var row = 0u; row < min(ROWS, dims.batch - first_row); row++) {
            reset |= select(0u, 1u << row, (flag_of(time, first_row + row) & FLAG_RESET) != 0u);
        }
    }
    return reset;
}

// The rows that a stage's product reads: h, or the scratch values.
fn state_source(z: u32, lane: u32, reset: u32) -> RowSource {
    return RowSource(lane, z, here, reset);
}

fn scratch_source(z: u32, lane: u32) -> RowSource {
    return RowSource(lane, z, 1u, 0u);
}

// The output of the layer below z at the step that z is at: its h, one iteration ago. If a row is skipped, h is not the output, but
// the row is skipped here, too.
fn below_source(z: u32, lane: u32) -> RowSource {
    return RowSource(lane, z - 1u, here, 0u);
}

fn projection_weights(z: u32) -> Matrix {
    return Matrix(dims.projection + z * dims.projection_stride, 1u, 1u);
}

// The bits of the gates of a step's first product. In a GRU that resets before the product, the candidate is left to the second product.
fn first_gates() -> u32 {
    if CELL == GRU && STAGES > 1u {
        return 3u;
    }
    return USED;
}

fn first_stage() -> u32 {
    if CELL == GRU && STAGES > 1u {
        return RESET;
    }
    return WHOLE;
}

// Index of a unit of a row in a region. As first rows of workgroups are multiples of ROWS, `row % ROWS` is the row in the workgroup.
fn in_state(region: u32, at: RowStep, unit: u32) -> u32 {
    return region_row(region, at.z, at.row % ROWS) + unit;
}

fn in_own(at: RowStep, unit: u32) -> u32 {
    return (behind(at.z) * ROWS + at.row % ROWS) * dims.hidden + unit;
}

fn h_before(at: RowStep, unit: u32, stage: u32) -> f32 {
    return state[in_state(select(here, INITIAL, RESETS && is_reset(at)), at, unit)];
}

fn h_in_products(at: RowStep, unit: u32, stage: u32) -> f32 {
    return h_before(at, unit, stage);
}

fn put_h(at: RowStep, unit: u32, h: f32) {
    state[in_state(select(1u - here, 0u, STAGES > 1u), at, unit)] = h;
}

fn s_before(at: RowStep, unit: u32) -> f32 {
    if RESETS && is_reset(at) {
        return s_rows[dims.s_initial + (at.z * dims.batch + at.row) * dims.hidden + unit];
    }
    return own[in_own(at, unit)];
}

fn put_s(at: RowStep, unit: u32, s: f32) {
    own[in_own(at, unit)] = s;
}

fn put_scratch(at: RowStep, unit: u32, value: f32) {
    state[in_state(1u, at, unit)] = value;
}

fn put_update(at: RowStep, unit: u32, z: f32) {
    own[in_own(at, unit)] = z;
}

fn update_gate(at: RowStep, unit: u32) -> f32 {
    return own[in_own(at, unit)];
}

// The layers above the lowest compute their input projection in the same iteration.
fn takes_input(at: RowStep) -> bool {
    return LAYERS > 1u && at.z > 0u;
}

// Reads a unit's state before the chunk.
fn load_state(z: u32, row: u32, unit: u32) {
    let at = RowStep(z, row, 0u, 0u, false, false);
    if unit < dims.out {
        let i = (z * dims.batch + row) * dims.out + unit;
        let h = h_rows[dims.h + i];
        state[in_state(0u, at, unit)] = h;
        if STAGES == 1u {
            state[in_state(1u, at, unit)] = h;
        }
        if RESETS {
            state[in_state(INITIAL, at, unit)] = h_rows[dims.h_initial + i];
        }
    }
    if CELL == LSTM && unit < dims.hidden {
        own[in_own(at, unit)] = s_rows[dims.s + (z * dims.batch + row) * dims.hidden + unit];
    }
}

// Writes a unit's state after the chunk.
fn store_state(z: u32, row: u32, unit: u32) {
    let at = RowStep(z, row, 0u, 0u, false, false);
    if unit < dims.out {
        let region = select((dims.steps + behind(z)) % 2u, 0u, STAGES > 1u);
        h_rows[dims.h + (z * dims.batch + row) * dims.out + unit] = state[in_state(region, at, unit)];
    }
    if CELL == LSTM && unit < dims.hidden {
        s_rows[dims.s + (z * dims.batch + row) * dims.hidden + unit] = own[in_own(at, unit)];
    }
}
