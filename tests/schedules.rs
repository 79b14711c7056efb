//! Every kind of plan computes what the specification says: cells, weight types, sizes around the edges of workgroups, sequences
//! that a low loop cap cuts into chunks of time.
#![cfg(feature = "gpu")]

mod common;

use common::bits;
use common::case::{Case, Directions, Instructions, forward, outcome};
use gatewise::cell::{Activation, Cell, Forget, GruCell, LstmCell, Mix, Pad, Reset, RnnCell, WeightType};
use gatewise::gpu::{GpuDevice, GpuOptions};
use gatewise::nn::Merge;
use gatewise::plan::{AdapterClass, PlanKind};
use gatewise::{Device, Error};

fn device(plan: Option<PlanKind>, class: Option<AdapterClass>, loop_cap: Option<u64>) -> Device {
    let options = GpuOptions { software: true, plan, class, loop_cap, ..Default::default() };
    Device::Gpu(GpuDevice::new(&options).expect("install mesa-vulkan-drivers and libvulkan1"))
}

/// One of each kind of schedule and of each equation.
fn cells(hidden: usize) -> Vec<Cell> {
    let projection = Some((hidden * 2 / 3).max(1));
    vec![
        LstmCell::default().into(),
        GruCell { reset: Reset::Before, gate: Activation::HARD_SIGMOID_KERAS3, ..Default::default() }.into(),
        RnnCell::default().into(),
        LstmCell { projection, cell_clip: Some(0.5), ..Default::default() }.into(),
        GruCell { mix: Mix::TakesNew, ..Default::default() }.into(),
        LstmCell { forget: Forget::Coupled, peephole: true, ..LstmCell::LECTURE }.into(),
    ]
}

/// A call whose options follow from its number: every cell and weight type, sizes around the edges of workgroups and parts.
fn case(at: usize) -> Case {
    let (hidden, batch, time) = ([17, 8, 33, 16, 1, 48, 5][at % 7], [3, 1, 5, 2][at % 4], [9, 7, 12][at % 3]);
    let cells = cells(hidden);
    let (layers, directions) = [
        (1, Directions::Both(Merge::Concat)),
        (3, Directions::Forward),
        (1, Directions::Reverse),
        (2, Directions::Both(Merge::Sum)),
        (2, Directions::Reverse),
    ][at % 5];
    let lengths = (at % 3 != 1).then(|| (0..batch).map(|row| if row == 1 { 0 } else { time - row }).collect());
    let instructions = Instructions {
        lengths,
        masked: (at % 4 == 2).then_some(30),
        reset: at.is_multiple_of(2).then_some(25),
        pad: if at.is_multiple_of(3) { Pad::Hold } else { Pad::Zero },
    };
    Case {
        cell: cells[at % cells.len()],
        reverse_cell: None,
        input: 3,
        hidden,
        layers,
        directions,
        time,
        batch,
        instructions,
        weight_type: WeightType::ALL[(at + at / 4) % 4],
        given_state: true,
        seed: 400 + at as u64,
    }
}

/// Runs the cases by a kind and compares them with the specification; returns how many chunks each was cut into.
fn agrees(device: &Device, kind: PlanKind, numbers: impl IntoIterator<Item = usize>) -> Vec<usize> {
    let mut chunks = Vec::new();
    for at in numbers {
        let case = case(at);
        let arrays = case.arrays();
        let stack = case.stack(device, &arrays);
        let plan = match stack.plan(case.time, case.batch) {
            Err(Error::Unsupported { op: "plan", .. }) => continue,
            plan => plan.expect("fits"),
        };
        assert_eq!(plan.kind, kind);
        let (expected, tolerance) = case.expectation(&arrays).expect("a tame cell");
        let got = case.run(device, &arrays);
        let distance = got.distance(&expected);
        assert!(distance <= tolerance, "off by {distance}, at most {tolerance}\n{plan}\n{case:#?}");
        assert_eq!(case.run(device, &arrays).bits(), got.bits(), "another run has other bits\n{plan}");
        chunks.push(plan.chunks.len());
    }
    assert!(!chunks.is_empty());
    chunks
}

