//! The configuration of a recurrent stack, read off its weights.

use std::collections::BTreeSet;

use super::norm::whole_name;
use super::{Weights, torch_name};
use crate::cell::{Cell, Direction, GruCell, LstmCell, RnnCell};
use crate::error::{Error, Result};
use crate::nn::{Config, Merge};
use crate::text::listed;

/// PyTorch's names of the parameters of a stack, without suffix.
const PARAMETERS: [&str; 6] = ["weight_ih", "weight_hh", "weight_hr", "bias_ih", "bias_hh", "peephole"];

/// The names of a stack's tensors under a prefix.
pub(super) struct StackNames<'a> {
    weights: &'a Weights,
    prefix: &'a str,
    /// Whether the weights belong to a single cell (`torch.nn.LSTMCell`), whose names have no suffix.
    bare: bool,
}

impl<'a> StackNames<'a> {
    pub(super) fn new(weights: &'a Weights, prefix: &'a str) -> Self {
        Self { weights, prefix, bare: weights.contains(&format!("{prefix}weight_ih")) }
    }

    /// The name of a parameter of one layer and direction.
    pub(super) fn of(&self, parameter: &str, layer: usize, direction: Direction) -> String {
        match (self.bare, layer, direction) {
            (true, 0, Direction::Forward) => format!("{}{parameter}", self.prefix),
            _ => format!("{}{}", self.prefix, torch_name(parameter, layer, direction)),
        }
    }

    /// Refuses tensors of the stack that are not in `used`.
    pub(super) fn check_all_used(&self, used: &[String]) -> Result<()> {
        let of_stack = |name: &str| {
            let parameter = name.strip_prefix(self.prefix);
            let parameter = parameter.map(|name| name.strip_prefix("parametrizations.").unwrap_or(name));
            parameter.is_some_and(|parameter| PARAMETERS.iter().any(|known| parameter.starts_with(known)))
        };
        match self.weights.names().find(|name| of_stack(name) && !used.iter().any(|used| used == name)) {
            Some(name) => Err(self.weights.refuse(name, "no such tensor for this configuration", "one")),
            None => Ok(()),
        }
    }

    fn has(&self, parameter: &str, layer: usize, direction: Direction) -> bool {
        self.weights.contains(&self.of(parameter, layer, direction))
    }

    /// The forward direction, but for a stack that has only the reverse one.
    fn first_direction(&self) -> Direction {
        let has = |direction| self.has("weight_ih", 0, direction);
        match has(Direction::Forward) || !has(Direction::Reverse) {
            true => Direction::Forward,
            false => Direction::Reverse,
        }
    }

    /// The shape of a matrix of the first layer.
    fn matrix(&self, parameter: &str, direction: Direction) -> Result<[usize; 2]> {
        let name = self.of(parameter, 0, direction);
        let shape = self.shape(&name)?;
        shape.try_into().map_err(|_| self.weights.refuse(&name, "a matrix", &format!("shape {shape:?}")))
    }

    /// The shape of a tensor.
    fn shape(&self, name: &str) -> Result<&'a [usize]> {
        if !self.weights.contains(name) {
            return Err(self.absent(&[name.to_owned()]));
        }
        self.weights.shape_of(name)
    }

    /// The names of a configuration's tensors that are not there; not all of them if they are many.
    pub(super) fn missing<C: Clone + Into<Cell>>(&self, config: &Config<C>) -> Vec<String> {
        const LAYERS: usize = 8;
        let mut missing = Vec::new();
        for layer in 0..config.layer_count().min(LAYERS) {
            for (cell, &direction) in config.cells().iter().zip(config.directions()) {
                let names = cell.parameters(1, 1).into_iter().map(|spec| self.of(spec.name, layer, direction));
                missing.extend(names.filter(|name| !self.weights.contains(name)));
            }
        }
        missing
    }

    /// The error for tensors that are not there. If nothing has the prefix, it names the prefixes of the stacks that are there.
    pub(super) fn absent(&self, missing: &[String]) -> Error {
        let (first, more) = match missing {
            [first, more @ ..] => (first.clone(), more),
            [] => (self.of("weight_ih", 0, Direction::Forward), missing),
        };
        let expected = match more {
            [] => "a tensor of this name".to_owned(),
            more => format!("a tensor of this name and of {} more ({})", more.len(), listed(more, ", ")),
        };
        let names: Vec<&str> = self.weights.names().collect();
        let mut found = format!("only {}", listed(&names, ", "));
        let stacks: Vec<String> = self.weights.stacks().iter().map(|prefix| format!("{prefix:?}")).collect();
        let has_prefix = self.weights.stacks().iter().any(|prefix| prefix == self.prefix);
        if !has_prefix && !stacks.is_empty() {
            found = format!(
                "recurrent layers under the prefix {}; all tensors: {}",
                listed(&stacks, ", "),
                listed(&names, ", ")
            );
        }
        self.weights.refuse(&first, &expected, &found)
    }
}

