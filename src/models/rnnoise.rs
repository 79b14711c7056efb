//! RNNoise: noise suppression at 48 kHz (<https://jmvalin.ca/demo/rnnoise/>; Valin 2018, "A Hybrid DSP/Deep Learning Approach to
//! Real-Time Full-Band Speech Enhancement"). This module is the net alone. The example `denoise` shows the signal path around it, which
//! computes the features and applies the gains.
//!
//! ```text
//! f            features of a frame of 10 ms                                        [42]
//! input_dense  a = tanh(W f + b)                                                   [24]
//! vad_gru      v = GRU(a), 24 units;  vad_output: speech probability, sigmoid      [1]
//! noise_gru    n = GRU([a, v, f]), 48 units
//! denoise_gru  d = GRU([v, n, f]), 96 units;  denoise_output: band gains, sigmoid  [22]
//! ```
//!
//! The GRUs reset before the matrix product, and the activation of their candidate is ReLU.

use ndarray::{Array2, Array3, ArrayView2, ArrayView3, Axis, Ix3, concatenate, s};

use super::arrays::arrays;
use crate::cell::{Activation, GruCell, Reset, Sequence};
use crate::error::{Error, Result, check_shape};
use crate::nn::{Config, Gru, Linear, State};
use crate::ops::{self, Recorder};
use crate::tensor::{Device, Tensor};
use crate::weights::Weights;
use crate::weights::layout::KerasArrays;

const OP: &str = "RnNoise";
const DENSE: usize = 24;
const VAD: usize = 24;
const NOISE: usize = 48;
const DENOISE: usize = 96;

/// The cell of all three GRUs.
const CELL: GruCell = GruCell {
    gate: Activation::Sigmoid,
    candidate: Activation::Relu,
    reset: Reset::Before,
    mix: crate::cell::Mix::KeepsOld,
    gate_clip: None,
    bias: true,
};

/// The activation of every layer, which the metadata of the weights may name.
const ACTIVATIONS: [(&str, &str); 6] = [
    ("input_dense", "tanh"),
    ("vad_gru", "relu"),
    ("noise_gru", "relu"),
    ("denoise_gru", "relu"),
    ("vad_output", "sigmoid"),
    ("denoise_output", "sigmoid"),
];

/// RNNoise's net: from the features of a frame to a gain per band and the probability of speech.
///
/// # Examples
/// ```
/// use gatewise::{Device, models::RnNoise, weights::Weights};
/// use ndarray::Array3;
/// let weights = Weights::from_file("models/rnnoise.safetensors")?;
/// let net = RnNoise::new(&Device::auto(), &weights)?;
/// let mut stream = net.stream(2)?; // two channels
/// let out = stream.push(Array3::zeros((100, 2, RnNoise::FEATURES)).view(), None)?;
/// assert_eq!(out.gains.dim(), (100, 2, RnNoise::BANDS));
/// # Ok::<(), gatewise::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct RnNoise {
    input: Linear,
    vad: Gru,
    vad_head: Linear,
    noise: Gru,
    denoise: Gru,
    gains_head: Linear,
}

impl RnNoise {
    /// Samples per second of the sound that the features describe.
    pub const SAMPLE_RATE: u32 = 48_000;
    /// New samples per frame.
    pub const FRAME: usize = 480;
    /// Features per frame.
    pub const FEATURES: usize = 42;
    /// Bands of the spectrum of a frame.
    pub const BANDS: usize = 22;

