// The backward pass of the cells' equations: from the gradients with respect to the new state to those of the gate pre-activations.
// CPU twins: `reference::rnn_step_backward`, `reference::lstm_update_backward`, `reference::gru_step_backward`.

// The derivative of `act(clip(x))`: zero beyond the clip. At the clip it is the derivative of the activation.
fn slope_within(scalars: CellScalars, code: u32, alpha: f32, beta: f32, x: f32) -> f32 {
    if GATE_CLIP && !is_nan(x) && abs(x) > scalars.gate_clip {
        return 0.0;
    }
    return activate_grad(code, alpha, beta, x);
}

fn gate_slope(scalars: CellScalars, x: f32) -> f32 {
    return slope_within(scalars, GATE_ACTIVATION, scalars.gate_alpha, scalars.gate_beta, x);
}

fn candidate_slope(scalars: CellScalars, x: f32) -> f32 {
    return slope_within(scalars, CANDIDATE_ACTIVATION, scalars.candidate_alpha, scalars.candidate_beta, x);
}

struct LstmGrad {
    a: vec4<f32>,   // gradients with respect to the pre-activations, in the order of `Cell::gates`
    p: vec3<f32>,   // gradients with respect to the peephole weights of i, f and o
    s: f32,         // gradient with respect to the cell state before the step
    m: f32,         // not a gradient: o output(s'), the input of a projection
}

// Computes the gradients from dm and ds, those with respect to m = o output(s') and s'. Other arguments are those of `lstm_update`.
fn lstm_update_grad(scalars: CellScalars, a: vec4<f32>, p: vec3<f32>, s: f32, dm: f32, ds: f32) -> LstmGrad {
    var a_g = a.z;
    var a_o = a.w;
    if FORGET != FORGET_GATE {
        a_g = a.y;
        a_o = a.z;
    }
    let x_i = a.x + p.x * s;
    let x_f = a.y + p.y * s;
    let i = open_gate(scalars, x_i);
    var f = 1.0;
    if FORGET == FORGET_GATE {
        f = open_gate(scalars, x_f);
    } else if FORGET == FORGET_COUPLED {
        f = 1.0 - i;
    }
    let g = candidate(scalars, a_g);
    let unclipped = f * s + i * g;
    var s_next = unclipped;
    if CELL_CLIP {
        s_next = clip(unclipped, scalars.cell_clip);
    }
    let x_o = a_o + p.z * s_next;
    let o = open_gate(scalars, x_o);
    let output = activate(OUTPUT_ACTIVATION, scalars.output_alpha, scalars.output_beta, s_next);
    let output_slope = activate_grad(OUTPUT_ACTIVATION, scalars.output_alpha, scalars.output_beta, s_next);

    let da_o = dm * output * gate_slope(scalars, x_o);
    var ds_next = ds + dm * o * output_slope + da_o * p.z;
    if CELL_CLIP && !is_nan(unclipped) && abs(unclipped) > scalars.cell_clip {
        ds_next = 0.0;
    }
    let df = ds_next * s;
    var di = ds_next * g;
    if FORGET == FORGET_COUPLED {
        di -= df;
    }
    let da_i = di * gate_slope(scalars, x_i);
    let da_g = ds_next * i * candidate_slope(scalars, a_g);
    let ds_before = ds_next * f + da_i * p.x;
    if FORGET == FORGET_GATE {
        let da_f = df * gate_slope(scalars, x_f);
        let dp = vec3(da_i * s, da_f * s, da_o * s_next);
        return LstmGrad(vec4(da_i, da_f, da_g, da_o), dp, ds_before + da_f * p.y, o * output);
    }
    return LstmGrad(vec4(da_i, da_g, da_o, 0.0), vec3(da_i * s, 0.0, da_o * s_next), ds_before, o * output);
}

struct GruGrad {
    z: f32,     // gradient with respect to z's pre-activation
    n: f32,     // gradient with respect to the candidate's pre-activation
    h: f32,     // gradient with respect to h, past the products
}

fn gru_mix_grad(scalars: CellScalars, a_z: f32, a_n: f32, h: f32, dh: f32) -> GruGrad {
    let z = open_gate(scalars, a_z);
    let n = candidate(scalars, a_n);
    let z_slope = gate_slope(scalars, a_z);
    let n_slope = candidate_slope(scalars, a_n);
    if TAKES_NEW {
        return GruGrad(dh * (n - h) * z_slope, dh * z * n_slope, dh * (1.0 - z));
    }
    return GruGrad(dh * (h - n) * z_slope, dh * (1.0 - z) * n_slope, dh * z);
}
