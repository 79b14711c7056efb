//! The configuration of a recurrent stack, and the checks before it goes to a device.

use ndarray::{ArrayD, IxDyn};

use super::recurrent::Recurrent;
use crate::cell::{Cell, Direction, ParameterSpec, Parameters, WeightType};
use crate::error::{Error, Result, check_shape, elements};
use crate::memory;
use crate::ops::Binary;
use crate::plan::{PlanKind, Problem};
use crate::tensor::Device;

const OP: &str = "Recurrent";
/// No size of a stack is larger, so that products of two sizes do not overflow.
const LARGEST: usize = 1 << 24;
/// No stack has more layers: every one of them takes some kilobytes, however few its units are.
const MOST_LAYERS: usize = 1 << 16;

/// How the outputs of two directions are merged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Merge {
    /// Concatenation, forward first (PyTorch; Keras `concat`).
    #[default]
    Concat,
    /// Their sum (Keras `sum`).
    Sum,
    /// Their product (Keras `mul`).
    Mul,
    /// Their mean (Keras `ave`).
    Ave,
}

impl Merge {
    pub(super) fn op(self) -> Option<Binary> {
        match self {
            Self::Concat => None,
            Self::Sum => Some(Binary::Add),
            Self::Mul => Some(Binary::Mul),
            Self::Ave => Some(Binary::Mean),
        }
    }
}

/// The configuration of a stack. `C` is the cell: [`RnnCell`](crate::cell::RnnCell), [`LstmCell`](crate::cell::LstmCell),
/// [`GruCell`](crate::cell::GruCell), or [`Cell`] if the kind is known only at run time.
#[derive(Clone, Debug, PartialEq)]
pub struct Config<C = Cell> {
    pub(super) cell: C,
    reverse_cell: Option<C>,
    pub(super) input: usize,
    pub(super) hidden: usize,
    pub(super) layers: usize,
    pub(super) directions: Vec<Direction>,
    pub(super) merge: Merge,
    pub(super) weight_type: WeightType,
    pub(super) plan: Option<PlanKind>,
}

impl<C: Clone + Into<Cell>> Config<C> {
    /// One forward layer of `hidden` units over `input` features.
    pub fn new(cell: C, input: usize, hidden: usize) -> Self {
        let directions = vec![Direction::Forward];
        Self {
            cell,
            reverse_cell: None,
            input,
            hidden,
            layers: 1,
            directions,
            merge: Merge::Concat,
            weight_type: WeightType::F32,
            plan: None,
        }
    }

    /// Sets the number of layers; each layer reads the one below.
    pub fn layers(mut self, layers: usize) -> Self {
        self.layers = layers;
        self
    }

    /// Runs every layer in both directions of time.
    pub fn bidirectional(mut self, merge: Merge) -> Self {
        self.directions = vec![Direction::Forward, Direction::Reverse];
        self.merge = merge;
        self
    }

    /// Runs every layer from the last step to the first (ONNX `reverse`). Each output stays at its step's index.
    pub fn reverse(mut self) -> Self {
        self.directions = vec![Direction::Reverse];
        self
    }

    /// Gives the reverse direction a cell of its own (ONNX lists activations per direction). It must have the same gates.
    pub fn reverse_cell(mut self, cell: C) -> Self {
        self.reverse_cell = Some(cell);
        self
    }

    /// Stores the weights in a narrower type, so that every step reads less memory.
    pub fn weight_type(mut self, weight_type: WeightType) -> Self {
        self.weight_type = weight_type;
        self
    }

    /// Runs every call on a GPU by this kind of plan, rather than by the one that suits the call's shape. A call that this kind
    /// cannot run is refused.
    pub fn plan(mut self, kind: PlanKind) -> Self {
        self.plan = Some(kind);
        self
    }

    /// Collects the parameters of all layers and directions, one by one: `fetch(layer, direction, spec)`.
    ///
    /// # Errors
    /// Errors of `fetch`; [`Error::Shape`] if it returns another shape than it was asked for; [`Error::Value`] for
    /// an impossible configuration.
    pub fn collect(
        &self,
        mut fetch: impl FnMut(usize, Direction, &ParameterSpec) -> Result<ArrayD<f32>>,
    ) -> Result<Vec<Vec<Parameters>>> {
        self.check()?;
        let problem = self.problem(0, 0);
        let cells = self.cells();
        let mut one = |layer: usize, at: usize| {
            let direction = self.directions[at];
            Parameters::collect(&cells[at], problem.layer_input(layer), self.hidden, |spec| {
                fetch(layer, direction, spec)
            })
        };
        (0..self.layers).map(|layer| (0..cells.len()).map(|at| one(layer, at)).collect()).collect()
    }

    /// The stack with PyTorch's initial weights, uniform in `[-1/sqrt(hidden), 1/sqrt(hidden)]`; equal seeds give equal
    /// weights.
    ///
    /// # Errors
    /// As [`Config::build`].
    pub fn random(&self, device: &Device, seed: u64) -> Result<Recurrent<C>> {
        self.build(device, self.random_parameters(seed)?)
    }

    /// The parameters of [`Config::random`], on the host.
    ///
    /// # Errors
    /// [`Error::Value`] for an impossible configuration; [`Error::OutOfMemory`].
    pub fn random_parameters(&self, seed: u64) -> Result<Vec<Vec<Parameters>>> {
        let mut rng = fastrand::Rng::with_seed(seed);
        let bound = 1.0 / (self.hidden.max(1) as f32).sqrt();
        self.collect(|_, _, spec| {
            let number = || (2.0 * rng.f32() - 1.0) * bound;
            let numbers = memory::collected(OP, elements(OP, spec.name, &spec.shape)?, std::iter::repeat_with(number))?;
            memory::shaped(OP, IxDyn(&spec.shape), numbers)
        })
    }

