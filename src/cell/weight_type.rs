//! The types that weights are stored in.

use std::fmt;
use std::str::FromStr;

use half::{bf16, f16};
use ndarray::{Array2, ArrayView1, ArrayView2};

use super::Parameters;
use crate::error::{Error, Result};
use crate::memory;

/// How the weight matrices of a layer (`weight_ih`, `weight_hh`, `weight_hr`) are stored on their device. Biases and
/// peepholes, the state, the input and every sum stay `f32`.
///
/// A narrow type rounds the weights once, when the layer is built. The layer then computes exactly what an `f32` layer
/// with the weights of [`WeightType::round`] computes. `Int8` on the CPU is the exception: its integer products read
/// the state rounded to 16 bits. An infinity in a row of the state then counts as NaN.
///
/// In every type of floats, NaN and infinite weights stay NaN and infinite, and finite weights stay finite. A layer of `Int8`
/// with NaN or infinity among its weights is refused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum WeightType {
    /// 32-bit floats.
    #[default]
    F32,
    /// 16-bit floats, rounded to nearest; finite values beyond ±65,504 become ±65,504.
    F16,
    /// The upper halves of 32-bit floats, rounded to nearest: less precise than `F16`, with the range of `f32`. Finite
    /// values beyond the type's largest become the largest.
    Bf16,
    /// 8-bit integers with one `f32` scale per row (a gate of a unit): see [`quantize_row`].
    Int8,
}

/// Quantizes a row to 8-bit integers: `w ~ scale q`, `scale = max |w| / 127`, `q` rounded to nearest and never -128.
/// The scale of a row of zeros is 0. The scale of a row with a NaN or an infinity is NaN, so that the whole row reads
/// as NaN.
pub fn quantize_row(row: ArrayView1<'_, f32>) -> (f32, Vec<i8>) {
    // Magnitudes have the order of their bits, NaN last; `f32::max` would ignore NaN.
    let most = f32::from_bits(row.fold(0, |most, w| most.max(w.abs().to_bits())));
    let scale = if most.is_finite() { most / 127.0 } else { f32::NAN };
    #[expect(clippy::cast_possible_truncation, reason = "clamped to the type's range")]
    let narrow = |w: &f32| if scale > 0.0 { (w / scale).round().clamp(-127.0, 127.0) as i8 } else { 0 };
    (scale, row.iter().map(narrow).collect())
}

/// Applies [`quantize_row`] to every row; returns the scales and all integers.
pub(crate) fn quantize(op: &'static str, weight: ArrayView2<'_, f32>) -> Result<(Vec<f32>, Vec<i8>)> {
    let (mut scales, mut integers) = (memory::room(op, weight.nrows())?, memory::room(op, weight.len())?);
    for row in weight.rows() {
        let (scale, row) = quantize_row(row);
        scales.push(scale);
        integers.extend(row);
    }
    Ok((scales, integers))
}

impl WeightType {
    /// Every type.
    pub const ALL: [Self; 4] = [Self::F32, Self::F16, Self::Bf16, Self::Int8];

    /// `"f32"`, `"f16"`, `"bf16"` or `"int8"`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
            Self::Int8 => "int8",
        }
    }

    /// Bytes of one weight.
    pub const fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
            Self::Int8 => 1,
        }
    }

    /// Rounds weights to values that this type can hold; the result is `f32`. A row of `Int8` with a NaN or an infinity
    /// becomes NaN as a whole.
    pub fn round(self, weight: ArrayView2<'_, f32>) -> Array2<f32> {
        self.rounded(weight.to_owned())
    }

    /// Like [`WeightType::round`], but in place.
    fn rounded(self, mut weight: Array2<f32>) -> Array2<f32> {
        match self {
            Self::F32 => {}
            Self::F16 => weight.mapv_inplace(|w| f16::from_f32(clamp(w, f16::MAX.to_f32())).to_f32()),
            Self::Bf16 => weight.mapv_inplace(|w| bf16::from_f32(clamp(w, bf16::MAX.to_f32())).to_f32()),
            Self::Int8 => {
                for mut row in weight.rows_mut() {
                    let (scale, narrow) = quantize_row(row.view());
                    row.iter_mut().zip(narrow).for_each(|(w, q)| *w = scale * f32::from(q));
                }
            }
        }
        weight
    }

    /// Applies [`WeightType::round`] to every matrix of a layer and direction.
    pub fn round_parameters(self, p: Parameters) -> Parameters {
        Parameters {
            weight_ih: self.rounded(p.weight_ih),
            weight_hh: self.rounded(p.weight_hh),
            weight_hr: p.weight_hr.map(|weight| self.rounded(weight)),
            ..p
        }
    }

    /// Refuses the weights of a layer and direction that this type cannot hold: a NaN or an infinity as `Int8`, which has one
    /// scale per row. `place` names the layer and direction in the message.
    pub(crate) fn check(self, op: &'static str, place: impl Fn() -> String, p: &Parameters) -> Result<()> {
        if self != Self::Int8 {
            return Ok(());
        }
        let matrices =
            [("weight_ih", Some(&p.weight_ih)), ("weight_hh", Some(&p.weight_hh)), ("weight_hr", p.weight_hr.as_ref())];
        for (name, weight) in matrices {
            let odd = weight.and_then(|weight| weight.indexed_iter().find(|(_, w)| !w.is_finite()));
            if let Some(((row, column), w)) = odd {
                let expected = "finite (int8 holds no NaN and no infinity; f32, f16 and bf16 do)";
                let found = format!("{w} in {name}[{row}, {column}] of {}", place());
                return Err(Error::Value { op, what: "int8 weights", expected, found });
            }
        }
        Ok(())
    }
}

