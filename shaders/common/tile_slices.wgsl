// Cuts the depth of a product into slices: several invocations of a workgroup share a unit, and their partial sums are added up.

override UNITS: u32 = 64u;      // units of a workgroup
override SLICES: u32 = 1u;      // slices of the depth; if there are several, at least as many as rows
override PARTIAL: u32 = 1u;     // ROWS * SLICES * UNITS if there are several slices

var<workgroup> partial: array<vec4<f32>, PARTIAL>;

// The sum of all slices for a row of a unit.
fn gathered(row: u32, unit: u32) -> vec4<f32> {
    var sum = vec4<f32>();
    for (var slice = 0u; slice < SLICES; slice++) {
        sum += partial[(row * SLICES + slice) * UNITS + unit];
    }
    return sum;
}

// The sums of one row over all slices; the row is the number of the slice.
fn whole_row(t: Tile, slice: u32, unit: u32) -> vec4<f32> {
    workgroupBarrier();
    for (var row = 0u; row < ROWS; row++) {
        partial[(row * SLICES + slice) * UNITS + unit] = tile_row(t, row);
    }
    workgroupBarrier();
    var sum = vec4<f32>();
    if slice < ROWS {
        sum = gathered(slice, unit);
    }
    return sum;
}

// Begin and end of a slice of the depth, in whole iterations of the product's loop.
fn part_of(depth: u32, slice: u32) -> vec2<u32> {
    let part = ((depth + 16u * SLICES - 1u) / (16u * SLICES)) * 16u;
    return vec2(min(slice * part, depth), min((slice + 1u) * part, depth));
}
