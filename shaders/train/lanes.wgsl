// The sum of one value per lane of a workgroup, in a fixed order.

override WORKGROUP_SIZE: u32 = 64u;     // a power of two

var<workgroup> partial: array<f32, WORKGROUP_SIZE>;

fn sum_of_lanes(value: f32, lane: u32) -> f32 {
    partial[lane] = value;
    workgroupBarrier();
    for (var width = WORKGROUP_SIZE / 2u; width > 0u; width /= 2u) {
        if lane < width {
            partial[lane] += partial[lane + width];
        }
        workgroupBarrier();
    }
    return partial[0];
}
