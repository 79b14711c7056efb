//! One element's step by each update rule, exactly PyTorch's.

use super::{Real, clip};
use crate::op::{Adam, Clip, RmsProp, Rule, Sgd, Update};

impl Update {
    /// One element's step: returns the new parameter and updates the values that the rule remembers, `slots`, in the order of
    /// [`Rule::slots`].
    pub fn apply<F: Real>(&self, p: F, g: F, slots: &mut [F]) -> F {
        let of = F::near;
        let rate = of(self.rate);
        match self.rule {
            Rule::Sgd(Sgd { momentum, dampening, nesterov, weight_decay }) => {
                let g = g + of(weight_decay) * p;
                let [buffer] = slots else { return p - rate * g };
                *buffer = if self.step == 1 { g } else { of(momentum) * *buffer + of(1.0 - dampening) * g };
                p - rate * if nesterov { g + of(momentum) * *buffer } else { *buffer }
            }
            Rule::RmsProp(RmsProp { alpha, eps, weight_decay, momentum, centered }) => {
                let g = g + of(weight_decay) * p;
                let (alpha, rest) = (of(alpha), of(1.0 - alpha));
                let Some((square, others)) = slots.split_first_mut() else { return p };
                *square = alpha * *square + rest * g * g;
                let (buffer, mean) = match others {
                    [buffer, mean] => (Some(buffer), Some(mean)),
                    [only] if centered => (None, Some(only)),
                    [only] => (Some(only), None),
                    _ => (None, None),
                };
                let deviation = match mean {
                    Some(mean) => {
                        *mean = *mean + rest * (g - *mean);
                        // If the gradient does not change, rounding can make this negative; if both squares overflow, it is
                        // NaN.
                        let spread = *square - *mean * *mean;
                        if spread.is_nan() { *square } else { spread.max(F::zero()) }
                    }
                    None => *square,
                };
                let direction = g / (deviation.sqrt() + of(eps));
                match buffer {
                    Some(buffer) => {
                        *buffer = of(momentum) * *buffer + direction;
                        p - rate * *buffer
                    }
                    None => p - rate * direction,
                }
            }
            Rule::Adam(Adam { betas, eps, weight_decay, decoupled, .. }) => {
                let (p, g) =
                    if decoupled { (p * of(1.0 - self.rate * weight_decay), g) } else { (p, g + of(weight_decay) * p) };
                let (size, root) = self.corrections();
                let [mean, square, largest @ ..] = slots else { return p };
                *mean = *mean + of(1.0 - betas[0]) * (g - *mean);
                *square = of(betas[1]) * *square + of(1.0 - betas[1]) * g * g;
                let most = match largest.first_mut() {
                    Some(largest) => {
                        *largest = largest.max(*square);
                        *largest
                    }
                    None => *square,
                };
                p - of(size) * *mean / (most.sqrt() / of(root) + of(eps))
            }
        }
    }
}

impl Clip {
    /// Clamps one element to the limit by value. NaN stays NaN.
    pub fn clamp<F: Real>(&self, g: F) -> F {
        clip(g, self.value)
    }
}

/// The factor by which PyTorch scales all gradients: `min(1, limit / (norm + 1e-6))`.
pub fn clip_coefficient<F: Real>(norm: F, limit: Option<f32>) -> F {
    match limit {
        Some(limit) => (F::of(limit) / (norm + F::near(1e-6))).min(F::one()),
        None => F::one(),
    }
}
