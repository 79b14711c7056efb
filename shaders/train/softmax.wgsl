// The terms of a row's softmax. A kernel that uses this file has the binding x and a uniform with the number of columns.

override WORKGROUP_SIZE: u32 = 64u;

var<workgroup> partial: array<f32, WORKGROUP_SIZE>;

// The row's largest element, and the sum of exp(x - largest) over the row. If any element is NaN, the sum is NaN.
fn softmax_terms(row: u32, lane: u32) -> vec2<f32> {
    let begin = row * dims.columns;
    // Every lane starts with an element of the row: WGSL cannot write minus infinity.
    var largest = x[begin];
    for (var column = lane; column < dims.columns; column += WORKGROUP_SIZE) {
        largest = max(largest, x[begin + column]);
    }
    partial[lane] = largest;
    workgroupBarrier();
    for (var width = WORKGROUP_SIZE / 2u; width > 0u; width /= 2u) {
        if lane < width {
            partial[lane] = max(partial[lane], partial[lane + width]);
        }
        workgroupBarrier();
    }
    largest = partial[0];
    workgroupBarrier();

    var sum = 0.0;
    for (var column = lane; column < dims.columns; column += WORKGROUP_SIZE) {
        sum += exponential(x[begin + column] - largest);
    }
    partial[lane] = sum;
    workgroupBarrier();
    for (var width = WORKGROUP_SIZE / 2u; width > 0u; width /= 2u) {
        if lane < width {
            partial[lane] += partial[lane + width];
        }
        workgroupBarrier();
    }
    return vec2(largest, partial[0]);
}