impl Weights {
    /// The prefixes of the recurrent stacks and cells with PyTorch's names, sorted. Each is one that [`Weights::recurrent`] and
    /// [`Config::from_weights`] take.
    ///
    /// # Examples
    /// ```
    /// use gatewise::{Device, nn::{Gru, Lstm}, weights::Weights};
    /// let mut weights = Weights::new();
    /// weights.add("encoder.", &Lstm::config(3, 4).layers(2).random(&Device::Cpu, 7)?)?;
    /// weights.add("module.decoder.", &Gru::config(4, 3).random(&Device::Cpu, 8)?)?;
    /// assert_eq!(weights.stacks(), ["encoder.", "module.decoder."]);
    /// # Ok::<(), gatewise::Error>(())
    /// ```
    pub fn stacks(&self) -> Vec<String> {
        let prefixes = self.names().filter_map(|name| {
            let whole = whole_name(name);
            let ends = ["weight_ih_l0", "weight_ih_l0_reverse", "weight_ih"];
            let prefix = ends.iter().find_map(|end| whole.strip_suffix(end))?;
            (prefix.is_empty() || prefix.ends_with('.')).then(|| prefix.to_owned())
        });
        prefixes.collect::<BTreeSet<String>>().into_iter().collect()
    }
}

/// The options of a cell that follow from its stored parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[doc(hidden)]
#[non_exhaustive]
pub struct StoredOptions {
    /// Whether the weights have biases.
    pub bias: bool,
    /// The width of the projection, if the weights have one.
    pub projection: Option<usize>,
    /// Whether the weights have peepholes.
    pub peephole: bool,
}

/// A cell whose options [`Config::from_weights`] can set from stored weights. The trait is sealed.
pub trait StoredCell: Clone + Into<Cell> + sealed::Sealed {
    /// The cell with these options; `None` if it has no such option.
    #[doc(hidden)]
    fn with_stored(self, options: StoredOptions) -> Option<Self>;
}

mod sealed {
    use crate::cell::{Cell, GruCell, LstmCell, RnnCell};

    pub trait Sealed {}
    impl Sealed for RnnCell {}
    impl Sealed for LstmCell {}
    impl Sealed for GruCell {}
    impl Sealed for Cell {}
}

impl StoredCell for RnnCell {
    fn with_stored(self, StoredOptions { bias, projection, peephole }: StoredOptions) -> Option<Self> {
        (projection.is_none() && !peephole).then_some(Self { bias, ..self })
    }
}

impl StoredCell for GruCell {
    fn with_stored(self, StoredOptions { bias, projection, peephole }: StoredOptions) -> Option<Self> {
        (projection.is_none() && !peephole).then_some(Self { bias, ..self })
    }
}

impl StoredCell for LstmCell {
    fn with_stored(self, StoredOptions { bias, projection, peephole }: StoredOptions) -> Option<Self> {
        Some(Self { bias, projection, peephole, ..self })
    }
}

