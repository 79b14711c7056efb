//! Training: parameters by name, a graph that records a forward pass and its gradients, losses, optimisers, and a trainer that
//! puts them together.
//!
//! A [`Graph`] records everything into one [`Recorder`](crate::Recorder). On a GPU the forward pass, the loss, its gradients,
//! the clipping and the update of all parameters are one submission. Only values that the caller asks for are read back.
//!
//! A module ([`LinearModule`], [`EmbeddingModule`], [`Conv1dModule`], [`RecurrentModule`]) registers its parameters in
//! [`Parameters`], as a `torch.nn.Module` does, and keeps their ids. The layers of [`nn`](crate::nn) hold fixed weights.
//!
//! # Examples
//! A recurrent layer learns to distinguish rising from falling sequences:
//! ```
//! use gatewise::cell::Sequence;
//! use gatewise::nn::{Lstm, TrainingOptions};
//! use gatewise::train::{Adam, CrossEntropyOptions, Graph, LinearModule, Parameters, RecurrentModule, Trainer, Var};
//! use gatewise::{Device, Tensor};
//! use ndarray::Array3;
//!
//! struct Model {
//!     lstm: RecurrentModule,
//!     head: LinearModule,
//! }
//!
//! impl Model {
//!     fn scores(&self, graph: &mut Graph, x: &Tensor) -> gatewise::Result<Var> {
//!         let x = graph.input(x);
//!         let sequence = Sequence::new();
//!         let y = self.lstm.forward(graph, x, None, &sequence, &TrainingOptions::default())?;
//!         let last = graph.last_step(y, &sequence)?;
//!         self.head.forward(graph, last)
//!     }
//! }
//!
//! let device = Device::Cpu;
//! let mut parameters = Parameters::new(&device, 7);
//! let lstm = RecurrentModule::new(&mut parameters, "lstm.", &Lstm::config(1, 8))?;
//! let head = LinearModule::new(&mut parameters, "head.", [8, 2])?;
//! let model = Model { lstm, head };
//!
//! let x = Array3::from_shape_fn((6, 4, 1), |(t, b, _)| if b % 2 == 0 { t as f32 } else { 6.0 - t as f32 });
//! let (x, classes) = (Tensor::from_array(&device, &x)?, [1, 0, 1, 0]);
//! let mut trainer = Trainer::new(parameters, Adam::default(), 0.02)?;
//! let mut losses = Vec::new();
//! for _ in 0..40 {
//!     let report = trainer.step(|graph| {
//!         let scores = model.scores(graph, &x)?;
//!         graph.cross_entropy(scores, &classes, &CrossEntropyOptions::default())
//!     })?;
//!     losses.push(report.loss);
//! }
//! assert!(losses[39] < 0.3 * losses[0], "{losses:?}");
//! # Ok::<(), gatewise::Error>(())
//! ```

mod checkpoint;
mod flow;
mod graph;
mod layers;
mod memory;
mod optimizer;
mod parameters;
mod schedule;
mod tbptt;
mod trainer;

pub use crate::op::{Adam, Clip, RmsProp, Rule, Sgd};
pub use checkpoint::{Checkpoint, Checkpoints};
pub use flow::{GradientFlow, LayerFlow, Openings, gradient_flow, gradient_flow_bytes};
pub use graph::{CrossEntropyOptions, Gradients, Graph, LossOptions, Mode, RecurrentOutput, Reduce, Var};
pub use layers::{Conv1dModule, EmbeddingModule, LinearModule, RecurrentModule};
pub use memory::MemoryBias;
pub use optimizer::Optimizer;
#[cfg(feature = "unstable-internals")]
pub use parameters::normal;
pub use parameters::{ParameterId, Parameters};
pub use schedule::{Plateau, Schedule};
pub use tbptt::{CarriedState, Tbptt, Window};
pub use trainer::{StepReport, Trainer};
