// Updates one parameter by PyTorch's rules. If the verdict on the step is bad, copies parameter and slots unchanged.
// CPU twin: `reference::Update`.

override WORKGROUP_SIZE: u32 = 64u;
override RULE: u32 = 0u;
override CLAMPED: bool = false;     // each element of the gradient is clamped to [-limit, limit]
override MOMENTUM: bool = false;
override NESTEROV: bool = false;
override CENTERED: bool = false;
override DECOUPLED: bool = false;
override AMSGRAD: bool = false;

const SGD: u32 = 0u;
const RMS_PROP: u32 = 1u;

// Words of a verdict.
const COEFFICIENT: u32 = 2u;
const GOOD: u32 = 3u;
const ONE: u32 = 0x3f800000u;   // 1.0

struct OptimizerStepDims {
    count: u32,
    first: u32,         // whether it is the parameter's first update
    limit: f32,
    rate: f32,          // Adam: rate / (1 - beta1^t)
    decay: f32,         // weight decay; DECOUPLED: the factor 1 - rate * weight decay
    momentum: f32,
    dampened: f32,      // SGD: 1 - dampening; Adam: 1 - beta1
    kept: f32,          // factor of the old mean square
    rest: f32,          // 1 - kept
    eps: f32,
    root: f32,          // Adam: sqrt(1 - beta2^t)
}

@group(0) @binding(0) var<uniform> dims: OptimizerStepDims;
@group(0) @binding(1) var<storage, read> p: array<f32>;             // [count]
@group(0) @binding(2) var<storage, read> gradient: array<f32>;      // [count]
@group(0) @binding(3) var<storage, read> slots: array<f32>;         // [slots, count]
@group(0) @binding(4) var<storage, read> verdict: array<u32>;       // [5]
@group(0) @binding(5) var<storage, read_write> moved: array<f32>;   // [count]
@group(0) @binding(6) var<storage, read_write> kept: array<f32>;    // [slots, count]

fn sgd(at: u32, p: f32, gradient: f32) -> f32 {
    let g = gradient + dims.decay * p;
    if !MOMENTUM {
        return p - dims.rate * g;
    }
    let buffer = select(dims.momentum * slots[at] + dims.dampened * g, g, dims.first != 0u);
    kept[at] = buffer;
    return p - dims.rate * select(buffer, g + dims.momentum * buffer, NESTEROV);
}

fn rms_prop(at: u32, p: f32, gradient: f32) -> f32 {
    let g = gradient + dims.decay * p;
    let square = dims.kept * slots[at] + dims.rest * g * g;
    kept[at] = square;
    var deviation = square;
    if CENTERED {
        let place = dims.count * select(1u, 2u, MOMENTUM) + at;
        let mean = slots[place] + dims.rest * (g - slots[place]);
        kept[place] = mean;
        // If the gradient does not change, rounding may make the spread negative. If both squares overflow, it is NaN.
        let spread = square - mean * mean;
        deviation = select(max(spread, 0.0), square, is_nan(spread));
    }
    let direction = g / (square_root(deviation) + dims.eps);
    if !MOMENTUM {
        return p - dims.rate * direction;
    }
    let buffer = dims.momentum * slots[dims.count + at] + direction;
    kept[dims.count + at] = buffer;
    return p - dims.rate * buffer;
}

fn adam(at: u32, before: f32, gradient: f32) -> f32 {
    let g = gradient + select(dims.decay * before, 0.0, DECOUPLED);
    let p = select(before, before * dims.decay, DECOUPLED);
    let mean = slots[at] + dims.dampened * (g - slots[at]);
    let square = dims.kept * slots[dims.count + at] + dims.rest * g * g;
    kept[at] = mean;
    kept[dims.count + at] = square;
    var largest = square;
    if AMSGRAD {
        largest = max(slots[2u * dims.count + at], square);
        kept[2u * dims.count + at] = largest;
    }
    return p - dims.rate * mean / (sqrt(largest) / dims.root + dims.eps);
}

// Number of slots that the rule has.
fn slot_count() -> u32 {
    switch RULE {
        case SGD: { return u32(MOMENTUM); }
        case RMS_PROP: { return 1u + u32(MOMENTUM) + u32(CENTERED); }
        default: { return 2u + u32(AMSGRAD); }
    }
}

@compute @workgroup_size(WORKGROUP_SIZE)
fn optimizer_step(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let at = flat_index(id, groups, WORKGROUP_SIZE);
    if at >= dims.count {
        return;
    }
    if verdict[GOOD] != ONE {
        moved[at] = p[at];
        for (var slot = 0u; slot < slot_count(); slot++) {
            kept[slot * dims.count + at] = slots[slot * dims.count + at];
        }
        return;
    }
    var g = gradient[at];
    if CLAMPED {
        g = clip(g, dims.limit);
    }
    g *= bitcast<f32>(verdict[COEFFICIENT]);
    switch RULE {
        case SGD: { moved[at] = sgd(at, p[at], g); }
        case RMS_PROP: { moved[at] = rms_prop(at, p[at], g); }
        default: { moved[at] = adam(at, p[at], g); }
    }
}
