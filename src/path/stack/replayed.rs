//! A call of a stack on the CPU that a replay can run again.

use std::sync::Arc;

use super::{OP, PackedStack, StackCall};
use crate::cpu;
use crate::error::{Result, elements};
use crate::memory;
use crate::path::host::HostInputs;
use crate::path::replay::Work;
use crate::path::{Recorder, StateTensors};
use crate::tensor::Tensor;

/// A call without its tensors. It reads `x`, `h`, an LSTM's `s`, and the initial value if there is one.
struct ReplayedStack {
    stack: Arc<PackedStack>,
    time: usize,
    batch: usize,
    flags: Option<Vec<u32>>,
    pad: crate::cell::Pad,
    /// Whether there is an `s`.
    cell_state: bool,
    /// Whether there is an initial value.
    initial: bool,
    workspace: cpu::Workspace,
}

impl ReplayedStack {
    /// Writes the output, and the state after the call. The tensors that it reads stay as they are.
    fn run(&mut self, inputs: &HostInputs<'_>, [y, h, s]: [&mut [f32]; 3]) -> Result<()> {
        let Self { stack, time, batch, flags, pad, cell_state, initial, workspace } = self;
        let Some(stack) = stack.cpu() else { return Ok(()) };
        h.copy_from_slice(inputs.get(1)?);
        let mut next = 2;
        let mut following = || -> Result<&[f32]> {
            next += 1;
            inputs.get(next - 1)
        };
        if *cell_state {
            s.copy_from_slice(following()?);
        }
        let initial_h = if *initial { Some(following()?) } else { None };
        let initial_s = if *initial && *cell_state { Some(following()?) } else { None };
        let (x, flags) = (inputs.get(0)?, flags.as_deref());
        let (time, batch, pad) = (*time, *batch, *pad);
        stack.forward(
            cpu::StackCall { time, batch, x, y, y_is_zero: false, flags, pad, h, s, initial_h, initial_s },
            workspace,
        )
    }
}

/// Runs all layers and notes them as one step. The state moves to new memory, so its old value can be an input of the step.
pub(super) fn record(
    stack: &Arc<PackedStack>,
    recorder: &mut Recorder,
    call: &StackCall<'_>,
    state: StateTensors<'_>,
) -> Result<Tensor> {
    let shape = call.output_shape();
    let [time, batch, _] = shape;
    let [initial_h, initial_s] = state.initial;
    let mut inputs = vec![call.x, &*state.h];
    inputs.extend(state.s.as_ref());
    inputs.extend(initial_h);
    inputs.extend(initial_s.filter(|_| initial_h.is_some()));
    let sequence = call.host_sequence()?;
    let flags = sequence.flags(time, batch)?.map(|flags| flags.into_raw_vec_and_offset().0);
    let mut replayed = ReplayedStack {
        stack: Arc::clone(stack),
        time,
        batch,
        flags,
        pad: sequence.padding(),
        cell_state: state.s.is_some(),
        initial: initial_h.is_some(),
        workspace: std::mem::take(state.workspace),
    };
    let device = call.x.device();
    let mut y = memory::zeros(OP, elements(OP, "y", &shape)?)?;
    let mut h = memory::zeros(OP, state.h.len())?;
    let mut s = memory::zeros(OP, state.s.as_ref().map_or(0, Tensor::len))?;
    replayed.run(&HostInputs::Tensors { op: OP, tensors: &inputs }, [&mut y, &mut h, &mut s])?;
    let y = Tensor::from_vec(device, &shape, y)?;
    let h = Tensor::from_vec(device, state.h.shape(), h)?;
    let s = state.s.as_ref().map(|old| Tensor::from_vec(device, old.shape(), s)).transpose()?;
    if let Some(recording) = recorder.recording() {
        // The step keeps the flags that the tensors gave.
        call.sequence.tensors().for_each(|(_, tensor)| recording.decide(tensor));
        let outputs: Vec<&Tensor> = [&y, &h].into_iter().chain(&s).collect();
        recording.step(
            &inputs,
            &outputs,
            Work::Stack(Box::new(move |inputs, outputs| replayed.run(inputs, outputs))),
        )?;
    }
    *state.h = h;
    *state.s = s;
    Ok(y)
}
