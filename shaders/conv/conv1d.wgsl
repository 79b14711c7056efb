// One-dimensional cross-correlation with stride and zero padding; one invocation per output element.
// CPU twin: `reference::conv1d`.

@group(0) @binding(1) var<storage, read> x: array<f32>;         // [count, channels, length]
@group(0) @binding(2) var<storage, read> weight: array<f32>;    // [out_channels, channels, kernel]
@group(0) @binding(3) var<storage, read> bias: array<f32>;      // [out_channels]
@group(0) @binding(4) var<storage, read_write> y: array<f32>;   // [count, out_channels, out_length]

@compute @workgroup_size(WORKGROUP_SIZE)
fn conv1d(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let at = flat_index(id, groups, WORKGROUP_SIZE);
    if at >= dims.count * dims.out_channels * dims.out_length {
        return;
    }
    let l = at % dims.out_length;
    let o = (at / dims.out_length) % dims.out_channels;
    let n = at / (dims.out_length * dims.out_channels);

    // The window in padded coordinates, limited to the signal.
    let begin = l * dims.stride;
    let first = max(begin, dims.padding) - begin;
    let last = min(begin + dims.kernel, dims.padding + dims.length);
    let taps = max(last, begin + first) - begin;

    var sum = bias[o];
    for (var c = 0u; c < dims.channels; c++) {
        let signal = (n * dims.channels + c) * dims.length + begin - dims.padding;
        let filter_row = (o * dims.channels + c) * dims.kernel;
        for (var k = first; k < taps; k++) {
            sum += weight[filter_row + k] * x[signal + k];
        }
    }
    y[at] = sum;
}
