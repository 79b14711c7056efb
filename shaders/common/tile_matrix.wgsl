// A tile of a matrix product by cooperative matrices. A workgroup has STRIPES matrices of rows and one matrix of units; each of its
// subgroups computes one gate. If subgroups are smaller than the adapter's largest, there are more subgroups than gates, and the others
// repeat the work of the last gate. This file stands behind `tile.wgsl`, in the place of `tile_rows.wgsl`.
//
// If operands are narrower than f32, a row of the source is scaled by a power of two, so that its largest element lies near the upper
// end of their range. Every element is then split into the sum of two operands, so that the source keeps its precision. If the operands
// do not hold the weights exactly, the plan does not choose such a kernel.

override WORKGROUP_SIZE: u32 = 128u;    // invocations of the largest subgroup, times the number of gates
override PRODUCTS: u32 = 1u;            // products per unit whose sums are kept apart: that of h, and in a wave that of the input

const STRIPES: u32 = 2u;
const AREA: u32 = SIDE * SIDE;
const TALL: u32 = STRIPES * SIDE;       // rows of a workgroup
const MOST_GATES: u32 = 4u;

// Sizes that grow with the number of products; naga takes the size of an array by name only.
override FOUND: u32 = PRODUCTS * MOST_GATES * AREA;
override LARGEST: u32 = PRODUCTS * TALL;

var<workgroup> left: array<Operand, PARTS * TALL * SIDE>;       // [PARTS, TALL, SIDE elements of the depth]
var<workgroup> right: array<Operand, MOST_GATES * AREA>;        // [gates, SIDE units, SIDE elements of the depth]
var<workgroup> found: array<f32, FOUND>;                        // [PRODUCTS, gates, SIDE rows, SIDE units]
var<workgroup> largest: array<atomic<u32>, LARGEST>;            // per product, the bits of the largest magnitude in a row

// An invocation's index in the workgroup, the gate of its subgroup, the first unit of the workgroup and the number of all units.
struct Worker { lane: u32, gate: u32, first_unit: u32, units: u32 }

// Finds the largest magnitude of every row. Magnitudes have the order of their bits, with infinities and NaN above all others.
fn measure_rows(source: RowSource, depth: u32, term: u32, lane: u32) {
    let words = (depth + 3u) / 4u;
    for (var i = lane; i < TALL * words; i += WORKGROUP_SIZE) {
        let row = i / words;
        let v = abs(four(source_row(source, row), 4u * (i % words), depth));
        atomicMax(&largest[term * TALL + row], bitcast<u32>(max(max(v.x, v.y), max(v.z, v.w))));
    }
}

// The exponent of a row's largest magnitude, biased as in its bits, clamped so that both the scale and its inverse are finite.
fn exponent_of(term: u32, row: u32) -> u32 {
    return clamp(atomicLoad(&largest[term * TALL + row]) >> 23u, 15u, 255u);
}

// The power of two that takes a row's largest magnitude to between 2^14 and 2^15.
fn scale_of(term: u32, row: u32) -> f32 {
    if PARTS == 1u {
        return 1.0;
    }
    return bitcast<f32>((268u - exponent_of(term, row)) << 23u);
}

// The inverse of `scale_of`.
fn unscale_of(term: u32, row: u32) -> f32 {
    if PARTS == 1u {
        return 1.0;
    }
    return bitcast<f32>((exponent_of(term, row) - 14u) << 23u);
}

fn put_left(at: u32, x: f32) {
    let near = narrow(x);
    left[at] = near;
    if PARTS > 1u {
        // The remainder of an infinity is 0, as infinity less infinity would be NaN.
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

// Copies SIDE elements of the depth of every row to workgroup memory, and zeros behind the end of the depth.
fn stage_rows(source: RowSource, depth: u32, k: u32, term: u32, lane: u32) {
    for (var i = lane; i < TALL * SIDE / 4u; i += WORKGROUP_SIZE) {
        let row = i / (SIDE / 4u);
        let column = 4u * (i % (SIDE / 4u));
        let v = four(source_row(source, row), k + column, depth) * scale_of(term, row);
        let at = row * SIDE + column;
        put_left(at, v.x);
        put_left(at + 1u, v.y);
        put_left(at + 2u, v.z);
        put_left(at + 3u, v.w);
    }
}

// Copies the units' weights of SIDE elements of the depth to workgroup memory. Units beyond the last one repeat it.
fn stage_weights(m: Matrix, depth: u32, k: u32, worker: Worker) {
    for (var i = worker.lane; i < AREA / 4u; i += WORKGROUP_SIZE) {
        let column = 4u * (i / SIDE);
        let unit = min(worker.first_unit + i % SIDE, worker.units - 1u);
        let at = (i % SIDE) * SIDE + column;
        var w = step_weights(m, unit_word(m, unit, depth, k + column));
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

// Adds the products of all rows with the weights of the workgroup's units to the sums of both stripes.
fn add_products(
    source: RowSource, m: Matrix, depth: u32, term: u32, worker: Worker, a: ptr<function, Sums>, b: ptr<function, Sums>
) {
    if PARTS > 1u {
        measure_rows(source, depth, term, worker.lane);
        workgroupBarrier();
    }
    for (var k = 0u; k < depth; k += SIDE) {
        stage_rows(source, depth, k, term, worker.lane);
        stage_weights(m, depth, k, worker);
        workgroupBarrier();
        let weights = right_at(worker.gate * AREA);
        *a = add_stripe(0u, weights, *a);
        *b = add_stripe(1u, weights, *b);
        workgroupBarrier();
    }
}

// The sums of all gates of element `i` of a stripe, which belongs to the workgroup's row `row`.
fn found_sums(term: u32, i: u32, row: u32) -> vec4<f32> {
    let at = term * MOST_GATES * AREA + i;
    return vec4(found[at], found[AREA + at], found[2u * AREA + at], found[3u * AREA + at]) * unscale_of(term, row);
}
