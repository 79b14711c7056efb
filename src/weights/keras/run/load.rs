//! Parameters of layers, from the arrays of the file.

use std::cell::Cell as Counter;

use ndarray::{Array, Array1, Array2, ArrayD, ArrayView2, Axis, Dimension, Ix2};

use super::super::FileName;
use super::super::cells::CellSpec;
use super::super::hdf5::Tree;
use super::super::parse::{LayerKind, LayerSpec};
use super::recurrent::{CellLayer, fused};
use crate::cell::{Cell, Parameters};
use crate::error::{Error, Result};
use crate::nn::Recurrent;
use crate::tensor::Device;
use crate::weights::layout::{GateOrder, KerasArrays};

/// Reads the arrays of one layer or model for a device, and counts their bytes against the limit of the file.
pub(crate) struct Loader<'a> {
    pub(crate) file: FileName<'a>,
    pub(crate) tree: &'a Tree,
    pub(crate) device: &'a Device,
    /// The number of bytes that may still be allocated.
    left: Counter<u64>,
}

impl<'a> Loader<'a> {
    pub(crate) fn new(file: FileName<'a>, tree: &'a Tree, device: &'a Device) -> Self {
        Self { file, tree, device, left: Counter::new(tree.limit()) }
    }

    /// Counts bytes before they are allocated.
    pub(super) fn spend(&self, path: &str, bytes: u64) -> Result<()> {
        let Some(left) = self.left.get().checked_sub(bytes) else {
            let limit = format!("{} bytes of arrays in a file of this size", self.tree.limit());
            return Err(self.file.too_large(path, &limit, format!("{bytes} bytes more")));
        };
        self.left.set(left);
        Ok(())
    }

    /// Builds a recurrent layer as this crate's own layer.
    pub(crate) fn recurrent(&self, layer: &LayerSpec) -> Result<Recurrent<Cell>> {
        let built = match &layer.kind {
            LayerKind::Rnn(spec) => match spec.cells.as_slice() {
                [cell] => Some(CellLayer::new(self, cell, spec.backwards)?),
                _ => None,
            },
            LayerKind::Bidirectional(spec) => fused(self, spec)?,
            _ => None,
        };
        let expected = "a recurrent layer of one cell, or a Bidirectional around two of one kind and size";
        let refused = || self.file.refuse(&format!("layer {}", layer.path), expected, &layer.class);
        built.map(|built| built.layer).ok_or_else(refused)
    }

    /// Reads an array of a given shape; an extent that is `None` may have any value.
    pub(super) fn array<D: Dimension>(&self, path: &str, shape: &[Option<usize>]) -> Result<Array<f32, D>> {
        self.spend(path, self.tree.bytes(path))?;
        let array = self.tree.array(path)?;
        let fits = |(have, want): (&usize, &Option<usize>)| want.is_none_or(|want| want == *have);
        if array.ndim() != shape.len() || !array.shape().iter().zip(shape).all(fits) {
            return Err(self.misshapen(path, shape, &array));
        }
        let wrong = self.misshapen(path, shape, &array);
        array.into_dimensionality().map_err(|_| wrong)
    }

    fn misshapen(&self, path: &str, shape: &[Option<usize>], found: &ArrayD<f32>) -> Error {
        let extents = shape.iter().map(|extent| extent.map_or_else(|| "any".to_owned(), |n| n.to_string()));
        let expected = format!("shape [{}]", extents.collect::<Vec<_>>().join(", "));
        self.file.refuse(path, &expected, format!("shape {:?}", found.shape()))
    }

    /// The parameters of a cell, from its kernel, recurrent kernel and bias.
    pub(crate) fn cell(&self, spec: &CellSpec) -> Result<Parameters> {
        let CellSpec { cell, units, arrays, cudnn } = spec;
        let gates = GateOrder::Keras.gates(cell).len();
        let (kernel, recurrent) = (array_path(arrays, 0), array_path(arrays, 1));
        // cuDNN stores two biases, so twice the number of rows must not overflow.
        let Some(rows) = units.checked_mul(2 * gates).map(|both| both / 2) else {
            return Err(self.file.refuse(kernel, "a number of units that can be counted", units.to_string()));
        };
        let mut keras = KerasArrays {
            kernel: self.array(kernel, &[None, Some(rows)])?,
            recurrent_kernel: self.array(recurrent, &[Some(*units), Some(rows)])?,
            bias: None,
        };
        if cell.bias() {
            let path = array_path(arrays, 2);
            keras.bias = Some(match (cudnn, cell.resets_after()) {
                (true, _) => self.cudnn_bias(path, cell, rows)?,
                (false, true) => self.array(path, &[Some(2), Some(rows)])?,
                (false, false) => self.array(path, &[Some(rows)])?,
            });
        }
        if *cudnn {
            keras.kernel = each_gate(&keras.kernel, gates, stored_transposed);
            keras.recurrent_kernel = each_gate(&keras.recurrent_kernel, gates, |gate| gate.t().to_owned());
        }
        keras.to_parameters(cell)
    }

    /// Reads the bias of a CuDNN layer: one array with two biases per gate. For an LSTM both are added.
    fn cudnn_bias(&self, path: &str, cell: &Cell, rows: usize) -> Result<ArrayD<f32>> {
        let flat: Array1<f32> = self.array(path, &[Some(2 * rows)])?;
        let wrong = || self.file.refuse(path, format!("shape [{}]", 2 * rows), "another");
        let both = flat.into_shape_with_order((2, rows)).map_err(|_| wrong())?;
        Ok(if matches!(cell, Cell::Lstm(_)) { both.sum_axis(Axis(0)).into_dyn() } else { both.into_dyn() })
    }
}

/// The path at an index; if there is none, the empty path, which no array has.
pub(super) fn array_path(arrays: &[String], at: usize) -> &str {
    arrays.get(at).map_or("", String::as_str)
}

/// Applies a function to the block of columns of every gate.
fn each_gate(kernel: &Array2<f32>, gates: usize, change: impl Fn(ArrayView2<'_, f32>) -> Array2<f32>) -> Array2<f32> {
    let hidden = (kernel.ncols() / gates).max(1);
    let mut changed = Array2::zeros(kernel.dim());
    let blocks = changed.axis_chunks_iter_mut(Axis(1), hidden);
    for (mut to, from) in blocks.zip(kernel.axis_chunks_iter(Axis(1), hidden)) {
        to.assign(&change(from));
    }
    changed
}

/// Transposes a matrix that cuDNN stores as `[hidden, input]`, although the file declares it as `[input, hidden]` (Keras'
/// `hdf5_format.py`, `transpose_input`).
fn stored_transposed(gate: ArrayView2<'_, f32>) -> Array2<f32> {
    let (input, hidden) = gate.dim();
    let flat: Vec<f32> = gate.iter().copied().collect();
    Array::from_shape_fn(Ix2(input, hidden), |(i, h)| flat[i + h * input])
}
