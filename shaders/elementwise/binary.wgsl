// An operation on two operands, element by element. Strides let both operands be columns of one buffer.
// CPU twin: `reference::binary`.

override WORKGROUP_SIZE: u32 = 64u;
override OPERATION: u32 = 0u;

struct BinaryDims { rows: u32, columns: u32, a_stride: u32, a_offset: u32, b_stride: u32, b_offset: u32 }

@group(0) @binding(0) var<uniform> dims: BinaryDims;
@group(0) @binding(1) var<storage, read> a: array<f32>;         // [rows, a_stride]
@group(0) @binding(2) var<storage, read> b: array<f32>;         // [rows, b_stride]
@group(0) @binding(3) var<storage, read_write> y: array<f32>;   // [rows, columns]

fn operate(a: f32, b: f32) -> f32 {
    switch OPERATION {
        case 0u: { return a + b; }
        case 1u: { return a - b; }
        case 2u: { return a * b; }
        case 3u: { return select(max(a, b), a + b, is_nan(a) || is_nan(b)); }
        case 4u: { return (a + b) * 0.5; }
        case 5u: { return sqrt(a * a + b * b); }
        case 6u: { return a / b; }
        case 7u: { return select(min(a, b), a + b, is_nan(a) || is_nan(b)); }
        case 8u: { return power(a, b); }
        case 9u: { return select(0.0, 1.0, a == b && !is_nan(a) && !is_nan(b)); }
        case 10u: { return select(0.0, 1.0, a < b && !is_nan(a) && !is_nan(b)); }
        case 11u: { return select(a, 0.0, b == 0.0 && !is_nan(b)); }
        default: { return select(-0.0, a, b == 0.0 && !is_nan(b)); }
    }
}

@compute @workgroup_size(WORKGROUP_SIZE)
fn binary(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let at = flat_index(id, groups, WORKGROUP_SIZE);
    if at >= dims.rows * dims.columns {
        return;
    }
    let row = at / dims.columns;
    let column = at % dims.columns;
    y[at] = operate(a[row * dims.a_stride + dims.a_offset + column], b[row * dims.b_stride + dims.b_offset + column]);
}
