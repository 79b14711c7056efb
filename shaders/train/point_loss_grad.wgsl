// The gradient of a scaled sum of losses with respect to the predictions.
// CPU twin: `reference::point_loss_grad`.

override WORKGROUP_SIZE: u32 = 64u;

struct LossGradDims { rows: u32, columns: u32, scale: f32 }

@group(0) @binding(0) var<uniform> dims: LossGradDims;
@group(0) @binding(1) var<storage, read> x: array<f32>;         // [rows, columns]
@group(0) @binding(2) var<storage, read> goal: array<f32>;      // [rows, columns]
@group(0) @binding(3) var<storage, read> weights: array<f32>;   // [rows]
@group(0) @binding(4) var<storage, read> dy: array<f32>;        // [1]
@group(0) @binding(5) var<storage, read_write> dx: array<f32>;  // [rows, columns]

@compute @workgroup_size(WORKGROUP_SIZE)
fn point_loss_grad(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let at = flat_index(id, groups, WORKGROUP_SIZE);
    if at >= dims.rows * dims.columns {
        return;
    }
    let weight = weights[at / dims.columns];
    dx[at] = select(dims.scale * dy[0] * weight * loss_grad_of(x[at], goal[at]), 0.0, weight == 0.0);
}
