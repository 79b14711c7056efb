//! The operators that are carried out: one table, one reader for each, grouped by what they do.

mod convolution;
mod elementwise;
mod layout;
mod pad;
mod product;
mod recurrent;
mod reduce;
mod shape;
mod slice;

use std::ops::RangeInclusive;
use std::sync::Arc;

use super::GruReset;
use super::Warning;
use super::attributes::{Attributes, Site};
use super::context::{Context, Inputs};
use super::tensor::Source;
use super::value::Value;
use crate::error::{Error, Result};
use crate::op::Math;
use crate::tensor::Device;

/// Runs a node: inputs to outputs.
pub(super) type Run = Arc<dyn Fn(&mut Context<'_>, &Inputs<'_>) -> Result<Vec<Value>> + Send + Sync>;
/// Puts a node's weights on a device.
type Place = Box<dyn Fn(&Device) -> Result<Run> + Send + Sync>;

/// A node that has been read.
pub(super) enum Operation {
    /// It works on its inputs alone.
    Plain(Run),
    /// It holds some of its inputs itself, as weights.
    Held {
        /// The inputs that it holds.
        slots: Vec<usize>,
        place: Place,
    },
}

impl Operation {
    fn plain(
        run: impl Fn(&mut Context<'_>, &Inputs<'_>) -> Result<Vec<Value>> + Send + Sync + 'static,
    ) -> Result<Self> {
        Ok(Self::Plain(Arc::new(run)))
    }

    /// Whether the operation holds the input at `slot` itself.
    pub(super) fn holds(&self, slot: usize) -> bool {
        matches!(self, Self::Held { slots, .. } if slots.contains(&slot))
    }

    pub(super) fn place(&self, device: &Device) -> Result<Run> {
        match self {
            Self::Plain(run) => Ok(Arc::clone(run)),
            Self::Held { place, .. } => place(device),
        }
    }
}

/// A node as its reader sees it.
pub(super) struct Reader<'a> {
    pub(super) site: &'a Site,
    /// The operator's name.
    pub(super) operator: &'a str,
    /// Version of ONNX's own operators.
    pub(super) opset: i64,
    pub(super) attributes: Attributes<'a>,
    /// The inputs' values where they are constant.
    pub(super) constants: &'a [Option<Value>],
    /// Which inputs are given.
    pub(super) given: &'a [bool],
    /// Which outputs somebody reads.
    pub(super) wanted: &'a [bool],
    pub(super) source: Source<'a>,
    pub(super) producer: &'a str,
    pub(super) gru_reset: GruReset,
    pub(super) warnings: &'a mut Vec<Warning>,
}

impl Reader<'_> {
    fn given(&self, slot: usize) -> bool {
        self.given.get(slot) == Some(&true)
    }

    fn wanted(&self, slot: usize) -> bool {
        self.wanted.get(slot) == Some(&true)
    }

    fn constant(&self, slot: usize) -> Option<&Value> {
        self.constants.get(slot).and_then(Option::as_ref)
    }

    fn refuse(&self, field: &str, expected: impl Into<String>, found: impl Into<String>) -> Error {
        self.site.refuse(field, expected, found)
    }

    /// Axes: an attribute before operator set `since`, an input of the run from then on.
    fn axes(&mut self, since: i64) -> Result<Axes> {
        Ok(if self.opset < since { Axes::Known(self.attributes.ints("axes")?) } else { Axes::Input(1) })
    }
}

/// Where a node's axes come from.
enum Axes {
    Known(Option<Vec<i64>>),
    Input(usize),
}

impl Axes {
    fn get(&self, inputs: &Inputs<'_>) -> Result<Option<Vec<i64>>> {
        match self {
            Self::Known(list) => Ok(list.clone()),
            Self::Input(at) => inputs.optional_list(*at, "axes"),
        }
    }
}

