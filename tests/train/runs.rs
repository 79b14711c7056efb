//! Whole runs: they learn, repeat bit for bit, and go on from a checkpoint as if they had never stopped. A step whose loss is
//! NaN leaves them where they were.

use gatewise::cell::{Noise, Sequence};
use gatewise::nn::{Gru, TrainingOptions};
use gatewise::train::{
    Adam, Checkpoint, Checkpoints, Clip, Conv1dModule, CrossEntropyOptions, EmbeddingModule, Graph, LinearModule,
    LossOptions, Parameters, Plateau, RecurrentModule, RmsProp, Rule, Schedule, Sgd, StepReport, Trainer, Var,
};
use gatewise::weights::Weights;
use gatewise::{Device, Error, Result, Tensor};
use ndarray::{Array1, Array2, ArrayD, IxDyn, array};

use crate::{devices, upload};

/// A model from symbols to a class that uses every module.
struct Model {
    embedding: EmbeddingModule,
    conv: Conv1dModule,
    gru: Option<RecurrentModule>,
    hidden: LinearModule,
    readout: LinearModule,
}

const BATCH: usize = 6;
const TIME: usize = 8;
const WIDTH: usize = 5;

impl Model {
    fn new(parameters: &mut Parameters, recurrent: bool) -> Self {
        let geometry = gatewise::ops::Conv1dGeometry { stride: 1, padding: 1 };
        let gru = Gru::config(WIDTH, WIDTH).layers(2);
        Self {
            embedding: EmbeddingModule::new(parameters, "embedding.", [7, WIDTH]).expect("an embedding"),
            conv: Conv1dModule::new(parameters, "conv.", [WIDTH, WIDTH, 3], geometry).expect("a convolution"),
            gru: recurrent.then(|| RecurrentModule::new(parameters, "gru.", &gru).expect("a stack")),
            hidden: LinearModule::new(parameters, "hidden.", [WIDTH, WIDTH]).expect("a layer"),
            readout: LinearModule::new(parameters, "readout.", [WIDTH, 3]).expect("a readout"),
        }
    }

    /// The loss of a batch, which its number determines.
    fn loss(&self, graph: &mut Graph, batch: u64) -> Result<Var> {
        let mut rng = fastrand::Rng::with_seed(batch);
        let symbols: Vec<usize> = (0..TIME * BATCH).map(|_| rng.usize(0..7)).collect();
        // The class is that of the last symbol.
        let classes: Vec<i64> = (0..BATCH).map(|row| (symbols[(TIME - 1) * BATCH + row] % 3) as i64).collect();
        let x = self.embedding.forward(graph, &symbols)?;
        let x = graph.reshape(x, &[TIME, BATCH, WIDTH])?;
        let signal = graph.permute(x, &[1, 2, 0])?;
        let signal = self.conv.forward(graph, signal)?;
        let around = graph.permute(signal, &[2, 0, 1])?;
        let mut y = graph.add(x, around)?;
        let sequence = Sequence::new();
        if let Some(gru) = &self.gru {
            let noise = Noise { dropout: 0.1, ..Noise::default() };
            y = gru.forward(graph, y, None, &sequence, &TrainingOptions { noise, ..Default::default() })?;
            y = graph.dropout(y, 0.1)?;
        }
        let last = graph.last_step(y, &sequence)?;
        let hidden = self.hidden.forward(graph, last)?;
        let hidden = graph.activation(gatewise::cell::Activation::Tanh, hidden)?;
        let scores = self.readout.forward(graph, hidden)?;
        graph.cross_entropy(scores, &classes, &CrossEntropyOptions::default())
    }
}

fn trainer(device: &Device, rule: Rule, recurrent: bool) -> (Trainer, Model) {
    let mut parameters = Parameters::new(device, 11);
    let model = Model::new(&mut parameters, recurrent);
    let then = Box::new(Schedule::Cosine { steps: 60, floor: 1e-4 });
    let trainer = Trainer::new(parameters, rule, 0.02)
        .and_then(|trainer| trainer.clip(Clip { value: Some(1.0), norm: Some(2.0) }))
        .expect("a trainer")
        .schedule(Schedule::WarmUp { steps: 5, from: 0.2, then })
        .plateau(Plateau::default().patience(3).factor(0.7))
        .seed(5);
    (trainer, model)
}

