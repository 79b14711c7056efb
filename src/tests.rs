//! Calls that fail on the GPU: whichever call to the driver fails, the caller's values are those before the call, and the same
//! call again gives the bits that it would have given.

use std::cell::RefCell;
use std::fmt::Debug;
use std::path::{Path, PathBuf};

use ndarray::{Array2, Array3};

use crate::cell::{Noise, Sequence};
use crate::gpu::GpuOptions;
use crate::gpu::faults::{Fault, fail};
use crate::models::{RnNoise, SileroVad};
use crate::nn::{DeviceSequence, Gru, Lstm, State, TrainingOptions};
use crate::onnx::{OnnxModel, OnnxOptions};
use crate::train::{Adam, CarriedState, Clip, LossOptions, Parameters, RecurrentModule, Sgd, Tbptt, Trainer};
use crate::weights::{Weights, keras::KerasFile};
use crate::{Device, Result, Tensor};

const ALL: [Fault; 3] = [Fault::Refused, Fault::Misreported, Fault::Unread];

fn gpu() -> Device {
    Device::gpu(&GpuOptions { software: true, ..Default::default() })
        .expect("install mesa-vulkan-drivers and libvulkan1")
}

fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn wave(at: usize) -> f32 {
    (at as f32 * 0.37).sin() * 0.5
}

fn tensor(device: &Device, shape: &[usize]) -> Tensor {
    let len = shape.iter().product();
    Tensor::from_vec(device, shape, (0..len).map(wave).collect()).expect("a tensor")
}

fn bits(values: impl IntoIterator<Item = f32>) -> Vec<u32> {
    values.into_iter().map(f32::to_bits).collect()
}

/// Every bit of a state.
fn value(state: &State) -> Vec<u32> {
    state.tensors().flat_map(|tensor| bits(tensor.to_vec().expect("reads"))).collect()
}

/// Fails every call to the driver that `call` makes, one at each turn. The caller's values must then be as before, and the same
/// call again must give what it gives a twin that meets no fault, in this turn and in all that follow. Returns how many calls of
/// each kind have failed.
fn every_fault<S, V: PartialEq + Debug, T: PartialEq + Debug>(
    kinds: &[Fault],
    begin: impl Fn() -> S,
    value: impl Fn(&S) -> V,
    call: impl Fn(&mut S, usize) -> Result<T>,
) -> Vec<usize> {
    let (mut tried, mut twin) = (begin(), begin());
    let (mut turn, mut counts) = (0, vec![0; kinds.len()]);
    for (&kind, count) in kinds.iter().zip(&mut counts) {
        loop {
            let before = value(&tried);
            let (met, mut result) = fail(kind, *count, || call(&mut tried, turn));
            let when = format!("{kind:?} after {count} good calls, turn {turn}");
            if met {
                assert!(result.is_err(), "{when}: no error");
                assert_eq!(value(&tried), before, "{when}");
                result = call(&mut tried, turn);
            }
            let expected = call(&mut twin, turn).expect("no fault");
            assert_eq!(result.expect("the same call again"), expected, "{when}");
            assert_eq!(value(&tried), value(&twin), "{when}");
            turn += 1;
            if !met {
                break;
            }
            *count += 1;
        }
    }
    counts
}

#[test]
fn a_stream_of_speech_is_as_before_a_push_that_fails() {
    let weights = Weights::from_file(path("models/silero_vad_16k.safetensors")).expect("weights");
    let vad = SileroVad::new(&gpu(), &weights).expect("the net");
    // A frame of its own, and two blocks' frames.
    for (samples, least) in [(SileroVad::FRAME + 7, [20, 1, 1]), (4 * SileroVad::FRAME, [20, 2, 2])] {
        let counts = every_fault(
            &ALL,
            || vad.stream().expect("a stream"),
            |stream| stream.state().map(|(h, s)| [bits(h), bits(s)]).expect("reads"),
            |stream, turn| {
                let samples: Vec<f32> = (0..samples).map(|at| wave(at + turn * samples)).collect();
                stream.push(&samples).map(bits)
            },
        );
        assert!(counts.iter().zip(least).all(|(count, least)| *count >= least), "{counts:?}");
    }
}

