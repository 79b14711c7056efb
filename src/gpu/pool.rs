//! Buffers that wait for their next owner.

use std::collections::HashMap;

/// Free memory that the pool keeps; beyond it buffers go back to the driver.
const MOST_BYTES: u64 = 256 << 20;

/// Free buffers by usage and size. The queue runs commands in order, so a buffer may be handed out again while commands
/// that use it are still in flight.
///
/// Of several the one created first is handed out: then calls of one shape meet the same buffers in the same places,
/// whatever the order in which they came back, and find the bind groups of the call before.
#[derive(Default)]
pub(super) struct Pool {
    /// Youngest first in each list.
    free: HashMap<(wgpu::BufferUsages, u64), Vec<(u64, wgpu::Buffer)>>,
    bytes: u64,
}

impl Pool {
    /// A free buffer with its number.
    pub(super) fn take(&mut self, usage: wgpu::BufferUsages, capacity: u64) -> Option<(u64, wgpu::Buffer)> {
        let found = self.free.get_mut(&(usage, capacity))?.pop()?;
        self.bytes -= capacity;
        Some(found)
    }

    /// Keeps a buffer, or hands it back where the pool is full.
    pub(super) fn give(&mut self, number: u64, buffer: wgpu::Buffer) -> Result<(), wgpu::Buffer> {
        if self.bytes + buffer.size() > MOST_BYTES {
            return Err(buffer);
        }
        self.bytes += buffer.size();
        let list = self.free.entry((buffer.usage(), buffer.size())).or_default();
        let at = list.partition_point(|(other, _)| *other > number);
        list.insert(at, (number, buffer));
        Ok(())
    }
}