    /// Puts the stack on a device.
    ///
    /// # Shapes
    /// `parameters[layer][direction]` as [`Cell::parameters`] says; a layer above the first reads the output of the one below.
    ///
    /// # Errors
    /// [`Error::Shape`] for a parameter that does not fit. [`Error::Value`] for an impossible configuration, or for a
    /// NaN or an infinity among weights of type `Int8`. [`Error::Limit`] or [`Error::OutOfMemory`] if the weights do
    /// not fit the device.
    pub fn build(&self, device: &Device, parameters: Vec<Vec<Parameters>>) -> Result<Recurrent<C>> {
        self.check_parameters(&parameters)?;
        for (layer, directions) in parameters.iter().enumerate() {
            for (direction, p) in self.directions.iter().zip(directions) {
                let place = || format!("layer {layer}, {direction:?}").to_lowercase();
                self.weight_type.check("Recurrent", place, p)?;
            }
        }
        let round = |p| self.weight_type.round_parameters(p);
        let parameters: Vec<Vec<Parameters>> = match self.weight_type {
            WeightType::F32 => parameters,
            _ => parameters.into_iter().map(|layer| layer.into_iter().map(round).collect()).collect(),
        };
        Recurrent::upload(self.clone(), device, &parameters)
    }

    pub(super) fn check_parameters(&self, parameters: &[Vec<Parameters>]) -> Result<()> {
        let cells = self.cells();
        self.check()?;
        check_shape(OP, "parameters", &[self.layers], &[parameters.len()])?;
        let problem = self.problem(0, 0);
        for (layer, directions) in parameters.iter().enumerate() {
            check_shape(OP, "parameters of a layer", &[cells.len()], &[directions.len()])?;
            for (cell, p) in cells.iter().zip(directions) {
                p.check(cell, problem.layer_input(layer), self.hidden)?;
            }
        }
        Ok(())
    }

    /// The number of layers.
    pub fn layer_count(&self) -> usize {
        self.layers
    }

    /// Features of the input.
    pub fn input_size(&self) -> usize {
        self.input
    }

    /// Units per layer and direction.
    pub fn hidden_size(&self) -> usize {
        self.hidden
    }

    pub(super) fn check(&self) -> Result<()> {
        let (wide, deep) = ((LARGEST, "between 1 and 16777216"), (MOST_LAYERS, "between 1 and 65536"));
        let sizes = [("input", self.input, wide), ("hidden", self.hidden, wide), ("layers", self.layers, deep)];
        for (what, size, (most, expected)) in sizes {
            if !(1..=most).contains(&size) {
                return Err(Error::Value { op: OP, what, expected, found: size.to_string() });
            }
        }
        let cells = self.cells();
        cells.iter().try_for_each(|cell| cell.check(self.hidden))?;
        let described = |cell: &Cell| (cell.gates(), cell.stages(), cell.parameters(self.input, self.hidden));
        if cells.iter().any(|cell| cell.name() != cells[0].name() || described(cell) != described(&cells[0])) {
            return Err(Error::Value {
                op: OP,
                what: "reverse_cell",
                expected: "a cell with the same gates and parameters",
                found: format!("{cells:?}"),
            });
        }
        Ok(())
    }

    /// The configuration with a cell whose kind is known only at run time.
    pub(crate) fn untyped(&self) -> Config<Cell> {
        Config {
            cell: self.cell(),
            reverse_cell: self.reverse_cell.clone().map(Into::into),
            input: self.input,
            hidden: self.hidden,
            layers: self.layers,
            directions: self.directions.clone(),
            merge: self.merge,
            weight_type: self.weight_type,
            plan: self.plan,
        }
    }

    pub(super) fn cell(&self) -> Cell {
        self.cell.clone().into()
    }

    /// The directions of every layer.
    pub(crate) fn directions(&self) -> &[Direction] {
        &self.directions
    }

    /// How two directions' outputs become one.
    pub(crate) fn merge(&self) -> Merge {
        self.merge
    }

    /// One cell per direction.
    pub(crate) fn cells(&self) -> Vec<Cell> {
        let of = |direction: &Direction| match (direction, &self.reverse_cell) {
            (Direction::Reverse, Some(cell)) => cell.clone().into(),
            _ => self.cell(),
        };
        self.directions.iter().map(of).collect()
    }

    pub(super) fn problem(&self, time: usize, batch: usize) -> Problem {
        Problem {
            cells: self.cells(),
            input: self.input,
            hidden: self.hidden,
            layers: self.layers,
            merged: self.merge != Merge::Concat,
            weight_type: self.weight_type,
            time,
            batch,
        }
    }

    /// Shapes of a state's `h` and `s`.
    pub(super) fn state_shapes(&self, batch: usize) -> ([usize; 3], Option<[usize; 3]>) {
        let rows = self.layers * self.directions.len();
        let s = self.cell().has_cell_state().then_some([rows, batch, self.hidden]);
        ([rows, batch, self.out()], s)
    }

    /// Width of one direction's output.
    pub(super) fn out(&self) -> usize {
        self.cell().output_size(self.hidden)
    }

    /// Width of the stack's output.
    pub fn output_size(&self) -> usize {
        if self.merge == Merge::Concat { self.out() * self.directions.len() } else { self.out() }
    }
}