    /// Loads the net's weights onto a device. Arrays have Keras' layout: `<layer>.kernel [in, out]`, `recurrent_kernel`, `bias`,
    /// gates z, r, h.
    ///
    /// # Errors
    /// * [`Error::Format`] if a tensor is missing, has a shape other than this net's, or holds NaN or infinity;
    /// * [`Error::Format`] if the file's metadata names an activation that this net does not have;
    /// * [`Error::Limit`] and [`Error::OutOfMemory`] if the device has no room.
    pub fn new(device: &Device, weights: &Weights) -> Result<Self> {
        weights.check_finite()?;
        for (layer, expected) in ACTIVATIONS {
            let key = format!("{layer}.activation");
            match weights.metadata(&key) {
                Ok(found) if found != expected => {
                    return Err(weights.refuse(&format!("metadata {key}"), expected, found));
                }
                _ => {}
            }
        }
        let dense = |layer: &str, [inputs, outputs]: [usize; 2]| {
            let kernel: Array2<f32> = weights.shaped(&format!("{layer}.kernel"), [inputs, outputs])?;
            let bias = weights.shaped(&format!("{layer}.bias"), outputs)?;
            Linear::new(device, &kernel.reversed_axes(), Some(&bias))
        };
        let gru = |layer: &str, input: usize, hidden: usize| {
            let arrays = KerasArrays {
                kernel: weights.shaped(&format!("{layer}.kernel"), [input, 3 * hidden])?,
                recurrent_kernel: weights.shaped(&format!("{layer}.recurrent_kernel"), [hidden, 3 * hidden])?,
                bias: Some(weights.shaped(&format!("{layer}.bias"), 3 * hidden)?.into_dyn()),
            };
            Config::new(CELL, input, hidden).build(device, vec![vec![arrays.to_parameters(&CELL.into())?]])
        };
        Ok(Self {
            input: dense("input_dense", [Self::FEATURES, DENSE])?,
            vad: gru("vad_gru", DENSE, VAD)?,
            vad_head: dense("vad_output", [VAD, 1])?,
            noise: gru("noise_gru", DENSE + VAD + Self::FEATURES, NOISE)?,
            denoise: gru("denoise_gru", VAD + NOISE + Self::FEATURES, DENOISE)?,
            gains_head: dense("denoise_output", [DENOISE, Self::BANDS])?,
        })
    }

    /// The device that holds the net.
    pub fn device(&self) -> &Device {
        self.vad.device()
    }

    /// Begins a stream of `batch` channels: features arrive in pieces, and the states stay on the device.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] or [`Error::DeviceLost`].
    pub fn stream(&self, batch: usize) -> Result<RnNoiseStream> {
        let states = [self.vad.zero_state(batch)?, self.noise.zero_state(batch)?, self.denoise.zero_state(batch)?];
        Ok(RnNoiseStream { net: self.clone(), states, batch })
    }

    /// Records the net over `features [T, B, FEATURES]`. On a GPU nothing runs before the submission.
    fn record(
        &self,
        recorder: &mut Recorder,
        features: &Tensor,
        [vad, noise, denoise]: &mut [State; 3],
        sequence: &Sequence,
    ) -> Result<RnNoisePass> {
        let a = self.input.record(recorder, features)?;
        let a = ops::activation(recorder, Activation::Tanh, &a)?;
        let v = self.vad.record(recorder, &a, vad, sequence)?;
        let x = ops::concat(recorder, &[&a, &v, features], 2)?;
        let n = self.noise.record(recorder, &x, noise, sequence)?;
        let x = ops::concat(recorder, &[&v, &n, features], 2)?;
        let d = self.denoise.record(recorder, &x, denoise, sequence)?;
        let vad = self.vad_head.record(recorder, &v)?;
        let gains = self.gains_head.record(recorder, &d)?;
        // Joined into one tensor, which needs only one copy to the host.
        let logits = ops::concat(recorder, &[&vad, &gains], 2)?;
        Ok(RnNoisePass { hidden: [v, n, d], out: ops::activation(recorder, Activation::Sigmoid, &logits)? })
    }
}

/// The net's values for T frames of B channels, on the device.
struct RnNoisePass {
    /// The GRUs' outputs, `[T, B, units]`.
    hidden: [Tensor; 3],
    /// The probability of speech, then the gains, `[T, B, 1 + BANDS]`.
    out: Tensor,
}

/// The net's result for T frames of B channels.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Suppression {
    /// Probability of speech, `[T, B]`.
    pub vad: Array2<f32>,
    /// Gains of the bands, in 0..1, `[T, B, 22]`.
    pub gains: Array3<f32>,
}

/// A [`Suppression`] with the outputs of the GRUs.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct RnNoiseTrace {
    /// The probability of speech and the gains.
    pub suppression: Suppression,
    /// The GRUs' outputs `[v, n, d]`, joined along the last axis, `[T, B, 168]`.
    pub states: Array3<f32>,
}

/// A running suppression of B channels.
#[derive(Debug)]
pub struct RnNoiseStream {
    net: RnNoise,
    states: [State; 3],
    batch: usize,
}

