//! Gate orders and array layouts of other frameworks. Every format reads and writes its arrays with these types.
//!
//! | | LSTM | GRU | matrices | biases |
//! | --- | --- | --- | --- | --- |
//! | [PyTorch](GateOrder::PyTorch) | i f g o | r z n | `[G H, in]` | two of `[G H]` |
//! | [Keras](GateOrder::Keras) | i f g o | z r n | `[in, G H]` | one `[G H]`; a GRU that resets after the matmul: `[2, 3 H]` |
//! | [ONNX](GateOrder::Onnx) | i o f g | z r n | `[G H, in]` | one `[2 G H]`; peepholes `[3 H]`, i o f |
//!
//! Sources: `torch.nn.LSTM` and `torch.nn.GRU`, "Variables"; Keras' `layers/rnn/{simple_rnn,lstm,gru}.py`, `build` and `call`;
//! ONNX' `Operators.md`, operators RNN, LSTM and GRU. The letters are this crate's: Keras and ONNX call the candidate `g` of an
//! LSTM `c`, and the candidate `n` of a GRU `h`.
//!
//! # Examples
//! ```
//! use gatewise::cell::LstmCell;
//! use gatewise::weights::layout::GateOrder;
//! use ndarray::arr1;
//! let cell = LstmCell::default().into();
//! let onnx = arr1(&[1, 2, 3, 4]); // i o f g, one unit
//! let own = GateOrder::Onnx.read(&cell, 0, onnx.view())?; // i f g o
//! assert_eq!(own, arr1(&[1, 3, 4, 2]));
//! assert_eq!(GateOrder::Onnx.write(&cell, 0, own.view())?, onnx);
//! # Ok::<(), gatewise::Error>(())
//! ```

use ndarray::{Array, Array1, Array2, ArrayD, ArrayView, Axis, Dimension, Ix1, Ix2, RemoveAxis, Slice, concatenate};

use crate::cell::{Cell, LstmCell, Parameters};
use crate::error::{Error, Result, axes, check_shape};

const OP: &str = "layout";

/// The order in which a framework stacks the gates of a weight or bias.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum GateOrder {
    /// The order of `torch.nn` and of this crate's [`Parameters`].
    PyTorch,
    /// The order of Keras, in every version.
    Keras,
    /// The order of ONNX.
    Onnx,
}

impl GateOrder {
    /// The gates that a framework stores for a kind of cell, in its order. For an LSTM without a forget gate of its own, the
    /// framework stores a forget gate that nothing reads (ONNX `input_forget`).
    pub const fn gates(self, cell: &Cell) -> &'static [&'static str] {
        match (cell, self) {
            (Cell::Rnn(_), _) => &["h"],
            (Cell::Lstm(_), Self::PyTorch | Self::Keras) => &["i", "f", "g", "o"],
            (Cell::Lstm(_), Self::Onnx) => &["i", "o", "f", "g"],
            (Cell::Gru(_), Self::PyTorch) => &["r", "z", "n"],
            (Cell::Gru(_), Self::Keras | Self::Onnx) => &["z", "r", "n"],
        }
    }

    /// Reorders the framework's blocks along `axis` to the order of [`Cell::gates`]. A block that the cell does not read is left
    /// out.
    ///
    /// # Errors
    /// [`Error::Shape`] if the axis does not hold the framework's gates.
    pub fn read<F: Copy, D: RemoveAxis>(
        self,
        cell: &Cell,
        axis: usize,
        array: ArrayView<'_, F, D>,
    ) -> Result<Array<F, D>> {
        let stored = self.gates(cell);
        let hidden = block("array", axis, stored.len(), &array)?;
        let blocks: Vec<_> = cell
            .gates()
            .iter()
            .filter_map(|gate| stored.iter().position(|known| known == gate))
            .map(|at| array.slice_axis(Axis(axis), Slice::from(at * hidden..(at + 1) * hidden)))
            .collect();
        joined(axis, &blocks)
    }

    /// Reorders blocks in the order of [`Cell::gates`] to the framework's order. A gate that the cell does not have is written
    /// as zeros.
    ///
    /// # Errors
    /// [`Error::Shape`] if the axis does not hold the cell's gates.
    pub fn write<F, D>(self, cell: &Cell, axis: usize, array: ArrayView<'_, F, D>) -> Result<Array<F, D>>
    where
        F: Copy + Default,
        D: RemoveAxis,
    {
        let own = cell.gates();
        let hidden = block("array", axis, own.len(), &array)?;
        let mut shape = array.raw_dim();
        shape[axis] = hidden;
        let absent = Array::from_elem(shape, F::default());
        let blocks: Vec<_> = self
            .gates(cell)
            .iter()
            .map(|gate| match own.iter().position(|known| known == gate) {
                Some(at) => array.slice_axis(Axis(axis), Slice::from(at * hidden..(at + 1) * hidden)),
                None => absent.view(),
            })
            .collect();
        joined(axis, &blocks)
    }
}

