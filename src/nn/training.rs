//! Recurrent stacks that learn: forward passes that keep values for the gradients, and back-propagation through time.

mod bytes;
mod tape;

pub use self::tape::{RecurrentGradient, StateGradient, Tape};
pub use crate::path::ParameterTensors;

use self::tape::Kept;
use super::config::Config;
use super::recurrent::Recurrent;
use super::state::State;
use ndarray::Array3;

use crate::cell::{Cell, Direction, Noise, Parameters, Sequence, WeightType};
use crate::error::{Error, Result, axes, check_shape};
use crate::path::{self, Device, DeviceSequence, PassShapes, Recorder, StackCall, TrainingPass};
use crate::reference::LayerPass;
use crate::tensor::Tensor;

const OP: &str = "TrainableRecurrent";

/// The options of a training pass.
///
/// # Examples
/// ```
/// use gatewise::cell::Noise;
/// use gatewise::nn::TrainingOptions;
/// let options = TrainingOptions::new().noise(Noise { dropout: 0.2, ..Default::default() }).checkpoint(64);
/// assert_eq!((options.noise.dropout, options.recurrent_clip, options.checkpoint), (0.2, None, Some(64)));
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct TrainingOptions {
    /// Dropout and zoneout.
    pub noise: Noise,
    /// Clamps the gradient with respect to the state to `[-clip, clip]` between two steps of the backward pass.
    pub recurrent_clip: Option<f32>,
    /// Gradient checkpointing: the forward pass keeps the state every so many steps, and the backward pass runs the
    /// steps between them again. The bits of the gradients do not change. Then only each layer's input and output, and
    /// the gradients with respect to them, grow with the length. (The CPU path rounds up to a multiple of 64; the
    /// reference always keeps states only.)
    pub checkpoint: Option<usize>,
}

impl TrainingOptions {
    /// No dropout, no zoneout, no clipping, no checkpoints.
    pub const fn new() -> Self {
        Self { noise: Noise::NONE, recurrent_clip: None, checkpoint: None }
    }

    /// Sets dropout and zoneout.
    pub const fn noise(self, noise: Noise) -> Self {
        Self { noise, ..self }
    }

    /// Clamps the gradient with respect to the state to `[-clip, clip]` between two steps of the backward pass.
    pub const fn recurrent_clip(self, clip: f32) -> Self {
        Self { recurrent_clip: Some(clip), ..self }
    }

    /// Keeps the state every so many steps, and runs the steps between them again in the backward pass.
    pub const fn checkpoint(self, steps: usize) -> Self {
        Self { checkpoint: Some(steps), ..self }
    }
}

/// The position of a parameter in a stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ParameterPlace {
    /// The layer, from 0.
    pub layer: usize,
    /// The direction of time.
    pub direction: Direction,
    /// PyTorch's name without layer suffix.
    pub name: &'static str,
}

/// A recurrent stack whose parameters can change: tensors in PyTorch's layout on the stack's device, from which each
/// training pass packs what it needs.
///
/// # Examples
/// One step of gradient descent:
/// ```
/// use gatewise::{Device, Tensor, cell::Sequence, nn::Lstm};
/// use ndarray::Array3;
///
/// let device = Device::Cpu;
/// let config = Lstm::config(3, 4);
/// let mut lstm = config.trainable(&device, &config.random_parameters(7)?)?;
/// let mut state = lstm.zero_state(2)?;
/// let x = Tensor::from_array(&device, &Array3::<f32>::ones((5, 2, 3)))?;
/// let (y, tape) = lstm.forward_training(&x, &mut state, &Sequence::new())?;
/// let dy = y.clone(); // the loss is sum(y^2) / 2
/// let gradient = tape.backward(&dy, None)?;
/// let step = |p: &Tensor, d: &Tensor| -> gatewise::Result<Tensor> {
///     let moved = p.to_vec()?.iter().zip(d.to_vec()?).map(|(p, d)| p - 0.1 * d).collect();
///     Tensor::from_vec(&device, p.shape(), moved)
/// };
/// let moved = lstm.tensors().zip(gradient.tensors()).map(|((_, p), d)| step(p, d)).collect::<Result<Vec<_>, _>>()?;
/// lstm.replace(moved)?;
/// # Ok::<(), gatewise::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct TrainableRecurrent<C = Cell> {
    config: Config<C>,
    device: Device,
    /// `[layer][direction]`
    parameters: Vec<Vec<ParameterTensors>>,
}

impl<C: Clone + Into<Cell>> Config<C> {
    /// Puts the stack on a device, with parameters that can change.
    ///
    /// # Errors
    /// As [`Config::build`]; [`Error::Unsupported`] for weights of a narrow type: training needs `f32`.
    pub fn trainable(&self, device: &Device, parameters: &[Vec<Parameters>]) -> Result<TrainableRecurrent<C>> {
        self.check_parameters(parameters)?;
        if self.weight_type != WeightType::F32 {
            let option = format!("weights of type {:?}", self.weight_type);
            return Err(Error::Unsupported { op: OP, option, by: "by training" });
        }
        let upload = |layer: &Vec<Parameters>| layer.iter().map(|p| ParameterTensors::from_host(device, p)).collect();
        let parameters = parameters.iter().map(upload).collect::<Result<_>>()?;
        Ok(TrainableRecurrent { config: self.clone(), device: device.clone(), parameters })
    }

