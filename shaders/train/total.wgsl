// The sum of a whole buffer by one workgroup, in a fixed order. A kernel that uses it has the binding x.

override WORKGROUP_SIZE: u32 = 64u;

var<workgroup> partial: array<f32, WORKGROUP_SIZE>;

fn total(count: u32, lane: u32) -> f32 {
    var sum = 0.0;
    for (var at = lane; at < count; at += WORKGROUP_SIZE) {
        sum += x[at];
    }
    partial[lane] = sum;
    workgroupBarrier();
    for (var width = WORKGROUP_SIZE / 2u; width > 0u; width /= 2u) {
        if lane < width {
            partial[lane] += partial[lane + width];
        }
        workgroupBarrier();
    }
    return partial[0];
}
