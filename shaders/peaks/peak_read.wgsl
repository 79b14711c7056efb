// Sums of words of 16 bytes, each read many times by invocations far apart. They measure the bandwidth of the cache that holds all words.
// Twin: `peak_read` in `tests/parity/peaks.rs`.

override WORKGROUP_SIZE: u32 = 64u;

struct PeakReadDims {
    count: u32,   // invocations
    mask: u32,    // number of words of x, a power of two, less 1
    step: u32,    // words from one read of an invocation to its next
    reads: u32,   // reads of an invocation
}

@group(0) @binding(0) var<uniform> dims: PeakReadDims;
@group(0) @binding(1) var<storage, read> x: array<vec4<f32>>;        // [mask + 1]
@group(0) @binding(2) var<storage, read_write> y: array<vec4<f32>>;  // [count]

@compute @workgroup_size(WORKGROUP_SIZE)
fn peak_read(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let at = flat_index(id, groups, WORKGROUP_SIZE);
    if at >= dims.count {
        return;
    }
    var sum = vec4<f32>();
    for (var k = 0u; k < dims.reads; k += 4u) {
        let word = at + k * dims.step;
        let near = x[word & dims.mask] + x[(word + dims.step) & dims.mask];
        sum += near + (x[(word + 2u * dims.step) & dims.mask] + x[(word + 3u * dims.step) & dims.mask]);
    }
    y[at] = sum;
}
