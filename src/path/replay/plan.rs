//! From a recording to a replay: the steps that are needed, the steps that run as one pass, and the memory of results.

use std::collections::BTreeSet;
use std::ops::Range;

use super::run::{BLOCK, Place, Replay, ReplayGroup, ReplayOutput, ReplayStep};
use super::{Recording, Source, Step, Work};
use crate::error::Result;
use crate::memory;
use crate::path::HostPath;
use crate::tensor::Tensor;

const OP: &str = "replay";
/// The most elements of a tensor that takes part in a pass of several steps. A larger one is worth several threads, which
/// each step starts for itself.
pub(super) const MOST_PASSED: usize = 1 << 18;

impl Recording {
    /// Plans the steps that compute `outputs`; `None` if another call may need other steps, or if their memory would be more
    /// than `limit` bytes.
    pub(crate) fn finish(mut self, path: HostPath, outputs: &[&Tensor], limit: u64) -> Result<Option<Replay>> {
        if self.useless {
            return Ok(None);
        }
        let sources = outputs.iter().map(|tensor| self.source(tensor)).collect::<Result<Vec<_>>>()?;
        drop_unneeded(&mut self.steps, self.lengths.len(), &sources);
        let groups = passes(&self.steps, &self.lengths);
        let mut plan = Plan::new(&self.steps, &self.lengths, &groups, &sources);
        plan.place_results(&self.steps, &groups);
        plan.given = vec![false; plan.buffers.len()];
        let outputs: Vec<_> = outputs.iter().zip(sources).map(|(tensor, source)| plan.output(tensor, source)).collect();
        let bytes = plan.buffers.iter().fold(0, |sum, &len| sum + 4 * len as u64);
        let bytes = outputs.iter().fold(bytes, |sum, output| sum + output.bytes());
        if bytes > limit {
            return Ok(None);
        }
        let mut steps = self.steps.into_iter();
        let ready = groups.iter().map(|group| {
            let own: Vec<_> = steps.by_ref().take(group.len()).map(|step| plan.step(step)).collect();
            let length = own.first().and_then(|step| step.outputs.first()).map_or(0, |(_, len)| *len);
            ReplayGroup { block: if group.len() > 1 { BLOCK } else { length }, length, steps: own }
        });
        let groups = ready.collect();
        let memory = |lengths: &[usize]| lengths.iter().map(|&len| memory::zeros(OP, len)).collect::<Result<Vec<_>>>();
        let (buffers, blocks) = (memory(&plan.buffers)?, memory(&vec![BLOCK; plan.blocks])?);
        Ok(Some(Replay { path, groups, buffers, blocks, outputs, bytes }))
    }
}

/// Removes the steps that no output depends on.
fn drop_unneeded(steps: &mut Vec<Step>, slots: usize, outputs: &[Source]) {
    let mut needed = vec![false; slots];
    for source in outputs {
        if let Source::Slot(slot) = source {
            needed[*slot] = true;
        }
    }
    let mut kept: Vec<Step> = Vec::with_capacity(steps.len());
    for step in std::mem::take(steps).into_iter().rev() {
        if step.outputs.iter().any(|&slot| needed[slot]) {
            step.slots_read().for_each(|slot| needed[slot] = true);
            kept.push(step);
        }
    }
    kept.reverse();
    *steps = kept;
}

impl Step {
    fn slots_read(&self) -> impl Iterator<Item = usize> {
        self.inputs.iter().filter_map(|source| if let Source::Slot(slot) = source { Some(*slot) } else { None })
    }

    /// The number of elements if the step can be a part of a pass.
    fn passed_length(&self, lengths: &[usize]) -> Option<usize> {
        let length = lengths[*self.outputs.first()?];
        let passed = matches!(self.work, Work::Each(_) | Work::Repeat(_)) && length <= MOST_PASSED;
        passed.then_some(length)
    }
}

/// Splits the steps into groups. A group is one step, or neighbours that can run block by block.
fn passes(steps: &[Step], lengths: &[usize]) -> Vec<Range<usize>> {
    let mut groups: Vec<Range<usize>> = Vec::new();
    for (at, step) in steps.iter().enumerate() {
        let joins = groups.last().is_some_and(|group| {
            let same =
                step.passed_length(lengths).is_some_and(|n| steps[group.start].passed_length(lengths) == Some(n));
            // A repetition reads elements of any place, so its input must be complete.
            let made_in_group = |slot: usize| steps[group.clone()].iter().any(|step| step.outputs.contains(&slot));
            same && !(matches!(step.work, Work::Repeat(_)) && step.slots_read().any(made_in_group))
        });
        match groups.last_mut() {
            Some(group) if joins => group.end = at + 1,
            _ => groups.push(at..at + 1),
        }
    }
    groups
}

