// Copies the rows that take part, and writes zeros for the others, so that their values, even NaN, have no effect.
// CPU twin: `cpu::training`'s function of this name.

override WORKGROUP_SIZE: u32 = 64u;

struct SilenceDims { count: u32, columns: u32 }

@group(0) @binding(0) var<uniform> dims: SilenceDims;
@group(0) @binding(1) var<storage, read> x: array<f32>;         // [rows, columns]
@group(0) @binding(2) var<storage, read> flags: array<u32>;     // [rows]
@group(0) @binding(3) var<storage, read_write> y: array<f32>;   // [rows, columns]

@compute @workgroup_size(WORKGROUP_SIZE)
fn silence(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let at = flat_index(id, groups, WORKGROUP_SIZE);
    if at >= dims.count {
        return;
    }
    var value = 0.0;
    if (flags[at / dims.columns] & FLAG_VALID) != 0u {
        value = x[at];
    }
    y[at] = value;
}
