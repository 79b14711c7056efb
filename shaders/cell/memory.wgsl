// Reading and writing what every kernel of a time step has bound in the same way. Where the state lies, and `y_index`, follow.

fn weight_word(at: u32) -> vec4<u32> {
    return weights[at];
}

fn vector_element(at: u32) -> f32 {
    return vectors[at];
}

fn vectors_of(at: Place) -> u32 {
    return dims.vectors + at.z * VECTOR_ROWS * dims.hidden;
}

fn flag_of(time: u32, row: u32) -> u32 {
    if FLAGS {
        return flags[time * dims.batch + row];
    }
    return FLAG_VALID;
}

fn y_at(at: Place, time: u32, unit: u32) -> f32 {
    return y[y_index(at, time, unit)];
}

fn put_y(at: Place, time: u32, unit: u32, h: f32) {
    y[y_index(at, time, unit)] = h;
}