fn bits(trainer: &Trainer) -> Vec<u32> {
    let read = |(_, tensor): (&str, &Tensor)| tensor.to_vec().expect("a read-back");
    trainer.parameters().named().flat_map(read).map(f32::to_bits).collect()
}

/// Makes the steps `from..to`; returns the last report.
fn run(trainer: &mut Trainer, model: &Model, steps: std::ops::Range<u64>) -> Result<StepReport> {
    let mut last = None;
    for batch in steps {
        let report = trainer.step(|graph| model.loss(graph, batch % 10))?;
        trainer.observe(f64::from(report.loss));
        last = Some(report);
    }
    Ok(last.expect("at least one step"))
}

#[test]
fn a_model_of_every_layer_learns_and_repeats() {
    for device in devices() {
        let once = || {
            let (mut trainer, model) = trainer(&device, Adam::default().into(), true);
            trainer.set_rate(0.05).expect("a rate");
            let mut losses = Vec::new();
            for batch in 0..60 {
                losses.push(trainer.step(|graph| model.loss(graph, batch % 4)).expect("a step").loss);
            }
            assert_eq!(trainer.steps(), 60);
            let round = |losses: &[f32]| losses.iter().sum::<f32>() / losses.len() as f32;
            let (first, last) = (round(&losses[..4]), round(&losses[56..]));
            assert!(last < 0.4 * first, "{device}: {first} to {last}");
            bits(&trainer)
        };
        assert_eq!(once(), once(), "{device}: the same seed, the same bits");
    }
}

#[test]
fn a_resumed_run_equals_an_unbroken_one() {
    let folder = tempfile::tempdir().expect("a folder");
    let rules: [Rule; 3] = [
        Sgd { momentum: 0.9, ..Sgd::default() }.into(),
        RmsProp { centered: true, momentum: 0.5, ..RmsProp::default() }.into(),
        Adam { amsgrad: true, ..Adam::W }.into(),
    ];
    for device in devices() {
        for rule in rules {
            let path = folder.path().join("run.safetensors");
            let (mut unbroken, model) = trainer(&device, rule, true);
            run(&mut unbroken, &model, 0..9).expect("steps");
            let mut checkpoint = unbroken.checkpoint().expect("a checkpoint");
            checkpoint.note("epoch", "4");
            let carried = array![1.5_f32, f32::MIN_POSITIVE / 8.0].into_dyn();
            checkpoint.add("carried", &upload(&device, &carried)).expect("a name of its own");
            checkpoint.write(&path).expect("a file");
            let expected = run(&mut unbroken, &model, 9..20).expect("steps");

            let (mut resumed, model) = trainer(&device, rule, true);
            let checkpoint = Checkpoint::read(&path).expect("a whole file");
            resumed.restore(&checkpoint).expect("it fits");
            assert_eq!((checkpoint.noted("epoch"), resumed.steps()), (Some("4"), 9));
            let carried: Array1<f32> = checkpoint.get("carried").expect("an array");
            assert_eq!(carried[1].to_bits(), (f32::MIN_POSITIVE / 8.0).to_bits());
            let got = run(&mut resumed, &model, 9..20).expect("steps");
            assert_eq!(got, expected, "{rule:?} on {device}");
            assert_eq!(bits(&resumed), bits(&unbroken), "{rule:?} on {device}");
        }
    }
}

/// A weight, an input and a target: the caller chooses the loss of a step.
fn scalar(device: &Device, rule: impl Into<Rule>) -> (Trainer, impl Fn(&mut Graph, f32) -> Result<Var>) {
    let mut parameters = Parameters::new(device, 1);
    let weight = parameters.add("weight", &array![[1.0_f32, -2.0, 0.5]]).expect("a parameter");
    let trainer = Trainer::new(parameters, rule, 0.1).expect("a trainer");
    let loss = move |graph: &mut Graph, x: f32| {
        let device = graph.device().clone();
        let x = graph.input(&Tensor::from_array(&device, &array![[x, 1.0, 2.0]])?);
        let w = graph.parameter(weight)?;
        let y = graph.linear(x, w, None)?;
        graph.mean_squared_error(y, &Tensor::from_array(&device, &array![[0.3]])?, &LossOptions::default())
    };
    (trainer, loss)
}

