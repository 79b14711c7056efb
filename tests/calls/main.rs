//! Calls of layers and operations on every device of the machine. The promises share one program, so that it is linked once and
//! compiles each pipeline once.
#![cfg(feature = "gpu")]

#[path = "../common/mod.rs"]
mod common;
mod device_sequence;
mod edges;
mod encoder;
mod layout;
mod loop_cap;
mod not_finite;
mod onnx_ops;
mod output;
mod states;
mod submission;
#[path = "../parity/support.rs"]
mod support;
mod support_table;
mod threads;
mod tuning;
