//! Bind groups and uniforms, which calls of one shape share.
//!
//! A warm call finds both and creates neither. A bind group keeps its buffers alive, so it is dropped as soon as one of its
//! buffers goes back to the driver. Buffers of the pool may pair in ever new ways, so only the groups used last are kept.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::Result;
use crate::gpu::device::counters::count;
use crate::gpu::device::limits::MOST_BINDINGS;
use crate::gpu::device::lock;
use crate::gpu::kept::DeviceResources;
use crate::gpu::kept::buffer::Buffer;
use crate::gpu::kept::pipeline::Pipeline;
use crate::gpu::kept::recent::Recent;

const UNIFORM: wgpu::BufferUsages = wgpu::BufferUsages::UNIFORM.union(wgpu::BufferUsages::COPY_DST);

/// Largest number of bind groups in one generation of the cache.
const MOST_GROUPS: usize = 2048;
/// Largest number of kept blocks of uniforms.
const MOST_BLOCKS: usize = 64;
/// Largest size in bytes of all kept blocks together.
const MOST_BYTES: usize = 16 << 20;
/// Largest size in bytes of one kept block.
const LARGEST_BLOCK: usize = 4 << 20;

/// The bind groups used last.
pub(in crate::gpu) struct BindGroups(Recent<Vec<u64>, wgpu::BindGroup>);

impl Default for BindGroups {
    fn default() -> Self {
        Self(Recent::new(MOST_GROUPS))
    }
}

/// The key of a bind group: the numbers of the pipeline and of the uniforms, a 0, then the number and the length in bytes of every
/// buffer. So the numbers of the uniforms and of all buffers stand at odd indices, where [`Key::holds`] looks for them.
struct Key {
    words: [u64; 3 + 2 * MOST_BINDINGS],
    len: usize,
}

impl Key {
    fn new(pipeline: u64, uniforms: u64, buffers: &[Buffer]) -> Self {
        let mut key = Self { words: [0; 3 + 2 * MOST_BINDINGS], len: 3 + 2 * buffers.len() };
        key.words[0] = pipeline;
        key.words[1] = uniforms;
        for (words, buffer) in key.words[3..].chunks_exact_mut(2).zip(buffers) {
            words.copy_from_slice(&[buffer.number(), buffer.bytes()]);
        }
        key
    }

    fn words(&self) -> &[u64] {
        &self.words[..self.len]
    }

    /// Whether the bind group with this key holds a buffer.
    fn holds(words: &[u64], buffer: u64) -> bool {
        words[1..].iter().step_by(2).any(|number| *number == buffer)
    }
}

/// The uniforms of a submission on the device, and their contents as the host wrote them.
pub(in crate::gpu) struct Block {
    number: u64,
    raw: wgpu::Buffer,
    contents: Vec<u8>,
    /// Whether a caller's commands may read the memory at any time, so that nobody may write to it again.
    retired: AtomicBool,
}

/// The uniforms of the last submissions, the most recent one last. Nothing writes to a block again while it is here, so
/// submissions of the same contents share it.
#[derive(Default)]
pub(in crate::gpu) struct Blocks {
    recent: Vec<Arc<Block>>,
    bytes: usize,
}

impl Blocks {
    fn get(&mut self, contents: &[u8]) -> Option<Arc<Block>> {
        let at = self.recent.iter().position(|block| block.contents == contents)?;
        self.recent[at..].rotate_left(1);
        self.recent.last().cloned()
    }

    /// Keeps a block. Returns the blocks that have to make room for it.
    fn insert(&mut self, block: Arc<Block>) -> Vec<Arc<Block>> {
        self.bytes += block.contents.len();
        self.recent.push(block);
        let mut gone = 0;
        while self.bytes > MOST_BYTES || self.recent.len() - gone > MOST_BLOCKS {
            self.bytes -= self.recent[gone].contents.len();
            gone += 1;
        }
        self.recent.drain(..gone).collect()
    }
}

/// A submission's uniforms.
pub(in crate::gpu) enum Uniforms {
    Shared(Arc<Block>),
    /// Too large to be kept, or not needed by any later submission. The pool has the same memory for the next submission of
    /// this kind, so that its bind groups are found, too.
    Own(Buffer),
}

impl Uniforms {
    /// Keeps everybody from writing to the memory again: a caller's commands may read it at any time.
    pub(in crate::gpu) fn retire(&self) {
        match self {
            Self::Shared(block) => block.retired.store(true, Ordering::Relaxed),
            Self::Own(buffer) => buffer.retire(),
        }
    }

    fn number(&self) -> u64 {
        match self {
            Self::Shared(block) => block.number,
            Self::Own(buffer) => buffer.number(),
        }
    }

    fn raw(&self) -> &wgpu::Buffer {
        match self {
            Self::Shared(block) => &block.raw,
            Self::Own(buffer) => buffer.raw(),
        }
    }
}

