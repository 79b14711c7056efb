//! Silero VAD, 16 kHz: speech detection (<https://github.com/snakers4/silero-vad>, version 6).
//!
//! ```text
//! frame       64 samples of context + 512 new ones
//! pad         64 more by reflection on the right             [640]
//! stft_conv   kernel 256, stride 128: a Fourier transform    [258, 4]
//! magnitude   sqrt(re^2 + im^2)                              [129, 4]
//! conv1..4    kernel 3, padding 1, strides 1 2 2 1, ReLU     [128, 1]
//! lstm_cell   128 units
//! final_conv  sigmoid(W relu(h) + b)                         probability
//! ```
//!
//! Only the LSTM ties frames together: the front runs over all frames of a block at once, then the LSTM over the sequence.

use ndarray::{Array1, Array2, Axis, concatenate};

use crate::cell::{Activation, Sequence};
use crate::error::{Error, Result};
use crate::nn::{Conv1d, Linear, Lstm, State};
use crate::ops::{self, Binary, Conv1dGeometry, PadMode, Recorder};
use crate::tensor::{Device, Tensor};
use crate::weights::Weights;

/// Samples of the preceding frame that a frame begins with.
const CONTEXT: usize = 64;
/// Width of the LSTM and of its input.
const WIDTH: usize = 128;
/// Frames of a block: 32.8 seconds. Bounds the memory of a long recording.
const BLOCK: usize = 1024;

/// A speech detector: one probability for every 32 ms of 16 kHz mono audio.
///
/// # Examples
/// ```
/// use gatewise::{Device, models::{SegmentOptions, SileroVad, speech_segments}, weights::Weights};
/// let weights = Weights::from_file("models/silero_vad_16k.safetensors")?;
/// let vad = SileroVad::new(&Device::auto(), &weights)?;
/// let silence = vec![0.0; 16_000];
/// let probabilities = vad.probabilities(&silence)?;
/// assert!(speech_segments(&probabilities, silence.len(), &SegmentOptions::default()).is_empty());
/// # Ok::<(), gatewise::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct SileroVad {
    stft: Conv1d,
    convs: [Conv1d; 4],
    lstm: Lstm,
    head: Linear,
}

impl SileroVad {
    /// Samples a second.
    pub const SAMPLE_RATE: u32 = 16_000;
    /// New samples of a frame.
    pub const FRAME: usize = 512;

    /// Loads the net's weights onto a device.
    ///
    /// # Errors
    /// [`Error::Format`] for a tensor that is missing or has another shape than this net's; [`Error::Limit`] and
    /// [`Error::OutOfMemory`] where the device has no room.
    pub fn new(device: &Device, weights: &Weights) -> Result<Self> {
        let conv = |name: &str, shape: [usize; 3], stride: usize, padding: usize| {
            weights.conv1d(name, shape, Conv1dGeometry { stride, padding }, device)
        };
        Ok(Self {
            stft: conv("stft_conv.", [258, 1, 256], 128, 0)?,
            convs: [
                conv("conv1.", [128, 129, 3], 1, 1)?,
                conv("conv2.", [64, 128, 3], 2, 1)?,
                conv("conv3.", [64, 64, 3], 2, 1)?,
                conv("conv4.", [WIDTH, 64, 3], 1, 1)?,
            ],
            lstm: weights.recurrent("lstm_cell.", &Lstm::config(WIDTH, WIDTH), device)?,
            head: weights.linear("final_conv.", [WIDTH, 1], device)?,
        })
    }

    /// The device the net lives on.
    pub fn device(&self) -> &Device {
        self.lstm.device()
    }

    /// Speech probabilities of a whole recording, one a frame; the last frame is filled up with zeros.
    ///
    /// # Errors
    /// [`Error::Shape`] for less than one frame, [`Error::NotFinite`] for a NaN or an infinity, [`Error::DeviceLost`].
    pub fn probabilities(&self, samples: &[f32]) -> Result<Vec<f32>> {
        self.probabilities_with_progress(samples, |_| ())
    }

