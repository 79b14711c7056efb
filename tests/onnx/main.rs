//! ONNX models: fixtures compared with onnxruntime, other forms of operators, and broken files with their messages.
#![cfg(all(feature = "gpu", feature = "onnx"))]

mod broken;
mod build;
mod fixtures;
mod forms;
#[path = "../common/graph.rs"]
mod graph;
mod peer_faults;
mod replay;
mod stored;
