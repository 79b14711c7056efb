//! The division of a list of commands into submissions that are short enough for a watchdog.

use std::ops::Range;

use super::Recorder;
use crate::error::Result;
use crate::gpu::kept::buffer::Buffer;
use crate::gpu::submit::list::Command;
use crate::plan::{Submissions, Watchdog};

impl Recorder {
    /// The index of the first command of every submission except the first. Copies do not count: each takes less time than the dispatch
    /// that reads or writes the same memory.
    pub(super) fn later_submissions(&self) -> Vec<usize> {
        let mut submissions = Submissions::new(&self.watchdog());
        let mut begins = Vec::new();
        let mut first = true;
        for (at, command) in self.list.commands.iter().enumerate() {
            let Command::Dispatch { nanos, .. } = command else { continue };
            if submissions.begins_with(*nanos) && !std::mem::take(&mut first) {
                begins.push(at);
            }
        }
        begins
    }

    /// The bounds of this list's submissions.
    pub(super) fn watchdog(&self) -> Watchdog {
        let of_device = self.device.plan_limits().watchdog;
        Watchdog { submission: self.longest_submission.unwrap_or(of_device.submission), ..of_device }
    }

    /// The range of the commands of submission `at`.
    pub(super) fn submission(&self, begins: &[usize], at: usize) -> Range<usize> {
        let begin = if at == 0 { 0 } else { begins[at - 1] };
        begin..begins.get(at).copied().unwrap_or(self.list.commands.len())
    }

    /// If there are several submissions, makes the commands work on copies of the protected buffers. The first submission makes the
    /// copies, the last one copies them back, so a failure between the two leaves the buffers as they were.
    pub(super) fn on_working_copies(&mut self, mut begins: Vec<usize>) -> Result<Vec<usize>> {
        if begins.is_empty() || self.list.kept.is_empty() {
            return Ok(begins);
        }
        let mut copies = Vec::new();
        for kept in std::mem::take(&mut self.list.kept) {
            let copy = Buffer::new(&self.device, "a working copy", kept.words())?;
            let replace = |buffer: &mut Buffer| {
                if buffer.is_same(&kept) {
                    *buffer = copy.clone();
                }
            };
            self.list.bound.iter_mut().flat_map(|bound| &mut bound.buffers).for_each(replace);
            self.list.commands.iter_mut().for_each(|command| match command {
                Command::Copy { from, to, .. } => [from, to].into_iter().for_each(replace),
                Command::Clear { buffer, .. } => replace(buffer),
                Command::Dispatch { .. } => {}
            });
            copies.push((kept, copy));
        }
        let whole = |from: &Buffer, to: &Buffer| {
            let (from, to, words) = (from.clone(), to.clone(), from.words() as u64);
            Command::Copy { from, from_word: 0, to, to_word: 0, words }
        };
        self.list.commands.extend(copies.iter().map(|(kept, copy)| whole(copy, kept)));
        self.list.commands.splice(0..0, copies.iter().map(|(kept, copy)| whole(kept, copy)));
        begins.iter_mut().for_each(|begin| *begin += copies.len());
        Ok(begins)
    }
}
