// A loss of every element, 0 in rows of weight 0.
// CPU twin: `reference::point_loss`.

override WORKGROUP_SIZE: u32 = 64u;

struct LossDims { rows: u32, columns: u32 }

@group(0) @binding(0) var<uniform> dims: LossDims;
@group(0) @binding(1) var<storage, read> x: array<f32>;             // [rows, columns]
@group(0) @binding(2) var<storage, read> goal: array<f32>;          // [rows, columns]
@group(0) @binding(3) var<storage, read> weights: array<f32>;       // [rows]
@group(0) @binding(4) var<storage, read_write> loss: array<f32>;    // [rows, columns]

@compute @workgroup_size(WORKGROUP_SIZE)
fn point_loss(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let at = flat_index(id, groups, WORKGROUP_SIZE);
    if at >= dims.rows * dims.columns {
        return;
    }
    let weight = weights[at / dims.columns];
    loss[at] = select(weight * loss_of(x[at], goal[at]), 0.0, weight == 0.0);
}
