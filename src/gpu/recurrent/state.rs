//! The buffers of the state that a call advances.

use super::RecurrentCall;
use crate::error::Result;
use crate::gpu::arguments::StateBuffers;
use crate::gpu::kept::buffer::Buffer;
use crate::gpu::submit::recorder::Recorder;

pub(super) const LABEL: &str = "recurrent state";

impl StateBuffers<'_> {
    /// Protects the state: it changes only once the whole call has been submitted.
    pub(super) fn keep(&self, recorder: &mut Recorder) {
        [Some(self.h), self.s].into_iter().flatten().for_each(|part| recorder.keep(part));
    }

    pub(super) fn initial_h(&self) -> Option<&Buffer> {
        self.initial.map(|(h, _)| h)
    }

    pub(super) fn initial_s(&self) -> Option<&Buffer> {
        self.initial.and_then(|(_, s)| s)
    }
}

/// Returns a part of the state of `len` elements to work on: the buffer itself, or, if rows may be reset, a copy of it with the initial
/// values behind the current ones.
pub(super) fn in_place(
    recorder: &mut Recorder,
    call: &RecurrentCall<'_>,
    now: &Buffer,
    initial: Option<&Buffer>,
    len: usize,
) -> Result<Buffer> {
    if !call.input.resets {
        return Ok(now.clone());
    }
    let both = Buffer::new(recorder.device(), LABEL, 2 * len)?;
    recorder.copy((now, 0), (&both, 0), len);
    put_initial(recorder, initial, &both, len, len);
    Ok(both)
}

/// Writes the initial values at element `at`.
pub(super) fn put_initial(recorder: &mut Recorder, initial: Option<&Buffer>, to: &Buffer, at: usize, len: usize) {
    match initial {
        Some(initial) => recorder.copy((initial, 0), (to, at), len),
        None => recorder.clear(to, at, len),
    }
}

/// Copies `part` back to the state if it is a copy of it.
pub(super) fn leave(recorder: &mut Recorder, part: &Buffer, state: &Buffer, len: usize) {
    if !part.is_same(state) {
        recorder.copy((part, 0), (state, 0), len);
    }
}
