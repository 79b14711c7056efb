//! Buffers that wait for their next owner.

use std::collections::HashMap;

/// Free memory that the pool keeps in any case.
const LEAST_BYTES: u64 = 256 << 20;
/// Number of submissions whose need of memory is remembered.
const REMEMBERED: usize = 8;

/// Free buffers by usage and size. The queue runs commands in order, so a buffer may be handed out again while commands
/// that use it are still in flight.
///
/// If several buffers fit, the one created first is handed out. So calls of one shape get the same buffers in the same places, in
/// whatever order these came back, and find the bind groups of the call before.
///
/// The pool keeps as many bytes as any one of the last submissions has asked for, so that a repeated call finds all of its buffers. If
/// there are more, the buffers that have waited longest go back to the driver.
#[derive(Default)]
pub(in crate::gpu) struct Pool {
    /// In each list the buffer created last comes first.
    free: HashMap<(wgpu::BufferUsages, u64), Vec<Free>>,
    bytes: u64,
    /// Number of buffers that have come back so far.
    given: u64,
    /// Bytes asked for before the next submission, then before each of the last ones.
    asked: [u64; 1 + REMEMBERED],
}

struct Free {
    number: u64,
    buffer: wgpu::Buffer,
    /// The value of [`Pool::given`] when the buffer came back.
    since: u64,
}

impl Pool {
    /// A free buffer with its number.
    pub(in crate::gpu) fn take(&mut self, usage: wgpu::BufferUsages, capacity: u64) -> Option<(u64, wgpu::Buffer)> {
        self.asked[0] += capacity;
        let Free { number, buffer, .. } = self.free.get_mut(&(usage, capacity))?.pop()?;
        self.bytes -= capacity;
        Some((number, buffer))
    }

    /// Begins to count what the next submission asks for.
    pub(in crate::gpu) fn submitted(&mut self) {
        self.asked.rotate_right(1);
        self.asked[0] = 0;
    }

    /// Keeps a buffer. Returns the numbers of the buffers that go back to the driver to make room.
    pub(in crate::gpu) fn give(&mut self, number: u64, buffer: wgpu::Buffer) -> Vec<u64> {
        self.given += 1;
        self.bytes += buffer.size();
        let list = self.free.entry((buffer.usage(), buffer.size())).or_default();
        let at = list.partition_point(|other| other.number > number);
        list.insert(at, Free { number, buffer, since: self.given });
        let most = self.asked.into_iter().fold(LEAST_BYTES, u64::max);
        std::iter::from_fn(|| if self.bytes > most { self.drop_oldest() } else { None }).collect()
    }

    fn drop_oldest(&mut self) -> Option<u64> {
        let since = self.free.values().flatten().map(|free| free.since).min()?;
        let list = self.free.values_mut().find(|list| list.iter().any(|free| free.since == since))?;
        let at = list.iter().position(|free| free.since == since)?;
        let Free { number, buffer, .. } = list.remove(at);
        self.bytes -= buffer.size();
        Some(number)
    }
}