#[test]
fn a_stream_of_features_is_as_before_a_push_that_fails() {
    let weights = Weights::from_file(path("models/rnnoise.safetensors")).expect("weights");
    let net = RnNoise::new(&gpu(), &weights).expect("the net");
    let counts = every_fault(
        &ALL,
        || net.stream(2).expect("a stream"),
        |stream| bits(stream.states().expect("reads")),
        |stream, turn| {
            let features = Array3::from_shape_fn((2, 2, RnNoise::FEATURES), |(t, b, i)| wave(turn + 9 * t + 5 * b + i));
            let heard = Array2::from_shape_fn((2, 2), |(t, b)| (t + b + turn) % 3 != 0);
            let out = stream.push(features.view(), Some(heard.view()))?;
            Ok((bits(out.vad), bits(out.gains)))
        },
    );
    assert!(counts[0] >= 20 && counts[1..] == [1, 1], "{counts:?}");
}

#[test]
fn a_state_is_as_before_a_call_that_fails_on_its_way_to_the_host() {
    let lstm = Lstm::config(3, 4).layers(2).random(&gpu(), 5).expect("a stack");
    let begin = || (lstm.zero_state(2).expect("a state"), Array3::zeros((3, 2, 4)));
    let counts = every_fault(
        &ALL,
        begin,
        |(state, y)| (value(state), bits(y.iter().copied())),
        |(state, y), turn| {
            let x = Array3::from_shape_fn((3, 2, 3), |(t, b, i)| wave(turn + 9 * t + 5 * b + i));
            lstm.forward_into(x.view(), state, y.view_mut())
        },
    );
    assert!(counts[0] >= 5 && counts[1..] == [1, 1], "{counts:?}");
}

/// A result that stays on the device is there once the call has returned: only its read-back is to be made again.
#[test]
fn a_state_is_as_before_a_call_that_fails_and_a_result_can_be_read_again() {
    let device = gpu();
    let lstm = Lstm::config(3, 4).layers(2).random(&device, 5).expect("a stack");
    let counts = every_fault(
        &[Fault::Refused],
        || lstm.zero_state(2).expect("a state"),
        value,
        |state, turn| {
            let x: Vec<f32> = (0..18).map(|at| wave(at + turn)).collect();
            lstm.forward(&Tensor::from_vec(&device, &[3, 2, 3], x)?, state)?;
            Ok(())
        },
    );
    assert!(counts[0] >= 5, "{counts:?}");
    let y = lstm.forward(&tensor(&device, &[3, 2, 3]), &mut lstm.zero_state(2).expect("a state")).expect("runs");
    let expected = y.to_vec().expect("reads");
    for fault in ALL {
        let (met, read) = fail(fault, 0, || y.to_vec());
        assert!(met && read.is_err(), "{fault:?}");
        assert_eq!(y.to_vec().expect("reads"), expected);
    }
}

/// The caller submits an encoder although the call that was to fill it has failed: nothing of that call may be in it.
#[test]
fn a_state_is_as_before_an_encoding_that_fails() {
    let device = gpu();
    let Device::Gpu(gpu) = &device else { panic!("a GPU") };
    let lstm = Lstm::config(3, 4).layers(2).random(&device, 5).expect("a stack");
    let mask = tensor(&device, &[3, 2]);
    let counts = every_fault(
        &[Fault::Refused],
        || lstm.zero_state(2).expect("a state"),
        value,
        |state, turn| {
            let x = Tensor::from_vec(&device, &[3, 2, 3], (0..18).map(|at| wave(at + turn)).collect())?;
            let mut y = Tensor::zeros(&device, &[3, 2, 4])?;
            let (own, queue) = gpu.wgpu();
            let mut encoder = own.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
            let mut encode = || {
                let mut recorder = device.recorder();
                lstm.record_into(&mut recorder, &x, state, DeviceSequence::new().reset(&mask), &mut y)?;
                recorder.encode_and_read(&mut encoder, &[&y])
            };
            let commands = encode();
            let submission = queue.submit([encoder.finish()]);
            commands?.submitted(submission)?;
            Ok(())
        },
    );
    assert!(counts[0] >= 8, "{counts:?}");
}

