// The cells' equations, from gate pre-activations to the new state. Every recurrent kernel ends in one of these functions.
// CPU twins: `reference::rnn_step`, `reference::lstm_step`, `reference::gru_step`; the codes mirror `gpu/recurrent/special.rs`.

override CELL: u32 = 1u;                    // RNN, LSTM or GRU
override GATE_ACTIVATION: u32 = 2u;
override CANDIDATE_ACTIVATION: u32 = 1u;    // the RNN's only activation
override OUTPUT_ACTIVATION: u32 = 1u;
override GATE_CLIP: bool = false;
override CELL_CLIP: bool = false;
override FORGET: u32 = 0u;                  // FORGET_GATE, FORGET_NEVER or FORGET_COUPLED
override PEEPHOLE: bool = false;
override TAKES_NEW: bool = false;           // the GRU's update gate weighs the candidate

const RNN: u32 = 0u;
const LSTM: u32 = 1u;
const GRU: u32 = 2u;

const FORGET_GATE: u32 = 0u;
const FORGET_NEVER: u32 = 1u;
const FORGET_COUPLED: u32 = 2u;

struct CellScalars {
    gate_alpha: f32,
    gate_beta: f32,
    candidate_alpha: f32,
    candidate_beta: f32,
    output_alpha: f32,
    output_beta: f32,
    gate_clip: f32,
    cell_clip: f32,
}

struct LstmState { h: f32, s: f32 }

fn clip_gate(scalars: CellScalars, x: f32) -> f32 {
    if GATE_CLIP {
        return clip(x, scalars.gate_clip);
    }
    return x;
}

fn open_gate(scalars: CellScalars, x: f32) -> f32 {
    return activate(GATE_ACTIVATION, scalars.gate_alpha, scalars.gate_beta, clip_gate(scalars, x));
}

fn candidate(scalars: CellScalars, x: f32) -> f32 {
    return activate(CANDIDATE_ACTIVATION, scalars.candidate_alpha, scalars.candidate_beta, clip_gate(scalars, x));
}

// `a` holds the pre-activations in the order of `Cell::gates`, `p` the peephole weights of i, f and o.
fn lstm_update(scalars: CellScalars, a: vec4<f32>, p: vec3<f32>, s: f32) -> LstmState {
    var g_in = a.z;
    var o_in = a.w;
    if FORGET != FORGET_GATE {
        g_in = a.y;
        o_in = a.z;
    }
    let i = open_gate(scalars, a.x + p.x * s);
    var f = 1.0;
    if FORGET == FORGET_GATE {
        f = open_gate(scalars, a.y + p.y * s);
    } else if FORGET == FORGET_COUPLED {
        f = 1.0 - i;
    }
    var s_next = f * s + i * candidate(scalars, g_in);
    if CELL_CLIP {
        s_next = clip(s_next, scalars.cell_clip);
    }
    let o = open_gate(scalars, o_in + p.z * s_next);
    return LstmState(o * activate(OUTPUT_ACTIVATION, scalars.output_alpha, scalars.output_beta, s_next), s_next);
}

fn gru_mix(z: f32, n: f32, h: f32) -> f32 {
    if TAKES_NEW {
        return (1.0 - z) * h + z * n;
    }
    return (1.0 - z) * n + z * h;
}

// A GRU that resets after the matrix product: `x` and `a` hold the input part and the recurrent part of r, z and n.
fn gru_update(scalars: CellScalars, x: vec4<f32>, a: vec4<f32>, h: f32) -> f32 {
    let r = open_gate(scalars, x.x + a.x);
    let z = open_gate(scalars, x.y + a.y);
    let n = candidate(scalars, x.z + r * a.z);
    return gru_mix(z, n, h);
}