    /// [`Config::trainable`] from tensors that are on the device already, in the order of [`TrainableRecurrent::tensors`].
    ///
    /// # Errors
    /// As [`TrainableRecurrent::replace`].
    pub fn trainable_from(
        &self,
        device: &Device,
        tensors: impl IntoIterator<Item = Tensor>,
    ) -> Result<TrainableRecurrent<C>> {
        let mut tensors = tensors.into_iter();
        let cells = self.cells();
        let problem = self.problem(0, 0);
        let mut one = |layer: usize, cell: &Cell| {
            let specs = cell.parameters(problem.layer_input(layer), self.hidden);
            let named = specs.into_iter().map(|spec| {
                let tensor = tensors.next();
                check_shape(OP, spec.name, &spec.shape, tensor.as_ref().map_or(&[], Tensor::shape))?;
                let tensor = tensor.map_or_else(|| Tensor::zeros(device, &spec.shape), Ok)?;
                tensor.check_device(OP, spec.name, device)?;
                Ok((spec.name, tensor))
            });
            Ok(ParameterTensors { named: named.collect::<Result<_>>()? })
        };
        let parameters: Vec<Vec<ParameterTensors>> =
            (0..self.layers).map(|layer| cells.iter().map(|cell| one(layer, cell)).collect()).collect::<Result<_>>()?;
        if let Some(more) = tensors.next() {
            check_shape(OP, "a parameter more than the stack has", &[], more.shape())?;
        }
        Ok(TrainableRecurrent { config: self.clone(), device: device.clone(), parameters })
    }

    /// The position of every parameter, in the order of [`TrainableRecurrent::tensors`].
    pub fn parameter_places(&self) -> Vec<ParameterPlace> {
        let cells = self.cells();
        let mut places = Vec::new();
        for layer in 0..self.layers {
            for (cell, &direction) in cells.iter().zip(&self.directions) {
                let names = cell.parameters(self.input, self.hidden).into_iter().map(|spec| spec.name);
                places.extend(names.map(|name| ParameterPlace { layer, direction, name }));
            }
        }
        places
    }
}

impl<C: Clone + Into<Cell>> TrainableRecurrent<C> {
    /// The configuration of the stack.
    pub fn config(&self) -> &Config<C> {
        &self.config
    }

    /// The device the stack lives on.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Every parameter with its place, layer by layer, direction by direction, in the order of [`Cell::parameters`].
    pub fn tensors(&self) -> impl Iterator<Item = (ParameterPlace, &Tensor)> {
        let directions = &self.config.directions;
        self.parameters.iter().enumerate().flat_map(move |(layer, row)| {
            row.iter().zip(directions).flat_map(move |(p, &direction)| {
                p.named.iter().map(move |(name, tensor)| (ParameterPlace { layer, direction, name }, tensor))
            })
        })
    }

    /// Copies the parameters to the host, `[layer][direction]`.
    ///
    /// # Errors
    /// The errors of a read-back, such as [`Error::DeviceLost`](crate::Error::DeviceLost).
    pub fn parameters(&self) -> Result<Vec<Vec<Parameters>>> {
        self.parameters.iter().map(|layer| layer.iter().map(ParameterTensors::to_host).collect()).collect()
    }

    /// Replaces the parameters by other tensors, in the order of [`TrainableRecurrent::tensors`].
    ///
    /// # Errors
    /// [`Error::Shape`] if their number or a shape differs, [`Error::DeviceMismatch`]; then nothing is replaced.
    pub fn replace(&mut self, tensors: impl IntoIterator<Item = Tensor>) -> Result<()> {
        let tensors: Vec<Tensor> = tensors.into_iter().collect();
        check_shape(OP, "parameters", &[self.tensors().count()], &[tensors.len()])?;
        for ((place, old), new) in self.tensors().zip(&tensors) {
            check_shape(OP, place.name, old.shape(), new.shape())?;
            new.check_device(OP, place.name, &self.device)?;
        }
        let places = self.parameters.iter_mut().flatten().flat_map(|p| &mut p.named);
        places.zip(tensors).for_each(|((_, place), tensor)| *place = tensor);
        Ok(())
    }

    /// Packs the stack with its present parameters for inference.
    ///
    /// # Errors
    /// As [`Config::build`].
    pub fn freeze(&self) -> Result<Recurrent<C>> {
        self.config.build(&self.device, self.parameters()?)
    }

