//! An optimiser: an update rule and its slots on the device.

use super::graph::{Graph, Var};
use super::parameters::{ParameterId, Parameters};
use crate::error::{Error, Result};
use crate::op::{Clip, Rule, Update};
use crate::ops::{self, Moved, Verdict, VerdictWords};
use crate::tensor::Tensor;

/// Updates parameters by PyTorch's rules. The slots of a rule, for example momentum, are tensors on the parameters' device.
///
/// The update checks on the device that loss and gradients are finite. A step with NaN or infinity changes neither the
/// parameters nor the slots. Later steps change nothing either, until [`Optimizer::report`] has returned the error.
///
/// # Examples
/// ```
/// use gatewise::train::{Clip, Graph, LossOptions, Mode, Optimizer, Parameters, Sgd};
/// use gatewise::{Device, Tensor};
/// use ndarray::array;
///
/// let device = Device::Cpu;
/// let mut parameters = Parameters::new(&device, 7);
/// let weight = parameters.add("weight", &array![[2.0_f32]])?;
/// let mut optimizer = Optimizer::new(Sgd::default())?.clip(Clip::norm(1.0))?;
/// let mut graph = Graph::new(&parameters, Mode::Training { seed: 7, step: 0 });
/// let (x, y) = (Tensor::from_array(&device, &array![[1.0]])?, Tensor::from_array(&device, &array![[0.0]])?);
/// let (x, w) = (graph.input(&x), graph.parameter(weight)?);
/// let prediction = graph.linear(x, w, None)?;
/// let loss = graph.mean_squared_error(prediction, &y, &LossOptions::default())?;
/// optimizer.step(graph, loss, &mut parameters, 0.5)?; // one submission on a GPU
/// assert!((parameters.get(weight)?.to_vec()?[0] - 1.5).abs() < 1e-6); // the gradient, 4, is clipped to 1
/// assert_eq!(optimizer.report()?, Some((4.0, 4.0))); // loss, norm
/// # Ok::<(), gatewise::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Optimizer {
    rule: Rule,
    clip: Clip,
    /// The parameters of the last step.
    ids: Vec<ParameterId>,
    /// Per parameter: its slots, `[slots, elements]`; `None` before its first gradient.
    slots: Vec<Option<Tensor>>,
    /// Per parameter: the number of its updates.
    counts: Vec<u64>,
    /// The number of steps.
    steps: u64,
    /// Loss and gradient norm of the last step, on the device.
    verdict: Option<Verdict>,
    /// The steps since the last report: which parameters were updated, and by how many steps in a row.
    unreported: Vec<(Vec<bool>, u64)>,
}

/// A recorded step: the tensors that will replace the verdict, the parameters and the slots.
struct RecordedStep {
    verdict: Verdict,
    moved: Vec<(ParameterId, Moved)>,
}

impl Optimizer {
    /// An optimiser without any slots yet.
    ///
    /// # Errors
    /// As [`Rule::check`].
    pub fn new(rule: impl Into<Rule>) -> Result<Self> {
        let rule = rule.into();
        rule.check()?;
        Ok(Self {
            rule,
            clip: Clip::default(),
            ids: Vec::new(),
            slots: Vec::new(),
            counts: Vec::new(),
            steps: 0,
            verdict: None,
            unreported: Vec::new(),
        })
    }

    /// Clips the gradients before every update.
    ///
    /// # Errors
    /// As [`Clip::check`].
    pub fn clip(mut self, clip: Clip) -> Result<Self> {
        clip.check()?;
        self.clip = clip;
        Ok(self)
    }

    /// The update rule.
    pub fn rule(&self) -> Rule {
        self.rule
    }

    /// The number of steps so far.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// Computes the gradients of the loss, clips them, updates every parameter that the loss depends on, and submits it all.
    ///
    /// # Errors
    /// [`Error::Value`] if the graph or the optimiser's earlier steps belong to other parameters; as [`Graph::backward`] and
    /// [`Graph::submit`]. After an error nothing has changed.
    pub fn step(&mut self, mut graph: Graph, loss: Var, parameters: &mut Parameters, rate: f64) -> Result<()> {
        let made = self.record(&mut graph, loss, parameters, rate)?;
        graph.submit()?;
        self.accept(made, parameters)
    }

    /// Makes a step and reads its report in one submission; returns the loss and the norm of the gradients.
    ///
    /// The step counts once its report is on the host.
    ///
    /// # Errors
    /// As [`Optimizer::step`] and [`Optimizer::report`]. After an error other than [`Error::Diverged`] the step has not been
    /// made: parameters, slots and counts are as before the call. The caller can make the same step again.
    pub fn step_and_report(
        &mut self,
        mut graph: Graph,
        loss: Var,
        parameters: &mut Parameters,
        rate: f64,
    ) -> Result<(f32, f32)> {
        let made = self.record(&mut graph, loss, parameters, rate)?;
        let words = VerdictWords::wait(graph.submit_and_read(made.verdict.tensor())?)?;
        self.accept(made, parameters)?;
        self.judged(words)
    }

