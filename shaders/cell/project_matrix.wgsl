// The input projection by the adapter's own matrices. A workgroup has STRIPES matrices of rows and one of units; a subgroup of it has
// one gate of these. Where the adapter's subgroups are smaller than they may be, those beyond the gates repeat the last one's work.
//
// Where operands are narrower than f32, a row of x is scaled by a power of two, so that its largest element lies near the upper end of
// their range, and every element is the sum of two of them: so x keeps the precision that it has. Weights are exact in such operands, or the plan
// does not choose this kernel.

override WORKGROUP_SIZE: u32 = 128u;    // for every gate as many invocations as the largest subgroup has

const STRIPES: u32 = 2u;
const AREA: u32 = SIDE * SIDE;
const TALL: u32 = STRIPES * SIDE;       // rows of a workgroup

var<workgroup> left: array<Operand, PARTS * TALL * SIDE>;   // [PARTS, TALL, SIDE elements of the depth]
var<workgroup> right: array<Operand, 4u * AREA>;            // [gates, SIDE units, SIDE elements of the depth]
var<workgroup> found: array<f32, 4u * AREA>;                // [gates, SIDE rows, SIDE units]
var<workgroup> largest: array<atomic<u32>, TALL>;           // the bits of the largest magnitude in a row

// Where a workgroup's part of the result begins.
struct Corner { direction: u32, row: u32, unit: u32 }

// Finds the largest magnitude of every row. As bits they are ordered alike, infinities and NaN above all others.
fn measure_rows(source: Source, lane: u32) {
    let words = (dims.depth + 3u) / 4u;
    for (var i = lane; i < TALL * words; i += WORKGROUP_SIZE) {
        let row = i / words;
        let v = abs(four(source_row(source, row), 4u * (i % words), dims.depth));
        atomicMax(&largest[row], bitcast<u32>(max(max(v.x, v.y), max(v.z, v.w))));
    }
}

// The exponent of a row's largest magnitude, biased as in its bits, as far as both the scale and its inverse are numbers.
fn exponent_of(row: u32) -> u32 {
    return clamp(atomicLoad(&largest[row]) >> 23u, 15u, 255u);
}

// The power of two that takes a row's largest magnitude to between 2^14 and 2^15.
fn scale_of(row: u32) -> f32 {
    if PARTS == 1u {
        return 1.0;
    }
    return bitcast<f32>((268u - exponent_of(row)) << 23u);
}

// Its inverse.
fn unscale_of(row: u32) -> f32 {
    if PARTS == 1u {
        return 1.0;
    }
    return bitcast<f32>((exponent_of(row) - 14u) << 23u);
}

fn put_left(at: u32, x: f32) {
    let near = narrow(x);
    left[at] = near;
    if PARTS > 1u {
        // An infinity leaves nothing.
        let endless = (bitcast<u32>(x) & 0x7fffffffu) == 0x7f800000u;
        left[TALL * SIDE + at] = narrow(select(x - f32(near), 0.0, endless));
    }
}

fn put_right(at: u32, w: vec4<f32>) {
    right[at] = narrow(w.x);
    right[at + 1u] = narrow(w.y);
    right[at + 2u] = narrow(w.z);
    right[at + 3u] = narrow(w.w);
}

// Brings SIDE elements of the depth of every row, zeros behind its end.
fn stage_rows(source: Source, k: u32, lane: u32) {
    for (var i = lane; i < TALL * SIDE / 4u; i += WORKGROUP_SIZE) {
        let row = i / (SIDE / 4u);
        let column = 4u * (i % (SIDE / 4u));
        let v = four(source_row(source, row), k + column, dims.depth) * scale_of(row);
        let at = row * SIDE + column;
        put_left(at, v.x);
        put_left(at + 1u, v.y);
        put_left(at + 2u, v.z);
        put_left(at + 3u, v.w);
    }
}

// Brings the units' weights of the same elements; units beyond the last one repeat it.
fn stage_weights(m: Matrix, first_unit: u32, k: u32, lane: u32) {
    for (var i = lane; i < AREA / 4u; i += WORKGROUP_SIZE) {
        let column = 4u * (i / SIDE);
        let unit = min(first_unit + i % SIDE, dims.hidden - 1u);
        let at = (i % SIDE) * SIDE + column;
        var w = step_weights(m, unit_word(m, unit, dims.depth, k + column));
        if m.gates == 1u {
            put_right(at, w[(k + column) / 4u % 4u]);
        } else {
            put_right(at, w[0]);
            put_right(AREA + at, w[1]);
            put_right(2u * AREA + at, w[2]);
            put_right(3u * AREA + at, w[3]);
        }
    }
}

fn add_stripe(stripe: u32, weights: Right, sums: Sums) -> Sums {
    let total = multiply(left_at(stripe * AREA), weights, sums);
    if PARTS > 1u {
        return multiply(left_at((STRIPES + stripe) * AREA), weights, total);
    }
    return total;
}

fn store_stripe(corner: Corner, stripe: u32, gate: u32, sums: Sums, lane: u32) {
    put_sums(sums, gate * AREA);
    workgroupBarrier();
    for (var i = lane; i < AREA; i += WORKGROUP_SIZE) {
        let of_tile = stripe * SIDE + i / SIDE;
        let row = corner.row + of_tile;
        let unit = corner.unit + i % SIDE;
        if row < dims.rows && unit < dims.hidden {
            let sums = vec4(found[i], found[AREA + i], found[2u * AREA + i], found[3u * AREA + i]) * unscale_of(of_tile);
            let v = dims.vectors + corner.direction * VECTOR_ROWS * dims.hidden;
            let sum = rescale(GATES, sums, v, dims.hidden, SCALE_INPUT, unit);
            put_gates(corner.direction, row, unit, sum + gates_at(GATES, v, dims.hidden, BIAS, unit));
        }
    }
    // All has been read before it is written again.
    workgroupBarrier();
}

fn project_matrix(group: vec3<u32>, lane: u32, subgroup: u32) {
    let corner = Corner(group.z, group.y * TALL, group.x * SIDE);
    let gate = min(subgroup, GATES - 1u);
    let source = rows_of(corner.direction, corner.row, 0u);
    if PARTS > 1u {
        measure_rows(source, lane);
        workgroupBarrier();
    }
    var a = Sums();
    var b = Sums();
    for (var k = 0u; k < dims.depth; k += SIDE) {
        stage_rows(source, k, lane);
        stage_weights(weights_of(corner.direction), corner.unit, k, lane);
        workgroupBarrier();
        let weights = right_at(gate * AREA);
        a = add_stripe(0u, weights, a);
        b = add_stripe(1u, weights, b);
        workgroupBarrier();
    }
    store_stripe(corner, 0u, gate, a, lane);
    store_stripe(corner, 1u, gate, b, lane);
}