    /// Runs the whole sequence through all layers and directions, advances the state, and keeps the values that the backward
    /// pass needs.
    ///
    /// # Shapes
    /// `x [T, B, input]`; returns `[T, B, output_size]` on the same device. `T` may be 0.
    ///
    /// # Errors
    /// As [`Recurrent::forward_sequence`]; the state then keeps its value.
    pub fn forward_training<'a>(
        &self,
        x: &Tensor,
        state: &mut State,
        sequence: impl Into<DeviceSequence<'a>>,
    ) -> Result<(Tensor, Tape)> {
        let mut recorder = self.device.recorder();
        let result = self.record_training(&mut recorder, x, state, sequence, &TrainingOptions::default())?;
        recorder.submit()?;
        Ok(result)
    }

    /// Records [`TrainableRecurrent::forward_training`] together with other operations, with the given options. On a GPU the
    /// state advances when the recorder is submitted, on the host at once.
    ///
    /// # Errors
    /// As [`TrainableRecurrent::forward_training`]; [`Error::Value`] for a probability outside `[0, 1)`, a clip that is
    /// not a positive number, or a checkpoint every 0 steps.
    pub fn record_training<'a>(
        &self,
        recorder: &mut Recorder,
        x: &Tensor,
        state: &mut State,
        sequence: impl Into<DeviceSequence<'a>>,
        options: &TrainingOptions,
    ) -> Result<(Tensor, Tape)> {
        let sequence = sequence.into();
        let device = recorder.device().clone();
        let [time, batch] = self.check_call(x, state)?;
        x.check_device(OP, "recorder", &device)?;
        options.noise.check()?;
        if let Some(clip) = options.recurrent_clip.filter(|clip| clip.is_nan() || *clip <= 0.0) {
            let (what, found) = ("recurrent_clip", clip.to_string());
            return Err(Error::Value { op: OP, what, expected: "a positive number", found });
        }
        if options.checkpoint == Some(0) {
            let (what, expected) = ("checkpoint", "at least one step");
            return Err(Error::Value { op: OP, what, expected, found: "0".to_owned() });
        }
        sequence.check(&self.device, time, batch)?;
        let (y, kept) = if batch == 0 {
            // A call without rows may have any number of steps, so no path may loop over them.
            let y = Tensor::zeros(&self.device, &[time, batch, self.output_size()])?;
            (y, Kept::Nothing(self.parameters.clone()))
        } else {
            let call = StackCall { x, sequence, width: self.output_size() };
            let pass = TrainingPass {
                problem: self.config.problem(0, 0),
                directions: &self.config.directions,
                merge: self.config.merge.op(),
                parameters: &self.parameters,
                noise: options.noise,
                checkpoint: options.checkpoint,
            };
            let (y, tape) = pass.record(recorder, &call, state.tensors_mut())?;
            (y, Kept::Pass(tape))
        };
        let (h, s) = self.config.state_shapes(batch);
        let tape = Tape {
            device: self.device.clone(),
            kept,
            shapes: PassShapes { x: [time, batch, self.config.input], h, s },
            width: self.output_size(),
            recurrent_clip: options.recurrent_clip,
        };
        Ok((y, tape))
    }

    /// Runs the sequence forward and back by the reference, on whichever device the stack lives. `show` is called for
    /// each layer and direction with its gradients, from the last layer to the first. The state keeps its value.
    pub(crate) fn show_gradients(
        &self,
        x: &Tensor,
        state: &State,
        sequence: &Sequence,
        dy: &Tensor,
        show: impl FnMut(&LayerPass<'_>) -> Result<()>,
    ) -> Result<()> {
        let [time, batch] = self.check_call(x, state)?;
        check_shape(OP, "dy", &[time, batch, self.output_size()], dy.shape())?;
        let Config { directions, merge, .. } = &self.config;
        let stack = path::reference_stack(self.config.problem(0, 0), directions, merge.op(), &self.parameters)?;
        let (initial_h, initial_s) = state.initial();
        let mut arrays = path::state_arrays(&state.h, state.s.as_ref(), [initial_h, initial_s])?;
        let x: Array3<f32> = x.to_array()?;
        let (_, tape) = stack.forward_training(x.view(), sequence, Noise::default(), &mut arrays)?;
        tape.backward(&dy.to_array()?, [None, None], None, show)?;
        Ok(())
    }

    /// Refuses an input or a state that does not fit; returns `[T, B]`.
    fn check_call(&self, x: &Tensor, state: &State) -> Result<[usize; 2]> {
        x.check_device(OP, "x", &self.device)?;
        let [time, batch, input] = axes(OP, "x", "[T, B, input]", x.shape())?;
        check_shape(OP, "x", &[time, batch, self.config.input], &[time, batch, input])?;
        state.check(OP, &self.device, self.config.state_shapes(batch))?;
        Ok([time, batch])
    }
}

#[cfg(test)]
mod tests {
    use super::{Noise, TrainingOptions};

    #[test]
    fn every_option_has_a_method_that_sets_it_alone() {
        assert_eq!(TrainingOptions::new(), TrainingOptions::default());
        let noise = Noise { seed: 7, zoneout_h: 0.25, ..Noise::default() };
        let all = TrainingOptions { noise, recurrent_clip: Some(0.5), checkpoint: Some(16) };
        assert_eq!(TrainingOptions::new().noise(noise).recurrent_clip(0.5).checkpoint(16), all);
        assert_eq!(TrainingOptions::new().checkpoint(16).recurrent_clip(0.5).noise(noise), all);
    }
}
