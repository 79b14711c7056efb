// Joins a mask and resets that lie on the device with the flags of the host, for the kernels of all recurrent schedules. A number says
// no if it is 0 or -0, and otherwise yes. Numbers are read as bits, because drivers flush denormals and disagree about NaN.
// CPU twin: `Sequence::with_numbers`.

override WORKGROUP_SIZE: u32 = 64u;
override HOST_FLAGS: bool = false;  // the host gives flags: lengths, a mask or resets of its own
override MASK: bool = false;        // a step counts only if the mask says so
override RESET: bool = false;       // a row is reset if `reset` says so

const FLAG_VALID: u32 = 1u;
const FLAG_RESET: u32 = 2u;

struct SequenceFlagsDims { count: u32 }

@group(0) @binding(0) var<uniform> dims: SequenceFlagsDims;
@group(0) @binding(1) var<storage, read> host_flags: array<u32>;    // [time, batch]
@group(0) @binding(2) var<storage, read> mask: array<u32>;          // [time, batch], the bits of f32
@group(0) @binding(3) var<storage, read> reset: array<u32>;         // [time, batch], the bits of f32
@group(0) @binding(4) var<storage, read_write> flags: array<u32>;   // [time, batch]

fn is_set(bits: u32) -> bool {
    return (bits << 1u) != 0u;
}

@compute @workgroup_size(WORKGROUP_SIZE)
fn sequence_flags(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let at = flat_index(id, groups, WORKGROUP_SIZE);
    if at >= dims.count {
        return;
    }
    var flag = FLAG_VALID;
    if HOST_FLAGS {
        flag = host_flags[at];
    }
    if MASK && !is_set(mask[at]) {
        flag &= ~FLAG_VALID;
    }
    if RESET && is_set(reset[at]) {
        flag |= FLAG_RESET;
    }
    flags[at] = flag;
}
