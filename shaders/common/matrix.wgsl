// The operations of a subgroup on matrices in workgroup memory. The kernel that includes this file declares three arrays there: `left`,
// with matrices row by row, `right`, column by column, and `found`, row by row. `at` is the first element of a matrix.

fn left_at(at: u32) -> Left {
    return coopLoadT<Left>(&left[at], SIDE);
}

fn right_at(at: u32) -> Right {
    return coopLoad<Right>(&right[at], SIDE);
}

fn multiply(a: Left, b: Right, sums: Sums) -> Sums {
    return coopMultiplyAdd(a, b, sums);
}

fn put_sums(sums: Sums, at: u32) {
    coopStoreT(sums, &found[at], SIDE);
}
