// The gradient of a scaled sum of cross-entropies with respect to the scores; one workgroup per row.
// CPU twin: `reference::softmax_cross_entropy_grad`.

struct LossGradDims { rows: u32, columns: u32, scale: f32 }

@group(0) @binding(0) var<uniform> dims: LossGradDims;
@group(0) @binding(1) var<storage, read> x: array<f32>;         // [rows, columns]
@group(0) @binding(2) var<storage, read> targets: array<f32>;   // [rows], whole numbers below columns
@group(0) @binding(3) var<storage, read> dy: array<f32>;        // [1]
@group(0) @binding(4) var<storage, read_write> dx: array<f32>;  // [rows, columns]

@compute @workgroup_size(WORKGROUP_SIZE)
fn softmax_cross_entropy_grad(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let row = group.y * groups.x + group.x;
    if row >= dims.rows {
        return;
    }
    let terms = softmax_terms(row, lane);
    let target_class = targets[row];
    let scale = dims.scale * dy[0];
    for (var column = lane; column < dims.columns; column += WORKGROUP_SIZE) {
        let at = row * dims.columns + column;
        let share = exponential(x[at] - terms.x) / terms.y;
        let hit = select(0.0, 1.0, f32(column) == target_class);
        dx[at] = select(scale * (share - hit), 0.0, target_class < 0.0);
    }
}
