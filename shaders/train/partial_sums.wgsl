// The sums or the norms of runs of consecutive elements, one workgroup per run. `total_sum` adds up the sums, `judge_step` combines the
// norms.
// CPU twin: a sum in f64.

override NORM: bool = false;
override CLAMPED: bool = false;     // each element is clamped to [-limit, limit]

// Elements of a run per invocation.
const RUN: u32 = 64u;

struct PartialSumsDims { count: u32, y_offset: u32, limit: f32 }

@group(0) @binding(0) var<uniform> dims: PartialSumsDims;
@group(0) @binding(1) var<storage, read> x: array<f32>;         // [count]
@group(0) @binding(2) var<storage, read_write> y: array<f32>;   // one per workgroup, from y_offset on

fn element(at: u32) -> f32 {
    var value = x[at];
    if CLAMPED {
        value = clip(value, dims.limit);
    }
    return value;
}

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
    var result = 0.0;
    if NORM {
        result = norm(begin, end, lane);
    } else {
        for (var at = begin + lane; at < end; at += WORKGROUP_SIZE) {
            result += element(at);
        }
        result = sum_of_lanes(result, lane);
    }
    if lane == 0u {
        y[dims.y_offset + run] = result;
    }
}
