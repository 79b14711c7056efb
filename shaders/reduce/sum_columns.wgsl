// The sum of every column, in a fixed order. A workgroup has 16 columns; 16 invocations share a column's rows, and neighbours read
// neighbouring columns.
// CPU twin: `reference::sum_columns`.

const SIDE: u32 = 16u;

struct SumColumnsDims { rows: u32, columns: u32 }

@group(0) @binding(0) var<uniform> dims: SumColumnsDims;
@group(0) @binding(1) var<storage, read> x: array<f32>;         // [rows, columns]
@group(0) @binding(2) var<storage, read_write> y: array<f32>;   // [columns]

var<workgroup> partial: array<f32, SIDE * SIDE>;

@compute @workgroup_size(SIDE, SIDE)
fn sum_columns(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_id) local: vec3<u32>,
) {
    let column = (group.y * groups.x + group.x) * SIDE + local.x;
    var sum = 0.0;
    if column < dims.columns {
        for (var row = local.y; row < dims.rows; row += SIDE) {
            sum += x[row * dims.columns + column];
        }
    }
    partial[local.y * SIDE + local.x] = sum;
    workgroupBarrier();
    for (var height = SIDE / 2u; height > 0u; height /= 2u) {
        if local.y < height {
            partial[local.y * SIDE + local.x] += partial[(local.y + height) * SIDE + local.x];
        }
        workgroupBarrier();
    }
    if local.y == 0u && column < dims.columns {
        y[column] = partial[local.x];
    }
}
