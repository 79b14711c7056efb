// The norm of some elements by one workgroup, in a fixed order. This file stands behind lanes.wgsl; a kernel that uses it has a
// function `element(at)`.
//
// Before they are squared, elements are scaled by a power of two, so that the largest lies between 1 and 2: no square overflows, and
// no square that matters vanishes.

var<workgroup> largest: atomic<u32>;    // the bits of the largest magnitude

const MAGNITUDE: u32 = 0x7fffffffu;     // all bits but the sign
const INFINITE: u32 = 0x7f800000u;

fn norm(begin: u32, end: u32, lane: u32) -> f32 {
    // As bits, magnitudes are ordered alike, infinities and NaN above all numbers.
    var most = 0u;
    for (var at = begin + lane; at < end; at += WORKGROUP_SIZE) {
        most = max(most, bitcast<u32>(element(at)) & MAGNITUDE);
    }
    atomicMax(&largest, most);
    workgroupBarrier();
    most = atomicLoad(&largest);
    // The biased exponent, as far as both the scale and its inverse are normal numbers.
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
