// The gradient with respect to the steps of a weighted sum over them.
// CPU twin: `reference::mean_steps_grad`.

override WORKGROUP_SIZE: u32 = 64u;

struct MeanStepsDims { steps: u32, rows: u32, columns: u32 }

@group(0) @binding(0) var<uniform> dims: MeanStepsDims;
@group(0) @binding(1) var<storage, read> weights: array<f32>;   // [steps, rows]
@group(0) @binding(2) var<storage, read> dy: array<f32>;        // [rows, columns]
@group(0) @binding(3) var<storage, read_write> dx: array<f32>;  // [steps, rows, columns]

@compute @workgroup_size(WORKGROUP_SIZE)
fn mean_steps_grad(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let at = flat_index(id, groups, WORKGROUP_SIZE);
    if at >= dims.steps * dims.rows * dims.columns {
        return;
    }
    dx[at] = weights[at / dims.columns] * dy[at % (dims.rows * dims.columns)];
}
