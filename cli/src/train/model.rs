//! The model of all jobs: an optional embedding, a recurrent stack and a linear head.

use std::path::Path;

use gatewise::cell::{Parameters as CellParameters, Sequence};
use gatewise::nn::{Config, State, TrainingOptions};
use gatewise::train::{EmbeddingModule, Graph, LinearModule, MemoryBias, Parameters, RecurrentModule, Var};
use gatewise::weights::Weights;
use gatewise::{Device, Error, Result, Tensor};
use ndarray::{Array3, ArrayD, Axis};

use clap::ValueEnum;

use crate::choice::holdable;
use crate::flow::CellChoice;

/// The cell and the sizes of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ModelShape {
    pub(crate) cell: CellChoice,
    /// The number of symbols, each with a vector of `inputs` numbers; 0 if the model reads numbers.
    pub(crate) symbols: usize,
    pub(crate) inputs: usize,
    pub(crate) hidden: usize,
    pub(crate) layers: usize,
    pub(crate) outputs: usize,
}

#[derive(Clone, Debug)]
pub(crate) struct Model {
    pub(crate) shape: ModelShape,
    embedding: Option<EmbeddingModule>,
    pub(crate) stack: RecurrentModule,
    head: LinearModule,
}

impl Model {
    /// Adds the parameters of a model.
    pub(crate) fn new(parameters: &mut Parameters, shape: ModelShape) -> Result<Self> {
        let ModelShape { cell, symbols, inputs, hidden, layers, outputs } = shape;
        holdable("train", "embedding", "[symbols, inputs]", &[symbols, inputs])?;
        holdable("train", "weights", "[layers, hidden, inputs]", &[layers, hidden, inputs])?;
        holdable("train", "weights", "[layers, hidden, hidden]", &[layers, hidden, hidden])?;
        let embedding =
            (symbols > 0).then(|| EmbeddingModule::new(parameters, "embedding.", [symbols, inputs])).transpose()?;
        let stack =
            RecurrentModule::new(parameters, "stack.", &Config::new(cell.cell(), inputs, hidden).layers(layers))?;
        let head = LinearModule::new(parameters, "head.", [hidden, outputs])?;
        Ok(Self { shape, embedding, stack, head })
    }

    /// Sets the biases of the gates that keep the state; a cell without such gates stays as it is.
    pub(crate) fn set_memory_bias(&self, parameters: &mut Parameters, memory: MemoryBias) -> Result<()> {
        if !self.shape.cell.keeps() {
            return Ok(());
        }
        let mut values = self.stack.stack(parameters)?.parameters()?;
        values.iter_mut().flatten().try_for_each(|p| memory.set(&self.shape.cell.cell(), p))?;
        let device = parameters.device().clone();
        let arrays = values.iter().flatten().flat_map(CellParameters::named);
        for (&id, (_, array)) in self.stack.ids().iter().zip(arrays) {
            parameters.set(id, Tensor::from_array(&device, &array)?)?;
        }
        Ok(())
    }

    /// Draws the input weights again, uniform in `[-1/sqrt(inputs), 1/sqrt(inputs))`, as a linear layer does (LeCun, Bottou, Orr and
    /// Mueller 1998). PyTorch's bound `1/sqrt(hidden)` is so small that one input in a hundred steps hardly moves a gate.
    pub(crate) fn draw_input_weights(&self, parameters: &mut Parameters, seed: u64) -> Result<()> {
        let Some(&id) = self.stack.ids().first() else { return Ok(()) };
        let shape = parameters.get(id)?.shape().to_vec();
        let mut rng = fastrand::Rng::with_seed(seed);
        let bound = 1.0 / (self.shape.inputs as f32).sqrt();
        let weights = ArrayD::from_shape_simple_fn(shape, || bound * (2.0 * rng.f32() - 1.0));
        let device = parameters.device().clone();
        parameters.set(id, Tensor::from_array(&device, &weights)?)
    }