    /// [`SileroVad::probabilities`] that reports the frames done so far, every half minute of audio.
    ///
    /// # Errors
    /// As [`SileroVad::probabilities`].
    pub fn probabilities_with_progress(&self, samples: &[f32], mut done: impl FnMut(usize)) -> Result<Vec<f32>> {
        if samples.len() < Self::FRAME {
            return Err(Error::Shape {
                op: "SileroVad",
                what: "samples",
                expected: format!("at least {} (one frame of 32 ms at 16 kHz)", Self::FRAME),
                found: vec![samples.len()],
            });
        }
        let mut stream = self.stream()?;
        let mut probabilities = Vec::with_capacity(samples.len().div_ceil(Self::FRAME));
        for block in samples.chunks(BLOCK * Self::FRAME) {
            probabilities.extend(stream.push(block)?);
            done(probabilities.len());
        }
        probabilities.extend(stream.finish()?);
        Ok(probabilities)
    }

    /// [`SileroVad::probabilities`] with what lies behind them, for whoever looks into the net or compares it.
    ///
    /// # Errors
    /// As [`SileroVad::probabilities`].
    pub fn trace(&self, samples: &[f32]) -> Result<VadTrace> {
        let mut stream = self.stream()?;
        let mut passes = stream.passes(samples)?;
        passes.extend(stream.last_pass()?);
        let rows = |of: fn(&Pass) -> &Tensor| -> Result<Array2<f32>> {
            let blocks = passes.iter().map(|pass| of(pass).to_array()).collect::<Result<Vec<Array2<f32>>>>()?;
            let views: Vec<_> = blocks.iter().map(|block| block.view()).collect();
            Ok(concatenate(Axis(0), &views).unwrap_or_else(|_| Array2::zeros((0, WIDTH))))
        };
        let (features, hidden) = (rows(|pass| &pass.features)?, rows(|pass| &pass.hidden)?);
        let probabilities = passes.into_iter().flat_map(|pass| pass.probabilities).collect();
        let (h, s) = stream.state()?;
        Ok(VadTrace { probabilities, features, hidden, h, s })
    }

    /// Begins a stream: audio arrives in pieces of any size, the LSTM's state stays on the device.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] or [`Error::DeviceLost`].
    pub fn stream(&self) -> Result<VadStream> {
        Ok(VadStream { vad: self.clone(), state: self.lstm.zero_state(1)?, tail: vec![0.0; CONTEXT] })
    }

    /// The LSTM's input for frames `[N, CONTEXT + FRAME]`, `[N, WIDTH]`: everything that needs no memory.
    fn front(&self, recorder: &mut Recorder, frames: &Tensor) -> Result<Tensor> {
        let count = frames.shape()[0];
        let padded = ops::pad1d(recorder, frames, 0, CONTEXT, PadMode::Reflect)?;
        let spectrum = self.stft.record(recorder, &padded.reshape(&[count, 1, CONTEXT + Self::FRAME + CONTEXT])?)?;
        let spectrum = spectrum.reshape(&[count, 258 * 4])?;
        let mut x = ops::binary_halves(recorder, Binary::Hypot, &spectrum)?.reshape(&[count, 129, 4])?;
        for conv in &self.convs {
            let y = conv.record(recorder, &x)?;
            x = ops::activation(recorder, Activation::Relu, &y)?;
        }
        x.reshape(&[count, WIDTH])
    }

    /// Everything, in one submission: frames `[N, CONTEXT + FRAME]`, the state advanced by N steps.
    fn run(&self, frames: &Tensor, state: &mut State) -> Result<Pass> {
        let count = frames.shape()[0];
        let mut recorder = self.device().recorder();
        let features = self.front(&mut recorder, frames)?;
        let x = features.reshape(&[count, 1, WIDTH])?;
        let hidden = self.lstm.record(&mut recorder, &x, state, &Sequence::new())?.reshape(&[count, WIDTH])?;
        let h = ops::activation(&mut recorder, Activation::Relu, &hidden)?;
        let logit = self.head.record(&mut recorder, &h)?;
        let probability = ops::activation(&mut recorder, Activation::Sigmoid, &logit)?;
        recorder.submit()?;
        Ok(Pass { features, hidden, probabilities: probability.to_vec()? })
    }
}

/// One block's way through the net: the LSTM's input and output stay on the device, both `[N, WIDTH]`.
struct Pass {
    features: Tensor,
    hidden: Tensor,
    probabilities: Vec<f32>,
}

