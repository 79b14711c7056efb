//! What flows between layers.

use std::sync::Arc;

use ndarray::{Array2, ArrayD, Ix2};

use super::{OP, Run};
use crate::error::{Error, Result};
use crate::tensor::Tensor;

/// A value and the mask it carries.
#[derive(Clone, Debug)]
pub(super) struct Value {
    pub(super) data: Data,
    /// `[B, T]`
    pub(super) mask: Option<Arc<Array2<bool>>>,
}

/// Numbers on the host or on the device.
#[derive(Clone, Debug)]
pub(super) enum Data {
    Floats(ArrayD<f32>),
    Integers(ArrayD<i64>),
    Bools(ArrayD<bool>),
    Tensor(Tensor),
}

impl Data {
    pub(super) fn shape(&self) -> &[usize] {
        match self {
            Self::Floats(x) => x.shape(),
            Self::Integers(x) => x.shape(),
            Self::Bools(x) => x.shape(),
            Self::Tensor(x) => x.shape(),
        }
    }

    /// How messages call it.
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

impl Value {
    /// The value on the device.
    pub(super) fn tensor(&self, run: &Run<'_>) -> Result<Tensor> {
        match &self.data {
            Data::Tensor(x) => Ok(x.clone()),
            Data::Floats(x) => Tensor::from_array(run.recorder.device(), x),
            other => Err(refused("input", "floats", other)),
        }
    }

    /// The elements that are not `number`.
    pub(super) fn differs(&self, number: f32) -> Result<ArrayD<bool>> {
        match &self.data {
            Data::Floats(x) => Ok(x.mapv(|x| x != number)),
            #[expect(clippy::cast_precision_loss, reason = "symbols and masks are small numbers")]
            Data::Integers(x) => Ok(x.mapv(|x| x as f32 != number)),
            other => Err(refused("input", "an array on the host, where masks are computed", other)),
        }
    }

    /// Symbols of a table.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked to be a whole number")]
    pub(super) fn symbols(&self) -> Result<Vec<usize>> {
        const EXPECTED: &str = "whole numbers from 0 on";
        let refuse = |found: String| Error::Value { op: OP, what: "symbols", expected: EXPECTED, found };
        match &self.data {
            Data::Integers(x) => x.iter().map(|&x| usize::try_from(x).map_err(|_| refuse(x.to_string()))).collect(),
            Data::Floats(x) => {
                let whole = |&x: &f32| x >= 0.0 && x.fract() == 0.0 && x < 16_777_216.0;
                match x.iter().find(|x| !whole(x)) {
                    Some(x) => Err(refuse(x.to_string())),
                    None => Ok(x.iter().map(|&x| x as usize).collect()),
                }
            }
            other => Err(refused("symbols", "an array on the host", other)),
        }
    }

    /// Truth values as a mask of steps.
    pub(super) fn as_mask(&self) -> Result<Arc<Array2<bool>>> {
        match &self.data {
            Data::Bools(mask) => match mask.clone().into_dimensionality::<Ix2>() {
                Ok(mask) => Ok(Arc::new(mask)),
                Err(_) => Err(refused("mask", "truth values [B, T]", &self.data)),
            },
            other => Err(refused("mask", "truth values [B, T]", other)),
        }
    }
}

pub(super) fn refused(what: &'static str, expected: &'static str, found: &Data) -> Error {
    Error::Value { op: OP, what, expected, found: found.describe() }
}
