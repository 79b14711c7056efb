// The column of every row's largest element, the first of equals; NaN is never the largest. One workgroup per row.
// CPU twin: `reference::argmax_rows`.

override WORKGROUP_SIZE: u32 = 64u;

struct ArgmaxRowsDims { rows: u32, columns: u32 }

@group(0) @binding(0) var<uniform> dims: ArgmaxRowsDims;
@group(0) @binding(1) var<storage, read> x: array<f32>;         // [rows, columns]
@group(0) @binding(2) var<storage, read_write> y: array<f32>;   // [rows], whole numbers

var<workgroup> largest: array<f32, WORKGROUP_SIZE>;
var<workgroup> place: array<u32, WORKGROUP_SIZE>;

// The place of a lane that has seen only NaN or no element.
const NOWHERE: u32 = 0xffffffffu;

@compute @workgroup_size(WORKGROUP_SIZE)
fn argmax_rows(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let row = group.y * groups.x + group.x;
    if row >= dims.rows {
        return;
    }
    var best = 0.0;
    var at = NOWHERE;
    for (var column = lane; column < dims.columns; column += WORKGROUP_SIZE) {
        let value = x[row * dims.columns + column];
        if !is_nan(value) && (at == NOWHERE || value > best) {
            best = value;
            at = column;
        }
    }
    largest[lane] = best;
    place[lane] = at;
    workgroupBarrier();
    for (var width = WORKGROUP_SIZE / 2u; width > 0u; width /= 2u) {
        if lane < width {
            let other = largest[lane + width];
            let there = place[lane + width];
            let here = place[lane];
            let first_of_equals = other == largest[lane] && there < here;
            if there != NOWHERE && (here == NOWHERE || other > largest[lane] || first_of_equals) {
                largest[lane] = other;
                place[lane] = there;
            }
        }
        workgroupBarrier();
    }
    if lane == 0u {
        y[row] = f32(select(place[0], 0u, place[0] == NOWHERE));
    }
}
