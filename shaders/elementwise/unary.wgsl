// An activation of every element.
// CPU twin: `reference::unary`.

override WORKGROUP_SIZE: u32 = 64u;
override ACTIVATION: u32 = 0u;

struct UnaryDims { count: u32, alpha: f32, beta: f32 }

@group(0) @binding(0) var<uniform> dims: UnaryDims;
@group(0) @binding(1) var<storage, read> x: array<f32>;         // [count]
@group(0) @binding(2) var<storage, read_write> y: array<f32>;   // [count]

@compute @workgroup_size(WORKGROUP_SIZE)
fn unary(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let at = flat_index(id, groups, WORKGROUP_SIZE);
    if at >= dims.count {
        return;
    }
    y[at] = activate(ACTIVATION, dims.alpha, dims.beta, x[at]);
}
