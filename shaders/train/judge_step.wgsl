// The verdict on a training step: its loss, the norm of all gradients (from the norms of their parts), the factor that keeps the norm
// below its limit, whether loss and norm are finite, and the step's number. A bad verdict on the step before is copied. One workgroup.
// CPU twin: `ops::judge_step`.

override CLIPPED: bool = false;     // the gradients' norm has a limit

// The words of a verdict.
const LOSS: u32 = 0u;
const NORM: u32 = 1u;
const COEFFICIENT: u32 = 2u;
const GOOD: u32 = 3u;
const STEP: u32 = 4u;
const WORDS: u32 = 5u;
const ONE: u32 = 0x3f800000u;   // 1.0

struct JudgeStepDims { count: u32, step: u32, limit: f32 }

@group(0) @binding(0) var<uniform> dims: JudgeStepDims;
@group(0) @binding(1) var<storage, read> loss: array<f32>;      // [1]
@group(0) @binding(2) var<storage, read> x: array<f32>;         // [count], norms of parts
@group(0) @binding(3) var<storage, read> before: array<u32>;    // [5], the verdict on the step before
@group(0) @binding(4) var<storage, read_write> after: array<u32>;   // [5]

// Tests the bits, because drivers need not support infinities and NaN.
fn is_finite(x: f32) -> bool {
    return (bitcast<u32>(x) & 0x7f800000u) != 0x7f800000u;
}

fn element(at: u32) -> f32 {
    return x[at];
}

@compute @workgroup_size(WORKGROUP_SIZE)
fn judge_step(@builtin(local_invocation_index) lane: u32) {
    let whole = norm(0u, dims.count, lane);
    if lane != 0u {
        return;
    }
    if before[GOOD] != ONE {
        for (var word = 0u; word < WORDS; word++) {
            after[word] = before[word];
        }
        return;
    }
    let good = is_finite(loss[0]) && is_finite(whole);
    var coefficient = 1.0;
    if CLIPPED {
        coefficient = min(1.0, dims.limit / (whole + 1e-6));
    }
    after[LOSS] = bitcast<u32>(loss[0]);
    after[NORM] = bitcast<u32>(whole);
    after[COEFFICIENT] = bitcast<u32>(select(0.0, coefficient, good));
    after[GOOD] = select(0u, ONE, good);
    after[STEP] = dims.step;
}
