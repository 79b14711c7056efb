//! The lookup table.

use ndarray::Array2;

use crate::error::Result;
use crate::ops;
use crate::path::{Device, Recorder};
use crate::tensor::Tensor;

/// A vector for every symbol (`torch.nn.Embedding`).
#[derive(Clone, Debug)]
pub struct Embedding {
    table: Tensor,
}

impl Embedding {
    /// Uploads the table.
    ///
    /// # Shapes
    /// `table [symbols, width]`.
    ///
    /// # Errors
    /// [`Error::Limit`](crate::Error::Limit) if it does not fit the device.
    ///
    /// # Examples
    /// ```
    /// use gatewise::{Device, nn::Embedding};
    /// use ndarray::{Array2, array};
    /// let embedding = Embedding::new(&Device::Cpu, &array![[0.0, 1.0], [2.0, 3.0]])?;
    /// let x: Array2<f32> = embedding.forward(&[1, 1, 0])?.to_array()?;
    /// assert_eq!(x, array![[2.0, 3.0], [2.0, 3.0], [0.0, 1.0]]);
    /// # Ok::<(), gatewise::Error>(())
    /// ```
    pub fn new(device: &Device, table: &Array2<f32>) -> Result<Self> {
        Ok(Self { table: Tensor::from_array(device, table)? })
    }

    /// Copies the table to the host: `[symbols, width]`.
    ///
    /// # Errors
    /// The errors of a read-back, such as [`Error::DeviceLost`](crate::Error::DeviceLost).
    pub fn to_weight(&self) -> Result<Array2<f32>> {
        self.table.to_array()
    }

    /// Looks up the symbols' vectors; the result stays on the device.
    ///
    /// # Shapes
    /// Returns `[symbols.len(), width]`.
    ///
    /// # Errors
    /// [`Error::Value`](crate::Error::Value) for a symbol that the table does not have.
    pub fn forward(&self, symbols: &[usize]) -> Result<Tensor> {
        let mut recorder = self.table.device().recorder();
        let y = self.record(&mut recorder, symbols)?;
        recorder.submit()?;
        Ok(y)
    }

    /// Records [`Embedding::forward`].
    ///
    /// # Errors
    /// As [`Embedding::forward`].
    pub fn record(&self, recorder: &mut Recorder, symbols: &[usize]) -> Result<Tensor> {
        ops::gather_rows(recorder, &self.table, symbols)
    }

    /// Records, for every row of scores, the choice of the symbol with the highest score, and the look-up of its
    /// vector. So a greedy decoder's next input never leaves the device.
    ///
    /// # Shapes
    /// `scores [M, symbols]`; returns the symbols as [`ops::argmax_rows`] gives them, `[M]`, and their vectors, `[M, width]`.
    ///
    /// # Errors
    /// As [`ops::gather_best`].
    pub fn record_best(&self, recorder: &mut Recorder, scores: &Tensor) -> Result<(Tensor, Tensor)> {
        ops::gather_best(recorder, &self.table, scores)
    }
}