#[test]
fn scans_compute_what_the_specification_says() {
    agrees(&device(None, None, None), PlanKind::Scan, 0..12);
}

#[test]
fn scans_of_a_gpus_shape_compute_what_the_specification_says() {
    agrees(&device(Some(PlanKind::Scan), Some(AdapterClass::Hardware), None), PlanKind::Scan, [0, 1, 3, 6, 8]);
}

#[test]
fn scans_in_chunks_compute_what_the_specification_says() {
    let chunks = agrees(&device(None, None, Some(120)), PlanKind::Scan, [0, 1, 3, 5, 10]);
    assert!(chunks.iter().all(|&chunks| chunks > 1), "{chunks:?}");
    let chunks =
        agrees(&device(Some(PlanKind::Scan), Some(AdapterClass::Hardware), Some(160)), PlanKind::Scan, [2, 4, 7]);
    assert!(chunks.iter().any(|&chunks| chunks > 1), "{chunks:?}");
}

#[test]
fn steps_and_waves_compute_what_the_specification_says() {
    for (kind, numbers) in [(PlanKind::Step, [0, 3, 7]), (PlanKind::Wave, [1, 4, 14])] {
        agrees(&device(Some(kind), None, None), kind, numbers);
    }
}

#[test]
fn chunks_are_the_whole_bit_for_bit() {
    let (whole, cut) = (device(None, None, None), device(None, None, Some(120)));
    for at in [0, 1, 9] {
        let case = case(at);
        let arrays = case.arrays();
        let run = |device: &Device| {
            let stack = case.stack(device, &arrays);
            let chunks = stack.plan(case.time, case.batch).expect("fits").chunks.len();
            let mut state = case.state(&stack, &arrays);
            let y = forward(&stack, &arrays.x, &mut state, &case.sequence());
            (chunks, outcome(y, &state).bits())
        };
        let ((one, of_whole), (several, of_chunks)) = (run(&whole), run(&cut));
        assert!(one == 1 && several > 1, "{one} and {several} chunks");
        assert!(of_whole == of_chunks, "{case:#?}");
    }
}

/// Longer than the driver lets a single dispatch loop: what it would cut short is cut into chunks before.
#[test]
fn a_sequence_beyond_the_drivers_loop_cap_is_right_to_its_end() {
    let device = device(None, None, None);
    let Device::Gpu(gpu) = &device else { panic!("a GPU") };
    if gpu.plan_limits().loop_cap.is_none() {
        return eprintln!("{} has no loop cap", gpu.adapter().name);
    }
    let config = gatewise::nn::Rnn::config(1, 2);
    let time = 40_000;
    let x = ndarray::Array3::from_shape_fn((time, 1, 1), |(t, ..)| ((t % 17) as f32 * 0.4).sin());
    let run = |device: &Device| {
        let stack = config.random(device, 5).expect("a stack");
        let mut state = stack.zero_state(1).expect("a state");
        let y = forward_typed(&stack, &x, &mut state);
        (stack.plan(time, 1).expect("fits").chunks.len(), y, bits(&state.h().expect("h")))
    };
    let ((chunks, got, _), (_, expected, _)) = (run(&device), run(&Device::Reference));
    assert!(chunks > 1);
    let worst = got.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(worst < 1e-5, "off by {worst}");
}

fn forward_typed(
    stack: &gatewise::nn::Rnn,
    x: &ndarray::Array3<f32>,
    state: &mut gatewise::nn::State,
) -> ndarray::Array3<f32> {
    let x = gatewise::Tensor::from_array(stack.device(), x).expect("input");
    stack.forward(&x, state).and_then(|y| y.to_array()).expect("a legal call")
}

