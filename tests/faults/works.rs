//! The calls that run on a failing driver.

use gatewise::cell::Sequence;
use gatewise::models::{RnNoise, RnNoiseStream, SileroVad, VadStream};
use gatewise::nn::{Gru, Lstm, SavedState, State, TrainingOptions};
use gatewise::onnx::{OnnxModel, OnnxOptions};
use gatewise::train::{Adam, Checkpoint, LinearModule, LossOptions, Parameters, RecurrentModule, Trainer};
use gatewise::weights::Weights;
use gatewise::weights::keras::{KerasFile, KerasLayer};
use gatewise::{Device, Result, Tensor};
use ndarray::{Array, Array2, Array3};

use crate::work::{Work, again};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

fn wave(time: usize, batch: usize, width: usize, seed: usize) -> Array3<f32> {
    Array::from_shape_fn((time, batch, width), |(t, b, i)| ((t * 31 + b * 17 + i * 7 + seed * 5) as f32 * 0.37).sin())
}

fn bits(values: impl IntoIterator<Item = f32>) -> Vec<u32> {
    values.into_iter().map(f32::to_bits).collect()
}

/// A stack of layers whose results are read back in every way.
pub(crate) struct Layer {
    lstm: Lstm,
    state: State,
}

impl Work for Layer {
    type Saved = SavedState;

    fn begin(device: &Device) -> Result<Self> {
        let lstm = Lstm::config(8, 16).layers(2).random(device, 1)?;
        let state = lstm.zero_state(3)?;
        Ok(Self { lstm, state })
    }

    fn call(&mut self, number: usize) -> Result<Vec<u32>> {
        let device = self.lstm.device().clone();
        // Each call has another shape, so it asks for other memory.
        let x = wave(3 + 5 * number, 3, 8, number);
        if number % 4 == 3 {
            let mut y = Array3::zeros((x.dim().0, 3, 16));
            self.lstm.forward_into(x.view(), &mut self.state, y.view_mut())?;
            return Ok(bits(y));
        }
        let x = Tensor::from_array(&device, &x)?;
        let before = self.state.try_clone()?;
        let y = match number % 4 {
            0 => self.lstm.forward(&x, &mut self.state).and_then(|y| y.to_vec()),
            1 => self.lstm.forward(&x, &mut self.state).and_then(|y| pollster::block_on(y.to_vec_async())),
            _ => {
                let mut recorder = device.recorder();
                let y = self.lstm.record(&mut recorder, &x, &mut self.state, &Sequence::new())?;
                recorder.submit_and_read(&y).and_then(|read| read.wait())
            }
        };
        // A call that has succeeded has moved the state, whether or not its result could be read.
        Ok(bits(y.inspect_err(|_| self.state = before)?))
    }

    fn save(&mut self) -> Result<SavedState> {
        self.state.save()
    }

    fn resume(device: &Device, saved: &SavedState, _calls: usize) -> Result<Self> {
        let Self { lstm, .. } = Self::begin(device)?;
        let state = lstm.restore(saved)?;
        Ok(Self { lstm, state })
    }
}

/// A trainer that makes steps.
pub(crate) struct Training {
    trainer: Trainer,
    gru: RecurrentModule,
    head: LinearModule,
}

impl Work for Training {
    type Saved = Checkpoint;

    fn begin(device: &Device) -> Result<Self> {
        let mut parameters = Parameters::new(device, 7);
        let gru = RecurrentModule::new(&mut parameters, "gru.", &Gru::config(8, 6))?;
        let head = LinearModule::new(&mut parameters, "head.", [6, 2])?;
        Ok(Self { trainer: Trainer::new(parameters, Adam::default(), 0.01)?, gru, head })
    }

    fn call(&mut self, number: usize) -> Result<Vec<u32>> {
        let device = self.trainer.parameters().device().clone();
        let x = Tensor::from_array(&device, &wave(3 + 4 * number, 3, 8, number))?;
        let target = Tensor::zeros(&device, &[3, 2])?;
        let (gru, head) = (&self.gru, &self.head);
        let report = self.trainer.step(|graph| {
            let x = graph.input(&x);
            let options = TrainingOptions::default();
            let y = gru.forward(graph, x, None, &Sequence::new(), &options)?;
            let last = graph.last_step(y, &Sequence::new())?;
            let scores = head.forward(graph, last)?;
            graph.mean_squared_error(scores, &target, &LossOptions::default())
        })?;
        Ok(bits([report.loss, report.gradient_norm]))
    }

