// The weighted sum over the first axis: a mean if the weights of a column add up to 1. Elements of weight 0 are not read.
// CPU twin: `reference::mean_steps`.

override WORKGROUP_SIZE: u32 = 64u;

struct MeanStepsDims { steps: u32, rows: u32, columns: u32 }

@group(0) @binding(0) var<uniform> dims: MeanStepsDims;
@group(0) @binding(1) var<storage, read> x: array<f32>;         // [steps, rows, columns]
@group(0) @binding(2) var<storage, read> weights: array<f32>;   // [steps, rows]
@group(0) @binding(3) var<storage, read_write> y: array<f32>;   // [rows, columns]

@compute @workgroup_size(WORKGROUP_SIZE)
fn mean_steps(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let at = flat_index(id, groups, WORKGROUP_SIZE);
    let size = dims.rows * dims.columns;
    if at >= size {
        return;
    }
    let row = at / dims.columns;
    var sum = 0.0;
    for (var step = 0u; step < dims.steps; step++) {
        let weight = weights[step * dims.rows + row];
        if weight != 0.0 {
            sum += weight * x[step * size + at];
        }
    }
    y[at] = sum;
}
