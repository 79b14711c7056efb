// Sizes of a one-dimensional cross-correlation and of its gradients.

override WORKGROUP_SIZE: u32 = 64u;

struct Conv1dDims {
    count: u32,
    channels: u32,
    length: u32,
    out_channels: u32,
    out_length: u32,
    kernel: u32,
    stride: u32,
    padding: u32,
}

@group(0) @binding(0) var<uniform> dims: Conv1dDims;