/// The length of one gate's block along an axis.
fn block<F, D: Dimension>(what: &'static str, axis: usize, gates: usize, array: &ArrayView<'_, F, D>) -> Result<usize> {
    match array.shape().get(axis) {
        Some(length) if length % gates == 0 => Ok(length / gates),
        _ => {
            let expected = format!("a multiple of {gates} gates along axis {axis}");
            Err(Error::Shape { op: OP, what, expected, found: array.shape().to_vec() })
        }
    }
}

fn joined<F: Copy, D: RemoveAxis>(axis: usize, blocks: &[ArrayView<'_, F, D>]) -> Result<Array<F, D>> {
    let shape = || blocks.first().map_or_else(Vec::new, |block| block.shape().to_vec());
    concatenate(Axis(axis), blocks).map_err(|error| Error::Shape {
        op: OP,
        what: "gates",
        expected: error.to_string(),
        found: shape(),
    })
}

/// The arrays of a recurrent layer as Keras' `get_weights` lists them.
///
/// # Examples
/// ```
/// use gatewise::cell::{Cell, GruCell};
/// use gatewise::weights::layout::KerasArrays;
/// use ndarray::{Array2, ArrayD};
/// let cell: Cell = GruCell::default().into();
/// let arrays = KerasArrays {
///     kernel: Array2::<f32>::zeros((3, 12)),
///     recurrent_kernel: Array2::zeros((4, 12)),
///     bias: Some(ArrayD::zeros(vec![2, 12])), // reset_after=True
/// };
/// let parameters = arrays.to_parameters(&cell)?;
/// assert_eq!(parameters.weight_ih.dim(), (12, 3));
/// assert_eq!(KerasArrays::from_parameters(&cell, &parameters)?, arrays);
/// # Ok::<(), gatewise::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct KerasArrays<F = f32> {
    /// The weights on the input, `[input, G hidden]`.
    pub kernel: Array2<F>,
    /// The weights on the state, `[hidden, G hidden]`.
    pub recurrent_kernel: Array2<F>,
    /// The bias, `[G hidden]`; for a GRU that resets after the matmul `[2, 3 hidden]`, the bias on the input first.
    pub bias: Option<ArrayD<F>>,
}

