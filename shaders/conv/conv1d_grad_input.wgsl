// The gradient with respect to the signal of a one-dimensional cross-correlation. One invocation per element adds up the windows that
// held the element.
// CPU twin: `reference::conv1d_grad_input`.

@group(0) @binding(1) var<storage, read> weight: array<f32>;    // [out_channels, channels, kernel]
@group(0) @binding(2) var<storage, read> dy: array<f32>;        // [count, out_channels, out_length]
@group(0) @binding(3) var<storage, read_write> dx: array<f32>;  // [count, channels, length]

@compute @workgroup_size(WORKGROUP_SIZE)
fn conv1d_grad_input(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let at = flat_index(id, groups, WORKGROUP_SIZE);
    if at >= dims.count * dims.channels * dims.length {
        return;
    }
    let place = at % dims.length + dims.padding;
    let c = (at / dims.length) % dims.channels;
    let n = at / (dims.length * dims.channels);

    // The windows l with l stride <= place < l stride + kernel.
    let past = select(0u, (place - dims.kernel) / dims.stride + 1u, place >= dims.kernel);
    let end = min(place / dims.stride + 1u, dims.out_length);
    var sum = 0.0;
    for (var o = 0u; o < dims.out_channels; o++) {
        let filter_row = (o * dims.channels + c) * dims.kernel;
        let window_row = (n * dims.out_channels + o) * dims.out_length;
        for (var l = past; l < end; l++) {
            sum += weight[filter_row + place - l * dims.stride] * dy[window_row + l];
        }
    }
    dx[at] = sum;
}
