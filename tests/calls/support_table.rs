//! The table of cells, options and paths in `SUPPORT.md`, made by running every entry of it.
//!
//! An entry names the paths that carry the option out: they agree with the reference, and the option changes the numbers.
//! `UPDATE_SUPPORT=1 cargo test --test calls support_table` writes the table anew.

use gatewise::cell::{Activation, Cell, Forget, GruCell, LstmCell, Mix, Pad, Reset, RnnCell, Sequence, WeightType};
use gatewise::gpu::GpuOptions;
use gatewise::nn::{Config, DeviceSequence, Merge};
use gatewise::{Device, Result, Tensor};
use ndarray::{Array2, Array3};

const BEGIN: &str = "<!-- the table below is written and checked by tests/calls/support_table.rs -->\n";
const END: &str = "<!-- end of the table -->\n";

const TIME: usize = 6;
const BATCH: usize = 3;
const INPUT: usize = 4;
const HIDDEN: usize = 6;
const TOLERANCE: f32 = 2e-6;
/// The CPU's integer products read the state rounded to 16 bits.
const INT8_TOLERANCE: f32 = 3e-4;

/// A plain layer with an option of the table set.
#[derive(Clone)]
struct Variant {
    config: Config<Cell>,
    sequence: Sequence,
    /// A mask and resets that lie on the device.
    on_device: Option<[Array2<bool>; 2]>,
    initial: bool,
    int8: bool,
}

impl Variant {
    fn plain(cell: Cell) -> Self {
        let (config, sequence) = (Config::new(cell, INPUT, HIDDEN), Sequence::new());
        Self { config, sequence, on_device: None, initial: true, int8: false }
    }

    fn run(&self, device: &Device) -> Result<Vec<f32>> {
        let layer = self.config.random(device, 11)?;
        let mut state = layer.zero_state(BATCH)?;
        if self.initial {
            let wave = |scale: f32| move |(l, b, j): (usize, usize, usize)| scale * ((l + 5 * b + 3 * j) as f32).sin();
            let h = Array3::from_shape_fn(state.to_h()?.dim(), wave(0.6));
            let s = state.to_s()?.map(|s| Array3::from_shape_fn(s.dim(), wave(1.4)));
            state = layer.initial_state(h.view(), s.as_ref().map(|s| s.view()))?;
        }
        let x = Array3::from_shape_fn((TIME, BATCH, INPUT), |(t, b, i)| 1.5 * ((2 * t + 7 * b + 3 * i) as f32).cos());
        let numbers =
            |answers: &Array2<bool>| Tensor::from_array(device, &answers.mapv(|yes| f32::from(u8::from(yes))));
        let tensors = self
            .on_device
            .as_ref()
            .map(|[mask, reset]| -> Result<_> { Ok((numbers(mask)?, numbers(reset)?)) })
            .transpose()?;
        let sequence = DeviceSequence::from(&self.sequence);
        let sequence = tensors.as_ref().map_or(sequence, |(mask, reset)| sequence.mask(mask).reset(reset));
        let y = layer.forward_sequence(&Tensor::from_array(device, &x)?, &mut state, sequence)?;
        let state = [Some(state.to_h()?), state.to_s()?].into_iter().flatten().flatten();
        Ok(y.to_vec()?.into_iter().chain(state).collect())
    }
}

type Change = fn(Variant) -> Variant;
type CellOption = fn(Cell) -> Option<Cell>;

fn rnn(cell: Cell, change: impl Fn(&mut RnnCell)) -> Option<Cell> {
    let Cell::Rnn(mut rnn) = cell else { return None };
    change(&mut rnn);
    Some(rnn.into())
}

fn lstm(cell: Cell, change: impl Fn(&mut LstmCell)) -> Option<Cell> {
    let Cell::Lstm(mut lstm) = cell else { return None };
    change(&mut lstm);
    Some(lstm.into())
}

fn gru(cell: Cell, change: impl Fn(&mut GruCell)) -> Option<Cell> {
    let Cell::Gru(mut gru) = cell else { return None };
    change(&mut gru);
    Some(gru.into())
}

