// Copies an array from strided places of one buffer to strided places of another. Strides and offsets express transposition, slices,
// repetition (a stride of 0) and the parts of a concatenation.
// CPU twin: `reference::strided_copy`.

override WORKGROUP_SIZE: u32 = 64u;

const AXES: u32 = 8u;

// An axis beyond the array's rank has extent 1. Offsets and strides count elements.
struct StridedCopyDims {
    extents: array<vec4<u32>, 2>,
    from_strides: array<vec4<i32>, 2>,
    to_strides: array<vec4<i32>, 2>,
    count: u32,
    from_offset: u32,
    to_offset: u32,
}

@group(0) @binding(0) var<uniform> dims: StridedCopyDims;
@group(0) @binding(1) var<storage, read> x: array<f32>;         // [..] at from_offset, from_strides
@group(0) @binding(2) var<storage, read_write> y: array<f32>;   // [..] at to_offset, to_strides

@compute @workgroup_size(WORKGROUP_SIZE)
fn strided_copy(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let at = flat_index(id, groups, WORKGROUP_SIZE);
    if at >= dims.count {
        return;
    }
    var rest = at;
    var source = i32(dims.from_offset);
    var place = i32(dims.to_offset);
    for (var back = 0u; back < AXES; back++) {
        let axis = AXES - 1u - back;
        let extent = dims.extents[axis / 4u][axis % 4u];
        let index = i32(rest % extent);
        rest /= extent;
        source += index * dims.from_strides[axis / 4u][axis % 4u];
        place += index * dims.to_strides[axis / 4u][axis % 4u];
    }
    y[place] = x[source];
}
