// Picks rows of a table, as an embedding does.
// CPU twin: `reference::gather_rows`.

override WORKGROUP_SIZE: u32 = 64u;
// Rows are whole numbers in f32, as `argmax_rows` writes them.
override FLOAT_ROWS: u32 = 0u;

struct GatherRowsDims { count: u32, columns: u32 }

@group(0) @binding(0) var<uniform> dims: GatherRowsDims;
@group(0) @binding(1) var<storage, read> x: array<f32>;         // [rows, columns]
@group(0) @binding(2) var<storage, read> rows: array<u32>;      // [count], each below the table's rows
@group(0) @binding(3) var<storage, read_write> y: array<f32>;   // [count, columns]

@compute @workgroup_size(WORKGROUP_SIZE)
fn gather_rows(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let at = flat_index(id, groups, WORKGROUP_SIZE);
    if at >= dims.count * dims.columns {
        return;
    }
    let word = rows[at / dims.columns];
    let row = select(word, u32(bitcast<f32>(word)), FLOAT_ROWS == 1u);
    y[at] = x[row * dims.columns + at % dims.columns];
}
