//! ONNX models: fixtures against onnxruntime, hand-made graphs against hand-made numbers, broken files against their messages.
#![cfg(all(feature = "gpu", feature = "onnx"))]

mod broken;
mod build;
mod fixtures;
mod forms;
mod stored;