/// The slots that some steps read or write, each once.
fn touched(steps: &[Step], range: Range<usize>) -> impl Iterator<Item = usize> {
    let slots = range.flat_map(|at| steps[at].slots_read().chain(steps[at].outputs.iter().copied()));
    slots.collect::<BTreeSet<_>>().into_iter()
}

/// The places of results.
struct Plan {
    places: Vec<Place>,
    lengths: Vec<usize>,
    /// The last group and the last step that read a slot; the greatest number for an output.
    last_group: Vec<usize>,
    last_step: Vec<usize>,
    /// Length of each buffer.
    buffers: Vec<usize>,
    /// Number of blocks.
    blocks: usize,
    /// Per buffer: whether an output of the call has it.
    given: Vec<bool>,
}

impl Plan {
    fn new(steps: &[Step], lengths: &[usize], groups: &[Range<usize>], outputs: &[Source]) -> Self {
        let (mut last_group, mut last_step) = (vec![0; lengths.len()], vec![0; lengths.len()]);
        for (number, group) in groups.iter().enumerate() {
            for at in group.clone() {
                // A result that is not read is written all the same.
                for slot in steps[at].outputs.iter().copied().chain(steps[at].slots_read()) {
                    (last_group[slot], last_step[slot]) = (number, at);
                }
            }
        }
        for source in outputs {
            if let Source::Slot(slot) = source {
                (last_group[*slot], last_step[*slot]) = (usize::MAX, usize::MAX);
            }
        }
        Self {
            places: vec![Place::Input(0); lengths.len()],
            lengths: lengths.to_vec(),
            last_group,
            last_step,
            buffers: Vec::new(),
            blocks: 0,
            given: Vec::new(),
        }
    }

    /// Places all results. Results share memory if the last step that reads one comes before the step that writes the other.
    fn place_results(&mut self, steps: &[Step], groups: &[Range<usize>]) {
        let mut free: Vec<usize> = Vec::new();
        for (number, group) in groups.iter().enumerate() {
            let (mut free_blocks, mut used) = (Vec::<usize>::new(), 0);
            let mut new_block = || {
                used += 1;
                used - 1
            };
            for at in group.clone() {
                for &slot in &steps[at].outputs {
                    self.places[slot] = if group.len() > 1 && self.last_group[slot] == number {
                        Place::Block(free_blocks.pop().unwrap_or_else(&mut new_block))
                    } else {
                        Place::Buffer { at: self.buffer(&mut free, slot), len: self.lengths[slot] }
                    };
                }
                for slot in touched(steps, at..at + 1).filter(|&slot| self.last_step[slot] == at) {
                    if let Place::Block(block) = self.places[slot] {
                        free_blocks.push(block);
                    }
                }
            }
            self.blocks = self.blocks.max(used);
            // Steps of a group run in turns, so what the group reads stays until its end.
            for slot in touched(steps, group.clone()).filter(|&slot| self.last_group[slot] == number) {
                if let Place::Buffer { at, .. } = self.places[slot] {
                    free.push(at);
                }
            }
        }
    }

    /// A buffer for a result. The memory of an output belongs to its tensor, so no other result uses it.
    fn buffer(&mut self, free: &mut Vec<usize>, slot: usize) -> usize {
        let len = self.lengths[slot];
        if self.last_group[slot] == usize::MAX {
            self.buffers.push(0);
            return self.buffers.len() - 1;
        }
        // The smallest that is large enough, else the largest.
        let fit = |&(_, &at): &(usize, &usize)| (self.buffers[at] < len, self.buffers[at].abs_diff(len));
        let Some(at) =
            free.iter().enumerate().min_by_key(fit).map(|(index, _)| index).map(|index| free.swap_remove(index))
        else {
            self.buffers.push(len);
            return self.buffers.len() - 1;
        };
        self.buffers[at] = self.buffers[at].max(len);
        at
    }

    fn place(&self, source: Source) -> Place {
        match source {
            Source::Constant(x) => Place::Constant(x),
            Source::Input(at) => Place::Input(at),
            Source::Slot(slot) => self.places[slot].clone(),
        }
    }

    fn step(&self, step: Step) -> ReplayStep {
        ReplayStep {
            inputs: step.inputs.into_iter().map(|source| self.place(source)).collect(),
            outputs: step.outputs.iter().map(|&slot| (self.places[slot].clone(), self.lengths[slot])).collect(),
            work: step.work,
        }
    }

    /// An output of the call. A second output with the memory of the first is a copy.
    fn output(&mut self, tensor: &Tensor, source: Source) -> ReplayOutput {
        let from = self.place(source);
        let own = match &from {
            Place::Buffer { at, .. } => (!std::mem::replace(&mut self.given[*at], true)).then_some(*at),
            _ => None,
        };
        ReplayOutput::new(tensor, from, own)
    }
}
