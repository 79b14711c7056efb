//! The supported operators: one table, and one reader per operator.

mod cast;
mod convolution;
mod elementwise;
mod layout;
mod logic;
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
use super::tensor::ModelFile;
use super::value::Value;
use crate::error::{Error, Result};
use crate::op::Math;
use crate::tensor::Device;

/// The function of a node, from its inputs to its outputs.
pub(super) type NodeFn = Arc<dyn Fn(&mut Context<'_>, &Inputs<'_>) -> Result<Vec<Value>> + Send + Sync>;
/// Puts the weights of a node on a device, and returns the node's function.
type BuildOnDevice = Box<dyn Fn(&Device) -> Result<NodeFn> + Send + Sync>;

/// The operation of a node.
pub(super) enum Operation {
    /// A function of the inputs alone.
    Plain(NodeFn),
    /// An operation that holds some of its inputs as weights.
    WithWeights {
        /// The indices of the inputs that it holds.
        slots: Vec<usize>,
        build: BuildOnDevice,
    },
}

impl Operation {
    fn plain(
        run: impl Fn(&mut Context<'_>, &Inputs<'_>) -> Result<Vec<Value>> + Send + Sync + 'static,
    ) -> Result<Self> {
        Ok(Self::Plain(Arc::new(run)))
    }

    /// Whether the operation holds the input at `slot` as weights.
    pub(super) fn holds(&self, slot: usize) -> bool {
        matches!(self, Self::WithWeights { slots, .. } if slots.contains(&slot))
    }

    /// The function of the node on a device.
    pub(super) fn on(&self, device: &Device) -> Result<NodeFn> {
        match self {
            Self::Plain(function) => Ok(Arc::clone(function)),
            Self::WithWeights { build, .. } => build(device),
        }
    }
}

/// The parts of a node that the reader of its operator needs.
pub(super) struct Reader<'a> {
    pub(super) site: &'a Site,
    /// The name of the operator.
    pub(super) operator: &'a str,
    /// The version of ONNX's own operators.
    pub(super) opset: i64,
    pub(super) attributes: Attributes<'a>,
    /// Per input: its value, if it is constant.
    pub(super) constants: &'a [Option<Value>],
    /// Per input: whether it is given.
    pub(super) given: &'a [bool],
    /// Per output: whether it is read.
    pub(super) wanted: &'a [bool],
    pub(super) file: ModelFile<'a>,
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

    /// Reads the axes of the node: an attribute before operator set `since`, its second input from then on.
    fn axes(&mut self, since: i64) -> Result<Axes> {
        Ok(if self.opset < since { Axes::Known(self.attributes.ints("axes")?) } else { Axes::Input(1) })
    }
}

/// The source of a node's axes: known values, or an input.
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
    /// The operator set that introduced the operator.
    since: i64,
    pub(super) inputs: RangeInclusive<usize>,
    pub(super) outputs: usize,
    pub(super) read: Read,
}

const fn row(name: &'static str, since: i64, inputs: RangeInclusive<usize>, outputs: usize, read: Read) -> Operator {
    Operator { name, since, inputs, outputs, read }
}

/// No limit on the number of inputs or outputs.
const MANY: usize = usize::MAX;

