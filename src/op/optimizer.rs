//! Update rules of optimisers, exactly PyTorch's: the numbers that a rule needs and the values that it remembers.

use crate::error::{Error, Result};

/// Stochastic gradient descent (`torch.optim.SGD`).
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Sgd {
    /// Factor of the previous step's direction.
    pub momentum: f64,
    /// The gradient enters the direction with the factor `1 - dampening`.
    pub dampening: f64,
    /// Looks ahead along the direction (Sutskever et al. 2013); needs a momentum and no dampening.
    pub nesterov: bool,
    /// Weight decay: this factor times the weight is added to the gradient.
    pub weight_decay: f64,
}

/// RMSprop (`torch.optim.RMSprop`; Tieleman & Hinton 2012; centered: Graves 2013).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RmsProp {
    /// Decay factor of the running mean square.
    pub alpha: f64,
    /// Added to the square root that divides the step.
    pub eps: f64,
    /// Weight decay: this factor times the weight is added to the gradient.
    pub weight_decay: f64,
    /// Factor of the previous step's direction.
    pub momentum: f64,
    /// Divides by the standard deviation instead of the root mean square. If rounding makes the variance negative, it
    /// counts as 0.
    pub centered: bool,
}

impl Default for RmsProp {
    fn default() -> Self {
        Self { alpha: 0.99, eps: 1e-8, weight_decay: 0.0, momentum: 0.0, centered: false }
    }
}

/// Adam (`torch.optim.Adam`; Kingma & Ba 2015) and [AdamW](Adam::W).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Adam {
    /// Decay factors of the running mean and of the running mean square.
    pub betas: [f64; 2],
    /// Added to the square root that divides the step.
    pub eps: f64,
    /// Weight decay: added to the gradient or, if it is decoupled, subtracted from the weights.
    pub weight_decay: f64,
    /// Whether the decay bypasses the gradient (Loshchilov & Hutter 2019).
    pub decoupled: bool,
    /// Divides by the largest mean square so far (Reddi et al. 2018).
    pub amsgrad: bool,
}

impl Default for Adam {
    fn default() -> Self {
        Self { betas: [0.9, 0.999], eps: 1e-8, weight_decay: 0.0, decoupled: false, amsgrad: false }
    }
}

impl Adam {
    /// `torch.optim.AdamW` with its defaults.
    pub const W: Self = Self { betas: [0.9, 0.999], eps: 1e-8, weight_decay: 1e-2, decoupled: true, amsgrad: false };
}

/// An update rule.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum Rule {
    /// Gradient descent, with or without momentum.
    Sgd(Sgd),
    /// RMSprop.
    RmsProp(RmsProp),
    /// Adam and AdamW.
    Adam(Adam),
}

impl From<Sgd> for Rule {
    fn from(sgd: Sgd) -> Self {
        Self::Sgd(sgd)
    }
}

impl From<RmsProp> for Rule {
    fn from(rms_prop: RmsProp) -> Self {
        Self::RmsProp(rms_prop)
    }
}

impl From<Adam> for Rule {
    fn from(adam: Adam) -> Self {
        Self::Adam(adam)
    }
}