/// What the net computed for the frames of a recording, N of them.
#[derive(Clone, Debug)]
pub struct VadTrace {
    /// Speech probabilities, `[N]`.
    pub probabilities: Vec<f32>,
    /// The LSTM's input, `[N, 128]`.
    pub features: Array2<f32>,
    /// The LSTM's output, `[N, 128]`.
    pub hidden: Array2<f32>,
    /// `h` after the last frame, `[128]`.
    pub h: Array1<f32>,
    /// `s` after the last frame, `[128]`.
    pub s: Array1<f32>,
}

/// A running detection: feed samples as they come, get the probability of every frame that is complete.
///
/// # Examples
/// ```
/// use gatewise::{Device, models::SileroVad, weights::Weights};
/// let weights = Weights::from_file("models/silero_vad_16k.safetensors")?;
/// let mut stream = SileroVad::new(&Device::Cpu, &weights)?.stream()?;
/// assert_eq!(stream.push(&[0.0; 500])?.len(), 0); // a frame has 512 samples
/// assert_eq!(stream.push(&[0.0; 600])?.len(), 2);
/// assert_eq!(stream.finish()?.len(), 1); // 76 samples were left
/// # Ok::<(), gatewise::Error>(())
/// ```
#[derive(Debug)]
pub struct VadStream {
    vad: SileroVad,
    state: State,
    /// The context of the next frame, then the samples that do not fill it yet.
    tail: Vec<f32>,
}

impl VadStream {
    /// Feeds any number of samples; returns one probability for every frame they complete.
    ///
    /// # Errors
    /// [`Error::NotFinite`] for a NaN or an infinity, [`Error::DeviceLost`]; then the stream is as it was before the call.
    pub fn push(&mut self, samples: &[f32]) -> Result<Vec<f32>> {
        Ok(self.passes(samples)?.into_iter().flat_map(|pass| pass.probabilities).collect())
    }

    /// The passes over the frames that the samples complete.
    fn passes(&mut self, samples: &[f32]) -> Result<Vec<Pass>> {
        if let Some(index) = samples.iter().position(|sample| !sample.is_finite()) {
            let found = samples[index];
            return Err(Error::NotFinite { op: "SileroVad", what: "samples", index, found });
        }
        let mut signal = self.tail.clone();
        signal.extend_from_slice(samples);
        let count = (signal.len() - CONTEXT) / SileroVad::FRAME;
        // A single block advances the state all or nothing; several need the way back.
        let before = if count > BLOCK { Some(self.state.try_clone()?) } else { None };
        let blocks = (0..count).step_by(BLOCK).map(|first| first..(first + BLOCK).min(count));
        let passes = blocks.map(|block| self.frames(&signal, block)).collect::<Result<Vec<_>>>();
        if let (Err(_), Some(before)) = (&passes, before) {
            self.state = before;
        }
        let passes = passes?;
        self.tail = signal.split_off(count * SileroVad::FRAME);
        Ok(passes)
    }

    /// Fills the last, incomplete frame with zeros and ends the stream; returns its probability, or nothing where no sample
    /// is left.
    ///
    /// # Errors
    /// As [`VadStream::push`].
    pub fn finish(mut self) -> Result<Vec<f32>> {
        Ok(self.last_pass()?.into_iter().flat_map(|pass| pass.probabilities).collect())
    }

    fn last_pass(&mut self) -> Result<Vec<Pass>> {
        match (self.tail.len() - CONTEXT) % SileroVad::FRAME {
            0 => Ok(Vec::new()),
            left => self.passes(&vec![0.0; SileroVad::FRAME - left]),
        }
    }

    /// Copies the LSTM's state to the host, `(h, s)`, each `[128]`.
    ///
    /// # Errors
    /// [`Error::DeviceLost`].
    pub fn state(&self) -> Result<(Array1<f32>, Array1<f32>)> {
        let s = self.state.s()?.map(|s| s.into_iter().collect()).unwrap_or_default();
        Ok((self.state.h()?.into_iter().collect(), s))
    }

    fn frames(&mut self, signal: &[f32], range: std::ops::Range<usize>) -> Result<Pass> {
        let count = range.len();
        let frames = range.flat_map(|frame| &signal[frame * SileroVad::FRAME..][..CONTEXT + SileroVad::FRAME]);
        let frames =
            Tensor::from_vec(self.vad.device(), &[count, CONTEXT + SileroVad::FRAME], frames.copied().collect())?;
        self.vad.run(&frames, &mut self.state)
    }
}