    fn save(&mut self) -> Result<Checkpoint> {
        self.trainer.checkpoint()
    }

    fn resume(device: &Device, saved: &Checkpoint, _calls: usize) -> Result<Self> {
        let mut work = Self::begin(device)?;
        work.trainer.restore(saved)?;
        Ok(work)
    }
}

/// A stream of Silero's detector that takes block after block.
pub(crate) struct Speech(VadStream);

impl Work for Speech {
    type Saved = ();

    fn begin(device: &Device) -> Result<Self> {
        let weights = Weights::from_file(format!("{ROOT}/models/silero_vad_16k.safetensors"))?;
        Ok(Self(SileroVad::new(device, &weights)?.stream()?))
    }

    fn call(&mut self, number: usize) -> Result<Vec<u32>> {
        let frames = [2, 1, 30, 3, 1, 8][number % 6];
        let sample = |at: usize| ((at + 1000 * number) as f32 * 0.05).sin() * (at as f32 * 0.0007).sin() * 0.5;
        let samples: Vec<f32> = (0..frames * SileroVad::FRAME + 7).map(sample).collect();
        Ok(bits(self.0.push(&samples)?))
    }

    fn save(&mut self) -> Result<()> {
        Ok(())
    }

    fn resume(device: &Device, (): &(), calls: usize) -> Result<Self> {
        again(device, calls)
    }
}

/// A stream of RNNoise with two channels.
pub(crate) struct Noise(RnNoiseStream);

impl Work for Noise {
    type Saved = ();

    fn begin(device: &Device) -> Result<Self> {
        let weights = Weights::from_file(format!("{ROOT}/models/rnnoise.safetensors"))?;
        Ok(Self(RnNoise::new(device, &weights)?.stream(2)?))
    }

    fn call(&mut self, number: usize) -> Result<Vec<u32>> {
        let time = 2 + 3 * number;
        let heard = Array2::from_shape_fn((time, 2), |(t, b)| !(t + b + number).is_multiple_of(3));
        let suppression = self.0.push(wave(time, 2, RnNoise::FEATURES, number).view(), Some(heard.view()))?;
        Ok(bits(suppression.gains.into_iter().chain(suppression.vad)))
    }

    fn save(&mut self) -> Result<()> {
        Ok(())
    }

    fn resume(device: &Device, (): &(), calls: usize) -> Result<Self> {
        again(device, calls)
    }
}

/// Models that keep no state: one from an ONNX file and one from a Keras file.
pub(crate) struct Files {
    onnx: OnnxModel,
    keras: KerasLayer,
}

impl Work for Files {
    type Saved = ();

    fn begin(device: &Device) -> Result<Self> {
        let path = format!("{ROOT}/tests/fixtures/onnx/embedding_lstm.onnx");
        let onnx = OnnxModel::from_file(path, &OnnxOptions::default())?.to(device)?;
        let keras = KerasFile::open(format!("{ROOT}/tests/fixtures/keras/around.keras"))?.model(device)?;
        Ok(Self { onnx, keras })
    }

    fn call(&mut self, number: usize) -> Result<Vec<u32>> {
        let tokens = Array2::<i64>::from_shape_fn((3 + number, 2), |(t, b)| ((t + 3 * b + number) % 5) as i64);
        let outputs = self.onnx.run(&[("tokens", tokens.into())])?;
        let tensors = outputs.iter().map(|(_, output)| output.tensor()).collect::<Result<Vec<_>>>()?;
        let read = self.onnx.device().recorder().submit_and_read_all(&tensors)?;
        let mut values = read.into_iter().map(|read| read.wait()).collect::<Result<Vec<_>>>()?.concat();
        let symbols = Array2::<i64>::from_shape_fn((2, 6), |(b, t)| ((b + t + number) % 7) as i64);
        values.extend(self.keras.forward(symbols)?.to_vec()?);
        Ok(bits(values))
    }

    fn save(&mut self) -> Result<()> {
        Ok(())
    }

    fn resume(device: &Device, (): &(), calls: usize) -> Result<Self> {
        again(device, calls)
    }
}
