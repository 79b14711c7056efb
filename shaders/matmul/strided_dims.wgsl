// The uniform of the products by strides.

override ACCUMULATE: bool = false;      // y += a b
override A_BY_ROWS: bool = false;       // neighbours in memory belong to neighbouring rows of a, not to its depth

struct MatmulStridedDims {
    rows: u32,
    depth: u32,
    columns: u32,
    a_offset: u32,
    a_row: i32,         // strides
    a_depth: i32,
    gap: u32,           // elements of a that are left out before row `gap_row`, or before place `gap_depth` of the depth
    gap_row: u32,
    gap_depth: u32,
    b_offset: u32,
    b_depth: i32,
    b_column: i32,
    y_offset: u32,
}

@group(0) @binding(0) var<uniform> dims: MatmulStridedDims;
