//! Silero VAD, 16 kHz: speech detection (<https://github.com/snakers4/silero-vad>, version 6).
//!
//! ```text
//! frame       64 samples of context + 512 new ones
//! pad         64 more by reflection on the right             [640]
//! stft_conv   kernel 256, stride 128: a Fourier transform    [258, 4]
//! magnitude   sqrt(re^2 + im^2)                              [129, 4]
//! conv1..4    kernel 3, padding 1, strides 1 2 2 1, ReLU     [128, 4], [64, 2], [64, 1], [128, 1]
//! lstm_cell   128 units
//! final_conv  sigmoid(W relu(h) + b)                         probability
//! ```
//!
//! The last two convolutions are so short that some taps of their kernels meet padding alone. Those taps are left out.
//!
//! Frames depend on each other in the LSTM alone. The layers before it run over all frames of a block at once, then the LSTM runs
//! over the sequence.

use std::ops::Range;

use ndarray::{Array1, Array2, Axis, Ix2, Ix3, concatenate};

use super::arrays::arrays;
use crate::cell::{Activation, Sequence};
use crate::error::{Error, Result};
use crate::memory;
use crate::nn::{Conv1d, Linear, Lstm, State};
use crate::ops::{self, Binary, Conv1dGeometry, Recorder};
use crate::tensor::{Device, Tensor};
use crate::weights::Weights;

/// The number of samples of the preceding frame that come before the samples of a frame.
const CONTEXT: usize = 64;
/// Samples of a frame with its context and its reflected end.
const PADDED: usize = CONTEXT + SileroVad::FRAME + CONTEXT;
/// Width of the LSTM and of its input.
const WIDTH: usize = 128;
/// Frames per block, 32.8 seconds of sound. A block bounds the memory for a long recording. Unit tests take short blocks, so that
/// a test has several.
const BLOCK: usize = if cfg!(test) { 3 } else { 1024 };

