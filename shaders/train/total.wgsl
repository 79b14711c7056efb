// The sum of a whole buffer by one workgroup, in a fixed order. This file stands behind lanes.wgsl; a kernel that uses it has the binding x.

fn total(count: u32, lane: u32) -> f32 {
    var sum = 0.0;
    for (var at = lane; at < count; at += WORKGROUP_SIZE) {
        sum += x[at];
    }
    return sum_of_lanes(sum, lane);
}
