//! Masks and resets that lie on the device, as the flags that all recurrent kernels read.

use crate::error::Result;
use crate::gpu::kept::buffer::Buffer;
use crate::gpu::kept::kernel::SEQUENCE_FLAGS;
use crate::gpu::kept::uniform::uniform;
use crate::gpu::ops::{each, word};
use crate::gpu::submit::recorder::Recorder;

uniform! {
    /// Mirrors the struct in `shaders/cell/sequence_flags.wgsl`.
    struct SequenceFlagsDims { count: u32 }
}

/// Records the join of the host's flags, a mask and resets, each of `count` elements and perhaps absent. Returns the flags.
pub(crate) fn sequence_flags(
    recorder: &mut Recorder,
    host: Option<&Buffer>,
    mask: Option<&Buffer>,
    reset: Option<&Buffer>,
    count: usize,
) -> Result<Buffer> {
    // A binding must hold something: an absent operand is any other one, and its `override` says that it is not read.
    let Some(any) = mask.or(reset).or(host) else { return Buffer::new(recorder.device(), "flags", count) };
    let operands = [host, mask, reset];
    let constants =
        ["HOST_FLAGS", "MASK", "RESET"].into_iter().zip(operands).map(|(name, x)| (name, u32::from(x.is_some())));
    let inputs = operands.map(|operand| operand.unwrap_or(any));
    let dims = SequenceFlagsDims { count: word(recorder.device(), SEQUENCE_FLAGS.name, count)? };
    each(recorder, &SEQUENCE_FLAGS, &constants.collect(), &inputs, &dims, count)
}