/// A speech detector: one probability per 32 ms of 16 kHz mono audio.
///
/// # Examples
/// ```
/// use gatewise::{Device, models::{SegmentOptions, SileroVad, speech_segments}, weights::Weights};
/// let weights = Weights::from_bytes("silero_vad_16k.safetensors", SileroVad::WEIGHTS)?;
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
    /// Samples per second.
    pub const SAMPLE_RATE: u32 = 16_000;
    /// New samples per frame.
    pub const FRAME: usize = 512;
    /// The weights of the Python package `silero-vad` 6.2.3 for 16 kHz, as a safetensors file, under the MIT licence.
    pub const WEIGHTS: &'static [u8] = include_bytes!("../../models/silero_vad_16k.safetensors");

    /// Loads the net's weights onto a device.
    ///
    /// # Errors
    /// [`Error::Format`] if a tensor is missing, has a shape other than this net's, or holds NaN or infinity. [`Error::Limit`] and
    /// [`Error::OutOfMemory`] if the device has no room.
    pub fn new(device: &Device, weights: &Weights) -> Result<Self> {
        weights.check_finite()?;
        let conv = |name: &str, shape: [usize; 3], stride: usize, padding: usize| {
            weights.conv1d(name, shape, Conv1dGeometry { stride, padding }, device)
        };
        // A single window, whose other taps lie in the padding.
        let one_window = |name: &str, shape: [usize; 3], taps: Range<usize>| {
            weights.conv1d_taps(name, shape, taps, Conv1dGeometry { stride: 1, padding: 0 }, device)
        };
        Ok(Self {
            stft: conv("stft_conv.", [258, 1, 256], 128, 0)?,
            convs: [
                conv("conv1.", [128, 129, 3], 1, 1)?,
                conv("conv2.", [64, 128, 3], 2, 1)?,
                one_window("conv3.", [64, 64, 3], 1..3)?,
                one_window("conv4.", [WIDTH, 64, 3], 1..2)?,
            ],
            lstm: weights.recurrent("lstm_cell.", &Lstm::config(WIDTH, WIDTH), device)?,
            head: weights.linear("final_conv.", [WIDTH, 1], device)?,
        })
    }

    /// The device that holds the net.
    pub fn device(&self) -> &Device {
        self.lstm.device()
    }

    /// Returns the speech probabilities of a whole recording, one per frame. Zeros complete the last frame.
    ///
    /// # Errors
    /// [`Error::Shape`] for less than one frame, [`Error::NotFinite`] for NaN or infinity, [`Error::DeviceLost`].
    pub fn probabilities(&self, samples: &[f32]) -> Result<Vec<f32>> {
        self.probabilities_with_progress(samples, |_| ())
    }

    /// Computes [`SileroVad::probabilities`], and calls `done` with the number of finished frames after every block of 32.8 seconds.
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

    /// Returns the speech probabilities of a recording with the net's inner values, to inspect the net or to compare it.
    ///
    /// # Errors
    /// As [`SileroVad::probabilities`].
    pub fn trace(&self, samples: &[f32]) -> Result<VadTrace> {
        let mut stream = self.stream()?;
        let read = |recorder: Recorder, block: &Block| {
            let Block { features, hidden, probabilities } = block;
            arrays::<Ix2, 3>(recorder.submit_and_read_all(&[features, hidden, probabilities])?)
        };
        let mut blocks = stream.advance(samples, read)?;
        let rest = stream.filling();
        blocks.extend(stream.advance(&rest, read)?);
        let rows = |at: usize| {
            let views: Vec<_> = blocks.iter().map(|block| block[at].view()).collect();
            concatenate(Axis(0), &views).unwrap_or_else(|_| Array2::zeros((0, WIDTH)))
        };
        let (features, hidden) = (rows(0), rows(1));
        let probabilities = blocks.into_iter().flat_map(|[_, _, probabilities]| probabilities).collect();
        let (h, s) = stream.state()?;
        Ok(VadTrace { probabilities, features, hidden, h, s })
    }

    /// Begins a stream: audio arrives in pieces of any size, and the LSTM's state stays on the device.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] or [`Error::DeviceLost`].
    pub fn stream(&self) -> Result<VadStream> {
        Ok(VadStream { vad: self.clone(), state: self.lstm.zero_state(1)?, tail: vec![0.0; CONTEXT] })
    }

    /// Computes the LSTM's input `[N, WIDTH]` from frames `[N, 1, PADDED]`. No frame depends on another here.
    fn front(&self, recorder: &mut Recorder, frames: &Tensor) -> Result<Tensor> {
        let count = frames.shape()[0];
        let spectrum = self.stft.record(recorder, frames)?.reshape(&[count, 258 * 4])?;
        let mut x = ops::binary_halves(recorder, Binary::Hypot, &spectrum)?.reshape(&[count, 129, 4])?;
        for conv in &self.convs {
            let y = conv.record(recorder, &x)?;
            x = ops::activation(recorder, Activation::Relu, &y)?;
        }
        x.reshape(&[count, WIDTH])
    }

    /// Records the whole net over frames `[N, 1, PADDED]`. The state advances by N steps.
    fn record(&self, recorder: &mut Recorder, frames: &Tensor, state: &mut State) -> Result<Block> {
        let count = frames.shape()[0];
        let features = self.front(recorder, frames)?;
        let x = features.reshape(&[count, 1, WIDTH])?;
        let hidden = self.lstm.record(recorder, &x, state, &Sequence::new())?.reshape(&[count, WIDTH])?;
        let h = ops::activation(recorder, Activation::Relu, &hidden)?;
        let logits = self.head.record(recorder, &h)?;
        let probabilities = ops::activation(recorder, Activation::Sigmoid, &logits)?;
        Ok(Block { features, hidden, probabilities })
    }
}

/// The net's values for N frames, on the device.
struct Block {
    /// The LSTM's input, `[N, WIDTH]`.
    features: Tensor,
    /// The LSTM's output, `[N, WIDTH]`.
    hidden: Tensor,
    /// The speech probabilities, `[N, 1]`.
    probabilities: Tensor,
}

/// The net's values for the N frames of a recording.
#[derive(Clone, Debug)]
#[non_exhaustive]
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

/// A running detection: takes samples as they arrive, returns the probability of every complete frame.
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
    /// The context of the next frame, then the samples of that frame so far.
    tail: Vec<f32>,
}