#[test]
fn a_step_that_is_no_number_changes_nothing_and_is_named() {
    for device in devices() {
        let (mut trainer, loss) = scalar(&device, Adam::default());
        trainer.step(|graph| loss(graph, 1.0)).expect("a step");
        trainer.step(|graph| loss(graph, 2.0)).expect("a step");
        let (good, steps) = (bits(&trainer), trainer.steps());
        for bad in [f32::NAN, f32::INFINITY, 1e30] {
            // If no report is read, the first diverged step stops all later ones.
            trainer.submit_step(|graph| loss(graph, bad)).expect("recorded");
            trainer.submit_step(|graph| loss(graph, 1.0)).expect("recorded");
            trainer.submit_step(|graph| loss(graph, 3.0)).expect("recorded");
            match trainer.report() {
                Err(Error::Diverged { step, loss, gradient_norm }) => {
                    assert_eq!(step, 3, "{device}, {bad}");
                    assert!(!loss.is_finite() || !gradient_norm.is_finite(), "{loss}, {gradient_norm}");
                }
                other => panic!("{device}, {bad}: {other:?}"),
            }
            assert_eq!((bits(&trainer), trainer.steps()), (good.clone(), steps), "{device}, {bad}");
        }
        // It continues like a training without the diverged steps.
        let report = trainer.step(|graph| loss(graph, 0.7)).expect("a step");
        let (mut other, loss) = scalar(&device, Adam::default());
        for x in [1.0, 2.0] {
            other.step(|graph| loss(graph, x)).expect("a step");
        }
        assert_eq!(other.step(|graph| loss(graph, 0.7)).expect("a step"), report, "{device}");
        assert_eq!(bits(&other), bits(&trainer), "{device}");
    }
}

#[test]
fn a_call_that_fails_leaves_the_trainer_as_it_was() {
    for device in devices() {
        let (mut trainer, loss) = scalar(&device, Sgd { momentum: 0.9, ..Sgd::default() });
        trainer.step(|graph| loss(graph, 1.0)).expect("a step");
        let before = bits(&trainer);
        trainer
            .step(|graph| {
                loss(graph, 1.0)?;
                let x = graph.input(&upload(&device, &ArrayD::ones(IxDyn(&[2, 2]))));
                graph.cross_entropy(x, &[5, 0], &CrossEntropyOptions::default())
            })
            .expect_err("no such class");
        assert_eq!((bits(&trainer), trainer.steps()), (before, 1));
    }
}

#[test]
fn parameters_travel_under_pytorchs_names() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("model.safetensors");
    let (mut trainer, model) = trainer(&Device::Cpu, Adam::default().into(), true);
    run(&mut trainer, &model, 0..2).expect("steps");
    let mut weights = trainer.parameters().weights().expect("numbers");
    weights.note("trained on", "nothing");
    weights.save(&path).expect("a file");
    let weights = Weights::from_file(&path).expect("a whole file");
    assert_eq!(weights.metadata("trained on").expect("an entry"), "nothing");
    // The stack for inference, read from the file, equals the trained one.
    let config = Gru::config(WIDTH, WIDTH).layers(2);
    let gru = weights.recurrent("gru.", &config, &Device::Cpu).expect("a stack");
    let stack = model.gru.as_ref().expect("a stack").stack(trainer.parameters()).expect("its parameters");
    let x = Array2::from_shape_fn((TIME, WIDTH), |(t, i)| (t * WIDTH + i) as f32 * 0.1).insert_axis(ndarray::Axis(1));
    let x = Tensor::from_array(&Device::Cpu, &x).expect("an upload");
    let frozen = gru.forward(&x, &mut gru.zero_state(1).expect("a state")).expect("a call").to_vec().expect("numbers");
    let mut state = stack.zero_state(1).expect("a state");
    let (learned, _) = stack.forward_training(&x, &mut state, &Sequence::new()).expect("a call");
    crate::assert_close("frozen", &frozen, &learned.to_vec().expect("numbers"), 1e-6);

    let mut other = Parameters::new(&Device::Cpu, 99);
    Model::new(&mut other, true);
    other.load(&weights).expect("the same names");
    assert!(other.named().zip(trainer.parameters().named()).all(|((_, a), (_, b))| a.to_vec().ok() == b.to_vec().ok()));
    let mut fewer = Parameters::new(&Device::Cpu, 99);
    Model::new(&mut fewer, false);
    let message = fewer.load(&weights).expect_err("a tensor is left over").to_string();
    assert!(message.contains("gru.") && message.contains("model.safetensors"), "{message}");
}

