//! Tensor operations around the cells. Each writes into its caller's memory; working memory is kept per thread.
//!
//! ```text
//! product      matrices, packed once or for a call      convolution  windows as rows of a product
//! elementwise  single elements, with broadcasting       direct       convolutions of few filters per group
//! reduce       rows, softmax                            layout       moving numbers
//! ```

mod axes;
mod convolution;
mod direct;
mod elementwise;
mod layout;
mod product;
mod reduce;
mod scratch;

pub(crate) use convolution::{PackedFilters, Signal, Windows, conv1d};
pub(crate) use elementwise::{activation, binary, binary_halves, math};
pub(crate) use layout::{gather_rows, pad_rows, strided_copy};
pub(crate) use product::{MatrixOperand, PackedMatrix, matmul};
pub(crate) use reduce::{reduce_rows, softmax_rows};

#[cfg(test)]
mod tests;
