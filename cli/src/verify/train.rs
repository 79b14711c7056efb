//! Cases of the kind `train`: PyTorch's training of a recurrent layer and a linear readout, step by step.

use gatewise::cell::{Activation, Cell, GruCell, LstmCell, RnnCell, Sequence};
use gatewise::nn::{Config, Merge, TrainingOptions};
use gatewise::train::{
    Adam, Clip, CrossEntropyOptions, Graph, LinearModule, LossOptions, Parameters, RecurrentModule, RmsProp, Rule, Sgd,
    Trainer, Var,
};
use gatewise::{Device, Error, Result, Tensor};
use ndarray::{Array1, ArrayD, Ix1, Ix3};
use serde::Deserialize;

use super::case::Case;
use super::compare::{Comparison, Tolerance};
use super::outputs::Supported;
use super::{Verdict, unsupported};

#[derive(Deserialize)]
struct Fields {
    cell: String,
    layers: usize,
    bidirectional: bool,
    dims: Dims,
    optimizer: String,
    hyper: Hyper,
    clip_global_norm: Option<f32>,
    steps: usize,
    task: String,
}

#[derive(Deserialize)]
struct Dims {
    #[serde(rename = "T")]
    time: usize,
    #[serde(rename = "B")]
    batch: usize,
    #[serde(rename = "I")]
    input: usize,
    #[serde(rename = "H")]
    hidden: usize,
    #[serde(rename = "C")]
    classes: usize,
}

#[derive(Deserialize)]
struct Hyper {
    lr: f64,
    #[serde(default)]
    momentum: f64,
    beta1: Option<f64>,
    beta2: Option<f64>,
    alpha: Option<f64>,
    eps: Option<f64>,
}

impl Hyper {
    fn rule(&self, name: &str) -> Option<Rule> {
        match (name, self) {
            ("sgd" | "momentum", Self { momentum, .. }) => Some(Sgd { momentum: *momentum, ..Sgd::default() }.into()),
            ("adam", Self { beta1: Some(beta1), beta2: Some(beta2), eps: Some(eps), .. }) => {
                Some(Adam { betas: [*beta1, *beta2], eps: *eps, ..Adam::default() }.into())
            }
            ("rmsprop", Self { alpha: Some(alpha), eps: Some(eps), .. }) => {
                Some(RmsProp { alpha: *alpha, eps: *eps, ..RmsProp::default() }.into())
            }
            _ => None,
        }
    }
}

/// The targets of the readout.
enum Target {
    /// Numbers at every step, `[T, B, C]`.
    Numbers(Tensor),
    /// Classes at every step, `[T, B]`.
    Tags(Vec<i64>),
    /// Classes of the last step, `[B]`.
    Classes(Vec<i64>),
}

struct Model {
    recurrent: RecurrentModule,
    readout: LinearModule,
    x: Tensor,
    target: Target,
}

impl Model {
    fn loss(&self, graph: &mut Graph) -> Result<Var> {
        let (x, sequence) = (graph.input(&self.x), Sequence::new());
        let mut y = self.recurrent.forward(graph, x, None, &sequence, &TrainingOptions::default())?;
        if matches!(self.target, Target::Classes(_)) {
            y = graph.last_step(y, &sequence)?;
        }
        let z = self.readout.forward(graph, y)?;
        match &self.target {
            Target::Numbers(target) => graph.mean_squared_error(z, target, &LossOptions::default()),
            Target::Tags(classes) | Target::Classes(classes) => {
                graph.cross_entropy(z, classes, &CrossEntropyOptions::default())
            }
        }
    }
}

/// Refuses sizes that do not match the tensors in the case's file, before parameters of these sizes are drawn.
fn check_sizes(case: &Case, fields: &Fields) -> Result<()> {
    let Fields { dims, layers, .. } = fields;
    let floats = case.bytes.len() / size_of::<f32>();
    let products =
        [(dims.hidden, dims.hidden), (dims.hidden, dims.input), (dims.hidden, dims.classes), (*layers, dims.hidden)];
    if products.iter().any(|&(a, b)| a.max(1).checked_mul(b.max(1)).is_none_or(|product| product > floats)) {
        return Err(case.refuse("dims", "sizes of the file's own tensors", &format!("a file of {floats} floats")));
    }
    let losses = case.floats::<Ix1>("losses")?.len();
    if Some(losses) != fields.steps.checked_add(1) {
        return Err(case.refuse("losses", "one loss before every step and one after the last", &losses.to_string()));
    }
    Ok(())
}