#[test]
fn a_checkpoint_cut_short_is_refused_and_the_one_before_is_found() {
    let folder = tempfile::tempdir().expect("a folder");
    let checkpoints = Checkpoints::new(folder.path().join("run"), 2).expect("a folder");
    let (mut trainer, loss) = scalar(&Device::Cpu, Adam::default());
    assert!(checkpoints.latest(|_, _| panic!("nothing to refuse")).expect("a folder").is_none());
    let mut paths = Vec::new();
    for x in [1.0, 2.0, 3.0] {
        trainer.step(|graph| loss(graph, x)).expect("a step");
        paths.push(checkpoints.write(&trainer.checkpoint().expect("a checkpoint")).expect("a file"));
    }
    assert!(!paths[0].exists() && paths[1].exists(), "two are kept");
    let latest = || {
        let mut refused = Vec::new();
        let found = checkpoints.latest(|path, error| refused.push((path.to_owned(), error.to_string())));
        (found.expect("a folder").expect("a checkpoint").step().expect("a step"), refused)
    };
    assert_eq!(latest(), (3, Vec::new()));
    let whole = std::fs::read(&paths[2]).expect("the file");
    for length in [0, 7, whole.len() / 2, whole.len() - 1] {
        std::fs::write(&paths[2], &whole[..length]).expect("a shorter file");
        let (step, refused) = latest();
        assert_eq!(step, 2, "{length} of {} bytes", whole.len());
        assert!(refused.len() == 1 && refused[0].0 == paths[2], "{refused:?}");
    }
}

/// Forward pass, loss, gradients, clipping and update are one submission with a few dispatches per operation. From the second step
/// on no pipeline is new.
#[test]
fn a_step_is_one_submission_and_a_report_one_read_back() {
    let gpu = crate::common::gpu();
    let device = Device::Gpu(gpu.clone());
    let mut parameters = Parameters::new(&device, 3);
    let first = LinearModule::new(&mut parameters, "first.", [6, 20]).expect("a layer");
    let second = LinearModule::new(&mut parameters, "second.", [20, 4]).expect("a layer");
    let clip = Clip { value: Some(2.0), norm: Some(1.0) };
    let mut trainer = Trainer::new(parameters, Adam::default(), 0.01).and_then(|t| t.clip(clip)).expect("a trainer");
    let x = upload(&device, &ArrayD::from_elem(IxDyn(&[5, 6]), 0.3));
    let mut cost = |report: bool| {
        let before = gpu.counters();
        trainer
            .submit_step(|graph| {
                let x = graph.input(&x);
                let hidden = first.forward(graph, x)?;
                let hidden = graph.activation(gatewise::cell::Activation::Tanh, hidden)?;
                let scores = second.forward(graph, hidden)?;
                graph.cross_entropy(scores, &[0, 3, 2, 1, 0], &CrossEntropyOptions::default())
            })
            .expect("a step");
        if report {
            trainer.report().expect("finite numbers");
        }
        let after = gpu.counters();
        [after.submits - before.submits, after.dispatches - before.dispatches, after.pipelines - before.pipelines]
    };
    cost(true);
    let [submits, dispatches, pipelines] = cost(false);
    assert_eq!((submits, pipelines), (1, 0));
    assert_eq!(dispatches, STEP_DISPATCHES);
    assert_eq!(cost(true)[0], 2, "the report reads back");
}

/// Forward: 2 products, an activation; loss: rows, sum. Back: the scores; of each layer the bias, the weights, of the second
/// one the input; the activation. Then 4 norms, the verdict, 4 updates.
const STEP_DISPATCHES: u64 = 3 + 2 + 1 + 5 + 1 + 4 + 1 + 4;