impl Rule {
    /// PyTorch's names of the values that the rule remembers of every element.
    pub fn slots(&self) -> Vec<&'static str> {
        let slots = match *self {
            Self::Sgd(Sgd { momentum, .. }) => vec![(momentum != 0.0, "momentum_buffer")],
            Self::RmsProp(RmsProp { momentum, centered, .. }) => {
                vec![(true, "square_avg"), (momentum != 0.0, "momentum_buffer"), (centered, "grad_avg")]
            }
            Self::Adam(Adam { amsgrad, .. }) => {
                vec![(true, "exp_avg"), (true, "exp_avg_sq"), (amsgrad, "max_exp_avg_sq")]
            }
        };
        slots.into_iter().filter_map(|(kept, name)| kept.then_some(name)).collect()
    }

    /// Refuses NaN and the numbers that PyTorch refuses.
    ///
    /// # Errors
    /// [`Error::Value`] that names the number.
    pub fn check(&self) -> Result<()> {
        let wrong =
            |what, expected, found: f64| Error::Value { op: "optimizer", what, expected, found: found.to_string() };
        let not_below_zero = |what, x: f64| if x >= 0.0 { Ok(()) } else { Err(wrong(what, "at least 0", x)) };
        let share = |what, x: f64| {
            if (0.0..1.0).contains(&x) { Ok(()) } else { Err(wrong(what, "at least 0 and below 1", x)) }
        };
        match *self {
            Self::Sgd(Sgd { momentum, dampening, nesterov, weight_decay }) => {
                not_below_zero("momentum", momentum)?;
                not_below_zero("weight_decay", weight_decay)?;
                if nesterov && (momentum == 0.0 || dampening != 0.0) {
                    return Err(wrong("dampening", "0 (with a momentum above 0) if nesterov is set", dampening));
                }
                if dampening.is_nan() { Err(wrong("dampening", "a number", dampening)) } else { Ok(()) }
            }
            Self::RmsProp(RmsProp { alpha, eps, weight_decay, momentum, .. }) => {
                not_below_zero("alpha", alpha)?;
                not_below_zero("eps", eps)?;
                not_below_zero("momentum", momentum)?;
                not_below_zero("weight_decay", weight_decay)
            }
            Self::Adam(Adam { betas, eps, weight_decay, .. }) => {
                betas.into_iter().try_for_each(|beta| share("betas", beta))?;
                not_below_zero("eps", eps)?;
                not_below_zero("weight_decay", weight_decay)
            }
        }
    }
}

/// A rule at one step: the numbers that all elements share.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Update {
    /// The rule.
    pub rule: Rule,
    /// The learning rate.
    pub rate: f64,
    /// The number of the parameter's update, from 1.
    pub step: u64,
    /// Adam's corrections of its two means, which start at zero: `rate / (1 - beta1^t)` and `sqrt(1 - beta2^t)`.
    corrections: (f64, f64),
}

impl Update {
    /// The rule at update number `step` of a parameter, counted from 1.
    pub fn new(rule: Rule, rate: f64, step: u64) -> Self {
        let corrections = match rule {
            Rule::Adam(Adam { betas, .. }) => {
                let [first, second] = betas.map(|beta| 1.0 - beta.powf(step as f64));
                (rate / first, second.sqrt())
            }
            _ => (rate, 1.0),
        };
        Self { rule, rate, step, corrections }
    }

    /// Adam's factors for means that start at zero: `rate / (1 - beta1^t)` and `sqrt(1 - beta2^t)`.
    pub(crate) fn corrections(&self) -> (f64, f64) {
        self.corrections
    }
}

/// Clipping of gradients before an update. The default leaves them as they are.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Clip {
    /// Clamps every element to `[-value, value]` (`torch.nn.utils.clip_grad_value_`), before the norm is taken.
    pub value: Option<f32>,
    /// Scales all gradients by one factor if their common norm is above this limit (`torch.nn.utils.clip_grad_norm_`).
    pub norm: Option<f32>,
}

impl Clip {
    /// Clips by the global norm.
    pub fn norm(norm: f32) -> Self {
        Self { norm: Some(norm), ..Self::default() }
    }

    /// Clips by value.
    pub fn value(value: f32) -> Self {
        Self { value: Some(value), ..Self::default() }
    }

    /// Refuses limits that are not positive.
    ///
    /// # Errors
    /// [`Error::Value`] that names the limit.
    pub fn check(&self) -> Result<()> {
        for (what, limit) in [("value", self.value), ("norm", self.norm)] {
            if let Some(limit) = limit.filter(|limit| limit.is_nan() || *limit <= 0.0) {
                let (op, expected) = ("clip", "a positive number");
                return Err(Error::Value { op, what, expected, found: limit.to_string() });
            }
        }
        Ok(())
    }
}
