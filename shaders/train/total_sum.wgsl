// The scaled sum of a whole buffer; one workgroup.
// CPU twin: a sum in f64.

struct TotalSumDims { count: u32, scale: f32 }

@group(0) @binding(0) var<uniform> dims: TotalSumDims;
@group(0) @binding(1) var<storage, read> x: array<f32>;         // [count]
@group(0) @binding(2) var<storage, read_write> y: array<f32>;   // [1]

@compute @workgroup_size(WORKGROUP_SIZE)
fn total_sum(@builtin(local_invocation_index) lane: u32) {
    let sum = total(dims.count, lane);
    if lane == 0u {
        y[0] = dims.scale * sum;
    }
}