impl StoredCell for Cell {
    fn with_stored(self, options: StoredOptions) -> Option<Self> {
        match self {
            Self::Rnn(cell) => cell.with_stored(options).map(Self::Rnn),
            Self::Lstm(cell) => cell.with_stored(options).map(Self::Lstm),
            Self::Gru(cell) => cell.with_stored(options).map(Self::Gru),
        }
    }
}

impl Config<Cell> {
    /// Reads the configuration of a recurrent stack off weights with PyTorch's names under a prefix, the kind of its cells as well.
    ///
    /// The rows of the recurrent weight per unit tell the kind of cell: 1 is `torch.nn.RNN`, 3 is `torch.nn.GRU`, 4 is
    /// `torch.nn.LSTM`. Equations and activations are not in a file of weights: they are PyTorch's defaults, so an RNN has tanh. For
    /// other ones (`nonlinearity="relu"`, a GRU that resets before the matmul) give the cell to [`Config::from_weights`].
    ///
    /// # Errors
    /// As [`Config::from_weights`]; [`Error::Format`](crate::Error::Format) if the rows belong to none of the three.
    ///
    /// # Examples
    /// ```
    /// use gatewise::{Device, cell::{Cell, GruCell}, nn::{Config, Gru}, weights::Weights};
    /// let mut weights = Weights::new();
    /// weights.add("net.", &Gru::config(3, 4).layers(2).random(&Device::Cpu, 7)?)?;
    /// let config = Config::from_shapes(&weights, "net.")?;
    /// assert_eq!(config, Config::new(Cell::Gru(GruCell::default()), 3, 4).layers(2));
    /// let gru = weights.recurrent("net.", &config, &Device::Cpu)?;
    /// assert_eq!(gru.output_size(), 4);
    /// # Ok::<(), gatewise::Error>(())
    /// ```
    pub fn from_shapes(weights: &Weights, prefix: &str) -> Result<Self> {
        let names = StackNames::new(weights, prefix);
        let direction = names.first_direction();
        let [rows, columns] = names.matrix("weight_hh", direction)?;
        // With a projection, the recurrent weight has a column per projected unit.
        let hidden = match names.has("weight_hr", 0, direction) {
            true => names.matrix("weight_hr", direction)?[1],
            false => columns,
        };
        let cell: Cell = match (rows.checked_div(hidden), rows.checked_rem(hidden)) {
            (Some(1), Some(0)) => RnnCell::default().into(),
            (Some(3), Some(0)) => GruCell::default().into(),
            (Some(4), Some(0)) => LstmCell::default().into(),
            _ => {
                let expected = "1 row per unit as an RNN has, 3 as a GRU has, or 4 as an LSTM has";
                let found = format!("shape [{rows}, {columns}] for {hidden} units");
                return Err(weights.refuse(&names.of("weight_hh", 0, direction), expected, &found));
            }
        };
        Self::from_weights(weights, prefix, cell)
    }
}