fn activated(cell: Cell, activation: Activation) -> Cell {
    // Linear gates multiply the state by itself: it overflows within a few steps.
    let linear = matches!(activation, Activation::Identity | Activation::Affine { .. });
    let gate = if linear { Activation::Sigmoid } else { activation };
    match cell {
        Cell::Rnn(c) => RnnCell { activation, ..c }.into(),
        Cell::Lstm(c) => LstmCell { gate, candidate: activation, output: activation, ..c }.into(),
        Cell::Gru(c) => GruCell { gate, candidate: activation, ..c }.into(),
        cell => panic!("a cell without a test: {cell:?}"),
    }
}

fn with_activation(variant: Variant, cell: Cell, activation: Activation) -> Variant {
    Variant { config: Config::new(activated(cell, activation), INPUT, HIDDEN), ..variant }
}

/// Options of a cell: a variant of its description.
const CELL_OPTIONS: &[(&str, CellOption)] = &[
    ("the lectures' form (all sigmoid; GRU resets before)", |cell| {
        Some(match cell {
            Cell::Rnn(_) => RnnCell::LECTURE.into(),
            Cell::Lstm(_) => LstmCell::LECTURE.into(),
            Cell::Gru(_) => GruCell::LECTURE.into(),
            cell => panic!("a cell without a test: {cell:?}"),
        })
    }),
    ("without bias", |cell| {
        rnn(cell, |c| c.bias = false)
            .or_else(|| lstm(cell, |c| c.bias = false))
            .or_else(|| gru(cell, |c| c.bias = false))
    }),
    ("gate clip (ONNX `clip`)", |cell| {
        rnn(cell, |c| c.gate_clip = Some(0.4))
            .or_else(|| lstm(cell, |c| c.gate_clip = Some(0.4)))
            .or_else(|| gru(cell, |c| c.gate_clip = Some(0.4)))
    }),
    ("cell clip", |cell| lstm(cell, |c| c.cell_clip = Some(0.5))),
    ("without forget gate (1997)", |cell| lstm(cell, |c| c.forget = Forget::Never)),
    ("coupled gates (ONNX `input_forget`)", |cell| lstm(cell, |c| c.forget = Forget::Coupled)),
    ("peepholes", |cell| lstm(cell, |c| c.peephole = true)),
    ("projection (PyTorch `proj_size`)", |cell| lstm(cell, |c| c.projection = Some(3))),
    ("reset before the matmul", |cell| gru(cell, |c| c.reset = Reset::Before)),
    ("update gate weighs the new candidate", |cell| gru(cell, |c| c.mix = Mix::TakesNew)),
];

/// Options of a layer or a call, open to every cell.
const LAYER_OPTIONS: &[(&str, Change)] = &[
    ("initial state", |v| Variant { initial: false, ..v }),
    ("layers", |v| Variant { config: v.config.layers(3), ..v }),
    ("reverse", |v| Variant { config: v.config.reverse(), ..v }),
    ("both directions, concat", |v| Variant { config: v.config.bidirectional(Merge::Concat), ..v }),
    ("both directions, sum", |v| Variant { config: v.config.bidirectional(Merge::Sum), ..v }),
    ("both directions, mul", |v| Variant { config: v.config.bidirectional(Merge::Mul), ..v }),
    ("both directions, ave", |v| Variant { config: v.config.bidirectional(Merge::Ave), ..v }),
    ("lengths, 0 included", |v| Variant { sequence: v.sequence.lengths([4, 0, TIME]), ..v }),
    ("masks of any pattern", |v| Variant { sequence: v.sequence.mask(pattern(3, 1)), ..v }),
    ("padding by hold (Keras)", |v| Variant { sequence: v.sequence.mask(pattern(3, 1)).pad(Pad::Hold), ..v }),
    ("resets inside a sequence", |v| Variant { sequence: v.sequence.reset(pattern(4, 3)), ..v }),
    ("masks and resets as tensors of the device", |v| Variant { on_device: Some([pattern(3, 1), pattern(4, 3)]), ..v }),
    ("bf16 weights", |v| Variant { config: v.config.weight_type(WeightType::Bf16), ..v }),
    ("f16 weights", |v| Variant { config: v.config.weight_type(WeightType::F16), ..v }),
    ("int8 weights, one scale per row", |v| Variant {
        config: v.config.weight_type(WeightType::Int8),
        int8: true,
        ..v
    }),
];

