// The uniform of the products with a bias.

override A_TRANSPOSED: bool = false;    // a lies as [depth, rows]
override B_TRANSPOSED: bool = false;    // b lies as [columns, depth]

struct MatmulDims { rows: u32, depth: u32, columns: u32, a_row: u32, y_offset: u32, has_bias: u32 }

@group(0) @binding(0) var<uniform> dims: MatmulDims;
@group(0) @binding(1) var<storage, read> a: array<f32>;         // [a_row + rows, depth], read from row a_row on; or transposed [depth, rows]
@group(0) @binding(2) var<storage, read> b: array<f32>;         // [depth, columns]
@group(0) @binding(3) var<storage, read> bias: array<f32>;      // [columns]
@group(0) @binding(4) var<storage, read_write> y: array<f32>;   // [rows, columns], from y_offset on
