// The norm of some elements by one workgroup, in a fixed order. This file stands behind lanes.wgsl; a kernel that uses it has a
// function `element(at)`.
//
// Before they are squared, elements are scaled by a power of two, so that the largest lies between 1 and 2. So no square overflows, and
// only squares too small to change the sum vanish.

var<workgroup> largest: atomic<u32>;    // the bits of the largest magnitude

const MAGNITUDE: u32 = 0x7fffffffu;     // all bits but the sign
const INFINITE: u32 = 0x7f800000u;

fn norm(begin: u32, end: u32, lane: u32) -> f32 {
    // Magnitudes have the order of their bits, with infinities and NaN above all others.
    var most = 0u;
    for (var at = begin + lane; at < end; at += WORKGROUP_SIZE) {
        most = max(most, bitcast<u32>(element(at)) & MAGNITUDE);
    }
    atomicMax(&largest, most);
    workgroupBarrier();
    most = atomicLoad(&largest);
    // The biased exponent, clamped so that both the scale and its inverse are normal numbers.
    let exponent = clamp(most >> 23u, 1u, 253u);
    let scale = bitcast<f32>((254u - exponent) << 23u);
    var sum = 0.0;
    for (var at = begin + lane; at < end; at += WORKGROUP_SIZE) {
        let scaled = element(at) * scale;
        sum += scaled * scaled;
    }
    let unscaled = sqrt(sum_of_lanes(sum, lane)) * bitcast<f32>(exponent << 23u);
    return bitcast<f32>(select(bitcast<u32>(unscaled), most, most >= INFINITE));
}
