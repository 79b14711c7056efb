//! Replays: the operations that a graph ran on the CPU, run again on other numbers without its interpreter.
//!
//! ```text
//! Recording   the notes of a recorder of the CPU: sources of inputs, lengths of results, the work
//! plan        which steps are needed, which run as one pass, and which results share memory
//! Replay      the steps on planned memory; a warm run allocates nothing
//! Kept        the replays of a model, by the shapes that they are for
//! ```
//!
//! A step reads constants, inputs of the call, and results of earlier steps. An operation that reads constants alone is
//! no step: its result is a constant. A decision that is taken from any other numbers makes the recording useless,
//! because the next call may have to decide otherwise ([`Recording::decide`]).

mod input;
mod kept;
mod plan;
mod repeat;
mod run;

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use super::host::{HostInputs, HostPath};
use crate::error::Result;
use crate::tensor::Tensor;

pub(crate) use input::{CallInput, KnownInput};
pub(crate) use kept::{Kept, Replayable};
pub(crate) use repeat::Repeat;
pub(crate) use run::{CallInputs, PlacedInputs, Replay};

/// The work of an operation with one result.
pub(crate) type HostWork = Box<dyn FnMut(&HostPath, &HostInputs<'_>, &mut [f32]) -> Result<()> + Send + Sync>;
/// The work of a recurrent stack: its outputs, and its state `h` and `s` after the call.
pub(crate) type StackWork = Box<dyn FnMut(&HostInputs<'_>, [&mut [f32]; 3]) -> Result<()> + Send + Sync>;

/// The work of a step.
pub(crate) enum Work {
    /// Reads and writes whole tensors.
    Whole(HostWork),
    /// Computes each element from the elements of its inputs at the same place.
    Each(HostWork),
    /// Repeats elements.
    Repeat(Repeat),
    Stack(StackWork),
}

/// The origin of the numbers that a step reads.
#[derive(Clone)]
enum Source {
    /// Numbers that every call of these shapes reads unchanged.
    Constant(Arc<Vec<f32>>),
    /// An input of the call.
    Input(usize),
    /// A result of a step.
    Slot(usize),
}

/// An operation that was run.
struct Step {
    inputs: Vec<Source>,
    /// Slots of the results.
    outputs: Vec<usize>,
    work: Work,
}

/// The operations that one call ran.
#[derive(Default)]
pub(crate) struct Recording {
    /// Inputs and results by the address of their memory. While a weak reference exists, no other tensor gets the address.
    known: HashMap<usize, (Weak<Vec<f32>>, Source)>,
    steps: Vec<Step>,
    /// Length of each slot.
    lengths: Vec<usize>,
    /// Number of inputs.
    inputs: usize,
    /// Whether another call may have to run other operations.
    useless: bool,
}

impl Recording {
    /// Takes a tensor as the next input of the call. No other tensor may share its memory, not even an equal input: the
    /// next call may give another one.
    pub(crate) fn input(&mut self, tensor: &Tensor) -> Result<()> {
        self.note(tensor, Source::Input(self.inputs))?;
        self.inputs += 1;
        Ok(())
    }

    /// Notes that the host decided something by a tensor's elements.
    pub(crate) fn decide(&mut self, tensor: &Tensor) {
        self.useless |= !matches!(self.source(tensor), Ok(Source::Constant(_)));
    }

    /// Notes an operation that cannot run again by itself.
    pub(crate) fn refuse(&mut self) {
        self.useless = true;
    }

    /// Whether a tensor's elements may differ in another call of the same shapes.
    pub(crate) fn varies(&self, tensor: &Tensor) -> bool {
        !matches!(self.source(tensor), Ok(Source::Constant(_)))
    }

    /// Notes an operation that was run.
    pub(crate) fn step(&mut self, inputs: &[&Tensor], outputs: &[&Tensor], work: Work) -> Result<()> {
        let inputs = inputs.iter().map(|tensor| self.source(tensor)).collect::<Result<Vec<_>>>()?;
        let constant = inputs.iter().all(|source| matches!(source, Source::Constant(_)));
        // A repeated constant takes less memory as a step.
        if constant && !matches!(work, Work::Repeat(_)) {
            return Ok(());
        }
        let mut slots = Vec::new();
        for tensor in outputs {
            let slot = self.slot(tensor.len());
            self.note(tensor, Source::Slot(slot))?;
            slots.push(slot);
        }
        self.steps.push(Step { inputs, outputs: slots, work });
        Ok(())
    }

    /// Notes an element-wise operation on inputs that broadcast to the shape of `y`: as repetitions of its inputs and `each`,
    /// which can all be parts of a pass, or else as `whole`.
    pub(crate) fn broadcast(
        &mut self,
        inputs: [&Tensor; 2],
        y: &Tensor,
        each: HostWork,
        whole: HostWork,
    ) -> Result<()> {
        let repeats = inputs.map(|x| Repeat::of(x.shape(), y.shape()));
        let sources = [self.source(inputs[0])?, self.source(inputs[1])?];
        let constant = sources.iter().all(|source| matches!(source, Source::Constant(_)));
        let ([Some(a), Some(b)], false, true) = (repeats, constant, y.len() <= plan::MOST_PASSED) else {
            return self.step(&inputs, &[y], Work::Whole(whole));
        };
        let mut operands = Vec::new();
        for ((source, x), repeat) in sources.into_iter().zip(inputs).zip([a, b]) {
            operands.push(if x.len() == y.len() {
                source
            } else {
                let slot = self.slot(y.len());
                self.steps.push(Step { inputs: vec![source], outputs: vec![slot], work: Work::Repeat(repeat) });
                Source::Slot(slot)
            });
        }
        let slot = self.slot(y.len());
        self.note(y, Source::Slot(slot))?;
        self.steps.push(Step { inputs: operands, outputs: vec![slot], work: Work::Each(each) });
        Ok(())
    }

    /// A new slot for `len` numbers.
    fn slot(&mut self, len: usize) -> usize {
        self.lengths.push(len);
        self.lengths.len() - 1
    }

    fn note(&mut self, tensor: &Tensor, source: Source) -> Result<()> {
        let memory = tensor.shared_host("recording", "tensor")?;
        self.known.insert(address(memory), (Arc::downgrade(memory), source));
        Ok(())
    }

    fn source(&self, tensor: &Tensor) -> Result<Source> {
        let memory = tensor.shared_host("recording", "tensor")?;
        let known = self.known.get(&address(memory)).map(|(_, source)| source.clone());
        Ok(known.unwrap_or_else(|| Source::Constant(Arc::clone(memory))))
    }
}

fn address(memory: &Arc<Vec<f32>>) -> usize {
    Arc::as_ptr(memory).addr()
}
