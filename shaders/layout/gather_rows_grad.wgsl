// The gradient with respect to a table whose rows were picked: each row adds up the gradients of the places that it was picked for, in
// their order. There is one invocation per element of the table; no two write to the same element, so no atomics are needed.
// CPU twin: `reference::gather_rows_grad`.

override WORKGROUP_SIZE: u32 = 64u;

struct GatherRowsGradDims { rows: u32, columns: u32 }

@group(0) @binding(0) var<uniform> dims: GatherRowsGradDims;
@group(0) @binding(1) var<storage, read> begins: array<u32>;        // [rows + 1], index of a row's first place in `places`
@group(0) @binding(2) var<storage, read> places: array<u32>;        // [picks], sorted by the row picked
@group(0) @binding(3) var<storage, read> dy: array<f32>;            // [picks, columns]
@group(0) @binding(4) var<storage, read_write> table: array<f32>;   // [rows, columns]

@compute @workgroup_size(WORKGROUP_SIZE)
fn gather_rows_grad(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let at = flat_index(id, groups, WORKGROUP_SIZE);
    if at >= dims.rows * dims.columns {
        return;
    }
    let row = at / dims.columns;
    let column = at % dims.columns;
    var sum = 0.0;
    let end = begins[row + 1u];
    for (var pick = begins[row]; pick < end; pick++) {
        sum += dy[places[pick] * dims.columns + column];
    }
    table[at] = sum;
}
