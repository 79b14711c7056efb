// Each workgroup adds 1 to its word. So many of these dispatches in a row measure the cost of a dispatch that waits for the one before.
// Twin: `x += 1`.

override WORKGROUP_SIZE: u32 = 64u;

struct PeakStepDims {
    count: u32,
}

@group(0) @binding(0) var<uniform> dims: PeakStepDims;
@group(0) @binding(1) var<storage, read_write> x: array<f32>;  // [count]

@compute @workgroup_size(WORKGROUP_SIZE)
fn peak_step(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    if lane == 0u && group.x < dims.count {
        x[group.x] += 1.0;
    }
}