impl RnNoiseStream {
    /// Takes the features of T more frames of every channel, in one submission. The stream advances once the result is on the host.
    ///
    /// RNNoise does not run its net over silence. A frame that `heard` marks false leaves its channel's state as it was; its
    /// probability and gains are 0.
    ///
    /// # Shapes
    /// `features [T, B, 42]`, `heard [T, B]`.
    ///
    /// # Errors
    /// [`Error::Shape`] for other shapes, [`Error::NotFinite`] for NaN or infinity, [`Error::Limit`], [`Error::OutOfMemory`],
    /// [`Error::DeviceLost`]. After an error the stream is as it was before the call, and the same frames can be pushed again.
    pub fn push(&mut self, features: ArrayView3<'_, f32>, heard: Option<ArrayView2<'_, bool>>) -> Result<Suppression> {
        let read = |recorder: Recorder, pass: &RnNoisePass| recorder.submit_and_read(&pass.out)?.wait_array();
        Ok(suppression(self.advance(features, heard, read)?, heard))
    }

    /// Pushes frames as [`RnNoiseStream::push`] does, and returns the outputs of the GRUs, too, to inspect the net or to compare it.
    ///
    /// # Errors
    /// As [`RnNoiseStream::push`].
    pub fn trace(
        &mut self,
        features: ArrayView3<'_, f32>,
        heard: Option<ArrayView2<'_, bool>>,
    ) -> Result<RnNoiseTrace> {
        let read = |recorder: Recorder, pass: &RnNoisePass| {
            let [v, n, d] = &pass.hidden;
            arrays::<Ix3, 4>(recorder.submit_and_read_all(&[&pass.out, v, n, d])?)
        };
        let [out, hidden @ ..] = self.advance(features, heard, read)?;
        Ok(RnNoiseTrace { suppression: suppression(out, heard), states: joined(&hidden)? })
    }

    /// Copies the GRUs' states `[v, n, d]` to the host, joined along the last axis, `[B, 168]`.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] or [`Error::DeviceLost`].
    pub fn states(&self) -> Result<Array2<f32>> {
        let tensors: Vec<&Tensor> = self.states.iter().flat_map(State::tensors).collect();
        let states = arrays::<Ix3, 3>(self.net.device().recorder().submit_and_read_all(&tensors)?)?;
        Ok(joined(&states)?.index_axis_move(Axis(0), 0))
    }

    /// Runs T frames. `read` submits them and copies their results to the host. The stream advances once they have been read; until
    /// then its states are only read.
    fn advance<T>(
        &mut self,
        features: ArrayView3<'_, f32>,
        heard: Option<ArrayView2<'_, bool>>,
        read: impl FnOnce(Recorder, &RnNoisePass) -> Result<T>,
    ) -> Result<T> {
        let time = features.len_of(Axis(0));
        check_shape(OP, "features", &[time, self.batch, RnNoise::FEATURES], features.shape())?;
        if let Some((index, &found)) = features.iter().enumerate().find(|(_, feature)| !feature.is_finite()) {
            return Err(Error::NotFinite { op: OP, what: "features", index, found });
        }
        let mut sequence = Sequence::new();
        if let Some(heard) = heard {
            check_shape(OP, "heard", &[time, self.batch], heard.shape())?;
            sequence = sequence.mask(heard.to_owned());
        }
        let features = Tensor::from_array(self.net.device(), &features)?;
        let mut recorder = self.net.device().recorder();
        let [vad, noise, denoise] = &mut self.states;
        let mut next =
            [vad.record_next(&mut recorder)?, noise.record_next(&mut recorder)?, denoise.record_next(&mut recorder)?];
        let pass = self.net.record(&mut recorder, &features, &mut next, &sequence)?;
        let result = read(recorder, &pass)?;
        self.states = next;
        Ok(result)
    }
}

/// Splits the net's output into probability and gains, which are 0 in frames that were not heard.
fn suppression(mut out: Array3<f32>, heard: Option<ArrayView2<'_, bool>>) -> Suppression {
    if let Some(heard) = heard {
        for ((t, b), _) in heard.indexed_iter().filter(|(_, heard)| !**heard) {
            out.slice_mut(s![t, b, ..]).fill(0.0);
        }
    }
    Suppression { vad: out.slice(s![.., .., 0]).to_owned(), gains: out.slice(s![.., .., 1..]).to_owned() }
}

/// Joins arrays of the same length and batch along their last axis.
fn joined(arrays: &[Array3<f32>; 3]) -> Result<Array3<f32>> {
    concatenate(Axis(2), &arrays.each_ref().map(|array| array.view())).map_err(|error| Error::Shape {
        op: OP,
        what: "states",
        expected: error.to_string(),
        found: arrays[0].shape().to_vec(),
    })
}
