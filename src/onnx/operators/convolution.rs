//! Convolution along one axis.

use std::sync::Arc;

use ndarray::Array3;

use super::{NodeFn, Operation, Reader};
use crate::error::Result;
use crate::nn::Conv1d;
use crate::onnx::context::{Context, Inputs, unexpected};
use crate::onnx::value::Value;
use crate::op::same_padding;
use crate::path::FilterGeometry;
use crate::tensor::Device;

/// The zeros around the signal.
#[derive(Clone, Copy, Debug)]
enum Padding {
    /// Numbers of zeros before and after the signal.
    Fixed([usize; 2]),
    /// As many zeros as give `ceil(L / stride)` outputs.
    Same {
        /// If the number of zeros is odd: whether the extra one goes to the beginning.
        odd_first: bool,
    },
}

impl Padding {
    /// Reads the attributes `pads` and `auto_pad`.
    fn read(reader: &mut Reader<'_>) -> Result<Self> {
        let pads = reader.attributes.ints("pads")?;
        let automatic = reader.attributes.string("auto_pad")?;
        Ok(match (automatic.as_deref(), &pads) {
            (None | Some("NOTSET"), None) | (Some("VALID"), None) => Self::Fixed([0, 0]),
            (None | Some("NOTSET"), Some(pads)) => match pads[..] {
                [before, after] if before >= 0 && after >= 0 => {
                    let size = |pad: i64| usize::try_from(pad).unwrap_or(usize::MAX);
                    Self::Fixed([size(before), size(after)])
                }
                _ => return Err(reader.refuse("pads", "two numbers, not negative", format!("{pads:?}"))),
            },
            (Some("SAME_UPPER"), None) => Self::Same { odd_first: false },
            (Some("SAME_LOWER"), None) => Self::Same { odd_first: true },
            (auto, _) => {
                let expected = "NOTSET, VALID, SAME_UPPER or SAME_LOWER, and pads only with NOTSET";
                return Err(reader.refuse("auto_pad", expected, format!("{auto:?} and pads {pads:?}")));
            }
        })
    }
}

/// `Conv` with constant filters along one axis.
pub(super) fn conv(reader: &mut Reader<'_>) -> Result<Operation> {
    let weight = match reader.constant(1) {
        Some(Value::Float(w)) if w.shape().len() == 3 => w.to_array::<ndarray::Ix3>()?,
        Some(other) => return Err(reader.refuse("W", "floats of three axes, [O, C / group, K]", other.describe())),
        None => return Err(reader.refuse("W", "a constant", "a value that is computed at run time")),
    };
    let bias = match reader.constant(2) {
        Some(Value::Float(b)) if b.shape() == [weight.dim().0] => Some(b.to_array::<ndarray::Ix1>()?),
        None if !reader.given(2) => None,
        Some(other) => return Err(reader.refuse("B", "a constant of one float per filter", other.describe())),
        None => return Err(reader.refuse("B", "a constant", "a value that is computed at run time")),
    };
    let kernel = weight.dim().2;
    if let Some(shape) = reader.attributes.ints("kernel_shape")?
        && shape != [kernel as i64]
    {
        return Err(reader.refuse("kernel_shape", format!("[{kernel}], as the weights"), format!("{shape:?}")));
    }
    let stride = one(reader, "strides")?;
    let dilation = one(reader, "dilations")?;
    let group = reader.attributes.int("group")?.unwrap_or(1);
    let padding = Padding::read(reader)?;
    let (groups, span) = groups_and_span(reader, &weight, group, dilation)?;
    let geometry = FilterGeometry { stride, dilation, groups };
    let build = move |device: &Device| -> Result<NodeFn> {
        let (filters, channels) = (weight.dim().0, weight.dim().1 * groups);
        let layer = Conv1d::with_groups(device, &weight, bias.as_ref(), geometry, 0)?;
        Ok(Arc::new(move |context: &mut Context<'_>, inputs: &Inputs<'_>| {
            let x = inputs.float(0, "X")?;
            if x.shape().len() != 3 || x.shape()[1] != channels {
                let found = format!("shape {:?} for {channels} channels", x.shape());
                return Err(unexpected("X", "floats of three axes, [N, C, L]", found));
            }
            let pads = padding.around(x.shape()[2], stride, span);
            let padded = pads.iter().fold(x.shape()[2], |sum, &pad| sum.saturating_add(pad));
            if pads != [0, 0] {
                // Other devices than the CPU pad the signal first.
                context.reserve(&[x.shape()[0], channels, padded], 4)?;
            }
            context.reserve(&[x.shape()[0], filters, padded / stride + 1], 4)?;
            Ok(vec![Value::Float(layer.record_padded(context.recorder, x, pads)?)])
        }))
    };
    Ok(Operation::WithWeights { slots: vec![1, 2], build: Box::new(build) })
}

/// An attribute that lists one number of at least 1; 1 if it is absent.
fn one(reader: &mut Reader<'_>, name: &str) -> Result<usize> {
    match reader.attributes.ints(name)?.as_deref() {
        None => Ok(1),
        Some(&[n]) if n >= 1 => usize::try_from(n).map_err(|error| reader.refuse(name, "a size", error.to_string())),
        Some(other) => Err(reader.refuse(name, "one number, at least 1", format!("{other:?}"))),
    }
}

impl Padding {
    /// The zeros before and behind a signal of `length`, for windows that reach over `span` positions.
    fn around(self, length: usize, stride: usize, span: usize) -> [usize; 2] {
        match self {
            Self::Fixed(pads) => pads,
            Self::Same { odd_first } => {
                let [less, more] = same_padding(length, stride, span);
                if odd_first { [more, less] } else { [less, more] }
            }
        }
    }
}

/// The number of groups, and the positions that a filter reaches over.
fn groups_and_span(reader: &Reader<'_>, weight: &Array3<f32>, group: i64, dilation: usize) -> Result<(usize, usize)> {
    let (out, _, kernel) = weight.dim();
    let group = usize::try_from(group).ok().filter(|&group| group >= 1 && out % group == 0);
    let Some(group) = group else {
        return Err(reader.refuse("group", format!("a divisor of the {out} filters"), "another number"));
    };
    if kernel == 0 {
        return Err(reader.refuse("W", "filters of at least one element", format!("shape {:?}", weight.shape())));
    }
    let span = (kernel - 1).checked_mul(dilation).and_then(|span| span.checked_add(1));
    match span.filter(|&span| span <= LONGEST) {
        Some(span) => Ok((group, span)),
        None => {
            let found = format!("dilation {dilation} for weights {:?}", weight.shape());
            Err(reader.refuse("dilations", format!("filters that reach over at most {LONGEST} positions"), found))
        }
    }
}

/// The most positions that a filter may reach over.
const LONGEST: usize = 1 << 24;
