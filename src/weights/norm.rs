//! Weight normalisation: a tensor that is stored as directions `v` and lengths `g`. It is `g v / norm(v)`.
//!
//! | written by | names of the two factors of `weight_hh_l0` |
//! | --- | --- |
//! | `torch.nn.utils.weight_norm` | `weight_hh_l0_g`, `weight_hh_l0_v` |
//! | `torch.nn.utils.parametrizations.weight_norm` | `parametrizations.weight_hh_l0.original0`, `.original1` |
//!
//! The shape of `g` tells over what the norms go: `[O, 1, ..]` has one per row (`dim=0`), `[1, I, ..]` one per column (`dim=1`), and
//! a number one for all (`dim=None`).

use std::borrow::Cow;
use std::ops::Bound;

use ndarray::{ArrayD, ArrayViewMutD, Axis};

use crate::error::Result;
use crate::weights::{Stored, Weights};

/// The word before a parameter's name, and the endings behind it, in the newer names.
const NEWER: (&str, [&str; 2]) = ("parametrizations.", [".original0", ".original1"]);
/// The endings in the older names.
const OLDER: [&str; 2] = ["_g", "_v"];

/// The path of a tensor's module, with its last dot, and the name of the parameter there.
fn split(name: &str) -> (&str, &str) {
    name.split_at(name.rfind('.').map_or(0, |dot| dot + 1))
}

/// The name of the tensor that a factor belongs to; a name that is no factor's stays as it is.
pub(super) fn whole_name(name: &str) -> Cow<'_, str> {
    if let Some(stem) = OLDER.iter().find_map(|ending| name.strip_suffix(ending)) {
        return Cow::Borrowed(stem);
    }
    let (word, endings) = NEWER;
    let stem = endings.iter().find_map(|ending| name.strip_suffix(ending));
    let module = stem.and_then(|stem| split(stem).0.strip_suffix(word).map(|module| (module, split(stem).1)));
    module.map_or(Cow::Borrowed(name), |(module, parameter)| Cow::Owned(format!("{module}{parameter}")))
}

impl Weights {
    /// The names of the factors that a tensor is stored as.
    fn factors(&self, name: &str) -> Option<[String; 2]> {
        let (module, parameter) = split(name);
        let (word, endings) = NEWER;
        let pairs = [
            OLDER.map(|ending| format!("{name}{ending}")),
            endings.map(|end| format!("{module}{word}{parameter}{end}")),
        ];
        pairs.into_iter().find(|pair| pair.iter().all(|factor| self.tensors.contains_key(factor)))
    }

    /// The names under which the file holds a tensor: its own, or those of its factors.
    pub(super) fn sources(&self, name: &str) -> Vec<String> {
        match self.factors(name) {
            Some(factors) if !self.tensors.contains_key(name) => factors.into(),
            _ => vec![name.to_owned()],
        }
    }

    /// Whether the file holds a tensor, or the factors of it.
    pub(super) fn is_there(&self, name: &str) -> bool {
        self.tensors.contains_key(name) || self.factors(name).is_some()
    }

    /// The shape of a tensor. Nothing is computed.
    pub(super) fn shape_of(&self, name: &str) -> Result<&[usize]> {
        let stored = match self.factors(name) {
            Some([_, v]) if !self.tensors.contains_key(name) => self.stored(&v),
            _ => self.stored(name),
        };
        stored.map(|array| array.shape())
    }

    /// A tensor as it is stored, or the product of its factors.
    pub(super) fn find(&self, name: &str) -> Result<Cow<'_, ArrayD<f32>>> {
        let Some([g, v]) = self.factors(name) else { return self.stored(name).map(Cow::Borrowed) };
        let Some(Stored::Floats(plain)) = self.tensors.get(name) else {
            return self.product(name, &g, &v).map(Cow::Owned);
        };
        // Names that end alike need not belong together.
        if self.stored(&v).is_ok_and(|v| v.shape() == plain.shape()) && self.kept_axis(&g, &v).is_ok() {
            return Err(self.refuse(name, "the tensor or its factors", &format!("both, with {g} and {v}")));
        }
        Ok(Cow::Borrowed(plain))
    }

    /// The axis that has a norm for each of its elements; `None` for one norm over all.
    fn kept_axis(&self, g: &str, v: &str) -> Result<Option<usize>> {
        let (lengths, directions) = (self.stored(g)?.shape(), self.stored(v)?.shape());
        let kept = |axis: &usize| lengths[*axis] != 1;
        let fits = lengths.is_empty()
            || lengths.len() == directions.len()
                && (0..lengths.len()).all(|axis| lengths[axis] == 1 || lengths[axis] == directions[axis])
                && (0..lengths.len()).filter(kept).count() <= 1;
        if fits {
            return Ok((0..lengths.len()).find(kept));
        }
        let expected = format!("one length per element of one axis of {v}, whose shape is {directions:?}");
        Err(self.refuse(g, &expected, &format!("shape {lengths:?}")))
    }

    /// Carries out a weight normalisation.
    fn product(&self, name: &str, g: &str, v: &str) -> Result<ArrayD<f32>> {
        self.check_alone(name)?;
        let axis = self.kept_axis(g, v)?;
        let (lengths, mut weight) = (self.stored(g)?, self.stored(v)?.clone());
        let scaled = |length: f32, part: ArrayViewMutD<'_, f32>, at: usize| {
            scale(length, part).ok_or_else(|| {
                let part = axis.map_or_else(String::new, |axis| format!(" at {at} of axis {axis}"));
                self.refuse(v, "a norm above 0, because the weight is g v / norm(v)", &format!("0{part}"))
            })
        };
        match axis {
            Some(axis) => {
                let parts = weight.axis_iter_mut(Axis(axis)).zip(lengths.iter()).enumerate();
                parts.into_iter().try_for_each(|(at, (part, &length))| scaled(length, part, at))?;
            }
            None => {
                let length = lengths.iter().next().copied().unwrap_or(f32::NAN);
                scaled(length, weight.view_mut(), 0)?;
            }
        }
        Ok(weight)
    }

    /// Refuses a tensor that another parametrisation changes as well.
    fn check_alone(&self, name: &str) -> Result<()> {
        let (module, parameter) = split(name);
        let (word, endings) = NEWER;
        let begin = format!("{module}{word}{parameter}.");
        let others = self.tensors.range::<str, _>((Bound::Included(begin.as_str()), Bound::Unbounded));
        let mut others = others.map(|(other, _)| other).take_while(|other| other.starts_with(&begin));
        match others.find(|other| !endings.iter().any(|ending| other[begin.len() - 1..] == **ending)) {
            Some(other) => Err(self.refuse(other, "weight normalisation alone", "another parametrisation")),
            None => Ok(()),
        }
    }
}

/// Gives a vector, whose elements may have any arrangement, another length; `None` if its length is 0.
fn scale(length: f32, mut part: ArrayViewMutD<'_, f32>) -> Option<()> {
    let norm = part.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>().sqrt();
    if norm == 0.0 && !part.is_empty() {
        return None;
    }
    let factor = f64::from(length) / norm;
    #[expect(clippy::cast_possible_truncation, reason = "the product is rounded once, to the precision of weights")]
    part.mapv_inplace(|x| (f64::from(x) * factor) as f32);
    Some(())
}