impl DeviceResources {
    /// Finds a submission's uniforms on the device, or writes them there. If `passing`, no later submission has the same uniforms, so they
    /// are not kept.
    pub(in crate::gpu) fn uniforms(self: &Arc<Self>, contents: &[u8], passing: bool) -> Result<Uniforms> {
        const OP: &str = "uniforms";
        if passing || contents.len() > LARGEST_BLOCK {
            let buffer = Buffer::allocate(self, OP, UNIFORM, contents.len() as u64)?;
            buffer.write(OP, contents)?;
            return Ok(Uniforms::Own(buffer));
        }
        if let Some(block) = lock(&self.blocks).get(contents) {
            return Ok(Uniforms::Shared(block));
        }
        let (number, raw) = self.take_buffer(OP, UNIFORM, contents.len() as u64)?;
        self.write_buffer(OP, &raw, contents)?;
        let retired = AtomicBool::new(false);
        let block = Arc::new(Block { number, raw, contents: contents.to_vec(), retired });
        let gone = lock(&self.blocks).insert(Arc::clone(&block));
        gone.into_iter().for_each(|block| self.give_uniforms(Uniforms::Shared(block)));
        Ok(Uniforms::Shared(block))
    }

    /// Gives up uniforms. Their last owner puts the memory back into the pool, unless it is retired.
    pub(in crate::gpu) fn give_uniforms(&self, uniforms: Uniforms) {
        let Uniforms::Shared(block) = uniforms else { return };
        match Arc::into_inner(block) {
            Some(Block { number, retired, .. }) if retired.load(Ordering::Relaxed) => self.forget(number),
            Some(Block { number, raw, .. }) => self.give_buffer(number, raw),
            None => {}
        }
    }

    /// Finds or creates the bind group of a pipeline's uniforms and buffers.
    pub(in crate::gpu) fn bind_group(
        &self,
        pipeline: &Pipeline,
        uniforms: &Uniforms,
        buffers: &[Buffer],
    ) -> wgpu::BindGroup {
        let Some(number) = pipeline.number else {
            return self.create_bind_group(pipeline, uniforms, buffers);
        };
        let key = Key::new(number, uniforms.number(), buffers);
        if let Some(group) = lock(&self.bind_groups).0.get(key.words()) {
            return group;
        }
        let group = self.create_bind_group(pipeline, uniforms, buffers);
        lock(&self.bind_groups).0.insert(key.words().to_vec(), group.clone());
        group
    }

    /// Forgets the bind groups of a buffer that goes back to the driver.
    pub(in crate::gpu) fn forget(&self, buffer: u64) {
        lock(&self.bind_groups).0.retain(|words| !Key::holds(words, buffer));
    }

    fn create_bind_group(&self, pipeline: &Pipeline, uniforms: &Uniforms, buffers: &[Buffer]) -> wgpu::BindGroup {
        let dims = wgpu::BindGroupEntry {
            binding: 0,
            resource: wgpu::BindingResource::Buffer(wgpu::BufferBinding {
                buffer: uniforms.raw(),
                offset: 0,
                size: wgpu::BufferSize::new(pipeline.dims.bound),
            }),
        };
        let buffers = (1..)
            .zip(buffers)
            .map(|(binding, buffer): (u32, &Buffer)| wgpu::BindGroupEntry { binding, resource: buffer.binding() });
        let entries: Vec<_> = std::iter::once(dims).chain(buffers).collect();
        count(&self.counters.bind_groups, 1);
        self.device.create_bind_group(&wgpu::BindGroupDescriptor {
            label: Some(pipeline.name),
            layout: &pipeline.layout,
            entries: &entries,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::Key;
    use crate::gpu::kept::recent::Recent;

    #[test]
    fn a_buffer_that_goes_takes_its_groups_along() {
        let mut recent = Recent::new(2);
        // Pipeline 7, uniforms 1, then pairs of a buffer's number and its bytes.
        for (value, key) in [[7, 1, 0, 2, 4], [7, 1, 0, 3, 2], [2, 1, 0, 4, 4], [7, 2, 0, 4, 4]].iter().enumerate() {
            recent.insert(key.to_vec(), value);
        }
        recent.retain(|key: &Vec<u64>| !Key::holds(key, 2));
        assert_eq!(recent.get(&[7, 1, 0, 2, 4][..]), None, "buffer 2");
        assert_eq!(recent.get(&[7, 1, 0, 3, 2][..]), Some(1), "two bytes, not buffer 2");
        assert_eq!(recent.get(&[2, 1, 0, 4, 4][..]), Some(2), "pipeline 2");
        assert_eq!(recent.get(&[7, 2, 0, 4, 4][..]), None, "uniforms 2");
    }
}
