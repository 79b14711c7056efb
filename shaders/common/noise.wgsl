// The random masks of training. Whether an element is dropped is a hash of seed, step, mask and the element's index, so that the
// backward pass, and any other device, draws the same masks again.
// CPU twins: `cell::Draw`, `cell::Noise`.

override RECURRENT_DROPOUT: bool = false;   // the recurrent products read h through a dropout mask
override ZONEOUT_H: bool = false;           // some units of h keep their value in a step
override ZONEOUT_S: bool = false;           // some units of the cell state keep their value in a step

// The kinds of masks of `cell::Mask`.
const RECURRENT_MASK: u32 = 1u;
const ZONEOUT_H_MASK: u32 = 2u;
const ZONEOUT_S_MASK: u32 = 3u;

struct Noise {
    seed_low: u32,
    seed_high: u32,
    step: u32,
    row: u32,               // index of the layer's first direction, counted over all layers
    recurrent: u32,         // thresholds of the three masks
    zoneout_h: u32,
    zoneout_s: u32,
    recurrent_scale: f32,   // scale of the elements that recurrent dropout keeps
}

// Jarzynski and Olano's `pcg4d` ("Hash Functions for GPU Rendering", 2020).
fn pcg4d(seed: vec4<u32>) -> vec4<u32> {
    var v = seed * 1664525u + 1013904223u;
    v.x += v.y * v.w;
    v.y += v.z * v.x;
    v.z += v.x * v.y;
    v.w += v.y * v.z;
    v ^= v >> vec4(16u);
    v.x += v.y * v.w;
    v.y += v.z * v.x;
    v.z += v.x * v.y;
    v.w += v.y * v.z;
    return v;
}

fn mask_key(noise: Noise, kind: u32, direction: u32) -> vec4<u32> {
    return pcg4d(vec4(noise.seed_low, noise.seed_high, noise.step, (noise.row + direction) * 8u + kind));
}

// Whether an element stays.
fn keeps(key: vec4<u32>, threshold: u32, index: u32) -> bool {
    return (pcg4d(vec4(key.x + index, key.yzw)).x >> 8u) >= threshold;
}

// The factor by which the recurrent products read an element of h [batch, out].
fn recurrent_factor(noise: Noise, direction: u32, index: u32) -> f32 {
    if !RECURRENT_DROPOUT {
        return 1.0;
    }
    let stays = keeps(mask_key(noise, RECURRENT_MASK, direction), noise.recurrent, index);
    return select(0.0, noise.recurrent_scale, stays);
}

// Whether an element of h [time, batch, out] takes its new value.
fn moves_h(noise: Noise, direction: u32, index: u32) -> bool {
    return !ZONEOUT_H || keeps(mask_key(noise, ZONEOUT_H_MASK, direction), noise.zoneout_h, index);
}

// Whether an element of the cell state [time, batch, hidden] takes its new value.
fn moves_s(noise: Noise, direction: u32, index: u32) -> bool {
    return !ZONEOUT_S || keeps(mask_key(noise, ZONEOUT_S_MASK, direction), noise.zoneout_s, index);
}