    /// Replaces the parameters and slots with those that a recorded step has computed.
    fn accept(&mut self, RecordedStep { verdict, moved }: RecordedStep, parameters: &mut Parameters) -> Result<()> {
        let mut updated = vec![false; parameters.len()];
        for (id, Moved { parameter, slots }) in moved {
            parameters.set(id, parameter)?;
            self.slots[id.at] = Some(slots);
            self.counts[id.at] += 1;
            updated[id.at] = true;
        }
        self.ids = parameters.ids().to_vec();
        self.verdict = Some(verdict);
        self.steps += 1;
        match self.unreported.last_mut() {
            Some((same, times)) if *same == updated => *times += 1,
            _ => self.unreported.push((updated, 1)),
        }
        Ok(())
    }

    /// Refuses parameters other than those of the last step. Parameters may have been added since.
    fn check_remembered(&self, parameters: &Parameters) -> Result<()> {
        if parameters.ids().starts_with(&self.ids) {
            return Ok(());
        }
        let (expected, found) = ("those of the optimiser's earlier steps", "other parameters".to_owned());
        Err(Error::Value { op: "Optimizer", what: "parameters", expected, found })
    }

    /// Records the backward pass, the verdict on the step, and the update of every parameter that has a gradient.
    fn record(&mut self, graph: &mut Graph, loss: Var, parameters: &Parameters, rate: f64) -> Result<RecordedStep> {
        let gradients = graph.backward(loss)?;
        self.check_remembered(parameters)?;
        self.slots.resize_with(parameters.len(), || None);
        self.counts.resize(parameters.len(), 0);
        let loss = graph.value(loss)?.clone();
        let recorder = graph.recorder();
        let with_gradient: Vec<(ParameterId, &Tensor)> = gradients.parameters().collect();
        let before = match &self.verdict {
            Some(verdict) => verdict.clone(),
            None => Verdict::fresh(parameters.device())?,
        };
        let all: Vec<&Tensor> = with_gradient.iter().map(|(_, gradient)| *gradient).collect();
        let number = (self.steps + 1) as u32;
        let verdict = ops::judge_step(recorder, &self.clip, number, &loss, &all, &before)?;
        let mut moved = Vec::new();
        for (id, gradient) in with_gradient {
            let parameter = parameters.get(id)?.clone();
            let slots = match &self.slots[id.at] {
                Some(slots) => slots.clone(),
                None => Tensor::zeros(parameters.device(), &[self.rule.slots().len(), parameter.len()])?,
            };
            let update = Update::new(self.rule, rate, self.counts[id.at] + 1);
            let now = Moved { parameter, slots };
            moved.push((id, ops::optimizer_step(recorder, &update, &self.clip, &verdict, &now, gradient)?));
        }
        Ok(RecordedStep { verdict, moved })
    }

    /// Waits for the last step and returns its loss and the norm of its gradients before clipping by norm; `None` before the first
    /// step. It reads back a few numbers.
    ///
    /// # Errors
    /// [`Error::Diverged`] if the loss or the gradient of a step was NaN or infinite. Parameters and optimiser are then as before
    /// that step, and training can continue, for example with a smaller rate. After any other error nothing has changed,
    /// and the caller can ask for the report again.
    pub fn report(&mut self) -> Result<Option<(f32, f32)>> {
        let Some(verdict) = &self.verdict else { return Ok(None) };
        let words = VerdictWords::wait(verdict.tensor().read_back()?)?;
        self.judged(words).map(Some)
    }

    /// Returns the loss and the norm of a good step. If a step has diverged, undoes the count of that step and of all later steps.
    fn judged(&mut self, words: VerdictWords) -> Result<(f32, f32)> {
        if words.good {
            self.unreported.clear();
            return Ok((words.loss, words.norm));
        }
        // The device counts steps in 32 bits.
        let since = u64::from((self.steps as u32).wrapping_sub(words.step));
        let step = self.steps - since;
        self.take_back(since + 1);
        self.verdict = None;
        Err(Error::Diverged { step, loss: words.loss, gradient_norm: words.norm })
    }

    /// Undoes the count of the last steps, which have changed nothing on the device.
    fn take_back(&mut self, mut steps: u64) {
        self.steps -= steps;
        while let Some((updated, times)) = self.unreported.pop() {
            let taken = times.min(steps);
            let counts = self.counts.iter_mut().zip(updated).filter(|(_, updated)| *updated);
            counts.for_each(|(count, _)| *count -= taken);
            steps -= taken;
        }
    }

    /// The ids of the parameters that have slots, each with the number of its updates and its slots.
    pub(super) fn remembered(&self) -> impl Iterator<Item = (ParameterId, u64, &Tensor)> {
        let slots = self.ids.iter().zip(&self.slots).zip(&self.counts);
        slots.filter_map(|((&id, slots), &count)| Some((id, count, slots.as_ref()?)))
    }

    /// Continues after `steps` steps of an earlier optimiser, with its slots and counts.
    pub(super) fn recall(&mut self, steps: u64, parameters: &Parameters, slots: Vec<Option<Tensor>>, counts: Vec<u64>) {
        let Self { rule, clip, .. } = *self;
        let ids = parameters.ids().to_vec();
        *self = Self { rule, clip, ids, slots, counts, steps, verdict: None, unreported: Vec::new() };
    }
}
