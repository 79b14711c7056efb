// Reads the vectors that vector_rows.wgsl lays out.

// The kernel that includes this gives `vector_element(at) -> f32`.
fn vector_at(vectors: u32, hidden: u32, row: u32, unit: u32) -> f32 {
    return vector_element(vectors + row * hidden + unit);
}

// The elements of a unit in 4 rows from `row` on, one per gate.
fn gates_at(gates: u32, vectors: u32, hidden: u32, row: u32, unit: u32) -> vec4<f32> {
    var v = vec4<f32>();
    v.x = vector_at(vectors, hidden, row, unit);
    if gates > 1u {
        v.y = vector_at(vectors, hidden, row + 1u, unit);
    }
    if gates > 2u {
        v.z = vector_at(vectors, hidden, row + 2u, unit);
    }
    if gates > 3u {
        v.w = vector_at(vectors, hidden, row + 3u, unit);
    }
    return v;
}

// Scales the sums of a product with int8 weights by the rows' scales; leaves other sums as they are.
fn rescale(gates: u32, sum: vec4<f32>, vectors: u32, hidden: u32, row: u32, unit: u32) -> vec4<f32> {
    if WEIGHT_TYPE == WEIGHT_INT8 {
        return sum * gates_at(gates, vectors, hidden, row, unit);
    }
    return sum;
}