impl<F: Copy + Default + std::ops::Add<Output = F>> KerasArrays<F> {
    /// Converts to this crate's parameters. A single bias becomes `bias_ih`, and `bias_hh` zero.
    ///
    /// # Errors
    /// [`Error::Shape`] if an array does not fit the others or the cell.
    pub fn to_parameters(&self, cell: &Cell) -> Result<Parameters<F>> {
        let order = GateOrder::Keras;
        let (input, hidden) = (self.kernel.nrows(), self.recurrent_kernel.nrows());
        let rows = order.gates(cell).len() * hidden;
        check_shape(OP, "kernel", &[input, rows], self.kernel.shape())?;
        check_shape(OP, "recurrent_kernel", &[hidden, rows], self.recurrent_kernel.shape())?;
        let (bias_ih, bias_hh) = match &self.bias {
            None => (None, None),
            Some(bias) if cell.resets_after() => {
                check_shape(OP, "bias", &[2, rows], bias.shape())?;
                let row = |at: usize| vector("bias", bias.index_axis(Axis(0), at));
                (Some(order.read(cell, 0, row(0)?)?), Some(order.read(cell, 0, row(1)?)?))
            }
            Some(bias) => {
                check_shape(OP, "bias", &[rows], bias.shape())?;
                let bias = order.read(cell, 0, vector("bias", bias.view())?)?;
                let zeros = Array1::from_elem(bias.len(), F::default());
                (Some(bias), Some(zeros))
            }
        };
        let parameters = Parameters {
            weight_ih: order.read(cell, 0, self.kernel.t())?,
            weight_hh: order.read(cell, 0, self.recurrent_kernel.t())?,
            bias_ih,
            bias_hh,
            weight_hr: None,
            peephole: None,
        };
        parameters.check(cell, input, hidden)?;
        Ok(parameters)
    }

    /// Converts from this crate's parameters. If Keras has one bias, it is the sum of the two.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for a projection, peepholes or a missing forget gate, which Keras' layers do not have;
    /// [`Error::Shape`] if the parameters do not fit the cell.
    pub fn from_parameters(cell: &Cell, parameters: &Parameters<F>) -> Result<Self> {
        let order = GateOrder::Keras;
        if let Some(option) = beyond_keras(cell) {
            return Err(Error::Unsupported { op: OP, option, by: "by Keras" });
        }
        parameters.check(cell, parameters.weight_ih.ncols(), parameters.weight_hh.ncols())?;
        let bias = match (&parameters.bias_ih, &parameters.bias_hh) {
            (Some(ih), Some(hh)) => {
                let (ih, hh) = (order.write(cell, 0, ih.view())?, order.write(cell, 0, hh.view())?);
                Some(if cell.resets_after() {
                    let rows = [ih.view().insert_axis(Axis(0)), hh.view().insert_axis(Axis(0))];
                    joined(0, &rows)?.into_dyn()
                } else {
                    (ih + hh).into_dyn()
                })
            }
            _ => None,
        };
        let transposed = |weight: &Array2<F>| -> Result<Array2<F>> { order.write(cell, 1, weight.t()) };
        Ok(Self {
            kernel: transposed(&parameters.weight_ih)?,
            recurrent_kernel: transposed(&parameters.weight_hh)?,
            bias,
        })
    }
}

/// The first option of a cell that Keras' layers do not have.
fn beyond_keras(cell: &Cell) -> Option<String> {
    let Cell::Lstm(lstm) = cell else { return None };
    match lstm {
        LstmCell { projection: Some(width), .. } => Some(format!("projection {width}")),
        LstmCell { peephole: true, .. } => Some("peephole".to_owned()),
        LstmCell { forget, .. } if cell.gates().len() != 4 => Some(format!("forget {forget:?}")),
        _ => None,
    }
}

/// The constant inputs of a recurrent ONNX operator, for one direction.
///
/// # Examples
/// ```
/// use gatewise::cell::{Cell, LstmCell};
/// use gatewise::weights::layout::OnnxArrays;
/// use ndarray::{Array1, Array2};
/// let cell: Cell = LstmCell::default().into();
/// let arrays =
///     OnnxArrays { w: Array2::<f32>::zeros((16, 3)), r: Array2::zeros((16, 4)), b: Some(Array1::zeros(32)), p: None };
/// let parameters = arrays.to_parameters(&cell)?;
/// assert_eq!(parameters.weight_hh.dim(), (16, 4));
/// assert_eq!(OnnxArrays::from_parameters(&cell, &parameters)?, arrays);
/// # Ok::<(), gatewise::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct OnnxArrays<F = f32> {
    /// `W`, the weights on the input, `[G hidden, input]`.
    pub w: Array2<F>,
    /// `R`, the weights on the state, `[G hidden, hidden]`.
    pub r: Array2<F>,
    /// `B`, the biases on the input, then the biases on the state, `[2 G hidden]`.
    pub b: Option<Array1<F>>,
    /// `P`, the peephole weights of i, o and f, `[3 hidden]`.
    pub p: Option<Array1<F>>,
}

