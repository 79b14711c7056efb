// One time step of a layer, all directions, or of all layers at once (WAVE): the product of the recurrent weights with the
// state, the gates and the state update in one dispatch. An invocation owns a unit, all its gates included, of ROWS rows, or a
// slice of its product along the depth. Weights are read once for all the rows.

override UNITS: u32 = 64u;      // units of a workgroup
override SLICES: u32 = 1u;      // parts of the depth; if there are several, at least as many as rows
override PARTIAL: u32 = 1u;     // ROWS * SLICES * UNITS if there are several slices

var<workgroup> partial: array<vec4<f32>, PARTIAL>;

// The sums of one row over all slices; the row is the number of the slice.
fn whole_row(t: Tile, slice: u32, unit: u32) -> vec4<f32> {
    let rows = tile_rows(t);
    workgroupBarrier();
    for (var row = 0u; row < ROWS; row++) {
        partial[(row * SLICES + slice) * UNITS + unit] = rows[row];
    }
    workgroupBarrier();
    var sum = vec4<f32>();
    if slice < ROWS {
        for (var other = 0u; other < SLICES; other++) {
            sum += partial[(slice * SLICES + other) * UNITS + unit];
        }
    }
    return sum;
}

// The slice's part of a depth: whole turns of the product's loop.
fn part_of(depth: u32, slice: u32) -> vec2<u32> {
    let part = ((depth + 16u * SLICES - 1u) / (16u * SLICES)) * 16u;
    return vec2(min(slice * part, depth), min((slice + 1u) * part, depth));
}

@compute @workgroup_size(UNITS, SLICES)
fn recurrent_step(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_id) local: vec3<u32>,
) {
    let z = group.z;
    if !takes_part(z) {
        return;
    }
    let last = !WAVE || z + 1u == groups.z;
    let first_row = group.y * ROWS;
    let unit = group.x * UNITS + local.x;
    let present = min(unit, units() - 1u);
    let slice = local.y;

    let depth = state_depth();
    let part = part_of(depth, slice);
    let t = product(state_source(z, first_row, 0u), state_weights(z), present, depth, part.x, part.y);
    var t_x = Tile();
    if WAVE && z > 0u {
        let part = part_of(dims.out, slice);
        t_x = product(below_source(z, first_row, 0u), input_weights(z), present, dims.out, part.x, part.y);
    }
    if SLICES > 1u {
        let sum = whole_row(t, slice, local.x);
        var sum_x = vec4<f32>();
        if WAVE && z > 0u {
            sum_x = whole_row(t_x, slice, local.x);
        }
        let row = first_row + slice;
        if slice < ROWS && row < dims.batch && unit < units() {
            finish(z, row, unit, sum, sum_x, last);
        }
        return;
    }
    if unit < units() {
        let sums = tile_rows(t);
        let sums_x = tile_rows(t_x);
        for (var row = 0u; row < min(ROWS, dims.batch - first_row); row++) {
            finish(z, first_row + row, unit, sums[row], sums_x[row], last);
        }
    }
}