    /// The vectors of symbols given step by step, `[T, B, inputs]`.
    pub(crate) fn vectors(&self, graph: &mut Graph, symbols: &[usize], batch: usize) -> Result<Var> {
        let Some(embedding) = &self.embedding else {
            let (what, found) = ("model", "one that reads numbers".to_owned());
            return Err(Error::Value { op: "train", what, expected: "one that reads symbols", found });
        };
        let vectors = embedding.forward(graph, symbols)?;
        graph.reshape(vectors, &[symbols.len() / batch.max(1), batch, self.shape.inputs])
    }

    /// The stack's output at every step.
    pub(crate) fn outputs(
        &self,
        graph: &mut Graph,
        x: Var,
        state: Option<&mut State>,
        sequence: &Sequence,
    ) -> Result<Var> {
        self.stack.forward(graph, x, state, sequence, &TrainingOptions::default())
    }

    /// The head's scores of the stack's outputs, `[.., outputs]`.
    pub(crate) fn scores(&self, graph: &mut Graph, y: Var) -> Result<Var> {
        self.head.forward(graph, y)
    }

    /// The scores at every step of one sequence of symbols, `[T, 1, outputs]`; advances the state.
    pub(crate) fn read(&self, parameters: &Parameters, symbols: &[usize], state: &mut State) -> Result<Array3<f32>> {
        let mut graph = Graph::new(parameters, gatewise::train::Mode::Evaluation);
        let x = self.vectors(&mut graph, symbols, 1)?;
        let y = self.outputs(&mut graph, x, Some(state), &Sequence::new())?;
        let scores = self.scores(&mut graph, y)?;
        let scores = graph.value(scores)?.clone();
        graph.submit()?;
        scores.to_array()
    }

    /// The metadata of a file with this model's weights.
    pub(crate) fn metadata(&self, job: &str) -> Vec<(String, String)> {
        let ModelShape { cell, symbols, inputs, hidden, layers, outputs } = self.shape;
        let number = |key: &str, value: usize| (key.to_owned(), value.to_string());
        let word = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        vec![
            word("job", job),
            word("cell", cell.name()),
            number("symbols", symbols),
            number("inputs", inputs),
            number("hidden", hidden),
            number("layers", layers),
            number("outputs", outputs),
        ]
    }

    /// Reads the model that a job wrote.
    pub(crate) fn load(path: &Path, job: &str, device: &Device) -> Result<(Self, Parameters, Weights)> {
        let weights = Weights::from_file(path)?;
        weights.check_finite()?;
        let refuse = |field: &str, expected: &str, found: &str| Error::Format {
            file: path.display().to_string(),
            field: format!("metadata {field}"),
            expected: expected.to_owned(),
            found: found.to_owned(),
        };
        let number = |key: &str| -> Result<usize> {
            let word = weights.metadata(key)?;
            word.parse().map_err(|_| refuse(key, "a whole number", word))
        };
        let found = weights.metadata("job")?;
        if found != job {
            return Err(refuse("job", job, found));
        }
        let name = weights.metadata("cell")?;
        let cell = CellChoice::from_str(name, false).map_err(|_| refuse("cell", "rnn, lstm or gru", name))?;
        let shape = ModelShape {
            cell,
            symbols: number("symbols")?,
            inputs: number("inputs")?,
            hidden: number("hidden")?,
            layers: number("layers")?,
            outputs: number("outputs")?,
        };
        let mut parameters = Parameters::new(device, 0);
        let model = Self::new(&mut parameters, shape)?;
        parameters.load(&weights)?;
        Ok((model, parameters, weights))
    }
}

/// The index of the greatest score in every row of `[.., C]`.
pub(crate) fn best_classes<D: ndarray::Dimension + ndarray::RemoveAxis>(scores: &ndarray::Array<f32, D>) -> Vec<usize> {
    let best = |row: ndarray::ArrayView1<'_, f32>| {
        row.iter().enumerate().fold(
            (0, f32::NEG_INFINITY),
            |best, (at, &score)| {
                if score > best.1 { (at, score) } else { best }
            },
        )
    };
    scores.lanes(Axis(scores.ndim() - 1)).into_iter().map(|row| best(row).0).collect()
}
