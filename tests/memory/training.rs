//! Training: passes forward and back, whole steps, the flow of a gradient.

use gatewise::cell::{Cell, GruCell, LstmCell, Noise, Pad, RnnCell, Sequence};
use gatewise::nn::{Config, Gru, Merge, RecurrentGradient, State, TrainableRecurrent, TrainingOptions};
use gatewise::ops::Conv1dGeometry;
use gatewise::train::{
    Adam, CrossEntropyOptions, GradientFlow, LinearModule, LossOptions, ParameterId, Parameters, RecurrentModule,
    StepReport, Trainer, gradient_flow,
};
use gatewise::{Device, Result, Tensor};
use ndarray::Array2;

use crate::{bits, cpu, each_allocation_fails, each_fails, failing, numbers, state_bits, tensor};

const TIME: usize = 2;
const BATCH: usize = 90;
const INPUT: usize = 5;
const HIDDEN: usize = 7;

/// A pass forward and back through a stack, from a state that stays as it is.
struct Pass {
    stack: TrainableRecurrent,
    x: Tensor,
    state: State,
    sequence: Sequence,
    options: TrainingOptions,
}

impl Pass {
    fn new(device: &Device, config: &Config, parameters: &[Vec<gatewise::cell::Parameters>], noisy: bool) -> Self {
        let stack = config.trainable(device, parameters).expect("fits");
        let state = stack.zero_state(BATCH).expect("fits");
        let reset = Array2::from_shape_fn((TIME, BATCH), |(t, b)| t == 1 && b % 4 == 0);
        let sequence = Sequence::new().lengths((0..BATCH).map(|b| 1 + b % TIME)).reset(reset).pad(Pad::Hold);
        let noise = Noise { dropout: 0.2, recurrent_dropout: 0.2, zoneout_h: 0.1, zoneout_s: 0.1, ..Noise::default() };
        let noisy = noisy.then_some(TrainingOptions { noise, recurrent_clip: Some(0.5), checkpoint: Some(1) });
        let x = tensor(device, &[TIME, BATCH, INPUT]);
        Self { stack, x, state, sequence, options: noisy.unwrap_or_default() }
    }

    fn run(&mut self) -> Result<(Tensor, RecurrentGradient)> {
        let Self { stack, x, state, sequence, options } = self;
        let (mut recorder, mut state) = (stack.device().recorder(), state.try_clone()?);
        let (y, tape) = stack.record_training(&mut recorder, x, &mut state, &*sequence, options)?;
        let gradient = tape.record_backward(&mut recorder, &y, None)?;
        Ok((y, gradient))
    }

    fn read((y, gradient): (Tensor, RecurrentGradient)) -> Vec<u32> {
        let states = [&gradient.state, &gradient.initial];
        let states = states.into_iter().flat_map(|state| std::iter::once(&state.h).chain(&state.s));
        let all = std::iter::once(&y).chain([&gradient.x]).chain(states).chain(gradient.tensors());
        all.cloned().flat_map(bits).collect()
    }
}

#[test]
fn passes_of_every_cell() {
    let _alone = failing::alone();
    let cells: [Cell; 4] = [
        RnnCell::default().into(),
        GruCell::default().into(),
        GruCell::LECTURE.into(),
        LstmCell { projection: Some(5), peephole: true, ..LstmCell::default() }.into(),
    ];
    let both: Config = Config::new(LstmCell::default().into(), INPUT, HIDDEN);
    let mut configs: Vec<Config> = cells.map(|cell| Config::new(cell, INPUT, HIDDEN)).into();
    configs.extend([Merge::Concat, Merge::Mul, Merge::Ave].map(|merge| both.clone().bidirectional(merge)));
    // Work enough for two threads.
    configs.push(Config::new(LstmCell::default().into(), INPUT, 26));
    for (at, config) in configs.into_iter().enumerate() {
        // Every pass has a device of its own: buffers stay with a device from one to the next.
        let devices: &[fn() -> Device] = match at {
            // The plain loops are slow.
            0 | 5 => &[|| Device::Reference, || cpu(1)],
            7 => &[|| cpu(2)],
            _ => &[|| cpu(1)],
        };
        for device in devices {
            let parameters = config.random_parameters(3).expect("fits");
            let make = || Pass::new(&device(), &config, &parameters, at % 2 == 0);
            let name = format!("{config:?} on {}", device());
            let look = |pass: &Pass| state_bits(&pass.state);
            each_allocation_fails(&name, make, look, Pass::run, Pass::read);
            let forward =
                |Pass { stack, x, state, .. }: &mut Pass| Ok(stack.forward_training(x, state, &Sequence::new())?.0);
            each_allocation_fails(&name, make, look, forward, bits);
        }
    }
}

