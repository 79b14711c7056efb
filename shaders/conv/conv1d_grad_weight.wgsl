// The gradient with respect to the weights of a one-dimensional cross-correlation. There is one workgroup per weight; its invocations
// share the windows.
// CPU twin: `reference::conv1d_grad_weight`.

@group(0) @binding(1) var<storage, read> x: array<f32>;         // [count, channels, length]
@group(0) @binding(2) var<storage, read> dy: array<f32>;        // [count, out_channels, out_length]
@group(0) @binding(3) var<storage, read_write> dw: array<f32>;  // [out_channels, channels, kernel]

var<workgroup> partial: array<f32, WORKGROUP_SIZE>;

@compute @workgroup_size(WORKGROUP_SIZE)
fn conv1d_grad_weight(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let at = group.y * groups.x + group.x;
    if at >= dims.out_channels * dims.channels * dims.kernel {
        return;
    }
    let k = at % dims.kernel;
    let c = (at / dims.kernel) % dims.channels;
    let o = at / (dims.kernel * dims.channels);

    var sum = 0.0;
    for (var window = lane; window < dims.count * dims.out_length; window += WORKGROUP_SIZE) {
        let n = window / dims.out_length;
        let l = window % dims.out_length;
        // The element's place in padded coordinates.
        let place = l * dims.stride + k;
        if place >= dims.padding && place < dims.padding + dims.length {
            let signal = (n * dims.channels + c) * dims.length;
            sum += x[signal + place - dims.padding] * dy[(n * dims.out_channels + o) * dims.out_length + l];
        }
    }
    partial[lane] = sum;
    workgroupBarrier();
    for (var width = WORKGROUP_SIZE / 2u; width > 0u; width /= 2u) {
        if lane < width {
            partial[lane] += partial[lane + width];
        }
        workgroupBarrier();
    }
    if lane == 0u {
        dw[at] = partial[0];
    }
}
