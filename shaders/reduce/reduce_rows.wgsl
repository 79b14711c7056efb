// Sum, mean or maximum of every row, NaN if the row has one; one workgroup per row.
// CPU twin: `reference::reduce_rows`.

override WORKGROUP_SIZE: u32 = 64u;
override REDUCTION: u32 = 0u;

struct ReduceRowsDims { rows: u32, columns: u32 }

@group(0) @binding(0) var<uniform> dims: ReduceRowsDims;
@group(0) @binding(1) var<storage, read> x: array<f32>;         // [rows, columns]
@group(0) @binding(2) var<storage, read_write> y: array<f32>;   // [rows]

var<workgroup> partial: array<f32, WORKGROUP_SIZE>;

const MEAN: u32 = 1u;
const MAX: u32 = 2u;

fn combine(a: f32, b: f32) -> f32 {
    // If an operand is NaN, the sum is NaN, as the maximum must be.
    let takes_larger = REDUCTION == MAX && !is_nan(a) && !is_nan(b);
    return select(a + b, max(a, b), takes_larger);
}

@compute @workgroup_size(WORKGROUP_SIZE)
fn reduce_rows(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let row = group.y * groups.x + group.x;
    if row >= dims.rows {
        return;
    }
    var value = 0.0;
    if REDUCTION == MAX {
        // Every lane starts with an element of the row: only minus infinity is below all numbers, and WGSL cannot write it.
        value = x[row * dims.columns];
    }
    for (var column = lane; column < dims.columns; column += WORKGROUP_SIZE) {
        value = combine(value, x[row * dims.columns + column]);
    }
    partial[lane] = value;
    workgroupBarrier();
    for (var width = WORKGROUP_SIZE / 2u; width > 0u; width /= 2u) {
        if lane < width {
            partial[lane] = combine(partial[lane], partial[lane + width]);
        }
        workgroupBarrier();
    }
    if lane == 0u {
        y[row] = select(partial[0], partial[0] / f32(dims.columns), REDUCTION == MEAN);
    }
}