/// Steps of a model of all kinds of layers.
struct TrainingRun {
    signal: Tensor,
    symbols: Vec<usize>,
    goal: Tensor,
    trainer: Trainer,
    front: [ParameterId; 3],
    gru: RecurrentModule,
    head: LinearModule,
}

impl TrainingRun {
    fn new(device: &Device) -> Self {
        let mut parameters = Parameters::new(device, 7);
        let weight = parameters.uniform("front.weight", &[INPUT, INPUT, 3], 0.5).expect("fits");
        let bias = parameters.normal("front.bias", &[INPUT], 0.1).expect("fits");
        let table = parameters.normal("table", &[300, INPUT], 0.3).expect("fits");
        let gru = RecurrentModule::new(&mut parameters, "gru.", &Gru::config(INPUT, HIDDEN)).expect("fits");
        let head = LinearModule::new(&mut parameters, "head.", [HIDDEN, 3]).expect("fits");
        let trainer = Trainer::new(parameters, Adam { amsgrad: true, ..Adam::default() }, 0.01).expect("a trainer");
        Self {
            signal: tensor(device, &[BATCH, INPUT, TIME]),
            symbols: (0..TIME * BATCH).map(|at| at % 300).collect(),
            goal: tensor(device, &[TIME, BATCH, HIDDEN]),
            trainer,
            front: [weight, bias, table],
            gru,
            head,
        }
    }

    fn step(&mut self) -> Result<StepReport> {
        let Self { signal, symbols, goal, trainer, front: [weight, bias, table], gru, head } = self;
        trainer.step(|graph| {
            let signal = graph.input(signal);
            let (weight, bias) = (graph.parameter(*weight)?, graph.parameter(*bias)?);
            let convolved = graph.conv1d(signal, weight, bias, Conv1dGeometry { stride: 1, padding: 1 })?;
            let convolved = graph.permute(convolved, &[2, 0, 1])?;
            let table = graph.parameter(*table)?;
            let vectors = graph.embedding(table, symbols)?;
            let vectors = graph.reshape(vectors, &[TIME, BATCH, INPUT])?;
            let x = graph.add(convolved, vectors)?;
            let x = graph.dropout(x, 0.1)?;
            let sequence = Sequence::new().lengths((0..BATCH).map(|b| 1 + b % TIME));
            let y = gru.forward(graph, x, None, &sequence, &TrainingOptions::default())?;
            let mean = graph.mean_over_steps(y, &sequence)?;
            let last = graph.last_step(y, &sequence)?;
            let both = graph.mul(mean, last)?;
            let scores = head.forward(graph, both)?;
            let classes: Vec<i64> = (0..BATCH as i64).map(|b| b % 3).collect();
            let first = graph.cross_entropy(scores, &classes, &CrossEntropyOptions::default())?;
            let second = graph.mean_squared_error(y, goal, &LossOptions::default())?;
            graph.add(first, second)
        })
    }

    fn look(&self) -> Vec<u32> {
        let steps = self.trainer.steps() as u32;
        self.trainer.parameters().named().flat_map(|(_, tensor)| bits(tensor.clone())).chain([steps]).collect()
    }
}

#[test]
fn whole_steps() {
    let _alone = failing::alone();
    let read = |report: StepReport| vec![report.loss.to_bits(), report.gradient_norm.to_bits()];
    each_allocation_fails("a step", || TrainingRun::new(&cpu(1)), TrainingRun::look, TrainingRun::step, read);
    let drawn = |normal: bool| {
        let mut parameters = Parameters::new(&Device::Cpu, 1);
        let shape = [50, 50];
        let id = if normal { parameters.normal("x", &shape, 1.0)? } else { parameters.uniform("x", &shape, 1.0)? };
        parameters.get(id).cloned()
    };
    each_fails("uniform", || drawn(false), bits);
    each_fails("normal", || drawn(true), bits);
}

#[test]
fn flows_of_gradients() {
    let _alone = failing::alone();
    const HIDDEN: usize = 4;
    let config = Config::<Cell>::new(LstmCell::default().into(), INPUT, HIDDEN);
    let parameters = config.random_parameters(3).expect("fits");
    let stack = config.trainable(&Device::Cpu, &parameters).expect("fits");
    let state = stack.zero_state(BATCH).expect("fits");
    let (x, dy) = (tensor(&Device::Cpu, &[TIME, BATCH, INPUT]), tensor(&Device::Cpu, &[TIME, BATCH, HIDDEN]));
    let read = |flow: GradientFlow| flow.layers.iter().flat_map(|l| numbers(l.h.iter().map(|&h| h as f32))).collect();
    each_fails("gradient_flow", || gradient_flow(&stack, &x, &state, &Sequence::new(), &dy), read);
}