/// A recorder holds the value, so that a reset takes memory of its own for each part.
#[test]
fn a_state_is_as_before_a_reset_that_fails() {
    let device = gpu();
    let lstm = Lstm::config(3, 4).random(&device, 5).expect("a stack");
    let x = tensor(&device, &[3, 2, 3]);
    let mut state = lstm.zero_state(2).expect("a state");
    for good in 0.. {
        lstm.forward(&x, &mut state).expect("runs");
        let before = value(&state);
        let mut recorder = device.recorder();
        lstm.record(&mut recorder, &x, &mut state, &Sequence::new()).expect("records");
        let (met, reset) = fail(Fault::Refused, good, || state.reset());
        drop(recorder);
        if !met {
            reset.expect("no fault");
            assert!(value(&state).iter().all(|bits| *bits == 0));
            assert!(good >= 4, "two allocations and two writes: {good}");
            break;
        }
        assert!(reset.is_err(), "after {good} good calls");
        assert_eq!(value(&state), before, "after {good} good calls");
    }
}

/// A trainer, the layers that it trains, and a state on its way through a sequence.
struct Training {
    device: Device,
    trainer: Trainer,
    gru: RecurrentModule,
    carry: RefCell<CarriedState>,
}

fn training(device: &Device) -> Training {
    let mut parameters = Parameters::new(device, 7);
    let gru = RecurrentModule::new(&mut parameters, "gru.", &Gru::config(2, 3)).expect("a stack");
    let carry = RefCell::new(CarriedState::new(gru.zero_state(device, 2).expect("a state")));
    let trainer = Trainer::new(parameters, Adam::default(), 0.05)
        .and_then(|trainer| trainer.clip(Clip::norm(0.5)))
        .expect("a trainer");
    Training { device: device.clone(), trainer, gru, carry }
}

impl Training {
    /// One window of truncated back-propagation: the loss, the gradient's norm, the step.
    fn step(&mut self, turn: usize) -> Result<(u32, u32, u64)> {
        let Self { device, trainer, gru, carry } = self;
        let carry = carry.get_mut();
        let window = Tbptt::new(2, 2)?.windows(2 * turn + 2).last().expect("a window");
        let noise = Noise { dropout: 0.2, recurrent_dropout: 0.2, ..Noise::default() };
        let options = TrainingOptions { noise, ..TrainingOptions::default() };
        let report = trainer.step(|graph| {
            let x = graph.input(&Tensor::from_vec(device, &[2, 2, 2], (0..8).map(|at| wave(at + turn)).collect())?);
            let y = carry.forward(graph, gru, x, &window, &Sequence::new(), &options)?;
            let y = graph.dropout(y, 0.1)?;
            graph.mean_squared_error(y, &Tensor::zeros(device, &[2, 2, 3])?, &LossOptions::default())
        })?;
        carry.advance();
        Ok((report.loss.to_bits(), report.gradient_norm.to_bits(), report.step))
    }

    /// Parameters, steps, the carried state.
    fn value(&self) -> (Vec<u32>, u64, Vec<u32>) {
        let parameters = self.trainer.parameters().named().flat_map(|(_, tensor)| tensor.to_vec().expect("reads"));
        (bits(parameters), self.trainer.steps(), value(self.carry.borrow().state()))
    }
}

#[test]
fn a_trainer_is_as_before_a_step_that_fails() {
    let device = gpu();
    let counts = every_fault(&ALL, || training(&device), Training::value, Training::step);
    assert!(counts[0] >= 40 && counts[1..] == [1, 1], "{counts:?}");
}

