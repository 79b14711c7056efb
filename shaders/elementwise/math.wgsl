// An elementary function of every element.
// CPU twin: `reference::math`.

override WORKGROUP_SIZE: u32 = 64u;
override FUNCTION: u32 = 0u;

struct MathDims { count: u32 }

@group(0) @binding(0) var<uniform> dims: MathDims;
@group(0) @binding(1) var<storage, read> x: array<f32>;         // [count]
@group(0) @binding(2) var<storage, read_write> y: array<f32>;   // [count]

fn evaluate(x: f32) -> f32 {
    switch FUNCTION {
        case 0u: { return exponential(x); }
        case 1u: { return logarithm(x); }
        case 2u: { return square_root(x); }
        case 3u: { return abs(x); }
        case 4u: { return floor(x); }
        default: { return ceil(x); }
    }
}

@compute @workgroup_size(WORKGROUP_SIZE)
fn math(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let at = flat_index(id, groups, WORKGROUP_SIZE);
    if at >= dims.count {
        return;
    }
    y[at] = evaluate(x[at]);
}
