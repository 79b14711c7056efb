//! Learning rates over time. Steps count from 0.

/// The learning rate of every step, as a function of the base rate (`torch.optim.lr_scheduler`).
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Schedule {
    /// The base rate.
    #[default]
    Constant,
    /// Times `gamma` after each `every` steps (`StepLR`).
    Step {
        /// Steps of one rate.
        every: u64,
        /// Factor from one rate to the next.
        gamma: f64,
    },
    /// Times `gamma` at each step (`ExponentialLR`).
    Exponential {
        /// Factor from step to step.
        gamma: f64,
    },
    /// Half a cosine from the base rate down to `floor`, and up again (`CosineAnnealingLR`, its closed form).
    Cosine {
        /// Steps on the way down.
        steps: u64,
        /// The lowest rate.
        floor: f64,
    },
    /// A line from `from` times the base rate up to it, then another schedule from its own first step (`LinearLR`, `SequentialLR`).
    WarmUp {
        /// Steps on the way up.
        steps: u64,
        /// The first factor.
        from: f64,
        /// What follows.
        then: Box<Schedule>,
    },
}

impl Schedule {
    /// The learning rate of a step.
    ///
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

/// A factor of the learning rate that falls when a number stops falling (`torch.optim.lr_scheduler.ReduceLROnPlateau`, mode
/// `min`, relative threshold).
#[derive(Clone, Debug, PartialEq)]
pub struct Plateau {
    /// Factor from one rate to the next.
    pub factor: f64,
    /// Numbers without progress that are borne.
    pub patience: u32,
    /// What counts as progress: below `(1 - threshold)` times the best so far.
    pub threshold: f64,
    /// Numbers after a reduction that are not counted.
    pub cooldown: u32,
    /// The lowest rate.
    pub floor: f64,
    /// How far it has come.
    pub progress: Progress,
}

/// What a [`Plateau`] remembers.
#[derive(Clone, Debug, PartialEq)]
pub struct Progress {
    pub(super) scale: f64,
    pub(super) best: f64,
    pub(super) bad: u32,
    pub(super) resting: u32,
}

impl Default for Progress {
    fn default() -> Self {
        Self { scale: 1.0, best: f64::INFINITY, bad: 0, resting: 0 }
    }
}

impl Default for Plateau {
    fn default() -> Self {
        Self { factor: 0.1, patience: 10, threshold: 1e-4, cooldown: 0, floor: 0.0, progress: Progress::default() }
    }
}

impl Plateau {
    /// Takes note of a number, usually the loss on data that is not trained on.
    pub fn observe(&mut self, number: f64) {
        let Progress { scale, best, bad, resting } = &mut self.progress;
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

    /// The rate that is left of a schedule's.
    pub fn rate(&self, scheduled: f64) -> f64 {
        (scheduled * self.progress.scale).max(self.floor.min(scheduled))
    }
}