/// Clamps a finite weight to `[-most, most]`, because rounding to nearest would turn a larger one into an infinity.
fn clamp(w: f32, most: f32) -> f32 {
    if w.is_finite() { w.clamp(-most, most) } else { w }
}

impl fmt::Display for WeightType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for WeightType {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        Self::ALL.into_iter().find(|known| known.name() == name).ok_or_else(|| Error::Value {
            op: "weights",
            what: "dtype",
            expected: "f32, f16, bf16 or int8",
            found: name.to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use ndarray::array;

    use super::*;

    #[test]
    fn int8_keeps_a_rows_largest_weight_and_errs_by_half_a_scale_at_most() {
        let weight = array![[0.5, -2.0, 0.013], [0.0, 0.0, 0.0], [1e-3, 7e-4, -1e-3]];
        let rounded = WeightType::Int8.round(weight.view());
        for (row, rounded) in weight.rows().into_iter().zip(rounded.rows()) {
            let scale = quantize_row(row).0;
            for (w, r) in row.iter().zip(rounded) {
                assert!((w - r).abs() <= 0.5001 * scale, "{w} became {r}, scale {scale}");
            }
        }
        assert!((rounded[[0, 1]] + 2.0).abs() < 1e-6);
        assert_eq!(rounded.row(1), array![0.0, 0.0, 0.0]);
        assert_eq!(quantize_row(array![1.0, -1.0, 0.25].view()).1, [127, -127, 32]);
    }

    #[test]
    fn f16_rounds_to_nearest_and_saturates() {
        let rounded = WeightType::F16.round(array![[0.1, 1.0, 1e6, -1e6]].view());
        assert_eq!(rounded, array![[0.099_975_586, 1.0, 65_504.0, -65_504.0]]);
    }

    #[test]
    fn floats_stay_finite_infinite_or_nan_in_every_type() {
        let weight = array![[f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX, f32::MIN, 1e38, 1e-42, -0.0]];
        for kind in [WeightType::F32, WeightType::F16, WeightType::Bf16] {
            for (w, rounded) in weight.iter().zip(kind.round(weight.view())) {
                assert_eq!(w.is_nan(), rounded.is_nan(), "{kind}: {w} became {rounded}");
                assert_eq!(w.is_finite(), rounded.is_finite(), "{kind}: {w} became {rounded}");
                assert!(
                    w.is_nan() || w.is_sign_positive() == rounded.is_sign_positive(),
                    "{kind}: {w} became {rounded}"
                );
            }
        }
    }

    #[test]
    fn a_row_of_int8_with_a_nan_or_an_infinity_becomes_nan() {
        for odd in [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let rounded = WeightType::Int8.round(array![[0.5, odd, 0.0], [1.0, -1.0, 0.25]].view());
            assert!(rounded.row(0).iter().all(|w| w.is_nan()), "{odd}: {rounded}");
            assert!(rounded.row(1).iter().all(|w| w.is_finite()), "{odd}: {rounded}");
        }
    }

    #[test]
    fn names_parse_back() {
        for kind in WeightType::ALL {
            assert_eq!(kind.name().parse::<WeightType>().ok(), Some(kind));
        }
        assert!("f64".parse::<WeightType>().is_err());
    }
}
