// -ln(softmax(x)[target]) of every row, 0 if the target is below 0; one workgroup per row.
// CPU twin: `reference::softmax_cross_entropy`.

struct LossDims { rows: u32, columns: u32 }

@group(0) @binding(0) var<uniform> dims: LossDims;
@group(0) @binding(1) var<storage, read> x: array<f32>;         // [rows, columns]
@group(0) @binding(2) var<storage, read> targets: array<f32>;   // [rows], whole numbers below columns
@group(0) @binding(3) var<storage, read_write> y: array<f32>;   // [rows]

@compute @workgroup_size(WORKGROUP_SIZE)
fn softmax_cross_entropy(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let row = group.y * groups.x + group.x;
    if row >= dims.rows {
        return;
    }
    let terms = softmax_terms(row, lane);
    if lane == 0u {
        let target_class = targets[row];
        let score = x[row * dims.columns + u32(max(target_class, 0.0))];
        y[row] = select(logarithm(terms.y) - (score - terms.x), 0.0, target_class < 0.0);
    }
}
