// What the kernels share that walk through a whole chunk of time in one dispatch. The file that follows, which says where the
// state lies, gives `direction_of(z)`: the direction of the layer that z counts.

override REVERSE: u32 = 0u;         // bit d: direction d walks from the last step to the first
override RESETS: bool = false;      // `flags` may say that a row returns to its initial value

fn is_reverse(z: u32) -> bool {
    return ((REVERSE >> direction_of(z)) & 1u) != 0u;
}

// The place in the sequence of a step, counted in the order of processing.
fn time_at(z: u32, step: u32) -> u32 {
    return select(step, dims.time - 1u - step, is_reverse(z));
}

// A depth in whole parts: behind the last unit both sides of the product are zeros.
fn whole_parts(depth: u32) -> u32 {
    return (depth + 15u) & ~15u;
}

fn state_weights(z: u32, used: u32) -> Matrix {
    return Matrix(dims.weights + z * dims.weights_stride, GATES, used);
}

fn y_index(at: Place, time: u32, unit: u32) -> u32 {
    return ((time * dims.batch + at.row) * dims.directions + direction_of(at.z)) * dims.out + unit;
}

fn projected(at: Place, unit: u32) -> vec4<f32> {
    // A chunk holds its steps in the order of time.
    let first = select(dims.first_step, dims.time - dims.first_step - dims.steps, at.reverse);
    let i = ((direction_of(at.z) * dims.steps + at.time - first) * dims.batch + at.row) * dims.hidden + unit;
    if GATES == 1u {
        return vec4(gates_x[i / 4u][i % 4u], 0.0, 0.0, 0.0);
    }
    return gates_x[i];
}

// A walk is no pass of training: it saves nothing, and every unit moves.
fn save_gates(at: Place, unit: u32, a: vec4<f32>) {
}

fn moves(at: Place, unit: u32) -> bool {
    return true;
}

fn moves_cell(at: Place, unit: u32) -> bool {
    return true;
}
