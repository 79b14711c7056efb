// Sums along the axis `terms` of an array [outer, terms, columns], or adds these sums to y. The order is fixed, so sums computed in several
// dispatches give the same bits.
// CPU twin: `reference::reduce_rows`, on a permuted view.

override WORKGROUP_SIZE: u32 = 64u;
override ACCUMULATE: bool = false;

struct SumStridedDims {
    outer: u32,
    terms: u32,
    columns: u32,
    offset: u32,
    outer_stride: u32,
    term_stride: i32,
    gap: u32,           // elements that are left out before column `gap_column`
    gap_column: u32,
    y_offset: u32,
}

@group(0) @binding(0) var<uniform> dims: SumStridedDims;
@group(0) @binding(1) var<storage, read> x: array<f32>;         // [outer, terms, columns] by the strides
@group(0) @binding(2) var<storage, read_write> y: array<f32>;   // [outer, columns], from y_offset on

@compute @workgroup_size(WORKGROUP_SIZE)
fn sum_strided(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let at = flat_index(id, groups, WORKGROUP_SIZE);
    if at >= dims.outer * dims.columns {
        return;
    }
    let column = at % dims.columns;
    var place = i32(dims.offset + (at / dims.columns) * dims.outer_stride + column);
    if column >= dims.gap_column {
        place += i32(dims.gap);
    }
    var sum = 0.0;
    if ACCUMULATE {
        sum = y[dims.y_offset + at];
    }
    for (var k = 0u; k < dims.terms; k++) {
        sum += x[place];
        place += dims.term_stride;
    }
    y[dims.y_offset + at] = sum;
}
