//! States after one of several submissions has failed.

use std::time::Duration;

use crate::cell::{Cell, GruCell, LstmCell, Reset, Sequence};
use crate::error::{Error, Result};
use crate::gpu::{GpuDevice, GpuOptions, Recorder};
use crate::nn::{Config, Recurrent, State, TrainingOptions};
use crate::plan::{CooperativeScans, PlanKind, Watchdog};
use crate::{Device, Tensor};

const BATCH: usize = 3;
const TIME: usize = 9;

fn device(cut: bool) -> Device {
    let watchdog = Watchdog { dispatch: Duration::from_micros(14), submission: Duration::from_micros(30) };
    let cooperative = Some(CooperativeScans { workgroups: 1, polls: 1 });
    let options =
        GpuOptions { software: true, cooperative, watchdog: cut.then_some(watchdog), ..GpuOptions::default() };
    Device::Gpu(GpuDevice::new(&options).expect("install mesa-vulkan-drivers and libvulkan1"))
}

/// A state's bits.
fn bits(state: &State) -> Vec<u32> {
    let (h, s) = (state.to_h().expect("h"), state.to_s().expect("s"));
    h.iter().chain(s.iter().flatten()).map(|x| x.to_bits()).collect()
}

fn x(device: &Device) -> Tensor {
    let x = (0..TIME * BATCH * 5).map(|at| (at as f32 * 0.7).sin()).collect::<Vec<_>>();
    Tensor::from_vec(device, &[TIME, BATCH, 5], x).expect("x")
}

/// The recorder of a call, and where its output will be.
fn recorded(stack: &Recurrent, state: &mut State, sequence: &Sequence) -> (Recorder, Tensor) {
    let device = stack.device().clone();
    let mut recorder = device.recorder();
    let y = stack.record(&mut recorder, &x(&device), state, sequence).expect("records");
    (recorder.into_gpu().expect("a GPU"), y)
}

fn fails_at(submission: usize) -> impl FnMut(usize) -> Result<()> {
    move |at| match at == submission {
        true => Err(Error::OutOfMemory { op: "submit", message: "as a test has it".to_owned() }),
        false => Ok(()),
    }
}

#[test]
fn a_failure_between_submissions_leaves_the_state_as_it_was() {
    let (whole, cut) = (device(false), device(true));
    let reset = Sequence::new().reset(ndarray::Array2::from_shape_fn((TIME, BATCH), |(t, b)| t == 4 + b));
    let before = GruCell { reset: Reset::Before, ..Default::default() };
    let cases: [(Cell, usize, PlanKind, Sequence); 6] = [
        (LstmCell::default().into(), 1, PlanKind::Step, Sequence::new()),
        (LstmCell::default().into(), 3, PlanKind::Wave, Sequence::new()),
        (LstmCell::default().into(), 2, PlanKind::Scan, reset.clone()),
        (GruCell::default().into(), 1, PlanKind::Scan, Sequence::new()),
        (LstmCell::default().into(), 2, PlanKind::CooperativeScan, Sequence::new()),
        (before.into(), 2, PlanKind::Step, reset),
    ];
    for (cell, layers, kind, sequence) in cases {
        let config = Config::new(cell, 5, 7).layers(layers).plan(kind);
        let [first, stack] = [&whole, &cut].map(|device| config.random(device, 3).expect("a stack"));
        let mut expected = first.zero_state(BATCH).expect("state");
        let y: Vec<Vec<f32>> = (0..2)
            .map(|_| {
                let (recorder, y) = recorded(&first, &mut expected, &sequence);
                recorder.submit().and_then(|()| y.to_vec()).expect("runs")
            })
            .collect();

        let mut state = stack.zero_state(BATCH).expect("state");
        let (recorder, y_first) = recorded(&stack, &mut state, &sequence);
        recorder.submit().expect("runs");
        assert_eq!(y_first.to_vec().expect("y"), y[0], "{kind}");
        let good = bits(&state);
        let (recorder, _) = recorded(&stack, &mut state, &sequence);
        let submissions = 1 + recorder.later_submissions().len();
        assert!(submissions > 2, "{kind}: {submissions}");
        assert_eq!(submissions, stack.plan(TIME, BATCH).expect("fits").submits(), "{kind}");
        drop(recorder);
        for submission in 0..submissions {
            let (recorder, _) = recorded(&stack, &mut state, &sequence);
            let error = recorder.submit_each("submit", None, fails_at(submission)).expect_err("as asked for");
            assert!(matches!(error, Error::OutOfMemory { .. }), "{error}");
            assert_eq!(bits(&state), good, "{kind}: submission {submission} of {submissions}");
        }
        let (recorder, y_second) = recorded(&stack, &mut state, &sequence);
        recorder.submit().expect("runs");
        assert_eq!(y_second.to_vec().expect("y"), y[1], "{kind}: another try");
        assert_eq!(bits(&state), bits(&expected), "{kind}");
    }
}

#[test]
fn a_failure_between_the_submissions_of_a_training_pass_leaves_the_state_as_it_was() {
    let device = device(true);
    let config = Config::new(Cell::from(LstmCell::default()), 5, 7).layers(2);
    let stack = config.random(&device, 3).expect("a stack");
    let parameters = stack.parameters().expect("weights");
    let stack = config.trainable(&device, &parameters).expect("a stack");
    let mut state = stack.zero_state(BATCH).expect("state");
    let record = |state: &mut State| {
        let mut recorder = device.recorder();
        let options = TrainingOptions::default();
        let (y, tape) =
            stack.record_training(&mut recorder, &x(&device), state, &Sequence::new(), &options).expect("forward");
        tape.record_backward(&mut recorder, &y, None).expect("backward");
        recorder.into_gpu().expect("a GPU")
    };
    record(&mut state).submit().expect("runs");
    let good = bits(&state);
    let submissions = 1 + record(&mut state).later_submissions().len();
    assert!(submissions > 2, "{submissions}");
    for submission in [1, submissions / 2, submissions - 1] {
        record(&mut state).submit_each("submit", None, fails_at(submission)).expect_err("as asked for");
        assert_eq!(bits(&state), good, "submission {submission} of {submissions}");
    }
    record(&mut state).submit().expect("runs");
    assert_ne!(bits(&state), good);
}
