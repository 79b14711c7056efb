//! Random calls, and a test that they reach every option.

use std::collections::BTreeSet;

use gatewise::cell::{Activation, Cell, Forget, GruCell, LstmCell, Mix, Pad, Reset, RnnCell, WeightType};
use gatewise::nn::Merge;
use proptest::option;
use proptest::prelude::*;
use proptest::strategy::ValueTree;

use crate::common::case::{Case, Directions, Instructions};
use crate::{CASES, runner};

fn any_activation() -> impl Strategy<Value = Activation> {
    prop_oneof![
        Just(Activation::Identity),
        Just(Activation::Tanh),
        Just(Activation::Sigmoid),
        Just(Activation::Relu),
        (0.01..0.5_f32).prop_map(|alpha| Activation::LeakyRelu { alpha }),
        (0.05..0.5_f32).prop_map(|alpha| Activation::ThresholdedRelu { alpha }),
        (0.5..1.5_f32, 0.5..1.5_f32).prop_map(|(alpha, beta)| Activation::ScaledTanh { alpha, beta }),
        Just(Activation::HARD_SIGMOID_KERAS3),
        Just(Activation::HARD_SIGMOID_ONNX),
        (0.1..1.0_f32, 0.0..0.9_f32).prop_map(|(alpha, beta)| Activation::HardSigmoid { alpha, beta }),
        (0.2..1.5_f32).prop_map(|alpha| Activation::Elu { alpha }),
        Just(Activation::Softsign),
        Just(Activation::Softplus),
        (0.2..1.0_f32, -0.5..0.5_f32).prop_map(|(alpha, beta)| Activation::Affine { alpha, beta }),
    ]
}

/// Mostly between 0 and 1: a stack of unbounded gates soon leaves every number's range.
fn gate_activation() -> impl Strategy<Value = Activation> {
    prop_oneof![
        3 => Just(Activation::Sigmoid),
        1 => Just(Activation::HARD_SIGMOID_KERAS3),
        1 => Just(Activation::HARD_SIGMOID_ONNX),
        4 => any_activation(),
    ]
}

fn clip() -> impl Strategy<Value = Option<f32>> {
    option::weighted(0.3, 0.2..1.5_f32)
}

fn rnn() -> impl Strategy<Value = Cell> {
    (any_activation(), clip(), any::<bool>())
        .prop_map(|(activation, gate_clip, bias)| RnnCell { activation, gate_clip, bias }.into())
}

fn lstm(hidden: usize) -> impl Strategy<Value = Cell> {
    let forget = prop_oneof![2 => Just(Forget::Gate), 1 => Just(Forget::Never), 1 => Just(Forget::Coupled)];
    let projection = if hidden > 1 { option::weighted(0.4, 1..hidden).boxed() } else { Just(None).boxed() };
    let activations = (gate_activation(), any_activation(), any_activation());
    (activations, forget, any::<bool>(), projection, clip(), clip(), any::<bool>()).prop_map(
        |((gate, candidate, output), forget, peephole, projection, gate_clip, cell_clip, bias)| {
            LstmCell { gate, candidate, output, forget, peephole, projection, gate_clip, cell_clip, bias }.into()
        },
    )
}

fn gru() -> impl Strategy<Value = Cell> {
    let reset = prop_oneof![Just(Reset::Before), Just(Reset::After)];
    let mix = prop_oneof![Just(Mix::KeepsOld), Just(Mix::TakesNew)];
    (gate_activation(), any_activation(), reset, mix, clip(), any::<bool>()).prop_map(
        |(gate, candidate, reset, mix, gate_clip, bias)| {
            GruCell { gate, candidate, reset, mix, gate_clip, bias }.into()
        },
    )
}

/// The same gates and parameters under other activations and clips.
fn relative(cell: Cell) -> impl Strategy<Value = Cell> {
    (gate_activation(), any_activation(), any_activation(), clip()).prop_map(
        move |(gate, candidate, output, gate_clip)| match cell {
            Cell::Rnn(c) => RnnCell { activation: candidate, gate_clip, ..c }.into(),
            Cell::Lstm(c) => LstmCell { gate, candidate, output, gate_clip, ..c }.into(),
            Cell::Gru(c) => GruCell { gate, candidate, gate_clip, ..c }.into(),
            cell => panic!("a cell without a test: {cell:?}"),
        },
    )
}

fn directions() -> impl Strategy<Value = Directions> {
    let merge = prop_oneof![Just(Merge::Concat), Just(Merge::Sum), Just(Merge::Mul), Just(Merge::Ave)];
    prop_oneof![2 => Just(Directions::Forward), 1 => Just(Directions::Reverse), 3 => merge.prop_map(Directions::Both)]
}

fn instructions(time: usize, batch: usize) -> impl Strategy<Value = Instructions> {
    let lengths = option::weighted(0.4, prop::collection::vec(0..=time, batch));
    let pad = prop_oneof![Just(Pad::Zero), Just(Pad::Hold)];
    (lengths, option::weighted(0.3, 0..=100_u8), option::weighted(0.3, 0..=100_u8), pad)
        .prop_map(|(lengths, masked, reset, pad)| Instructions { lengths, masked, reset, pad })
}