impl<C: StoredCell> Config<C> {
    /// Reads the configuration of a recurrent stack off weights with PyTorch's names under a prefix.
    ///
    /// The caller gives the cell with its activations and equations, because weights do not determine them. The weights determine
    /// the input size, the hidden size, the number of layers, the directions, and whether there are biases, a projection or
    /// peepholes. These options of the given cell are overwritten. Two directions are concatenated, as PyTorch does.
    /// [`Config::from_shapes`] finds the kind of cell as well, and [`Weights::stacks`] the prefixes.
    ///
    /// # Errors
    /// [`Error::Format`](crate::Error::Format) if a tensor is missing, does not fit the others, or belongs to a stack that cannot be
    /// configured. Weights of another kind of cell are refused, because their number of gates differs.
    ///
    /// # Examples
    /// ```
    /// use gatewise::{Device, cell::LstmCell, nn::{Config, Lstm, Merge}, weights::Weights};
    /// let mut weights = Weights::new();
    /// let lstm = Lstm::config(3, 4).layers(2).bidirectional(Merge::Concat).random(&Device::Cpu, 7)?;
    /// weights.add("encoder.", &lstm)?;
    /// let config = Config::from_weights(&weights, "encoder.", LstmCell::default())?;
    /// assert_eq!(config, Lstm::config(3, 4).layers(2).bidirectional(Merge::Concat));
    /// let again = weights.recurrent("encoder.", &config, &Device::Cpu)?;
    /// assert_eq!(again.output_size(), 8);
    /// # Ok::<(), gatewise::Error>(())
    /// ```
    pub fn from_weights(weights: &Weights, prefix: &str, cell: C) -> Result<Self> {
        let names = StackNames::new(weights, prefix);
        let has = |parameter: &str, direction| names.has(parameter, 0, direction);
        let (direction, reversed) = (names.first_direction(), has("weight_ih", Direction::Reverse));
        let [hidden, input] = sizes(&names, &cell.clone().into(), direction)?;
        let options = StoredOptions {
            bias: has("bias_ih", direction) || has("bias_hh", direction),
            projection: projection(&names, direction)?,
            peephole: has("peephole", direction),
        };
        let kind = cell.clone().into().name();
        let cell = cell.with_stored(options).ok_or_else(|| {
            let parameter = if options.peephole { "peephole" } else { "weight_hr" };
            let expected = format!("no such tensor for the cell {kind}");
            weights.refuse(&names.of(parameter, 0, direction), &expected, "one")
        })?;
        let layers = (1..).take_while(|&layer| names.has("weight_ih", layer, direction)).count() + 1;
        let config = Self::new(cell, input, hidden).layers(layers);
        let config = match (direction, reversed) {
            (Direction::Reverse, _) => config.reverse(),
            (Direction::Forward, true) => config.bidirectional(Merge::Concat),
            (Direction::Forward, false) => config,
        };
        check_shapes(&names, &config, [hidden, input])?;
        Ok(config)
    }
}

/// Hidden size and input size of the first layer.
fn sizes(names: &StackNames<'_>, cell: &Cell, direction: Direction) -> Result<[usize; 2]> {
    let [rows, input] = names.matrix("weight_ih", direction)?;
    let [_, out] = names.matrix("weight_hh", direction)?;
    let (gates, kind) = (cell.gates().len(), cell.name());
    // A projection has one column per unit. Without a projection, the state has one element per unit.
    let hidden = match names.has("weight_hr", 0, direction) {
        true => names.matrix("weight_hr", direction)?[1],
        false => out,
    };
    if input == 0 || hidden == 0 || Some(rows) != hidden.checked_mul(gates) {
        let plural = if gates == 1 { "" } else { "s" };
        let expected =
            format!("{gates} row{plural} per unit, as the cell {kind} has, and at least one unit and feature");
        let found = format!("shape [{rows}, {input}] for {hidden} units");
        return Err(names.weights.refuse(&names.of("weight_ih", 0, direction), &expected, &found));
    }
    Ok([hidden, input])
}

/// The width of the projection, if the weights have one.
fn projection(names: &StackNames<'_>, direction: Direction) -> Result<Option<usize>> {
    let stored = names.has("weight_hr", 0, direction);
    stored.then(|| names.matrix("weight_hr", direction).map(|[width, _]| width)).transpose()
}

/// Refuses tensors of the stack that are missing, have another shape, or belong to no parameter.
fn check_shapes<C: StoredCell>(names: &StackNames<'_>, config: &Config<C>, [hidden, input]: [usize; 2]) -> Result<()> {
    let (weights, mut used) = (names.weights, Vec::new());
    let layers = (0..).take_while(|&layer| layer == 0 || names.has("weight_ih", layer, config.directions()[0]));
    for layer in layers {
        let input = if layer == 0 { input } else { config.output_size() };
        for (cell, &direction) in config.cells().iter().zip(config.directions()) {
            for spec in cell.parameters(input, hidden) {
                let name = names.of(spec.name, layer, direction);
                let found = names.shape(&name)?;
                if found != spec.shape {
                    return Err(weights.refuse(&name, &format!("shape {:?}", spec.shape), &format!("shape {found:?}")));
                }
                used.extend(weights.sources(&name));
            }
        }
    }
    names.check_all_used(&used)
}
