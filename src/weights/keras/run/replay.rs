//! Calls of a layer or model on the CPU without its interpreter.

use std::hash::{Hash, Hasher};

use ndarray::Array2;

use super::{KerasCall, KerasInput, KerasOutputs};
use crate::error::Result;
use crate::path::{CallInput, CallInputs, KnownInput, Replay, Replayable};
use crate::tensor::Device;

/// A replay of a layer, with the calls that it is for.
pub(super) struct LayerReplay {
    inputs: Vec<KnownInput>,
    mask: Option<Array2<bool>>,
    /// Numbers of outputs and of states.
    counts: [usize; 2],
    output_mask: Option<Array2<bool>>,
    replay: Replay,
}

impl KerasCall {
    /// Inputs, then initial states.
    fn all(&self) -> impl Iterator<Item = CallInput<'_>> {
        let inputs = self.inputs.iter().map(|input| match input {
            KerasInput::Floats(x) => CallInput::Floats(x),
            KerasInput::Integers(x) => CallInput::Ints(x),
            KerasInput::Tensor(x) => CallInput::Tensor(x),
        });
        inputs.chain(self.initial_state.iter().map(CallInput::Tensor))
    }
}

/// The kind of a call, for which equal operations run.
pub(super) struct CallKind<'a>(pub(super) &'a KerasCall);

impl Hash for CallKind<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.all().for_each(|input| input.hash(state));
        self.0.mask.hash(state);
    }
}

impl CallInputs for KerasCall {
    fn elements(&self, at: usize) -> &[f32] {
        self.all().filter(|input| input.is_float()).nth(at).map_or(&[], CallInput::elements)
    }
}

impl LayerReplay {
    /// `outputs` are those of the call that was recorded.
    pub(super) fn new(call: &KerasCall, outputs: &KerasOutputs, replay: Replay) -> Self {
        Self {
            inputs: call.all().map(KnownInput::of).collect(),
            mask: call.mask.clone(),
            counts: [outputs.outputs.len(), outputs.states.len()],
            output_mask: outputs.mask.clone(),
            replay,
        }
    }

    /// Whether a call runs the operations of this replay.
    pub(super) fn fits(&self, call: &KerasCall, device: &Device) -> bool {
        let mut given = call.all();
        let fit = self.inputs.iter().all(|known| given.next().is_some_and(|input| known.fits(input, device)));
        fit && given.next().is_none() && self.mask == call.mask
    }

    /// Runs the operations. If they fail, `outputs` stay as they are.
    pub(super) fn run(&mut self, call: &KerasCall, outputs: &mut KerasOutputs) -> Result<()> {
        self.replay.run(call)?;
        let mut next = 0;
        for (count, tensors) in self.counts.into_iter().zip([&mut outputs.outputs, &mut outputs.states]) {
            tensors.truncate(count);
            for at in 0..count {
                let tensor = self.replay.output(next)?;
                next += 1;
                match tensors.get_mut(at) {
                    Some(place) => *place = tensor,
                    None => tensors.push(tensor),
                }
            }
        }
        if outputs.mask != self.output_mask {
            outputs.mask.clone_from(&self.output_mask);
        }
        Ok(())
    }
}

impl Replayable for LayerReplay {
    fn bytes(&self) -> u64 {
        self.replay.bytes()
    }
}
