//! The state that a call works on.

use super::Call;
use crate::error::Result;
use crate::gpu::buffer::Buffer;
use crate::gpu::recorder::Recorder;

pub(super) const LABEL: &str = "recurrent state";

/// The state that a call starts from and leaves behind, `[layers, directions, batch, ..]`.
pub(crate) struct RunState<'a> {
    pub(crate) h: &'a Buffer,
    pub(crate) s: Option<&'a Buffer>,
    /// What a reset returns to; zeros if absent.
    pub(crate) initial: Option<(&'a Buffer, Option<&'a Buffer>)>,
}

impl RunState<'_> {
    /// The state changes only once the whole call has been handed over.
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

/// A part of the state of `len` elements, to be worked on in place, unless a reset needs its initial value behind it: then a copy
/// that has it there.
pub(super) fn in_place(
    recorder: &mut Recorder,
    call: &Call<'_>,
    now: &Buffer,
    initial: Option<&Buffer>,
    len: usize,
) -> Result<Buffer> {
    if !call.run.resets {
        return Ok(now.clone());
    }
    let both = Buffer::new(recorder.device(), LABEL, 2 * len)?;
    recorder.copy((now, 0), (&both, 0), len);
    put_initial(recorder, initial, &both, len, len);
    Ok(both)
}

/// Puts what a reset returns to at element `at`.
pub(super) fn put_initial(recorder: &mut Recorder, initial: Option<&Buffer>, to: &Buffer, at: usize, len: usize) {
    match initial {
        Some(initial) => recorder.copy((initial, 0), (to, at), len),
        None => recorder.clear(to, at, len),
    }
}

/// Copies a part back to the state, if it is a copy.
pub(super) fn leave(recorder: &mut Recorder, part: &Buffer, state: &Buffer, len: usize) {
    if !part.is_same(state) {
        recorder.copy((part, 0), (state, 0), len);
    }
}
