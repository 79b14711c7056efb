//! Running a replay.

use std::mem;
use std::ops::Range;
use std::sync::Arc;

use super::Work;
use crate::error::{Error, Result};
use crate::memory;
use crate::path::host::{HostInputs, HostPath};
use crate::tensor::{Device, Tensor};

const OP: &str = "replay";
/// Elements of a block: 4 KiB, of which several fit the first-level cache.
pub(super) const BLOCK: usize = 1024;
/// Memories that an output alternates between. With two, a call writes one while its caller still holds the results of the
/// call before.
const MEMORIES: usize = 2;

/// The place of numbers.
#[derive(Clone)]
pub(crate) enum Place {
    Constant(Arc<Vec<f32>>),
    /// An input of the call.
    Input(usize),
    Buffer {
        at: usize,
        len: usize,
    },
    /// A block of a result that is never whole.
    Block(usize),
}

/// A step on planned memory.
pub(super) struct ReplayStep {
    pub(super) inputs: Vec<Place>,
    /// Places and lengths of the results.
    pub(super) outputs: Vec<(Place, usize)>,
    pub(super) work: Work,
}

/// Steps that run as one pass: all of them on one block, then on the next.
pub(super) struct ReplayGroup {
    pub(super) steps: Vec<ReplayStep>,
    /// Elements of a block.
    pub(super) block: usize,
    /// Elements of each result.
    pub(super) length: usize,
}

/// An output of the call.
pub(super) struct ReplayOutput {
    device: Device,
    shape: Arc<[usize]>,
    from: Place,
    /// The buffer that the output's memory serves as during a run.
    own: Option<usize>,
    /// Memories of results, the one of the last call first.
    memories: Vec<Arc<Vec<f32>>>,
}

/// The steps of a call, on memory of their own.
pub(crate) struct Replay {
    pub(super) path: HostPath,
    pub(super) groups: Vec<ReplayGroup>,
    pub(super) buffers: Vec<Vec<f32>>,
    pub(super) blocks: Vec<Vec<f32>>,
    pub(super) outputs: Vec<ReplayOutput>,
    /// Bytes of the buffers and outputs.
    pub(super) bytes: u64,
}

/// The inputs of a call.
pub(crate) trait CallInputs {
    /// The elements of an input.
    fn elements(&self, at: usize) -> &[f32];
}

/// The memory that steps read and write.
struct Memory<'a> {
    path: &'a HostPath,
    external: &'a dyn CallInputs,
    buffers: &'a mut [Vec<f32>],
    blocks: &'a mut [Vec<f32>],
}

/// The memory that a step reads.
pub(crate) struct PlacedInputs<'a> {
    places: &'a [Place],
    external: &'a dyn CallInputs,
    buffers: &'a [Vec<f32>],
    blocks: &'a [Vec<f32>],
    /// The elements of each input that are read; all of them if absent.
    range: Option<Range<usize>>,
}

impl PlacedInputs<'_> {
    /// The elements of one input.
    pub(crate) fn get(&self, at: usize) -> &[f32] {
        let whole: &[f32] = match self.places.get(at) {
            None => return &[],
            Some(Place::Constant(x)) => x,
            Some(Place::Input(at)) => self.external.elements(*at),
            Some(Place::Buffer { at, len }) => &self.buffers[*at][..*len],
            // A block holds the elements of the range alone.
            Some(Place::Block(at)) => {
                return &self.blocks[*at][..self.range.as_ref().map_or(0, ExactSizeIterator::len)];
            }
        };
        self.range.clone().map_or(whole, |range| &whole[range])
    }
}

impl Replay {
    /// Bytes of its buffers and outputs.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Runs all steps.
    ///
    /// # Errors
    /// The errors of the operations. The replay cannot run again then; tensors that earlier runs returned are as they were.
    pub(crate) fn run(&mut self, external: &dyn CallInputs) -> Result<()> {
        let Self { path, groups, buffers, blocks, outputs, .. } = self;
        for output in outputs.iter_mut() {
            output.lend(buffers)?;
        }
        let mut memory = Memory { path, external, buffers, blocks };
        groups.iter_mut().try_for_each(|group| group.run(&mut memory))?;
        for output in outputs.iter_mut() {
            output.copy(&memory)?;
        }
        for output in outputs.iter_mut() {
            output.take_back(memory.buffers);
        }
        Ok(())
    }

    /// An output of the last run.
    pub(crate) fn output(&self, at: usize) -> Result<Tensor> {
        let missing = || Error::Value { op: OP, what: "output", expected: "one of the replay", found: at.to_string() };
        self.outputs.get(at).and_then(ReplayOutput::tensor).ok_or_else(missing)
    }
}

