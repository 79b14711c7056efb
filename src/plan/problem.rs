//! The problem that a plan is made for.

use std::iter;
use std::ops::Range;

use super::OP;
use super::invocation::loops;
use super::limits::Limits;
use super::tile::{Tile, packed_words};
use crate::cell::{Cell, WeightType};
use crate::error::{Error, Result};

/// A stack of layers over a batch of sequences.
#[derive(Clone, Debug, PartialEq)]
pub struct Problem {
    /// One cell per direction.
    pub cells: Vec<Cell>,
    /// Features of the input.
    pub input: usize,
    /// Units per layer and direction.
    pub hidden: usize,
    /// Layers of the stack.
    pub layers: usize,
    /// Whether the outputs of two directions are merged into one of the same width. If not, they are concatenated.
    pub merged: bool,
    /// How the weights are stored.
    pub weight_type: WeightType,
    /// Time steps.
    pub time: usize,
    /// Rows of the batch.
    pub batch: usize,
}

impl Problem {
    /// Refuses a problem that no schedule can run on the device: its input, units, layers or directions are 0, or a single step or
    /// a whole array is larger than a binding.
    pub(super) fn check(&self, limits: &Limits) -> Result<()> {
        let (directions, width) = (self.cells.len(), self.hidden.max(self.out()));
        let counts =
            [("input", self.input), ("hidden", self.hidden), ("layers", self.layers), ("directions", directions)];
        for (what, count) in counts {
            if count == 0 {
                return Err(Error::Value { op: OP, what, expected: "at least 1", found: "0".to_owned() });
            }
        }
        let one = Self { batch: self.batch.max(1), ..self.clone() };
        let bindings = [
            ("one step's input projection in bytes", one.step_bytes()),
            ("a layer's weights in bytes", self.widest_weights()),
            ("the input in bytes", floats(&[self.time, self.batch, self.input])),
            ("a layer's output in bytes", floats(&[self.time, self.batch, directions, self.out()])),
            ("the state in bytes", floats(&[self.layers, directions, one.batch, width])),
        ];
        bindings.into_iter().try_for_each(|(what, bytes)| limits.check(OP, what, bytes, limits.binding_bytes))
    }

    /// Largest number of loop iterations of one invocation, in the projection or in a step that is a dispatch of its own.
    pub(super) fn loop_iterations(&self, project: &Tile, step: Option<&Tile>) -> u64 {
        let along = |depth: usize| loops(depth.div_ceil(4));
        let projection = along(self.deepest_input()) + loops(project.rows);
        let step = step.map_or(0, |tile| {
            let sliced = if tile.slices > 1 { loops(tile.rows) + loops(tile.slices) } else { 0 };
            // In a wave a step has two products.
            let products = if self.layers > 1 { 2 } else { 1 };
            products * (along(self.hidden.max(self.out())) + sliced) + loops(tile.rows)
        });
        projection.max(step)
    }

    /// Bytes of a layer's largest matrix of packed weights, all directions. One binding must hold it.
    fn widest_weights(&self) -> u64 {
        let deepest = self.deepest_input().max(self.out());
        let words = packed_words(self.weight_type, self.gates(), self.hidden, deepest);
        (words as u64).saturating_mul(16).saturating_mul(self.cells.len() as u64)
    }

    /// Width of one direction's output.
    pub(crate) fn out(&self) -> usize {
        self.cells.first().map_or(self.hidden, |cell| cell.output_size(self.hidden))
    }

    /// Gates of a unit.
    pub(crate) fn gates(&self) -> usize {
        self.cells.first().map_or(0, |cell| cell.gates().len())
    }

    /// Features of a layer's input.
    pub fn layer_input(&self, layer: usize) -> usize {
        match layer {
            0 => self.input,
            _ if self.merged => self.out(),
            _ => self.out().saturating_mul(self.cells.len()),
        }
    }

    /// Largest number of features of a layer's input. All layers but the lowest have the same.
    fn deepest_input(&self) -> usize {
        if self.layers > 1 { self.input.max(self.layer_input(1)) } else { self.input }
    }

    /// Elements per unit of the projected input: its gates, padded to a whole word if there are several.
    pub(crate) fn projected_gates(&self) -> usize {
        if self.gates() > 1 { 4 } else { 1 }
    }

    /// Bytes of the input projection of one step, all directions.
    pub(super) fn step_bytes(&self) -> u64 {
        floats(&[self.batch, self.hidden, self.projected_gates(), self.cells.len()])
    }

    /// Words of 16 bytes of the weights that project h, per layer and direction.
    pub(crate) fn projection_words(&self) -> usize {
        let projects = self.cells.first().is_some_and(|cell| cell.projection().is_some());
        if projects { packed_words(self.weight_type, 1, self.out(), self.hidden) } else { 0 }
    }

    /// Words of 16 bytes of all packed weights.
    pub(crate) fn weight_words(&self) -> usize {
        let words = |depth| packed_words(self.weight_type, self.gates(), self.hidden, depth);
        let layer = |layer| words(self.layer_input(layer)) + words(self.out()) + self.projection_words();
        let others = if self.layers > 1 { (self.layers - 1) * layer(1) } else { 0 };
        self.cells.len() * (layer(0) + others)
    }

    /// Number of products of a step that depend on each other.
    pub(crate) fn stages(&self) -> usize {
        self.cells.first().map_or(1, |cell| cell.stages().len())
    }

    /// Directions that share their dispatches: all of them if their cells are the same.
    pub(super) fn groups(&self) -> Vec<Range<usize>> {
        let directions = self.cells.len();
        let same = self.cells.windows(2).all(|pair| pair[0] == pair[1]);
        if same { iter::once(0..directions).collect() } else { (0..directions).map(|d| d..d + 1).collect() }
    }

    /// Number of dispatches per layer that merge its directions' outputs.
    pub(super) fn merges(&self) -> usize {
        usize::from(self.merged && self.cells.len() == 2)
    }

    /// Number of dispatches of the whole call if each scan had `at_once` layers and a single chunk.
    pub(super) fn scan_dispatches(&self, at_once: usize) -> usize {
        (self.layers / at_once).saturating_mul(1 + self.groups().len() + self.merges())
    }

    /// Number of dispatches of the whole call if steps were dispatches, and the input were projected in a single chunk.
    pub(super) fn step_dispatches(&self) -> usize {
        let step: usize = self.groups().iter().map(|group| self.cells[group.start].stages().len()).sum();
        self.layers.saturating_mul(self.time.saturating_mul(step).saturating_add(1 + self.merges()))
    }

    /// Whether one binding holds the weights of all layers.
    pub(crate) fn weights_fit_one_binding(&self, limits: &Limits) -> bool {
        self.weight_words() as u64 * 16 <= limits.binding_bytes
    }

    /// The reason why a wave cannot run the problem, if it cannot.
    pub(super) fn why_no_wave(&self, limits: &Limits) -> Option<&'static str> {
        if self.cells.len() != 1 {
            return Some("two directions");
        }
        if self.cells[0].stages().len() != 1 {
            return Some("two dependent products per step");
        }
        if !self.weights_fit_one_binding(limits) {
            return Some("weights beyond one binding");
        }
        None
    }
}

/// Bytes of an array of floats; `u64::MAX` if the number overflows.
fn floats(shape: &[usize]) -> u64 {
    shape.iter().fold(size_of::<f32>() as u64, |bytes, &size| bytes.saturating_mul(size as u64))
}
