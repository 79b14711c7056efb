//! Gradients of the reference and their flow through time, against central differences.

mod gradient_flow;
mod gradients;
