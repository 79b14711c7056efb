//! Elements of weights as they are stored, read as `f32`.

use half::{bf16, f16};

/// The element types that are read, in messages.
pub(super) const FLOATS: &str = "F32, F16, BF16 or F64";

/// The type of stored elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FloatType {
    F32,
    F64,
    F16,
    Bf16,
}

/// The order of the bytes of an element.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ByteOrder {
    Little,
    // Files of safetensors are little-endian.
    #[cfg_attr(not(feature = "torch"), allow(dead_code))]
    Big,
}

impl FloatType {
    /// The bytes of an element.
    #[cfg(any(feature = "torch", test))]
    pub(super) fn width(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F64 => 8,
            Self::F16 | Self::Bf16 => 2,
        }
    }

    /// Reads every element of `bytes`.
    #[expect(
        clippy::cast_possible_truncation,
        reason = "f64 weights are narrowed to the precision that layers compute in"
    )]
    pub(super) fn read(self, bytes: &[u8], order: ByteOrder) -> Vec<f32> {
        match self {
            Self::F32 => ordered(bytes, order, f32::from_le_bytes).collect(),
            Self::F64 => ordered(bytes, order, f64::from_le_bytes).map(|x| x as f32).collect(),
            Self::F16 => ordered(bytes, order, f16::from_le_bytes).map(f16::to_f32).collect(),
            Self::Bf16 => ordered(bytes, order, bf16::from_le_bytes).map(bf16::to_f32).collect(),
        }
    }
}

/// Reads every word of `bytes`; `read` takes a word with its lowest byte first.
fn ordered<'a, const N: usize, T: 'a>(
    bytes: &'a [u8],
    order: ByteOrder,
    read: fn([u8; N]) -> T,
) -> impl Iterator<Item = T> + 'a {
    bytes.as_chunks::<N>().0.iter().map(move |word| {
        let mut word = *word;
        if order == ByteOrder::Big {
            word.reverse();
        }
        read(word)
    })
}

/// Reads every little-endian word of `bytes`.
#[cfg(feature = "onnx")]
pub(crate) fn words<'a, const N: usize, T: 'a>(
    bytes: &'a [u8],
    read: fn([u8; N]) -> T,
) -> impl Iterator<Item = T> + 'a {
    ordered(bytes, ByteOrder::Little, read)
}

#[cfg(test)]
mod tests {
    use half::{bf16, f16};

    use super::{ByteOrder, FloatType};

    #[test]
    fn every_type_is_read_in_both_orders() {
        let numbers = [0.15625_f32, -3.0, f32::INFINITY, 0.0];
        let stored: [(FloatType, Vec<Vec<u8>>); 4] = [
            (FloatType::F32, numbers.iter().map(|x| x.to_le_bytes().to_vec()).collect()),
            (FloatType::F64, numbers.iter().map(|&x| f64::from(x).to_le_bytes().to_vec()).collect()),
            (FloatType::F16, numbers.iter().map(|&x| f16::from_f32(x).to_le_bytes().to_vec()).collect()),
            (FloatType::Bf16, numbers.iter().map(|&x| bf16::from_f32(x).to_le_bytes().to_vec()).collect()),
        ];
        for (float, words) in stored {
            assert!(words.iter().all(|word| word.len() == float.width()));
            assert_eq!(float.read(&words.concat(), ByteOrder::Little), numbers, "{float:?}");
            let swapped: Vec<u8> = words.iter().flat_map(|word| word.iter().rev().copied()).collect();
            assert_eq!(float.read(&swapped, ByteOrder::Big), numbers, "{float:?}");
        }
    }
}
