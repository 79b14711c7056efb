// Multiply-adds in independent chains, nothing else: the arithmetic's rate, 64 operations an invocation and turn. Twin: `peak_fma` in
// `tests/parity/peaks.rs`.

override WORKGROUP_SIZE: u32 = 64u;

struct PeakFmaDims {
    count: u32,   // invocations
    turns: u32,
    factor: f32,
    summand: f32,
}

@group(0) @binding(0) var<uniform> dims: PeakFmaDims;
@group(0) @binding(1) var<storage, read_write> y: array<vec4<f32>>;  // [count]

@compute @workgroup_size(WORKGROUP_SIZE)
fn peak_fma(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let at = flat_index(id, groups, WORKGROUP_SIZE);
    if at >= dims.count {
        return;
    }
    let m = vec4<f32>(dims.factor);
    let b = vec4<f32>(dims.summand);
    let first = vec4<f32>(0.0, 0.25, 0.5, 0.75) + f32(at & 7u);
    var s0 = first + 0.0;
    var s1 = first + 1.0;
    var s2 = first + 2.0;
    var s3 = first + 3.0;
    var s4 = first + 4.0;
    var s5 = first + 5.0;
    var s6 = first + 6.0;
    var s7 = first + 7.0;
    for (var turn = 0u; turn < dims.turns; turn++) {
        s0 = fma(s0, m, b);
        s1 = fma(s1, m, b);
        s2 = fma(s2, m, b);
        s3 = fma(s3, m, b);
        s4 = fma(s4, m, b);
        s5 = fma(s5, m, b);
        s6 = fma(s6, m, b);
        s7 = fma(s7, m, b);
    }
    y[at] = ((s0 + s1) + (s2 + s3)) + ((s4 + s5) + (s6 + s7));
}