#[test]
fn a_report_that_fails_can_be_asked_for_again() {
    let device = gpu();
    let mut parameters = Parameters::new(&device, 7);
    let weight = parameters.add("weight", &ndarray::array![[2.0_f32]]).expect("a parameter");
    let mut trainer = Trainer::new(parameters, Sgd::default(), 0.5).expect("a trainer");
    let step = |trainer: &mut Trainer, target: f32| {
        trainer.submit_step(|graph| {
            let (x, w) = (graph.input(&Tensor::from_vec(&device, &[1, 1], vec![1.0])?), graph.parameter(weight)?);
            let y = graph.linear(x, w, None)?;
            graph.mean_squared_error(y, &Tensor::from_vec(&device, &[1, 1], vec![target])?, &LossOptions::default())
        })
    };
    step(&mut trainer, 1.0).expect("a step");
    for fault in ALL {
        let (met, report) = fail(fault, 0, || trainer.report());
        assert!(met && report.is_err(), "{fault:?}");
        assert_eq!(trainer.steps(), 1);
        let report = trainer.report().expect("again").expect("of a step");
        assert_eq!((report.step, report.loss), (1, 1.0));
    }
    // A step that diverges is told of once its report can be read, and not before.
    step(&mut trainer, f32::NAN).expect("a step");
    let (met, report) = fail(Fault::Unread, 0, || trainer.report());
    assert!(met && !matches!(report, Err(crate::Error::Diverged { .. })));
    assert_eq!(trainer.steps(), 2);
    assert!(matches!(trainer.report(), Err(crate::Error::Diverged { step: 2, .. })));
    assert_eq!(trainer.steps(), 1);
}

/// Graphs have no state of their own: a run that fails is run again with the same inputs.
#[test]
fn a_model_from_a_file_runs_again_after_a_run_that_fails() {
    let device = gpu();
    let onnx = path("tests/fixtures/onnx/embedding_lstm.onnx");
    let onnx =
        OnnxModel::from_file(onnx, &OnnxOptions::default()).and_then(|model| model.to(&device)).expect("a model");
    let counts = every_fault(
        &ALL,
        || (),
        |()| (),
        |(), turn| {
            let tokens = Array2::<i64>::from_shape_fn((3, 2), |(t, b)| ((t + 3 * b + turn) % 5) as i64);
            let outputs = onnx.run(&[("tokens", tokens.into())])?;
            let tensors = outputs.iter().map(|(_, output)| output.tensor()).collect::<Result<Vec<_>>>()?;
            read(device.recorder().submit_and_read_all(&tensors)?)
        },
    );
    assert!(counts[0] >= 10 && counts[1] == 2 && counts[2] >= 1, "{counts:?}");

    let file = KerasFile::open(path("tests/fixtures/keras/around.keras")).expect("a file");
    let model = file.model(&device).expect("a model");
    let counts = every_fault(
        &ALL,
        || (),
        |()| (),
        |(), turn| {
            let symbols = Array2::<i64>::from_shape_fn((2, 6), |(b, t)| ((b + t + turn) % 7) as i64);
            Ok(bits(model.forward(symbols)?.to_vec()?))
        },
    );
    assert!(counts[0] >= 10 && counts[1..] == [2, 1], "{counts:?}");
}

fn read(reads: Vec<crate::ReadBack>) -> Result<Vec<Vec<u32>>> {
    reads.into_iter().map(|read| read.wait().map(bits)).collect()
}

#[test]
fn the_main_types_can_be_sent_and_shared_between_threads() {
    fn both<T: Send + Sync>() {}
    both::<Device>();
    both::<Tensor>();
    both::<crate::Recorder>();
    both::<crate::ReadBack>();
    both::<crate::EncodedCommands>();
    both::<DeviceSequence<'static>>();
    both::<crate::Error>();
    both::<State>();
    both::<Lstm>();
    both::<crate::nn::Linear>();
    both::<crate::nn::Conv1d>();
    both::<crate::nn::Embedding>();
    both::<crate::nn::TrainableRecurrent>();
    both::<crate::nn::Tape>();
    both::<Parameters>();
    both::<Trainer>();
    both::<OnnxModel>();
    both::<SileroVad>();
    both::<RnNoise>();
}