type Read = fn(&mut Reader<'_>) -> Result<Operation>;

/// An operator of ONNX's own domain.
pub(super) struct Operator {
    name: &'static str,
    /// The operator set that brought it in.
    since: i64,
    pub(super) inputs: RangeInclusive<usize>,
    pub(super) outputs: usize,
    pub(super) read: Read,
}

const fn row(name: &'static str, since: i64, inputs: RangeInclusive<usize>, outputs: usize, read: Read) -> Operator {
    Operator { name, since, inputs, outputs, read }
}

/// Inputs or outputs without a limit of their own.
const MANY: usize = usize::MAX;

/// Every operator that is carried out, from operator set [`OLDEST`] to [`NEWEST`].
#[rustfmt::skip]
static OPERATORS: &[Operator] = &[
    row("Abs", 1, 1..=1, 1, |r| elementwise::math(r, Math::Abs)),
    row("Add", 1, 2..=2, 1, |r| elementwise::arithmetic(r, elementwise::Arithmetic::Add)),
    row("And", 1, 2..=2, 1, |r| elementwise::logic(r, elementwise::Logic::And)),
    row("ArgMax", 1, 1..=1, 1, |r| reduce::arg(r, true)),
    row("ArgMin", 1, 1..=1, 1, |r| reduce::arg(r, false)),
    row("Cast", 1, 1..=1, 1, elementwise::cast),
    row("Ceil", 1, 1..=1, 1, |r| elementwise::math(r, Math::Ceil)),
    row("Clip", 1, 1..=3, 1, elementwise::clip),
    row("Concat", 1, 1..=MANY, 1, layout::concat),
    row("Constant", 1, 0..=0, 1, shape::constant),
    row("ConstantOfShape", 9, 1..=1, 1, shape::constant_of_shape),
    row("Conv", 1, 2..=3, 1, convolution::conv),
    row("Div", 1, 2..=2, 1, |r| elementwise::arithmetic(r, elementwise::Arithmetic::Div)),
    row("Dropout", 1, 1..=3, 2, elementwise::dropout),
    row("Elu", 1, 1..=1, 1, elementwise::activation),
    row("Equal", 1, 2..=2, 1, |r| elementwise::compare(r, elementwise::Compare::Equal)),
    row("Exp", 1, 1..=1, 1, |r| elementwise::math(r, Math::Exp)),
    row("Expand", 8, 2..=2, 1, shape::expand),
    row("Flatten", 1, 1..=1, 1, shape::flatten),
    row("Floor", 1, 1..=1, 1, |r| elementwise::math(r, Math::Floor)),
    row("GRU", 1, 3..=6, 2, recurrent::gru),
    row("Gather", 1, 2..=2, 1, layout::gather),
    row("Gemm", 1, 2..=3, 1, product::gemm),
    row("Greater", 1, 2..=2, 1, |r| elementwise::compare(r, elementwise::Compare::Greater)),
    row("GreaterOrEqual", 12, 2..=2, 1, |r| elementwise::compare(r, elementwise::Compare::GreaterOrEqual)),
    row("HardSigmoid", 1, 1..=1, 1, elementwise::activation),
    row("Identity", 1, 1..=1, 1, elementwise::identity),
    row("LSTM", 1, 3..=8, 3, recurrent::lstm),
    row("LeakyRelu", 1, 1..=1, 1, elementwise::activation),
    row("Less", 1, 2..=2, 1, |r| elementwise::compare(r, elementwise::Compare::Less)),
    row("LessOrEqual", 12, 2..=2, 1, |r| elementwise::compare(r, elementwise::Compare::LessOrEqual)),
    row("Log", 1, 1..=1, 1, |r| elementwise::math(r, Math::Log)),
    row("LogSoftmax", 1, 1..=1, 1, |r| reduce::softmax(r, true)),
    row("MatMul", 1, 2..=2, 1, product::matmul),
    row("Max", 1, 1..=MANY, 1, |r| elementwise::extremum(r, elementwise::Arithmetic::Max)),
    row("Min", 1, 1..=MANY, 1, |r| elementwise::extremum(r, elementwise::Arithmetic::Min)),
    row("Mul", 1, 2..=2, 1, |r| elementwise::arithmetic(r, elementwise::Arithmetic::Mul)),
    row("Neg", 1, 1..=1, 1, elementwise::negate),
    row("Not", 1, 1..=1, 1, elementwise::not),
    row("Or", 1, 2..=2, 1, |r| elementwise::logic(r, elementwise::Logic::Or)),
    row("Pad", 1, 1..=4, 1, pad::pad),
    row("Pow", 1, 2..=2, 1, elementwise::power),
    row("RNN", 1, 3..=6, 2, recurrent::rnn),
    row("Range", 11, 3..=3, 1, shape::range),
    row("Reciprocal", 1, 1..=1, 1, elementwise::reciprocal),
    row("ReduceMax", 1, 1..=2, 1, |r| reduce::reduce(r, reduce::Kind::Max)),
    row("ReduceMean", 1, 1..=2, 1, |r| reduce::reduce(r, reduce::Kind::Mean)),
    row("ReduceMin", 1, 1..=2, 1, |r| reduce::reduce(r, reduce::Kind::Min)),
    row("ReduceSum", 1, 1..=2, 1, |r| reduce::reduce(r, reduce::Kind::Sum)),
    row("Relu", 1, 1..=1, 1, elementwise::activation),
    row("Reshape", 5, 2..=2, 1, shape::reshape),
    row("Shape", 1, 1..=1, 1, shape::shape),
    row("Sigmoid", 1, 1..=1, 1, elementwise::activation),
    row("Size", 1, 1..=1, 1, shape::size),
    row("Slice", 1, 1..=5, 1, slice::slice),
    row("Softmax", 1, 1..=1, 1, |r| reduce::softmax(r, false)),
    row("Softplus", 1, 1..=1, 1, elementwise::activation),
    row("Softsign", 1, 1..=1, 1, elementwise::activation),
    row("Split", 2, 1..=2, MANY, slice::split),
    row("Sqrt", 1, 1..=1, 1, |r| elementwise::math(r, Math::Sqrt)),
    row("Squeeze", 1, 1..=2, 1, shape::squeeze),
    row("Sub", 1, 2..=2, 1, |r| elementwise::arithmetic(r, elementwise::Arithmetic::Sub)),
    row("Tanh", 1, 1..=1, 1, elementwise::activation),
    row("ThresholdedRelu", 10, 1..=1, 1, elementwise::activation),
    row("Tile", 6, 2..=2, 1, layout::tile),
    row("Transpose", 1, 1..=1, 1, layout::transpose),
    row("Unsqueeze", 1, 1..=2, 1, shape::unsqueeze),
    row("Where", 9, 3..=3, 1, elementwise::select),
];

/// The oldest operator set: from it on shapes broadcast by NumPy's rule.
pub(super) const OLDEST: i64 = 7;
/// The newest operator set whose changes are carried out or refused.
pub(super) const NEWEST: i64 = 28;

/// An operator by its name, if an operator set has it.
pub(super) fn find(name: &str, opset: i64) -> Option<&'static Operator> {
    OPERATORS.iter().find(|operator| operator.name == name && operator.since <= opset)
}
