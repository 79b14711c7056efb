//! Files on disk: weights under PyTorch's names, gate orders of other engines, and files that are replaced as a whole.

#[cfg(feature = "torch")]
mod archive;
#[cfg(feature = "torch")]
mod checkpoints;
#[cfg(feature = "gpu")]
mod export;
mod files;
mod gate_orders;
mod normalised;
#[cfg(feature = "torch")]
mod pickles;
mod weights;