impl ReplayGroup {
    fn run(&mut self, memory: &mut Memory<'_>) -> Result<()> {
        if let [step] = self.steps.as_mut_slice() {
            return step.run(memory, None);
        }
        let mut start = 0;
        while start < self.length {
            let end = self.length.min(start + self.block);
            self.steps.iter_mut().try_for_each(|step| step.run(memory, Some(start..end)))?;
            start = end;
        }
        Ok(())
    }
}

impl ReplayStep {
    /// Computes the elements of `range`; all elements if it is absent.
    fn run(&mut self, memory: &mut Memory<'_>, range: Option<Range<usize>>) -> Result<()> {
        let Self { inputs: places, outputs, work } = self;
        // A step never reads its own results, so their memory can be taken out meanwhile.
        let mut taken: [Vec<f32>; 3] = Default::default();
        for (own, (place, _)) in taken.iter_mut().zip(&*outputs) {
            *own = memory.swap(place, Vec::new());
        }
        let mut results: [&mut [f32]; 3] = Default::default();
        for ((result, own), (place, len)) in results.iter_mut().zip(&mut taken).zip(&*outputs) {
            *result = match (place, &range) {
                (Place::Block(_), Some(range)) => &mut own[..range.len()],
                (_, Some(range)) => &mut own[range.clone()],
                (_, None) => &mut own[..*len],
            };
        }
        let Memory { path, external, buffers, blocks } = memory;
        let mut inputs = PlacedInputs { places, external: *external, buffers, blocks, range };
        let result = match work {
            Work::Whole(work) | Work::Each(work) => {
                let [y, ..] = results;
                work(path, &HostInputs::Placed(inputs), y)
            }
            Work::Repeat(repeat) => {
                let [y, ..] = results;
                let range = inputs.range.take().unwrap_or(0..y.len());
                repeat.write(inputs.get(0), range, y);
                Ok(())
            }
            Work::Stack(work) => work(&HostInputs::Placed(inputs), results),
        };
        for (own, (place, _)) in taken.into_iter().zip(&*outputs) {
            memory.swap(place, own);
        }
        result
    }
}

impl Memory<'_> {
    /// Exchanges the memory of a place.
    fn swap(&mut self, place: &Place, other: Vec<f32>) -> Vec<f32> {
        match place {
            Place::Buffer { at, .. } => mem::replace(&mut self.buffers[*at], other),
            Place::Block(at) => mem::replace(&mut self.blocks[*at], other),
            Place::Constant(_) | Place::Input(_) => other,
        }
    }
}

impl ReplayOutput {
    pub(super) fn new(tensor: &Tensor, from: Place, own: Option<usize>) -> Self {
        let memories = match &from {
            Place::Constant(x) => vec![Arc::clone(x)],
            _ => Vec::with_capacity(MEMORIES + 1),
        };
        Self { device: tensor.device().clone(), shape: Arc::clone(tensor.shared_shape()), from, own, memories }
    }

    fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Bytes of all its memories.
    pub(super) fn bytes(&self) -> u64 {
        4 * (MEMORIES * self.len()) as u64
    }

    /// Puts a memory that no tensor holds first. If there is none, allocates it in the place of the oldest.
    fn refresh(&mut self) -> Result<&mut Vec<f32>> {
        let len = self.len();
        let free = self.memories.iter().position(|memory| Arc::strong_count(memory) == 1);
        match free {
            Some(at) => self.memories[..=at].rotate_right(1),
            None => {
                self.memories.insert(0, Arc::new(memory::zeros(OP, len)?));
                self.memories.truncate(MEMORIES);
            }
        }
        // No other reference exists, so this copies nothing.
        Ok(Arc::make_mut(&mut self.memories[0]))
    }

    /// Lends the output's memory to the buffer that holds it during a run.
    fn lend(&mut self, buffers: &mut [Vec<f32>]) -> Result<()> {
        if let Some(at) = self.own {
            buffers[at] = mem::take(self.refresh()?);
        }
        Ok(())
    }

    fn take_back(&mut self, buffers: &mut [Vec<f32>]) {
        if let Some(at) = self.own {
            *Arc::make_mut(&mut self.memories[0]) = mem::take(&mut buffers[at]);
        }
    }

    /// Writes an output that is an input of the call, or that has the elements of another output.
    fn copy(&mut self, memory: &Memory<'_>) -> Result<()> {
        if self.own.is_some() || matches!(self.from, Place::Constant(_)) {
            return Ok(());
        }
        let from = self.from.clone();
        let x = match &from {
            Place::Input(at) => memory.external.elements(*at),
            Place::Buffer { at, len } => &memory.buffers[*at][..*len],
            Place::Constant(_) | Place::Block(_) => &[],
        };
        self.refresh()?.copy_from_slice(x);
        Ok(())
    }

    fn tensor(&self) -> Option<Tensor> {
        self.memories.first().map(|memory| Tensor::from_shared(&self.device, &self.shape, memory))
    }
}
