//! Learning rates over time. Steps are counted from 0.

/// The learning rate of every step, as a function of the base rate (`torch.optim.lr_scheduler`).
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub enum Schedule {
    /// The base rate at every step.
    #[default]
    Constant,
    /// The rate is multiplied by `gamma` after every `every` steps (`StepLR`).
    Step {
        /// The number of steps with the same rate.
        every: u64,
        /// The factor between a rate and the next one.
        gamma: f64,
    },
    /// The rate is multiplied by `gamma` after every step (`ExponentialLR`).
    Exponential {
        /// The factor between the rates of two steps.
        gamma: f64,
    },
    /// The rate follows half a cosine from the base rate down to `floor`, and up again (`CosineAnnealingLR`, closed form).
    Cosine {
        /// The number of steps from the base rate to the floor.
        steps: u64,
        /// The lowest rate.
        floor: f64,
    },
    /// The rate rises linearly from `from` times the base rate to the base rate. Then another schedule starts at its step 0
    /// (`LinearLR`, `SequentialLR`).
    WarmUp {
        /// The number of steps of the rise.
        steps: u64,
        /// The first factor.
        from: f64,
        /// The schedule that follows.
        then: Box<Schedule>,
    },
}

impl Schedule {
    /// The learning rate of a step.
    ///
    /// # Examples
    /// ```
    /// use gatewise::train::Schedule;
    /// let then = Box::new(Schedule::Step { every: 10, gamma: 0.5 });
    /// let schedule = Schedule::WarmUp { steps: 4, from: 0.5, then };
    /// assert_eq!([0, 2, 4, 14].map(|step| schedule.rate(1.0, step)), [0.5, 0.75, 1.0, 0.5]);
    /// ```
    pub fn rate(&self, base: f64, step: u64) -> f64 {
        let share = |steps: u64| step as f64 / steps.max(1) as f64;
        match self {
            Self::Constant => base,
            Self::Step { every, gamma } => base * gamma.powf((step / (*every).max(1)) as f64),
            Self::Exponential { gamma } => base * gamma.powf(step as f64),
            Self::Cosine { steps, floor } => {
                floor + (base - floor) * (1.0 + (std::f64::consts::PI * share(*steps)).cos()) / 2.0
            }
            Self::WarmUp { steps, from, .. } if step < *steps => base * (from + (1.0 - from) * share(*steps)),
            Self::WarmUp { steps, then, .. } => then.rate(base, step - steps),
        }
    }
}

/// Reduces the learning rate when a number, usually the validation loss, stops falling
/// (`torch.optim.lr_scheduler.ReduceLROnPlateau`, mode `min`, relative threshold).
///
/// # Examples
/// ```
/// use gatewise::train::Plateau;
/// let mut plateau = Plateau::default().factor(0.5).patience(1);
/// for loss in [3.0, 2.0, 2.0, 2.0] {
///     plateau.observe(loss);
/// }
/// assert_eq!(plateau.rate(0.1), 0.05);
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Plateau {
    factor: f64,
    patience: u32,
    threshold: f64,
    cooldown: u32,
    floor: f64,
    pub(super) state: PlateauState,
}

/// The part of a [`Plateau`] that changes with every observed number.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct PlateauState {
    /// The product of all reductions so far.
    pub(super) scale: f64,
    /// The lowest number so far.
    pub(super) best: f64,
    /// The count of numbers in a row without progress.
    pub(super) bad: u32,
    /// The count of numbers that are still ignored after a reduction.
    pub(super) resting: u32,
}

impl Default for PlateauState {
    fn default() -> Self {
        Self { scale: 1.0, best: f64::INFINITY, bad: 0, resting: 0 }
    }
}

impl Default for Plateau {
    fn default() -> Self {
        Self { factor: 0.1, patience: 10, threshold: 1e-4, cooldown: 0, floor: 0.0, state: PlateauState::default() }
    }
}

impl Plateau {
    /// Sets the factor between a rate and the next one; 0.1 by default.
    pub fn factor(self, factor: f64) -> Self {
        Self { factor, ..self }
    }

    /// Sets the number of observations in a row that may pass without progress; 10 by default.
    pub fn patience(self, patience: u32) -> Self {
        Self { patience, ..self }
    }

    /// Sets what counts as progress: a number below `(1 - threshold)` times the best one; 0.0001 by default.
    pub fn threshold(self, threshold: f64) -> Self {
        Self { threshold, ..self }
    }

    /// Sets the number of observations after a reduction that do not count; 0 by default.
    pub fn cooldown(self, cooldown: u32) -> Self {
        Self { cooldown, ..self }
    }

    /// Sets the lowest rate; 0 by default.
    pub fn floor(self, floor: f64) -> Self {
        Self { floor, ..self }
    }

    /// These options with another state.
    pub(super) fn with_state(self, state: PlateauState) -> Self {
        Self { state, ..self }
    }

    /// Observes a number, usually the loss on validation data.
    pub fn observe(&mut self, number: f64) {
        let PlateauState { scale, best, bad, resting } = &mut self.state;
        if number < *best * (1.0 - self.threshold) {
            (*best, *bad) = (number, 0);
        } else {
            *bad = bad.saturating_add(1);
        }
        if *resting > 0 {
            (*resting, *bad) = (*resting - 1, 0);
        }
        if *bad > self.patience {
            *scale *= self.factor;
            (*resting, *bad) = (self.cooldown, 0);
        }
    }

    /// The reduced rate of a step, from the rate that the schedule gives.
    pub fn rate(&self, scheduled: f64) -> f64 {
        (scheduled * self.state.scale).max(self.floor.min(scheduled))
    }
}
