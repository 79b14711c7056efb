//! Runs of a graph on the CPU without its interpreter.

use std::hash::{Hash, Hasher};

use ndarray::{ArrayD, IxDyn};

use super::interface::{Input, Output, Outputs};
use super::value::Value;
use crate::error::Result;
use crate::path::{CallInputs, KnownInput, Replay, Replayable};
use crate::tensor::{Device, Tensor};

const OP: &str = "onnx";

/// A replay of a graph, with the calls that it is for.
pub(super) struct GraphReplay {
    inputs: Vec<(String, KnownInput)>,
    /// The call's inputs that are floats, in the order in which the replay counts them.
    floats: Vec<usize>,
    outputs: Vec<(String, ReplayedOutput)>,
    replay: Replay,
}

enum ReplayedOutput {
    /// The number of the replay's output.
    Tensor(usize),
    Mask(usize),
    /// A mask that is returned as booleans on the host.
    Bools(usize),
    /// An output that depends on nothing else than the [`KnownInput`]s.
    Fixed(Output),
}

/// The kind of a call, for which equal steps run.
pub(super) struct CallKind<'a>(pub(super) &'a [(&'a str, Input)]);

impl Hash for CallKind<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.iter().for_each(|(name, input)| (name, input.of_call()).hash(state));
    }
}

/// The float inputs of a call.
struct FloatInputs<'a> {
    inputs: &'a [(&'a str, Input)],
    floats: &'a [usize],
}

impl CallInputs for FloatInputs<'_> {
    fn elements(&self, at: usize) -> &[f32] {
        let input = self.floats.get(at).and_then(|&at| self.inputs.get(at));
        input.map_or(&[], |(_, input)| input.of_call().elements())
    }
}

impl GraphReplay {
    /// `values` are the outputs of the run that was recorded, as they were computed.
    pub(super) fn new(inputs: &[(&str, Input)], values: &[Value], outputs: &Outputs, replay: Replay) -> Self {
        let mut tensors = 0..;
        let mut next = || tensors.next().unwrap_or_default();
        let replayed = values.iter().zip(&outputs.0).map(|(value, (name, output))| {
            let one = match (value, output) {
                (Value::Float(_), _) => ReplayedOutput::Tensor(next()),
                (Value::Mask(_), Output::Bool(_)) => ReplayedOutput::Bools(next()),
                (Value::Mask(_), _) => ReplayedOutput::Mask(next()),
                (Value::Int(_) | Value::Bool(_), output) => ReplayedOutput::Fixed(output.clone()),
            };
            (name.clone(), one)
        });
        Self {
            inputs: inputs.iter().map(|(name, input)| ((*name).to_owned(), KnownInput::of(input.of_call()))).collect(),
            floats: (0..inputs.len()).filter(|&at| inputs[at].1.of_call().is_float()).collect(),
            outputs: replayed.collect(),
            replay,
        }
    }

    /// Whether a call runs the steps of this replay.
    pub(super) fn fits(&self, inputs: &[(&str, Input)], device: &Device) -> bool {
        self.inputs.len() == inputs.len()
            && self
                .inputs
                .iter()
                .zip(inputs)
                .all(|((own, known), (name, input))| own == name && known.fits(input.of_call(), device))
    }

    /// Runs the steps. If they fail, `outputs` stay as they are.
    pub(super) fn run(&mut self, inputs: &[(&str, Input)], outputs: &mut Outputs) -> Result<()> {
        let Self { floats, replay, .. } = self;
        replay.run(&FloatInputs { inputs, floats })?;
        let alike = outputs.0.iter().map(|(name, _)| name).eq(self.outputs.iter().map(|(name, _)| name));
        if alike {
            for ((_, output), (_, from)) in outputs.0.iter_mut().zip(&self.outputs) {
                from.write(&self.replay, output)?;
            }
            return Ok(());
        }
        let made = self.outputs.iter().map(|(name, from)| {
            let mut output = Output::Bool(ArrayD::default(IxDyn(&[0])));
            from.write(&self.replay, &mut output)?;
            Ok((name.clone(), output))
        });
        outputs.0 = made.collect::<Result<_>>()?;
        Ok(())
    }
}

impl ReplayedOutput {
    /// Puts the output of the last run in the place of an older one, in whose memory if it can.
    fn write(&self, replay: &Replay, output: &mut Output) -> Result<()> {
        match self {
            Self::Tensor(at) => *output = Output::Tensor(replay.output(*at)?),
            Self::Mask(at) => *output = Output::Mask(replay.output(*at)?),
            Self::Bools(at) => {
                let mask = replay.output(*at)?;
                match output {
                    Output::Bool(known) if known.shape() == mask.shape() => {
                        known.iter_mut().zip(mask.host(OP, "output")?).for_each(|(y, &x)| *y = x != 0.0);
                    }
                    _ => *output = Output::Bool(booleans(&mask)?),
                }
            }
            Self::Fixed(fixed) => {
                let same = match (fixed, &*output) {
                    (Output::Int { values, .. }, Output::Int { values: found, .. }) => values == found,
                    (Output::Bool(values), Output::Bool(found)) => values == found,
                    _ => false,
                };
                if !same {
                    *output = fixed.clone();
                }
            }
        }
        Ok(())
    }
}

/// A mask as booleans.
pub(super) fn booleans(mask: &Tensor) -> Result<ArrayD<bool>> {
    Ok(mask.to_array::<IxDyn>()?.mapv(|x| x != 0.0))
}

impl Replayable for GraphReplay {
    fn bytes(&self) -> u64 {
        self.replay.bytes()
    }
}
