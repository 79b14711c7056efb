//! The state of a stack as each path reads and advances it.

use std::iter;

use ndarray::Array3;

use crate::cpu;
use crate::error::Result;
use crate::gpu;
use crate::memory;
use crate::reference;
use crate::tensor::Tensor;

const OP: &str = "Recurrent";

/// The tensors of a stack's state, to be advanced.
pub(crate) struct StateTensors<'a> {
    /// `[layers directions, B, O]`
    pub(crate) h: &'a mut Tensor,
    /// `[layers directions, B, hidden]`, present exactly for an LSTM.
    pub(crate) s: &'a mut Option<Tensor>,
    /// The value that a reset returns `h` and `s` to; zeros if absent.
    pub(crate) initial: [Option<&'a Tensor>; 2],
    /// Buffers of the CPU path, kept from call to call.
    pub(crate) workspace: &'a mut cpu::Workspace,
}

impl StateTensors<'_> {
    /// Copies the state for the reference.
    pub(super) fn arrays(&self) -> Result<reference::StackState> {
        state_arrays(self.h, self.s.as_ref(), self.initial)
    }

    /// Takes over a state that the reference has advanced. If there is no memory for it, the state keeps its value.
    pub(super) fn set_arrays(self, arrays: &reference::StackState) -> Result<()> {
        let s = self.s.as_ref().map(|s| Tensor::from_array(s.device(), &arrays.s)).transpose()?;
        *self.h = Tensor::from_array(self.h.device(), &arrays.h)?;
        *self.s = s;
        Ok(())
    }

    /// The buffers of a state on a GPU.
    pub(super) fn buffers(&self) -> Result<gpu::StateBuffers<'_>> {
        fn of(tensor: Option<&Tensor>) -> Result<Option<&gpu::Buffer>> {
            tensor.map(|tensor| tensor.buffer(OP, "state")).transpose()
        }
        let [initial_h, initial_s] = self.initial;
        let initial_s = of(initial_s)?;
        Ok(gpu::StateBuffers {
            h: self.h.buffer(OP, "state")?,
            s: of(self.s.as_ref())?,
            initial: of(initial_h)?.map(|h| (h, initial_s)),
        })
    }

    /// Returns the state to its initial value. On the host nothing is allocated unless clones share the memory. If it fails,
    /// the state keeps its value.
    pub(crate) fn reset(self) -> Result<()> {
        const OP: &str = "State";
        let Self { h, s, initial: [initial_h, initial_s], .. } = self;
        if h.is_on_host() {
            // Both parts get memory of their own before either changes, because the second allocation may fail.
            for part in iter::once(&mut *h).chain(s.as_mut()) {
                part.host_mut(OP, "state")?;
            }
            for (part, initial) in iter::once((h, initial_h)).chain(s.as_mut().map(|s| (s, initial_s))) {
                let part = part.host_mut(OP, "state")?;
                match initial {
                    Some(initial) => part.copy_from_slice(initial.host(OP, "state")?),
                    None => part.fill(0.0),
                }
            }
            return Ok(());
        }
        let Some(initial_h) = initial_h else { return zero_buffers(OP, h, s) };
        let mut recorder = h.device().recorder();
        let new_h = initial_h.record_copy(OP, &mut recorder)?;
        let new_s = initial_s.map(|s| s.record_copy(OP, &mut recorder)).transpose()?;
        recorder.submit()?;
        (*h, *s) = (new_h, new_s);
        Ok(())
    }
}

/// The state of a stack as arrays for the reference, from tensors of any device.
pub(crate) fn state_arrays(
    h: &Tensor,
    s: Option<&Tensor>,
    [initial_h, initial_s]: [Option<&Tensor>; 2],
) -> Result<reference::StackState> {
    let shape = |tensor: &Tensor| <[usize; 3]>::try_from(tensor.shape()).unwrap_or_default();
    let h_shape = shape(h);
    let s_shape = s.map_or([h_shape[0], h_shape[1], 0], shape);
    let read = |tensor: Option<&Tensor>, shape: [usize; 3]| -> Result<Array3<f32>> {
        tensor.map_or_else(|| memory::zero_array(OP, shape), Tensor::to_array)
    };
    Ok(reference::StackState {
        h: read(Some(h), h_shape)?,
        s: read(s, s_shape)?,
        initial_h: read(initial_h, h_shape)?,
        initial_s: read(initial_s, s_shape)?,
    })
}

/// Zeros both parts of a state on a GPU. A part that a recorder or a clone holds as well gets new memory, so that they
/// keep the value that they have recorded. All memory is allocated before either part changes; a write fails only if
/// the device is lost.
fn zero_buffers(op: &'static str, h: &mut Tensor, s: &mut Option<Tensor>) -> Result<()> {
    let fresh = |part: &Tensor| match part.is_shared() {
        true => Tensor::zeros(part.device(), part.shape()).map(Some),
        false => Ok(None),
    };
    let fresh = iter::once(&*h).chain(&*s).map(fresh).collect::<Result<Vec<_>>>()?;
    let most = iter::once(&*h).chain(&*s).map(Tensor::len).max().unwrap_or_default();
    let zeros: Vec<u8> = memory::zeros(op, 4 * most)?;
    for (now, fresh) in iter::once(h).chain(s).zip(fresh) {
        match fresh {
            Some(fresh) => *now = fresh,
            None => now.buffer(op, "state")?.write(op, &zeros[..4 * now.len()])?,
        }
    }
    Ok(())
}
