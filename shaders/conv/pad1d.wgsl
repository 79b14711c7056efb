// Pads the last axis with zeros or by reflection.
// CPU twin: `reference::pad1d`.

override WORKGROUP_SIZE: u32 = 64u;
override REFLECT: bool = false;

struct Pad1dDims { count: u32, length: u32, left: u32, out_length: u32 }

@group(0) @binding(0) var<uniform> dims: Pad1dDims;
@group(0) @binding(1) var<storage, read> x: array<f32>;         // [count, length]
@group(0) @binding(2) var<storage, read_write> y: array<f32>;   // [count, out_length]

@compute @workgroup_size(WORKGROUP_SIZE)
fn pad1d(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let at = flat_index(id, groups, WORKGROUP_SIZE);
    if at >= dims.count * dims.out_length {
        return;
    }
    let n = at / dims.out_length;
    let place = at % dims.out_length;
    let inside = place >= dims.left && place < dims.left + dims.length;
    if !inside && !REFLECT {
        y[at] = 0.0;
        return;
    }
    var source = place - dims.left;
    if place < dims.left {
        source = dims.left - place;
    } else if !inside {
        source = 2u * (dims.length - 1u) - (place - dims.left);
    }
    y[at] = x[n * dims.length + source];
}
