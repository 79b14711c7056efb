// The sums of runs of elements, or of their squares; one workgroup a run. `total_sum` or `judge_step` adds them up.
// CPU twin: a sum in f64.

override WORKGROUP_SIZE: u32 = 64u;
override SQUARES: bool = false;
override CLAMPED: bool = false;     // each element to [-limit, limit]

// Elements an invocation.
const RUN: u32 = 64u;

struct PartialSumsDims { count: u32, y_offset: u32, limit: f32 }

@group(0) @binding(0) var<uniform> dims: PartialSumsDims;
@group(0) @binding(1) var<storage, read> x: array<f32>;         // [count]
@group(0) @binding(2) var<storage, read_write> y: array<f32>;   // one a workgroup, from y_offset on

var<workgroup> partial: array<f32, WORKGROUP_SIZE>;

@compute @workgroup_size(WORKGROUP_SIZE)
fn partial_sums(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let run = group.y * groups.x + group.x;
    let begin = run * RUN * WORKGROUP_SIZE;
    if begin >= dims.count {
        return;
    }
    let end = min(begin + RUN * WORKGROUP_SIZE, dims.count);
    var sum = 0.0;
    for (var at = begin + lane; at < end; at += WORKGROUP_SIZE) {
        var value = x[at];
        if CLAMPED {
            value = clip(value, dims.limit);
        }
        sum += select(value, value * value, SQUARES);
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
        y[dims.y_offset + run] = partial[0];
    }
}