impl<F: Copy + Default> OnnxArrays<F> {
    /// Converts to this crate's parameters. The cell must have `bias` if the operator has `B`, and `peephole` if it has `P`.
    ///
    /// # Errors
    /// [`Error::Shape`] if an array does not fit the others or the cell.
    pub fn to_parameters(&self, cell: &Cell) -> Result<Parameters<F>> {
        let order = GateOrder::Onnx;
        let (input, hidden) = (self.w.ncols(), self.r.ncols());
        let rows = order.gates(cell).len() * hidden;
        check_shape(OP, "W", &[rows, input], self.w.shape())?;
        check_shape(OP, "R", &[rows, hidden], self.r.shape())?;
        let half = |at: usize| match &self.b {
            Some(b) => {
                check_shape(OP, "B", &[2 * rows], b.shape())?;
                order.read(cell, 0, b.slice_axis(Axis(0), Slice::from(at * rows..(at + 1) * rows))).map(Some)
            }
            None => Ok(None),
        };
        let peephole = match &self.p {
            Some(p) => {
                check_shape(OP, "P", &[3 * hidden], p.shape())?;
                Some(peepholes(p.view(), hidden)?)
            }
            None => None,
        };
        let parameters = Parameters {
            weight_ih: order.read(cell, 0, self.w.view())?,
            weight_hh: order.read(cell, 0, self.r.view())?,
            bias_ih: half(0)?,
            bias_hh: half(1)?,
            weight_hr: None,
            peephole,
        };
        parameters.check(cell, input, hidden)?;
        Ok(parameters)
    }

    /// Converts from this crate's parameters.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for a projection, which ONNX does not have; [`Error::Shape`] if the parameters do not fit the cell.
    pub fn from_parameters(cell: &Cell, parameters: &Parameters<F>) -> Result<Self> {
        let order = GateOrder::Onnx;
        if let Some(width) = cell.projection() {
            return Err(Error::Unsupported { op: OP, option: format!("projection {width}"), by: "by ONNX" });
        }
        let hidden = parameters.weight_hh.ncols();
        parameters.check(cell, parameters.weight_ih.ncols(), hidden)?;
        let b = match (&parameters.bias_ih, &parameters.bias_hh) {
            (Some(ih), Some(hh)) => {
                let (ih, hh) = (order.write(cell, 0, ih.view())?, order.write(cell, 0, hh.view())?);
                Some(joined(0, &[ih.view(), hh.view()])?)
            }
            _ => None,
        };
        let p = match &parameters.peephole {
            Some(p) => {
                let flat: Array1<F> = p.iter().copied().collect();
                Some(peepholes(flat.view(), hidden)?.into_iter().collect())
            }
            None => None,
        };
        let w = order.write(cell, 0, parameters.weight_ih.view())?;
        Ok(Self { w, r: order.write(cell, 0, parameters.weight_hh.view())?, b, p })
    }
}

/// Exchanges ONNX' order i, o, f and this crate's rows i, f, o. The exchange is its own inverse.
fn peepholes<F: Copy>(p: ArrayView<'_, F, Ix1>, hidden: usize) -> Result<Array2<F>> {
    let row = |at: usize| p.slice_axis(Axis(0), Slice::from(at * hidden..(at + 1) * hidden)).insert_axis(Axis(0));
    joined::<F, Ix2>(0, &[row(0), row(2), row(1)])
}

fn vector<'a, F>(what: &'static str, array: ndarray::ArrayViewD<'a, F>) -> Result<ArrayView<'a, F, Ix1>> {
    let found = array.shape().to_vec();
    let [length] = axes(OP, what, "[G hidden]", &found)?;
    array.into_shape_with_order(length).map_err(|error| Error::Shape {
        op: OP,
        what,
        expected: error.to_string(),
        found,
    })
}
