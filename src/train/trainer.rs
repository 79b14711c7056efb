//! Parameters, optimiser and schedule together.

use super::checkpoint::Checkpoint;
use super::graph::{Graph, Mode, Var};
use super::optimizer::Optimizer;
use super::parameters::Parameters;
use super::schedule::{Plateau, Schedule};
use crate::error::{Error, Result};
use crate::op::{Clip, Rule};

/// The loss and the gradient norm of a training step.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct StepReport {
    /// The number of the step, counted from 1.
    pub step: u64,
    /// The loss of the step.
    pub loss: f32,
    /// The norm of all gradients, after clipping by value and before clipping by norm.
    pub gradient_norm: f32,
    /// The learning rate of the step.
    pub rate: f64,
}

/// Trains the parameters of a model, step by step.
///
/// # Examples
/// See [`train`](crate::train).
#[derive(Clone, Debug)]
pub struct Trainer {
    parameters: Parameters,
    optimizer: Optimizer,
    rate: f64,
    schedule: Schedule,
    pub(super) plateau: Option<Plateau>,
    pub(super) seed: u64,
}

impl Trainer {
    /// A trainer before its first step, with a constant learning rate.
    ///
    /// # Errors
    /// [`Error::Value`] unless the rate is finite and at least 0; as [`Rule::check`].
    pub fn new(parameters: Parameters, rule: impl Into<Rule>, rate: f64) -> Result<Self> {
        check_rate(rate)?;
        let optimizer = Optimizer::new(rule)?;
        Ok(Self { parameters, optimizer, rate, schedule: Schedule::Constant, plateau: None, seed: 0 })
    }

    /// Clips the gradients before every update.
    ///
    /// # Errors
    /// As [`Clip::check`].
    pub fn clip(self, clip: Clip) -> Result<Self> {
        Ok(Self { optimizer: self.optimizer.clip(clip)?, ..self })
    }

    /// Sets the schedule of the learning rate.
    pub fn schedule(self, schedule: Schedule) -> Self {
        Self { schedule, ..self }
    }

    /// Reduces the learning rate when the numbers given to [`Trainer::observe`] stop falling.
    pub fn plateau(self, plateau: Plateau) -> Self {
        Self { plateau: Some(plateau), ..self }
    }

    /// Sets the seed of the random masks; 0 by default.
    pub fn seed(self, seed: u64) -> Self {
        Self { seed, ..self }
    }

    /// Sets the base learning rate.
    ///
    /// # Errors
    /// As [`Trainer::new`].
    pub fn set_rate(&mut self, rate: f64) -> Result<()> {
        check_rate(rate)?;
        self.rate = rate;
        Ok(())
    }

    /// The parameters with their current values.
    pub fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    /// The parameters, which the caller may change.
    pub fn parameters_mut(&mut self) -> &mut Parameters {
        &mut self.parameters
    }

    /// The parameters, without optimiser and schedule.
    pub fn into_parameters(self) -> Parameters {
        self.parameters
    }

    /// The optimiser with its slots.
    pub fn optimizer(&self) -> &Optimizer {
        &self.optimizer
    }

    pub(super) fn parts(&mut self) -> (&mut Parameters, &mut Optimizer) {
        (&mut self.parameters, &mut self.optimizer)
    }

    /// The number of steps so far.
    pub fn steps(&self) -> u64 {
        self.optimizer.steps()
    }

    /// The learning rate of the next step.
    pub fn rate(&self) -> f64 {
        self.rate_of(self.steps())
    }

    fn rate_of(&self, step: u64) -> f64 {
        let scheduled = self.schedule.rate(self.rate, step);
        self.plateau.as_ref().map_or(scheduled, |plateau| plateau.rate(scheduled))
    }

    /// Gives the [`Plateau`], if there is one, a number that should fall, for example the validation loss.
    pub fn observe(&mut self, number: f64) {
        if let Some(plateau) = &mut self.plateau {
            plateau.observe(number);
        }
    }

    /// Makes one step in one submission: `loss` records the forward pass, and backward pass and update follow.
    ///
    /// The call waits for nothing and reads nothing back; [`Trainer::report`] does both.
    ///
    /// # Errors
    /// The error that `loss` returns; as [`Optimizer::step`]. After an error nothing has changed.
    pub fn submit_step(&mut self, loss: impl FnOnce(&mut Graph) -> Result<Var>) -> Result<()> {
        let rate = self.rate();
        let mut graph = self.training();
        let loss = loss(&mut graph)?;
        self.optimizer.step(graph, loss, &mut self.parameters, rate)
    }

    /// A training graph for the next step.
    fn training(&self) -> Graph {
        Graph::new(&self.parameters, Mode::Training { seed: self.seed, step: self.steps() as u32 })
    }

    /// Waits for the last step and returns its report; `None` before the first step.
    ///
    /// # Errors
    /// As [`Optimizer::report`]: [`Error::Diverged`] names the first step since the last report whose loss or gradient was NaN or
    /// infinite. The parameters are then as before that step.
    pub fn report(&mut self) -> Result<Option<StepReport>> {
        let numbers = self.optimizer.report()?;
        Ok(numbers.map(|numbers| self.reported(numbers)))
    }

    fn reported(&self, (loss, gradient_norm): (f32, f32)) -> StepReport {
        let step = self.steps();
        StepReport { step, loss, gradient_norm, rate: self.rate_of(step.saturating_sub(1)) }
    }

    /// Makes one step and reads its report, in one submission. The step counts once its report is on the host.
    ///
    /// # Errors
    /// As [`Trainer::submit_step`] and [`Trainer::report`]. After an error other than [`Error::Diverged`] the step has not been
    /// made, and the caller can make the same step again.
    pub fn step(&mut self, loss: impl FnOnce(&mut Graph) -> Result<Var>) -> Result<StepReport> {
        let rate = self.rate();
        let mut graph = self.training();
        let loss = loss(&mut graph)?;
        let numbers = self.optimizer.step_and_report(graph, loss, &mut self.parameters, rate)?;
        Ok(self.reported(numbers))
    }

    /// A graph for evaluation, over the current values of the parameters and without dropout.
    pub fn evaluation(&self) -> Graph {
        Graph::new(&self.parameters, Mode::Evaluation)
    }

    /// A checkpoint from which a training continues as if it had never stopped.
    ///
    /// # Errors
    /// As [`Trainer::report`], because steps that diverged make no checkpoint.
    pub fn checkpoint(&mut self) -> Result<Checkpoint> {
        self.report()?;
        Checkpoint::of(self)
    }

    /// Continues from a checkpoint of the same model and rule.
    ///
    /// # Errors
    /// [`Error::Format`] if the checkpoint does not fit. After an error nothing has changed.
    pub fn restore(&mut self, checkpoint: &Checkpoint) -> Result<()> {
        checkpoint.put_into(self)
    }
}

fn check_rate(rate: f64) -> Result<()> {
    if rate.is_finite() && rate >= 0.0 {
        return Ok(());
    }
    let (op, what, expected) = ("Trainer", "rate", "a finite number, at least 0");
    Err(Error::Value { op, what, expected, found: rate.to_string() })
}
