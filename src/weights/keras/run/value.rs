//! Values that layers pass to each other.

use std::sync::Arc;

use ndarray::{Array2, ArrayD, Ix2};

use super::{LayerContext, OP};
use crate::error::{Error, Result};
use crate::tensor::Tensor;

/// A value and its mask of valid steps.
#[derive(Clone, Debug)]
pub(super) struct MaskedValue {
    pub(super) data: ValueData,
    /// True for valid steps, `[B, T]`.
    pub(super) mask: Option<Arc<Array2<bool>>>,
}

/// The elements of a value, on the host or on the device.
#[derive(Clone, Debug)]
pub(super) enum ValueData {
    Floats(ArrayD<f32>),
    Integers(ArrayD<i64>),
    Bools(ArrayD<bool>),
    Tensor(Tensor),
}

impl ValueData {
    pub(super) fn shape(&self) -> &[usize] {
        match self {
            Self::Floats(x) => x.shape(),
            Self::Integers(x) => x.shape(),
            Self::Bools(x) => x.shape(),
            Self::Tensor(x) => x.shape(),
        }
    }

    /// The value as messages describe it.
    fn describe(&self) -> String {
        let kind = match self {
            Self::Floats(_) => "floats",
            Self::Integers(_) => "integers",
            Self::Bools(_) => "truth values",
            Self::Tensor(_) => "a tensor on the device",
        };
        format!("{kind} of shape {:?}", self.shape())
    }
}

impl MaskedValue {
    /// The value on the device.
    pub(super) fn tensor(&self, context: &LayerContext<'_>) -> Result<Tensor> {
        match &self.data {
            ValueData::Tensor(x) => Ok(x.clone()),
            ValueData::Floats(x) => Tensor::from_array(context.recorder.device(), x),
            other => Err(refused("input", "floats", other)),
        }
    }

    /// True for elements that differ from `number`.
    pub(super) fn differs(&self, number: f32) -> Result<ArrayD<bool>> {
        match &self.data {
            ValueData::Floats(x) => Ok(x.mapv(|x| x != number)),
            #[expect(clippy::cast_precision_loss, reason = "symbols and masks are small numbers")]
            ValueData::Integers(x) => Ok(x.mapv(|x| x as f32 != number)),
            other => Err(refused("input", "an array on the host, where masks are computed", other)),
        }
    }

    /// The value as symbols: rows of a table.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked to be a whole number")]
    pub(super) fn symbols(&self) -> Result<Vec<usize>> {
        const EXPECTED: &str = "whole numbers of at least 0";
        let refuse = |found: String| Error::Value { op: OP, what: "symbols", expected: EXPECTED, found };
        match &self.data {
            ValueData::Integers(x) => {
                x.iter().map(|&x| usize::try_from(x).map_err(|_| refuse(x.to_string()))).collect()
            }
            ValueData::Floats(x) => {
                let whole = |&x: &f32| x >= 0.0 && x.fract() == 0.0 && x < 16_777_216.0;
                match x.iter().find(|x| !whole(x)) {
                    Some(x) => Err(refuse(x.to_string())),
                    None => Ok(x.iter().map(|&x| x as usize).collect()),
                }
            }
            other => Err(refused("symbols", "an array on the host", other)),
        }
    }

    /// Truth values `[B, T]` as a mask of steps.
    pub(super) fn as_mask(&self) -> Result<Arc<Array2<bool>>> {
        match &self.data {
            ValueData::Bools(mask) => match mask.clone().into_dimensionality::<Ix2>() {
                Ok(mask) => Ok(Arc::new(mask)),
                Err(_) => Err(refused("mask", "truth values [B, T]", &self.data)),
            },
            other => Err(refused("mask", "truth values [B, T]", other)),
        }
    }
}

/// A value of the wrong kind or shape.
pub(super) fn refused(what: &'static str, expected: &'static str, found: &ValueData) -> Error {
    Error::Value { op: OP, what, expected, found: found.describe() }
}