/// Any legal call.
pub(crate) fn case() -> impl Strategy<Value = Case> {
    // 1, below and above a word of four, and past a workgroup of 64.
    let hidden = prop_oneof![1 => Just(1), 6 => 2..=13_usize, 1 => 63..=70_usize];
    let sizes = (1..=9_usize, hidden, 1..=3_usize, 0..=9_usize, prop_oneof![1 => Just(1), 3 => 2..=5_usize]);
    (sizes, directions())
        .prop_flat_map(|((input, hidden, layers, time, batch), directions)| {
            let cell = prop_oneof![1 => rnn(), 3 => lstm(hidden), 2 => gru()];
            let stored = vec![WeightType::F32, WeightType::F32, WeightType::F16, WeightType::Int8];
            let rest = (instructions(time, batch), prop::sample::select(stored), any::<bool>(), any::<u64>());
            (Just((input, hidden, layers, time, batch)), Just(directions), cell, rest)
        })
        .prop_flat_map(|(sizes, directions, cell, rest)| {
            let other = matches!(directions, Directions::Both(_));
            let reverse_cell = if other { option::weighted(0.3, relative(cell)).boxed() } else { Just(None).boxed() };
            (Just(sizes), Just(directions), Just(cell), reverse_cell, Just(rest))
        })
        .prop_map(|((input, hidden, layers, time, batch), directions, cell, reverse_cell, rest)| {
            let (instructions, weight_type, given_state, seed) = rest;
            Case {
                cell,
                reverse_cell,
                input,
                hidden,
                layers,
                directions,
                time,
                batch,
                instructions,
                weight_type,
                given_state,
                seed,
            }
        })
}

#[test]
fn the_random_cases_reach_every_option() {
    let mut runner = runner(CASES);
    let mut seen = BTreeSet::new();
    for _ in 0..CASES {
        let case = case().new_tree(&mut runner).expect("a case").current();
        let mut see = |what: String| seen.insert(what);
        let of = |activation: Activation| format!("{activation:?}").split(' ').next().map(str::to_owned);
        let (gate, candidate, output, gate_clip) = match case.cell {
            Cell::Rnn(c) => (None, Some(c.activation), None, c.gate_clip),
            Cell::Gru(c) => {
                see(format!("{:?} {:?}", c.reset, c.mix));
                (Some(c.gate), Some(c.candidate), None, c.gate_clip)
            }
            Cell::Lstm(c) => {
                see(format!("{:?}", c.forget));
                see(format!("peephole {}", c.peephole));
                see(format!("projection {}", c.projection.is_some()));
                see(format!("cell clip {}", c.cell_clip.is_some()));
                (Some(c.gate), Some(c.candidate), Some(c.output), c.gate_clip)
            }
            cell => panic!("a cell without a test: {cell:?}"),
        };
        for (role, activation) in [("gate", gate), ("candidate", candidate), ("output", output)] {
            if let Some(name) = activation.and_then(of) {
                see(format!("{role} {name}"));
            }
        }
        for which in [Activation::HARD_SIGMOID_KERAS3, Activation::HARD_SIGMOID_ONNX] {
            if gate == Some(which) {
                see(format!("{which:?}"));
            }
        }
        see(format!("{} bias {}", case.cell.name(), case.cell.bias()));
        see(format!("{} gate clip {}", case.cell.name(), gate_clip.is_some()));
        see(format!("layers {}", case.layers));
        see(format!("{:?}", case.directions));
        see(format!("reverse cell {}", case.reverse_cell.is_some()));
        see(format!("weights {}", case.weight_type));
        see(format!("given state {}", case.given_state));
        see(format!("{:?}", case.instructions.pad));
        see(format!("mask {}", case.instructions.masked.is_some()));
        see(format!("reset {}", case.instructions.reset.is_some()));
        match &case.instructions.lengths {
            None => see("no lengths".to_owned()),
            Some(lengths) => see(if lengths.contains(&0) { "a length of 0" } else { "lengths" }.to_owned()),
        };
        for (what, size) in [("T", case.time), ("B", case.batch), ("H", case.hidden)] {
            see(format!("{what} {}", if size > 64 { "above 64".to_owned() } else { size.min(2).to_string() }));
        }
    }
    let roles = |name: &str| ["gate", "candidate", "output"].map(|role| format!("{role} {name}"));
    let names = Activation::ALL.map(|activation| format!("{activation:?}").replace(|c: char| !c.is_alphabetic(), " "));
    let activations = names.iter().flat_map(|name| roles(name.split(' ').next().unwrap_or_default()));
    let options = [
        "Before KeepsOld",
        "Before TakesNew",
        "After KeepsOld",
        "After TakesNew",
        "Gate",
        "Never",
        "Coupled",
        "peephole true",
        "projection true",
        "cell clip true",
        "rnn bias false",
        "lstm bias false",
        "gru bias false",
        "rnn gate clip true",
        "lstm gate clip true",
        "gru gate clip true",
        "layers 1",
        "layers 2",
        "layers 3",
        "Forward",
        "Reverse",
        "Both(Concat)",
        "Both(Sum)",
        "Both(Mul)",
        "Both(Ave)",
        "reverse cell true",
        "weights f32",
        "weights f16",
        "weights int8",
        "given state true",
        "given state false",
        "Zero",
        "Hold",
        "mask true",
        "reset true",
        "no lengths",
        "lengths",
        "a length of 0",
        "T 0",
        "T 1",
        "T 2",
        "B 1",
        "B 2",
        "H 1",
        "H 2",
        "H above 64",
    ];
    let both = [Activation::HARD_SIGMOID_KERAS3, Activation::HARD_SIGMOID_ONNX].map(|which| format!("{which:?}"));
    let wanted: BTreeSet<String> = options.map(str::to_owned).into_iter().chain(activations).chain(both).collect();
    let missing: Vec<_> = wanted.difference(&seen).collect();
    assert!(missing.is_empty(), "never drawn: {missing:?}");
}