/// How far a weight may lie from what it was before it was stored, `row_most` being the largest of its row.
///
/// Half a unit in the last place of 11 (f16, whose smallest step is 2^-24) or 8 (bf16) binary digits; half a step of
/// `row_most / 127` (int8).
fn rounding(kind: WeightType, weight: f64, row_most: f64) -> f64 {
    match kind {
        WeightType::F32 => 0.0,
        WeightType::F16 => (weight.abs() * 2_f64.powi(-11)).max(2_f64.powi(-25)),
        WeightType::Bf16 => weight.abs() * 2_f64.powi(-8),
        WeightType::Int8 => row_most / 254.0,
    }
}

/// The largest sum of a row, of the weights and of their rounding: how an error of the operand passes on, and what the rounding
/// adds to a sum over operands within [-1, 1].
fn row_sums(kind: WeightType, weight: &ndarray::Array2<f32>) -> (f64, f64) {
    let sums = weight.rows().into_iter().map(|row| {
        let wide: Vec<f64> = row.iter().map(|&w| f64::from(w)).collect();
        let most = wide.iter().fold(0.0_f64, |most, w| most.max(w.abs()));
        let plain: f64 = wide.iter().map(|w| w.abs()).sum();
        (plain, wide.iter().map(|&w| rounding(kind, w, most)).sum::<f64>())
    });
    sums.fold((0.0, 0.0), |(a, b), (c, d)| (a.max(c), b.max(d)))
}

/// Weights in a narrow type move the output no further than this bound says.
///
/// Let `N` be the largest row sum of |W_hh|, `D` the largest sum of the rounding of a row of both matrices; x and h are within
/// [-1, 1]. If h is off by e and s by d, a pre-activation is off by at most a = N e + D (1 + e). The sigmoid's slope is at most
/// 1/4, the tanh's at most 1, both functions are at most 1, and |s| is at most S = |s_0| + t. So after a step
///
/// ```text
/// d' <= d + (S + d) a/4 + a/4 + a      (f s, then i g)
/// e' <= a/4 + d'                       (o tanh(s))
/// ```
#[test]
fn narrow_weights_stray_no_further_than_their_rounding_allows() {
    let (hidden, batch, time) = (24, 3, 6);
    for plan in [PlanKind::Scan, PlanKind::Step] {
        let gpu = device(Some(plan), None, None);
        for kind in WeightType::ALL {
            let mut case = case(0);
            case = Case {
                cell: LstmCell::default().into(),
                directions: Directions::Forward,
                layers: 1,
                instructions: Instructions { lengths: None, masked: None, reset: None, pad: Pad::Zero },
                weight_type: kind,
                hidden,
                batch,
                time,
                ..case
            };
            let mut arrays = case.arrays();
            for p in arrays.parameters.iter_mut().flatten() {
                // Small enough that the bound says something after six steps.
                p.weight_hh.mapv_inplace(|w| w * 0.1);
                p.weight_ih.mapv_inplace(|w| w * 0.5);
            }
            let exact = Case { weight_type: WeightType::F32, ..case.clone() };
            let (expected, noise) = exact.expectation(&arrays).expect("a tame cell");
            let p = &arrays.parameters[0][0];
            let ((_, d_x), (n, d_h)) = (row_sums(kind, &p.weight_ih), row_sums(kind, &p.weight_hh));
            let (mut e, mut d) = (0.0, 0.0);
            for t in 0..time {
                let most = 1.0 + t as f64 + d;
                let a = n * e + d_x + d_h * (1.0 + e);
                d += most * a / 4.0 + a / 4.0 + a;
                e = a / 4.0 + d;
            }
            let distance = case.run(&gpu, &arrays).distance(&expected);
            assert!(distance <= e.max(d) + noise, "{kind} by {plan}: off by {distance}, at most {e} + {noise}");
            assert!(e < 0.5, "{kind}: a bound of {e} says nothing");
            let coarse = matches!(kind, WeightType::Bf16 | WeightType::Int8);
            assert!(!coarse || distance > noise, "{kind}: off by {distance} only: was it rounded at all?");
        }
    }
}
