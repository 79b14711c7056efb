// The gradient with respect to the argument of an activation: dx = dy act'(x).
// CPU twin: `reference::unary_grad`.

override WORKGROUP_SIZE: u32 = 64u;
override ACTIVATION: u32 = 0u;

struct UnaryGradDims { count: u32, alpha: f32, beta: f32 }

@group(0) @binding(0) var<uniform> dims: UnaryGradDims;
@group(0) @binding(1) var<storage, read> x: array<f32>;         // [count]
@group(0) @binding(2) var<storage, read> dy: array<f32>;        // [count]
@group(0) @binding(3) var<storage, read_write> dx: array<f32>;  // [count]

@compute @workgroup_size(WORKGROUP_SIZE)
fn unary_grad(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let at = flat_index(id, groups, WORKGROUP_SIZE);
    if at >= dims.count {
        return;
    }
    dx[at] = dy[at] * activate_grad(ACTIVATION, dims.alpha, dims.beta, x[at]);
}
