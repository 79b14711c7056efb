//! Scans that are too long for one dispatch: chunks of time, each from the state that the previous one has left.

use super::agrees;
use super::common::bits;
use super::common::case::{Case, Directions, Instructions, forward, outcome};
use gatewise::Device;
use gatewise::cell::{Activation, Cell, Forget, GruCell, LstmCell, Mix, Pad, Reset, RnnCell, WeightType};
use gatewise::gpu::{GpuDevice, GpuOptions};
use gatewise::nn::Merge;
use gatewise::plan::{AdapterClass, PlanKind};

fn device(class: Option<AdapterClass>, loop_cap: Option<u64>) -> Device {
    let options = GpuOptions { software: true, plan: Some(PlanKind::Scan), class, loop_cap, ..Default::default() };
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

/// Scans the cases and compares them with the specification; returns how many chunks each was cut into.
fn chunks_of(device: &Device, numbers: impl IntoIterator<Item = usize>) -> Vec<usize> {
    let scanned = |at| {
        let case = case(at);
        agrees(device, PlanKind::Scan, &case, &case.arrays()).chunks().len()
    };
    numbers.into_iter().map(scanned).collect()
}

#[test]
fn scans_in_chunks_compute_what_the_specification_says() {
    let chunks = chunks_of(&device(None, Some(120)), [0, 1, 3, 5, 10]);
    assert!(chunks.iter().all(|&chunks| chunks > 1), "{chunks:?}");
    let chunks = chunks_of(&device(Some(AdapterClass::Hardware), Some(160)), [2, 4, 7]);
    assert!(chunks.iter().any(|&chunks| chunks > 1), "{chunks:?}");
}

#[test]
fn chunks_are_the_whole_bit_for_bit() {
    let (whole, cut) = (device(None, None), device(None, Some(120)));
    for at in [0, 1, 9] {
        let case = case(at);
        let arrays = case.arrays();
        let run = |device: &Device| {
            let stack = case.stack(device, &arrays);
            let chunks = stack.plan(case.time, case.batch).expect("fits").chunks().len();
            let mut state = case.state(&stack, &arrays);
            let y = forward(&stack, &arrays.x, &mut state, &case.sequence());
            (chunks, outcome(y, &state).bits())
        };
        let ((one, of_whole), (several, of_chunks)) = (run(&whole), run(&cut));
        assert!(one == 1 && several > 1, "{one} and {several} chunks");
        assert!(of_whole == of_chunks, "{case:#?}");
    }
}

/// A sequence that is longer than the driver's loop cap is cut into chunks before the driver would stop it.
#[test]
fn a_sequence_beyond_the_drivers_loop_cap_is_right_to_its_end() {
    let device = device(None, None);
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
        (stack.plan(time, 1).expect("fits").chunks().len(), y, bits(&state.to_h().expect("h")))
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