/// The supported operators, for operator sets from [`OLDEST`] to [`NEWEST`].
#[rustfmt::skip]
static OPERATORS: &[Operator] = &[
    row("Abs", 1, 1..=1, 1, |r| elementwise::math(r, Math::Abs)),
    row("Add", 1, 2..=2, 1, |r| elementwise::arithmetic(r, elementwise::Arithmetic::Add)),
    row("And", 1, 2..=2, 1, |r| logic::logic(r, logic::Logic::And)),
    row("ArgMax", 1, 1..=1, 1, |r| reduce::arg(r, true)),
    row("ArgMin", 1, 1..=1, 1, |r| reduce::arg(r, false)),
    row("Cast", 1, 1..=1, 1, cast::cast),
    row("Ceil", 1, 1..=1, 1, |r| elementwise::math(r, Math::Ceil)),
    row("Clip", 1, 1..=3, 1, elementwise::clip),
    row("Concat", 1, 1..=MANY, 1, layout::concat),
    row("Constant", 1, 0..=0, 1, shape::constant),
    row("ConstantOfShape", 9, 1..=1, 1, shape::constant_of_shape),
    row("Conv", 1, 2..=3, 1, convolution::conv),
    row("Div", 1, 2..=2, 1, |r| elementwise::arithmetic(r, elementwise::Arithmetic::Div)),
    row("Dropout", 1, 1..=3, 2, elementwise::dropout),
    row("Elu", 1, 1..=1, 1, elementwise::activation),
    row("Equal", 1, 2..=2, 1, |r| logic::compare(r, logic::Compare::Equal)),
    row("Exp", 1, 1..=1, 1, |r| elementwise::math(r, Math::Exp)),
    row("Expand", 8, 2..=2, 1, shape::expand),
    row("Flatten", 1, 1..=1, 1, shape::flatten),
    row("Floor", 1, 1..=1, 1, |r| elementwise::math(r, Math::Floor)),
    row("GRU", 1, 3..=6, 2, recurrent::gru),
    row("Gather", 1, 2..=2, 1, layout::gather),
    row("Gemm", 1, 2..=3, 1, product::gemm),
    row("Greater", 1, 2..=2, 1, |r| logic::compare(r, logic::Compare::Greater)),
    row("GreaterOrEqual", 12, 2..=2, 1, |r| logic::compare(r, logic::Compare::GreaterOrEqual)),
    row("HardSigmoid", 1, 1..=1, 1, elementwise::activation),
    row("Identity", 1, 1..=1, 1, elementwise::identity),
    row("LSTM", 1, 3..=8, 3, recurrent::lstm),
    row("LeakyRelu", 1, 1..=1, 1, elementwise::activation),
    row("Less", 1, 2..=2, 1, |r| logic::compare(r, logic::Compare::Less)),
    row("LessOrEqual", 12, 2..=2, 1, |r| logic::compare(r, logic::Compare::LessOrEqual)),
    row("Log", 1, 1..=1, 1, |r| elementwise::math(r, Math::Log)),
    row("LogSoftmax", 1, 1..=1, 1, |r| reduce::softmax(r, true)),
    row("MatMul", 1, 2..=2, 1, product::matmul),
    row("Max", 1, 1..=MANY, 1, |r| elementwise::extremum(r, elementwise::Arithmetic::Max)),
    row("Min", 1, 1..=MANY, 1, |r| elementwise::extremum(r, elementwise::Arithmetic::Min)),
    row("Mul", 1, 2..=2, 1, |r| elementwise::arithmetic(r, elementwise::Arithmetic::Mul)),
    row("Neg", 1, 1..=1, 1, elementwise::negate),
    row("Not", 1, 1..=1, 1, logic::not),
    row("Or", 1, 2..=2, 1, |r| logic::logic(r, logic::Logic::Or)),
    row("Pad", 1, 1..=4, 1, pad::pad),
    row("Pow", 1, 2..=2, 1, elementwise::power),
    row("RNN", 1, 3..=6, 2, recurrent::rnn),
    row("Range", 11, 3..=3, 1, shape::range),
    row("Reciprocal", 1, 1..=1, 1, elementwise::reciprocal),
    row("ReduceMax", 1, 1..=2, 1, |r| reduce::reduce(r, reduce::ReduceKind::Max)),
    row("ReduceMean", 1, 1..=2, 1, |r| reduce::reduce(r, reduce::ReduceKind::Mean)),
    row("ReduceMin", 1, 1..=2, 1, |r| reduce::reduce(r, reduce::ReduceKind::Min)),
    row("ReduceSum", 1, 1..=2, 1, |r| reduce::reduce(r, reduce::ReduceKind::Sum)),
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
    row("Where", 9, 3..=3, 1, logic::select),
];

/// The oldest supported operator set: the first one in which shapes broadcast by NumPy's rule.
pub(super) const OLDEST: i64 = 7;
/// The newest supported operator set. Each of its changes is either supported or refused.
pub(super) const NEWEST: i64 = 28;

/// The operator with a name, if the operator set has it.
pub(super) fn find(name: &str, opset: i64) -> Option<&'static Operator> {
    OPERATORS.iter().find(|operator| operator.name == name && operator.since <= opset)
}
