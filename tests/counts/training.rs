//! The cost of a step of training.

use gatewise::Device;
use gatewise::Tensor;
use gatewise::cell::{Noise, Sequence};
use gatewise::nn::{Config, Lstm, Merge, RecurrentGradient, TrainableRecurrent, TrainingOptions};
use gatewise::train::{Adam, Clip, CrossEntropyOptions, Graph, Parameters, Schedule, Trainer};

use super::common::gpu;
use super::{BATCH, cells, cost, input, stacks};

/// A step of training in one recorder: forward, and back from the output as the loss' gradient.
fn training_step(stack: &TrainableRecurrent, x: &Tensor, sequence: &Sequence) -> RecurrentGradient {
    let mut state = stack.zero_state(x.shape()[1]).expect("state");
    let mut recorder = stack.device().recorder();
    let options = TrainingOptions::default();
    let (y, tape) = stack.record_training(&mut recorder, x, &mut state, sequence, &options).expect("records");
    let gradient = tape.record_backward(&mut recorder, &y, None).expect("records");
    recorder.submit().expect("runs");
    gradient
}

#[test]
fn a_step_of_training_is_one_submission_of_a_dispatch_or_two_a_step_each_way() {
    let gpu = gpu();
    let device = Device::Gpu(gpu.clone());
    for (cell, a_step) in cells() {
        for (config, layers, beside) in stacks(cell) {
            let directions = if beside > 1 { 2 } else { 1 };
            let stack = config.trainable(&device, &config.random_parameters(3).expect("parameters")).expect("a stack");
            let spent = |time: usize| {
                let x = input(&device, [time, BATCH, 5]);
                let (spent, _) = cost(&gpu, || training_step(&stack, &x, &Sequence::new()));
                // Without steps there are gradients to clear.
                assert_eq!(spent.submits, 1, "{config:?}, T = {time}");
                spent.dispatches
            };
            assert_eq!(spent(0), 0, "{config:?}");
            let (short, long) = (spent(7), spent(40));
            assert_eq!(long - short, (2 * layers * a_step * 33) as u64, "{config:?}");
            // In addition to the steps: packing, the last product, the weights' gradients; the zero states cost nothing.
            let beside = short - (2 * layers * a_step * 7) as u64;
            assert!(beside <= (layers * directions * 14 + 8) as u64, "{config:?}: {beside}");
        }
    }
}

#[test]
fn a_warm_step_of_training_takes_no_memory_and_compiles_nothing() {
    let gpu = gpu();
    let device = Device::Gpu(gpu.clone());
    for (cell, _) in cells() {
        let config = Config::new(cell, 5, 7).bidirectional(Merge::Mul).layers(2);
        let stack = config.trainable(&device, &config.random_parameters(3).expect("parameters")).expect("a stack");
        let x = input(&device, [6, BATCH, 5]);
        let sequence = Sequence::new().lengths([6, 2, 0]);
        (0..2).for_each(|_| drop(training_step(&stack, &x, &sequence)));
        let (spent, ()) = cost(&gpu, || (0..3).for_each(|_| drop(training_step(&stack, &x, &sequence))));
        assert_eq!((spent.buffers, spent.pipelines, spent.submits), (0, 0, 3), "{config:?}");
    }
}

/// When the report of a step is read.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Read {
    Never,
    /// By a submission of its own.
    Afterwards,
    /// By the step's own submission.
    Together,
}

/// A whole step with the optimiser. Its number, its rate and the keys of its masks change every time, and yet it finds the memory
/// and bind groups of earlier steps.
#[test]
fn a_warm_step_of_a_trainer_creates_nothing() {
    let gpu = gpu();
    let device = Device::Gpu(gpu.clone());
    let mut parameters = Parameters::new(&device, 5);
    let config = Lstm::config(5, 7).layers(2);
    let stack = gatewise::train::RecurrentModule::new(&mut parameters, "lstm.", &config).expect("a stack");
    let head = gatewise::train::LinearModule::new(&mut parameters, "head.", [7, 3]).expect("a head");
    let mut trainer = Trainer::new(parameters, Adam::default(), 0.01)
        .and_then(|trainer| trainer.clip(Clip::norm(1.0)))
        .expect("a trainer")
        .schedule(Schedule::Exponential { gamma: 0.99 });
    let noise = Noise { dropout: 0.2, recurrent_dropout: 0.2, ..Noise::default() };
    let options = TrainingOptions { noise, ..TrainingOptions::default() };
    let x = input(&device, [6, BATCH, 5]);
    let loss = |graph: &mut Graph| {
        let x = graph.input(&x);
        let y = stack.forward(graph, x, None, &Sequence::new(), &options)?;
        let last = graph.last_step(y, &Sequence::new())?;
        let last = graph.dropout(last, 0.1)?;
        let scores = head.forward(graph, last)?;
        graph.cross_entropy(scores, &[0, 2, 1], &CrossEntropyOptions::default())
    };
    let mut step = |read: Read| {
        if read == Read::Together {
            trainer.step(loss).expect("a step");
            return;
        }
        trainer.submit_step(loss).expect("a step");
        if read == Read::Afterwards {
            trainer.report().expect("a report");
        }
    };
    for (read, submits) in [(Read::Never, 70), (Read::Afterwards, 140), (Read::Together, 70)] {
        (0..6).for_each(|_| step(read));
        // More steps than blocks of uniforms are kept.
        let (spent, ()) = cost(&gpu, || (0..70).for_each(|_| step(read)));
        assert_eq!((spent.buffers, spent.bind_groups, spent.pipelines), (0, 0, 0), "{read:?}: {spent:?}");
        assert_eq!(spent.submits, submits, "{read:?}: {spent:?}");
    }
}
