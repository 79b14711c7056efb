// A copy in words of 16 bytes, which measures the memory's bandwidth. Twin: `slice::copy_from_slice`.

override WORKGROUP_SIZE: u32 = 64u;

struct PeakCopyDims {
    count: u32,
}

@group(0) @binding(0) var<uniform> dims: PeakCopyDims;
@group(0) @binding(1) var<storage, read> x: array<vec4<f32>>;        // [count]
@group(0) @binding(2) var<storage, read_write> y: array<vec4<f32>>;  // [count]

@compute @workgroup_size(WORKGROUP_SIZE)
fn peak_copy(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let at = flat_index(id, groups, WORKGROUP_SIZE);
    if at >= dims.count {
        return;
    }
    y[at] = x[at];
}
