//! Parameters, optimiser and schedule together.

use super::checkpoint::Checkpoint;
use super::graph::{Graph, Mode, Var};
use super::optimizer::Optimizer;
use super::parameters::Parameters;
use super::schedule::{Plateau, Schedule};
use crate::error::{Error, Result};
use crate::op::{Clip, Rule};

/// What a training step came to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepReport {
    /// The step, counted from 1.
    pub step: u64,
    /// Its loss.
    pub loss: f32,
    /// The norm of all gradients, after clipping by value and before clipping by norm.
    pub gradient_norm: f32,
    /// Its learning rate.
    pub rate: f64,
}

/// A model's parameters on their way.
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
    /// A trainer at its first step, at a constant learning rate.
    ///
    /// # Errors
    /// [`Error::Value`] for a rate that is not a finite number at least 0; as [`Rule::check`].
    pub fn new(parameters: Parameters, rule: impl Into<Rule>, rate: f64) -> Result<Self> {
        check_rate(rate)?;
        let optimizer = Optimizer::new(rule)?;
        Ok(Self { parameters, optimizer, rate, schedule: Schedule::Constant, plateau: None, seed: 0 })
    }

    /// Keeps the gradients small.
    ///
    /// # Errors
    /// As [`Clip::check`].
    pub fn clip(self, clip: Clip) -> Result<Self> {
        Ok(Self { optimizer: self.optimizer.clip(clip)?, ..self })
    }

    /// Changes the learning rate from step to step.
    pub fn schedule(self, schedule: Schedule) -> Self {
        Self { schedule, ..self }
    }

    /// Lowers the learning rate when what [`Trainer::observe`] is told stops falling.
    pub fn plateau(self, plateau: Plateau) -> Self {
        Self { plateau: Some(plateau), ..self }
    }

    /// Tells this run's random masks from those of others; 0 unless said otherwise.
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

    /// The parameters as they are now.
    pub fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    /// The parameters as they are now, to be changed by hand.
    pub fn parameters_mut(&mut self) -> &mut Parameters {
        &mut self.parameters
    }

    /// The parameters, without what training needs.
    pub fn into_parameters(self) -> Parameters {
        self.parameters
    }

    /// The optimiser.
    pub fn optimizer(&self) -> &Optimizer {
        &self.optimizer
    }

    pub(super) fn parts(&mut self) -> (&mut Parameters, &mut Optimizer) {
        (&mut self.parameters, &mut self.optimizer)
    }

    /// Steps so far.
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

    /// Tells the plateau, if there is one, a number that should fall.
    pub fn observe(&mut self, number: f64) {
        if let Some(plateau) = &mut self.plateau {
            plateau.observe(number);
        }
    }

    /// One step: `loss` records the forward pass, all else follows, in one submission on a GPU. Waits for nothing and reads
    /// nothing back: [`Trainer::report`] does, when the caller wants to know.
    ///
    /// # Errors
    /// What `loss` returns; as [`Optimizer::step`]. Nothing has changed then.
    pub fn submit_step(&mut self, loss: impl FnOnce(&mut Graph) -> Result<Var>) -> Result<()> {
        let rate = self.rate();
        let mut graph = self.training();
        let loss = loss(&mut graph)?;
        self.optimizer.step(graph, loss, &mut self.parameters, rate)
    }

    /// A graph of the next step.
    fn training(&self) -> Graph {
        Graph::new(&self.parameters, Mode::Training { seed: self.seed, step: self.steps() as u32 })
    }

    /// What the last step came to; `None` before the first one. On a GPU it waits for it.
    ///
    /// # Errors
    /// As [`Optimizer::report`]: [`Error::Diverged`] names the first step since the last report whose loss or gradient was no
    /// finite number; the parameters are those of the step before.
    pub fn report(&mut self) -> Result<Option<StepReport>> {
        let numbers = self.optimizer.report()?;
        Ok(numbers.map(|numbers| self.reported(numbers)))
    }

    fn reported(&self, (loss, gradient_norm): (f32, f32)) -> StepReport {
        let step = self.steps();
        StepReport { step, loss, gradient_norm, rate: self.rate_of(step.saturating_sub(1)) }
    }

    /// [`Trainer::submit_step`] and [`Trainer::report`] in one submission: the step counts once its report is on the host.
    ///
    /// # Errors
    /// As the two. After an error other than [`Error::Diverged`] the step has not been made, and the same step can be made
    /// again: it is neither lost nor made twice.
    pub fn step(&mut self, loss: impl FnOnce(&mut Graph) -> Result<Var>) -> Result<StepReport> {
        let rate = self.rate();
        let mut graph = self.training();
        let loss = loss(&mut graph)?;
        let numbers = self.optimizer.step_and_report(graph, loss, &mut self.parameters, rate)?;
        Ok(self.reported(numbers))
    }

    /// A graph over the parameters as they are now, with nothing dropped.
    pub fn evaluation(&self) -> Graph {
        Graph::new(&self.parameters, Mode::Evaluation)
    }

    /// Everything that a run needs to go on as if it had never stopped.
    ///
    /// # Errors
    /// As [`Trainer::report`]: steps that diverged are no checkpoint.
    pub fn checkpoint(&mut self) -> Result<Checkpoint> {
        self.report()?;
        Checkpoint::of(self)
    }

    /// Goes on where a checkpoint was made, with the same model and rule.
    ///
    /// # Errors
    /// [`Error::Format`] where the checkpoint does not fit; then nothing is changed.
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