impl VadStream {
    /// Takes any number of samples, and returns one probability per frame that they complete. On a GPU, every block of 32.8 seconds
    /// is one submission. The stream advances once all probabilities are on the host.
    ///
    /// # Errors
    /// [`Error::NotFinite`] for NaN or infinity, [`Error::OutOfMemory`], [`Error::DeviceLost`]. After an error the stream is as it was
    /// before the call, and the same samples can be pushed again.
    pub fn push(&mut self, samples: &[f32]) -> Result<Vec<f32>> {
        let read = |recorder: Recorder, block: &Block| recorder.submit_and_read(&block.probabilities)?.wait();
        Ok(self.advance(samples, read)?.concat())
    }

    /// Completes the last frame with zeros and returns its probability, or nothing if no sample is left. Samples that are pushed
    /// afterwards follow those zeros.
    ///
    /// # Errors
    /// As [`VadStream::push`].
    pub fn finish(&mut self) -> Result<Vec<f32>> {
        let rest = self.filling();
        self.push(&rest)
    }

    /// Copies the LSTM's state to the host, `(h, s)`, each `[128]`.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] or [`Error::DeviceLost`].
    pub fn state(&self) -> Result<(Array1<f32>, Array1<f32>)> {
        let tensors: Vec<&Tensor> = self.state.tensors().collect();
        let [h, s] = arrays::<Ix3, 2>(self.vad.device().recorder().submit_and_read_all(&tensors)?)?;
        Ok((h.into_iter().collect(), s.into_iter().collect()))
    }

    /// The zeros that complete the last frame.
    fn filling(&self) -> Vec<f32> {
        let left = (self.tail.len() - CONTEXT) % SileroVad::FRAME;
        vec![0.0; if left == 0 { 0 } else { SileroVad::FRAME - left }]
    }

    /// Runs the frames that the samples complete, block by block. `read` submits a block and copies its results to the host. The
    /// stream advances once all blocks have been read; until then its state is only read.
    fn advance<T>(&mut self, samples: &[f32], read: impl Fn(Recorder, &Block) -> Result<T>) -> Result<Vec<T>> {
        if let Some(index) = samples.iter().position(|sample| !sample.is_finite()) {
            let found = samples[index];
            return Err(Error::NotFinite { op: "SileroVad", what: "samples", index, found });
        }
        let signal = Signal { tail: &self.tail, samples };
        let count = (signal.len() - CONTEXT) / SileroVad::FRAME;
        let mut reads = Vec::new();
        let mut reached: Option<State> = None;
        for first in (0..count).step_by(BLOCK) {
            let frames = first..(first + BLOCK).min(count);
            let shape = [frames.len(), 1, PADDED];
            let frames = Tensor::from_vec(self.vad.device(), &shape, signal.frames(frames)?)?;
            let mut recorder = self.vad.device().recorder();
            let mut state = match reached.take() {
                Some(state) => state,
                None => self.state.record_next(&mut recorder)?,
            };
            let block = self.vad.record(&mut recorder, &frames, &mut state)?;
            reads.push(read(recorder, &block)?);
            reached = Some(state);
        }
        let (passed, kept) = (count * SileroVad::FRAME, self.tail.len());
        self.tail.drain(..passed.min(kept));
        self.tail.extend_from_slice(&samples[passed.saturating_sub(kept)..]);
        if let Some(state) = reached {
            self.state = state;
        }
        Ok(reads)
    }
}

/// The samples that a stream has kept, followed by new ones.
struct Signal<'a> {
    tail: &'a [f32],
    samples: &'a [f32],
}

impl Signal<'_> {
    fn len(&self) -> usize {
        self.tail.len() + self.samples.len()
    }

    /// Some samples, those of the tail first.
    fn parts(&self, range: Range<usize>) -> [&[f32]; 2] {
        let kept = self.tail.len();
        let tail = &self.tail[range.start.min(kept)..range.end.min(kept)];
        [tail, &self.samples[range.start.saturating_sub(kept)..range.end.saturating_sub(kept)]]
    }

    /// Returns the samples of some frames, each with its context before it and its end reflected behind it, `[N, PADDED]`.
    fn frames(&self, range: Range<usize>) -> Result<Vec<f32>> {
        let mut frames = memory::room("SileroVad", range.len() * PADDED)?;
        for first in range.map(|frame| frame * SileroVad::FRAME) {
            for part in self.parts(first..first + CONTEXT + SileroVad::FRAME) {
                frames.extend_from_slice(part);
            }
            let last = frames.len() - 1;
            (1..=CONTEXT).for_each(|back| frames.push(frames[last - back]));
        }
        Ok(frames)
    }
}