fn pattern(modulus: usize, wanted: usize) -> Array2<bool> {
    Array2::from_shape_fn((TIME, BATCH), |(t, b)| (t + b) % modulus == wanted % modulus)
}

fn table() -> String {
    let gpu = Device::gpu(&GpuOptions { software: true, ..Default::default() })
        .expect("install mesa-vulkan-drivers and libvulkan1: the GPU path is tested on every machine");
    let devices = [("R", Device::Reference), ("C", Device::Cpu), ("G", gpu)];
    let cells: [Cell; 3] = [RnnCell::default().into(), LstmCell::default().into(), GruCell::default().into()];
    let entry = |variant: &Variant, plain: Option<&Variant>| {
        let right = variant.run(&Device::Reference);
        let mut letters = Vec::new();
        for (letter, device) in &devices {
            let (Ok(got), Ok(right)) = (variant.run(device), &right) else { continue };
            let close = |a: &[f32], b: &[f32]| {
                // Gates without a bound let the numbers grow: what counts is the error beside the largest of them.
                let tolerance = if variant.int8 { INT8_TOLERANCE } else { TOLERANCE };
                let largest = b.iter().fold(1.0_f32, |most, b| most.max(b.abs()));
                a.len() == b.len() && a.iter().zip(b).all(|(a, b)| (a - b).abs() <= tolerance * largest)
            };
            let ignored = plain.is_some_and(|plain| plain.run(device).is_ok_and(|plain| close(&got, &plain)));
            if close(&got, right) && !ignored {
                letters.push(*letter);
            }
        }
        if letters.is_empty() { "none".to_owned() } else { letters.join(" ") }
    };
    let mut rows = vec!["| option | RNN | LSTM | GRU |".to_owned(), "| --- | --- | --- | --- |".to_owned()];
    let mut row = |name: &str, entries: [String; 3]| rows.push(format!("| {name} | {} |", entries.join(" | ")));
    row("PyTorch's form", cells.map(|cell| entry(&Variant::plain(cell), None)));
    for (name, option) in CELL_OPTIONS {
        let of = |cell: Cell| match option(cell) {
            Some(changed) => entry(&Variant::plain(changed), Some(&Variant::plain(cell))),
            None => "-".to_owned(),
        };
        row(name, cells.map(of));
    }
    for activation in Activation::ALL.into_iter().chain([Activation::HARD_SIGMOID_KERAS3]) {
        let of = |cell: Cell| {
            let other = if activation == Activation::Softsign { Activation::Identity } else { Activation::Softsign };
            let plain = Variant::plain(cell);
            entry(&with_activation(plain.clone(), cell, activation), Some(&with_activation(plain, cell, other)))
        };
        row(&format!("activation {}", name_of(activation)), cells.map(of));
    }
    for (name, change) in LAYER_OPTIONS {
        let of = |cell: Cell| entry(&change(Variant::plain(cell)), Some(&Variant::plain(cell)));
        row(name, cells.map(of));
    }
    rows.join("\n") + "\n"
}

fn name_of(activation: Activation) -> String {
    if activation == Activation::HARD_SIGMOID_KERAS3 {
        return "`HardSigmoid`, Keras 3".to_owned();
    }
    let name = format!("{activation:?}");
    format!("`{}`", name.split(' ').next().unwrap_or_default())
}

#[test]
fn the_page_says_what_runs() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/SUPPORT.md");
    let page = std::fs::read_to_string(path).expect("the page");
    let table = table();
    let (head, rest) = page.split_once(BEGIN).expect("the table's begin");
    let (written, tail) = rest.split_once(END).expect("the table's end");
    if std::env::var_os("UPDATE_SUPPORT").is_some() {
        std::fs::write(path, format!("{head}{BEGIN}{table}{END}{tail}")).expect("the page is written");
        return;
    }
    assert_eq!(written, table, "run `UPDATE_SUPPORT=1 cargo test --test calls support_table` and read the difference");
    assert!(!table.contains("none"), "an option that no path carries out:\n{table}");
}
