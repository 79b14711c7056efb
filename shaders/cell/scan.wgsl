// The common part of the scans, which compute a whole chunk of time in one dispatch.

override RESETS: bool = false;      // `flags` may say that a row returns to its initial value

// Rounds a depth up to whole parts of 16 elements: behind the last unit both factors of a product are zeros.
fn whole_parts(depth: u32) -> u32 {
    return (depth + 15u) & ~15u;
}

// A scan is no training pass: it saves nothing, and every unit takes its new value.
fn save_gates(at: RowStep, unit: u32, a: vec4<f32>) {
}

fn moves(at: RowStep, unit: u32) -> bool {
    return true;
}

fn moves_cell(at: RowStep, unit: u32) -> bool {
    return true;
}
