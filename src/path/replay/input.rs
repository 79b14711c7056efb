//! The inputs of a call, as far as they decide which operations run.

use std::hash::{Hash, Hasher};

use ndarray::ArrayD;

use crate::tensor::{Device, Tensor};

/// An input of a call.
#[derive(Clone, Copy)]
pub(crate) enum CallInput<'a> {
    Tensor(&'a Tensor),
    Floats(&'a ArrayD<f32>),
    Ints(&'a ArrayD<i64>),
    Bools(&'a ArrayD<bool>),
}

impl<'a> CallInput<'a> {
    fn shape(self) -> &'a [usize] {
        match self {
            Self::Tensor(x) => x.shape(),
            Self::Floats(x) => x.shape(),
            Self::Ints(x) => x.shape(),
            Self::Bools(x) => x.shape(),
        }
    }

    /// Whether the input has floats.
    pub(crate) fn is_float(self) -> bool {
        matches!(self, Self::Tensor(_) | Self::Floats(_))
    }

    /// The floats of an input that [fits](KnownInput::fits); none for an input of another type.
    pub(crate) fn elements(self) -> &'a [f32] {
        match self {
            Self::Tensor(x) => x.host("replay", "input").unwrap_or_default(),
            Self::Floats(x) => x.as_slice().unwrap_or_default(),
            Self::Ints(_) | Self::Bools(_) => &[],
        }
    }
}

/// Equal for all inputs that fit the same [`KnownInput`].
impl Hash for CallInput<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.shape().hash(state);
        match self {
            Self::Tensor(_) | Self::Floats(_) => {}
            Self::Ints(x) => x.iter().for_each(|x| x.hash(state)),
            Self::Bools(x) => x.iter().for_each(|x| x.hash(state)),
        }
    }
}

/// The part of an input on which the operations of a call depend: the shape of floats, and all elements of other types.
pub(crate) enum KnownInput {
    Floats(Vec<usize>),
    Ints(ArrayD<i64>),
    Bools(ArrayD<bool>),
}

impl KnownInput {
    pub(crate) fn of(input: CallInput<'_>) -> Self {
        match input {
            CallInput::Tensor(x) => Self::Floats(x.shape().to_vec()),
            CallInput::Floats(x) => Self::Floats(x.shape().to_vec()),
            CallInput::Ints(x) => Self::Ints(x.clone()),
            CallInput::Bools(x) => Self::Bools(x.clone()),
        }
    }

    /// Whether a call with `input` runs the same operations. Floats must lie one after another on a device like `device`.
    pub(crate) fn fits(&self, input: CallInput<'_>, device: &Device) -> bool {
        match (self, input) {
            (Self::Floats(shape), CallInput::Tensor(x)) => x.shape() == shape && x.device().is_same(device),
            (Self::Floats(shape), CallInput::Floats(x)) => x.shape() == shape && x.as_slice().is_some(),
            (Self::Ints(known), CallInput::Ints(x)) => known == x,
            (Self::Bools(known), CallInput::Bools(x)) => known == x,
            _ => false,
        }
    }
}
