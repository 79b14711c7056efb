//! The list of commands that a recorder fills.

use std::sync::Arc;

use super::watch::Watched;
use crate::gpu::kept::buffer::Buffer;
use crate::gpu::kept::pipeline::Pipeline;

/// The commands of a recorder. Later recorders fill emptied lists again, so that a warm call allocates no list.
#[derive(Default)]
pub(in crate::gpu) struct List {
    pub(in crate::gpu) bound: Vec<Bound>,
    pub(in crate::gpu) commands: Vec<Command>,
    /// The uniforms of all dispatches, each at its own aligned place.
    pub(in crate::gpu) dims: Vec<u8>,
    /// Whether the uniforms differ in every submission.
    pub(in crate::gpu) passing: bool,
    /// Words that the host reads once all submissions are done.
    pub(in crate::gpu) watched: Vec<Watched>,
    /// Buffers that keep their values unless all submissions succeed.
    pub(in crate::gpu) kept: Vec<Buffer>,
}

/// A kernel with its buffers, ready to be dispatched any number of times.
pub(in crate::gpu) struct Bound {
    pub(in crate::gpu) pipeline: Arc<Pipeline>,
    pub(in crate::gpu) buffers: Vec<Buffer>,
    /// The kernel bound again for parts of a grid, once a grid was divided.
    pub(in crate::gpu) of_part: Option<BoundId>,
}

/// Index in [`List::bound`] of a kernel bound in a recorder.
#[derive(Clone, Copy)]
pub(in crate::gpu) struct BoundId(pub(in crate::gpu) usize);

pub(in crate::gpu) enum Command {
    Dispatch { bound: usize, dims: u32, grid: [u32; 3], nanos: u64 },
    Copy { from: Buffer, from_word: u64, to: Buffer, to_word: u64, words: u64 },
    Clear { buffer: Buffer, word: u64, words: u64 },
}

impl List {
    /// The buffers of all commands.
    pub(in crate::gpu) fn buffers(&self) -> impl Iterator<Item = &Buffer> {
        fn of_command(command: &Command) -> [Option<&Buffer>; 2] {
            match command {
                Command::Dispatch { .. } => [None, None],
                Command::Copy { from, to, .. } => [Some(from), Some(to)],
                Command::Clear { buffer, .. } => [Some(buffer), None],
            }
        }
        let copied = self.commands.iter().flat_map(of_command).flatten();
        self.bound.iter().flat_map(|bound| &bound.buffers).chain(copied)
    }

    /// The estimated nanoseconds of every dispatch.
    pub(in crate::gpu) fn nanos(&self) -> impl Iterator<Item = u64> {
        self.commands.iter().filter_map(|command| match command {
            Command::Dispatch { nanos, .. } => Some(*nanos),
            Command::Copy { .. } | Command::Clear { .. } => None,
        })
    }

    /// Drops all commands and keeps the allocated memory.
    pub(in crate::gpu) fn empty(&mut self) {
        self.bound.clear();
        self.commands.clear();
        self.dims.clear();
        self.passing = false;
        self.watched.clear();
        self.kept.clear();
    }
}

impl Command {
    pub(in crate::gpu) fn is_dispatch(&self) -> bool {
        matches!(self, Self::Dispatch { .. })
    }
}

pub(in crate::gpu) fn dispatches(commands: &[Command]) -> usize {
    commands.iter().filter(|command| command.is_dispatch()).count()
}
