// Multiplies by a random mask: zero, or the scale that keeps the expectation.
// CPU twin: `cell::Draw::factor`.

override WORKGROUP_SIZE: u32 = 64u;

struct DropoutDims {
    key: vec4<u32>,
    threshold: u32,
    scale: f32,
    count: u32,
    period: u32,        // elements after which the mask repeats
    from_offset: u32,
    to_offset: u32,
}

@group(0) @binding(0) var<uniform> dims: DropoutDims;
@group(0) @binding(1) var<storage, read> x: array<f32>;         // [count] from from_offset on
@group(0) @binding(2) var<storage, read_write> y: array<f32>;   // [count] from to_offset on

@compute @workgroup_size(WORKGROUP_SIZE)
fn dropout(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let at = flat_index(id, groups, WORKGROUP_SIZE);
    if at >= dims.count {
        return;
    }
    let factor = select(0.0, dims.scale, keeps(dims.key, dims.threshold, at % dims.period));
    y[dims.to_offset + at] = x[dims.from_offset + at] * factor;
}
