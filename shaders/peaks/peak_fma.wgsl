// Only multiply-adds, in independent chains, which measure the rate of arithmetic: 128 operations per invocation and iteration. There are
// few enough chains for the registers of a software adapter, and an iteration is so long that the loop costs little. Twin: `peak_fma` in
// `tests/parity/peaks.rs`.

override WORKGROUP_SIZE: u32 = 64u;

struct PeakFmaDims {
    count: u32,   // invocations
    iterations: u32,
    factor: f32,
    summand: f32,
}

@group(0) @binding(0) var<uniform> dims: PeakFmaDims;
@group(0) @binding(1) var<storage, read_write> y: array<vec4<f32>>;  // [count]

fn four_times(s: vec4<f32>, m: vec4<f32>, b: vec4<f32>) -> vec4<f32> {
    return fma(fma(fma(fma(s, m, b), m, b), m, b), m, b);
}

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
    for (var iteration = 0u; iteration < dims.iterations; iteration++) {
        s0 = four_times(s0, m, b);
        s1 = four_times(s1, m, b);
        s2 = four_times(s2, m, b);
        s3 = four_times(s3, m, b);
    }
    y[at] = (s0 + s1) + (s2 + s3);
}
