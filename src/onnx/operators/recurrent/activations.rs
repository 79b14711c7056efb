//! The activations of a recurrent operator, with their parameters.

use crate::cell::Activation;
use crate::error::Result;
use crate::onnx::operators::Reader;

/// The activations of all directions, direction by direction, in the operator's order.
pub(super) struct Activations(std::vec::IntoIter<Activation>);

/// The values of `activation_alpha` or `activation_beta` that no activation has taken yet.
struct Scalars {
    values: std::vec::IntoIter<f32>,
    name: &'static str,
}

impl Scalars {
    fn read(reader: &mut Reader<'_>, name: &'static str) -> Result<Self> {
        Ok(Self { values: reader.attributes.floats(name)?.unwrap_or_default().into_iter(), name })
    }

    fn next(&mut self, default: f32) -> f32 {
        self.values.next().unwrap_or(default)
    }

    /// The parameter of an activation for which ONNX has no default.
    fn required(&mut self, reader: &Reader<'_>, activation: &str) -> Result<f32> {
        let missing = || reader.refuse(self.name, format!("a value for {activation}, which has no default"), "none");
        self.values.next().ok_or_else(missing)
    }
}

impl Activations {
    /// Reads `activations`, `activation_alpha` and `activation_beta`. Activations take the values of a list in order, if they have
    /// such a parameter. After the end of the list, the defaults of ONNX's operators apply.
    pub(super) fn read(reader: &mut Reader<'_>, defaults: &[&str], directions: usize) -> Result<Self> {
        let count = defaults.len() * directions;
        let names = reader.attributes.strings("activations")?;
        let names = names.unwrap_or_else(|| defaults.iter().cycle().take(count).map(|&name| name.to_owned()).collect());
        if names.len() != count {
            let found = format!("{} of them", names.len());
            return Err(reader.refuse(
                "activations",
                format!("{count} names, {} per direction", defaults.len()),
                found,
            ));
        }
        let mut alphas = Scalars::read(reader, "activation_alpha")?;
        let mut betas = Scalars::read(reader, "activation_beta")?;
        let activations = names.iter().map(|name| one(reader, name, &mut alphas, &mut betas));
        let activations = activations.collect::<Result<Vec<_>>>()?;
        for left in [alphas, betas] {
            if left.values.len() > 0 {
                let found = format!("{} more", left.values.len());
                return Err(reader.refuse(left.name, format!("only parameters of {names:?}"), found));
            }
        }
        Ok(Self(activations.into_iter()))
    }

    /// The activations of the next direction.
    pub(super) fn next<const N: usize>(&mut self) -> [Activation; N] {
        std::array::from_fn(|_| self.0.next().unwrap_or(Activation::Tanh))
    }
}

/// Reads one activation. As in onnxruntime, the case of its name does not matter.
fn one(reader: &Reader<'_>, name: &str, alphas: &mut Scalars, betas: &mut Scalars) -> Result<Activation> {
    Ok(match name.to_ascii_lowercase().as_str() {
        "relu" => Activation::Relu,
        "tanh" => Activation::Tanh,
        "sigmoid" => Activation::Sigmoid,
        "softsign" => Activation::Softsign,
        "softplus" => Activation::Softplus,
        "affine" => Activation::Affine { alpha: alphas.required(reader, name)?, beta: betas.required(reader, name)? },
        "leakyrelu" => Activation::LeakyRelu { alpha: alphas.next(0.01) },
        "thresholdedrelu" => Activation::ThresholdedRelu { alpha: alphas.next(1.0) },
        "scaledtanh" => {
            Activation::ScaledTanh { alpha: alphas.required(reader, name)?, beta: betas.required(reader, name)? }
        }
        "hardsigmoid" => Activation::HardSigmoid { alpha: alphas.next(0.2), beta: betas.next(0.5) },
        "elu" => Activation::Elu { alpha: alphas.next(1.0) },
        _ => {
            let expected = "one of the activations that ONNX lists for its recurrent operators";
            return Err(reader.refuse("activations", expected, format!("{name:?}")));
        }
    })
}