pub(super) fn run(case: &Case, device: &Device) -> Result<Verdict> {
    let fields: Fields = case.fields()?;
    let (mut trainer, model) = match prepare(case, device, &fields)? {
        Ok(prepared) => prepared,
        Err(option) => return Ok(unsupported(option)),
    };
    let (mut losses, mut norms) = (Vec::new(), Vec::new());
    for _ in 0..fields.steps {
        match trainer.step(|graph| model.loss(graph)) {
            Ok(report) => {
                losses.push(report.loss);
                norms.push(report.gradient_norm);
            }
            Err(Error::Unsupported { option, by, .. }) => return Ok(unsupported(format!("{option} {by}"))),
            Err(error) => return Err(error),
        }
    }
    let mut graph = trainer.evaluation();
    let last = model.loss(&mut graph)?;
    let last = graph.value(last)?.clone();
    graph.submit()?;
    losses.extend(last.to_vec()?);
    judge(case, &trainer, losses, norms)
}

/// The model with its initial weights, and a trainer for it.
fn prepare(case: &Case, device: &Device, fields: &Fields) -> Result<Supported<(Trainer, Model)>> {
    let cell: Cell = match fields.cell.as_str() {
        "rnn_tanh" => RnnCell::default().into(),
        "rnn_relu" => RnnCell { activation: Activation::Relu, ..Default::default() }.into(),
        "lstm" => LstmCell::default().into(),
        "gru" => GruCell::default().into(),
        other => return Ok(Err(format!("cell {other}"))),
    };
    let Some(rule) = fields.hyper.rule(&fields.optimizer) else {
        return Ok(Err(format!("optimizer {}", fields.optimizer)));
    };
    check_sizes(case, fields)?;
    let Dims { input, hidden, classes, .. } = fields.dims;
    let mut config = Config::new(cell, input, hidden).layers(fields.layers);
    if fields.bidirectional {
        config = config.bidirectional(Merge::Concat);
    }
    let mut parameters = Parameters::new(device, 0);
    let recurrent = RecurrentModule::new(&mut parameters, "rnn.", &config)?;
    let readout = LinearModule::new(&mut parameters, "lin.", [config.output_size(), classes])?;
    let names: Vec<String> = parameters.named().map(|(name, _)| name.to_owned()).collect();
    for name in &names {
        let initial: ArrayD<f32> = case.floats(&format!("init.{name}"))?;
        if let Some(id) = parameters.find(name) {
            parameters.set(id, Tensor::from_array(device, &initial)?)?;
        }
    }
    let target = match target(case, device, fields)? {
        Ok(target) => target,
        Err(option) => return Ok(Err(option)),
    };
    let x = Tensor::from_array(device, &case.floats::<Ix3>("x")?)?;
    let clip = Clip { norm: fields.clip_global_norm, ..Clip::default() };
    let trainer = Trainer::new(parameters, rule, fields.hyper.lr)?.clip(clip)?;
    Ok(Ok((trainer, Model { recurrent, readout, x, target })))
}

/// The targets of the case's task.
fn target(case: &Case, device: &Device, fields: &Fields) -> Result<Supported<Target>> {
    let Dims { time, batch, .. } = fields.dims;
    let classes = |len: Option<usize>| -> Result<Vec<i64>> {
        let classes: ArrayD<i32> = case.integers("target")?;
        match len == Some(classes.len()) {
            true => Ok(classes.iter().map(|&class| i64::from(class)).collect()),
            false => Err(case.refuse("target", "as many classes as `dims` says", &format!("{:?}", classes.shape()))),
        }
    };
    Ok(Ok(match fields.task.as_str() {
        "regress" => Target::Numbers(Tensor::from_array(device, &case.floats::<Ix3>("target")?)?),
        "tag" => Target::Tags(classes(time.checked_mul(batch))?),
        "classify" => Target::Classes(classes(Some(batch))?),
        other => return Ok(Err(format!("task {other}"))),
    }))
}

/// Compares losses, gradient norms and final parameters with the oracle's.
fn judge(case: &Case, trainer: &Trainer, losses: Vec<f32>, norms: Vec<f32>) -> Result<Verdict> {
    let mut verdict = Verdict::new();
    let relative = Tolerance { relative: case.tolerance("losses_rel")?, ..Tolerance::default() };
    verdict.comparison.close(&Array1::from(losses), &case.floats::<Ix1>("losses")?.into_dyn(), relative);
    for (name, tensor) in trainer.parameters().named() {
        let tolerance = Tolerance::absolute(case.tolerance("final_abs")?);
        verdict.comparison.close(
            &tensor.to_array::<ndarray::IxDyn>()?,
            &case.floats(&format!("final.{name}"))?,
            tolerance,
        );
    }
    let mut gradients = Comparison::default();
    gradients.close(&Array1::from(norms), &case.floats::<Ix1>("grad_norms")?.into_dyn(), relative);
    verdict.gradients = Some(gradients);
    Ok(verdict)
}
