//! Every kind of plan with every type of weights and every cell: compared with the specification, or refused for the reason that
//! is documented.

use super::common::case::{Case, Directions, Instructions};
use super::common::refusal;
use super::{agrees, matches, rounding, run};
use gatewise::cell::{Cell, Forget, GruCell, LstmCell, Mix, Pad, Reset, RnnCell, WeightType};
use gatewise::gpu::{GpuDevice, GpuOptions};
use gatewise::nn::Merge;
use gatewise::plan::{AdapterClass, CooperativeScans, PlanKind, Schedule};
use gatewise::{Device, Error};

/// Every cell. The case's number chooses the other options.
fn cells(at: usize, hidden: usize) -> [Cell; 7] {
    let projection = Some((hidden * 2 / 3).max(1));
    let mix = if at.is_multiple_of(2) { Mix::KeepsOld } else { Mix::TakesNew };
    let cell_clip = at.is_multiple_of(3).then_some(0.5);
    [
        RnnCell::default().into(),
        LstmCell { cell_clip, ..Default::default() }.into(),
        LstmCell { peephole: true, ..Default::default() }.into(),
        LstmCell { forget: Forget::Coupled, ..Default::default() }.into(),
        LstmCell { projection, ..Default::default() }.into(),
        GruCell { mix, ..Default::default() }.into(),
        GruCell { mix, reset: Reset::Before, ..Default::default() }.into(),
    ]
}

/// A case of the table. Sizes lie around 8 (a block of units), 16 (a part of the depth, the rows of a tile) and 32 (units of a
/// workgroup). Their numbers have no common factor with those of the kinds, types and cells, so that every cell and every type
/// meets every size.
fn case(kind: PlanKind, weight_type: WeightType, cell: usize) -> Case {
    let at = (kind as usize * WeightType::ALL.len() + weight_type as usize) * 7 + cell;
    let hidden = [17, 8, 33, 16, 5, 31, 9, 24, 3, 15, 32][at % 11];
    let (batch, time): (usize, usize) = ([3, 2, 5, 17, 4][at % 5], [7, 3, 10][at % 3]);
    let cell = cells(at, hidden)[cell];
    let several = [Directions::Both(Merge::Concat), Directions::Reverse, Directions::Both(Merge::Sum)][at % 3];
    let directions = match kind {
        PlanKind::Wave if at.is_multiple_of(2) => Directions::Forward,
        PlanKind::Wave => Directions::Reverse,
        _ => several,
    };
    let layers = if kind == PlanKind::Wave { 2 + at % 2 } else { 1 + at / 3 % 2 };
    let lengths = (0..batch).map(|row| if row == 1 { 0 } else { time - row % time.min(5) });
    Case {
        cell,
        reverse_cell: None,
        input: [3, 5, 17, 4][at / 4 % 4],
        hidden,
        layers,
        directions,
        time,
        batch,
        instructions: Instructions {
            lengths: (at % 3 != 1).then(|| lengths.collect()),
            masked: (at % 4 == 2).then_some(30),
            reset: at.is_multiple_of(2).then_some(25),
            pad: if at % 5 < 2 { Pad::Hold } else { Pad::Zero },
        },
        weight_type,
        given_state: true,
        seed: 900 + at as u64,
    }
}

fn device(class: AdapterClass, workgroups: usize) -> Device {
    let cooperative = Some(CooperativeScans { workgroups, polls: 1 });
    let options = GpuOptions { software: true, class: Some(class), cooperative, ..Default::default() };
    Device::Gpu(GpuDevice::new(&options).expect("install mesa-vulkan-drivers and libvulkan1"))
}

/// The adapter, planned for as software whose lanes share rows, and as a GPU. A cooperative scan has a single workgroup.
fn devices() -> [Device; 2] {
    [AdapterClass::Software, AdapterClass::Hardware].map(|class| device(class, 1))
}

/// Fails unless the stack refuses this kind with the documented reason.
#[track_caller]
fn is_refused(device: &Device, kind: PlanKind, case: &Case, reason: &str) {
    let arrays = case.arrays();
    let stack = case.config().plan(kind).build(device, arrays.parameters.clone()).expect("a legal configuration");
    let x = gatewise::Tensor::from_array(device, &arrays.x).expect("input");
    let mut state = case.state(&stack, &arrays);
    let run = stack.forward_sequence(&x, &mut state, &case.sequence()).map(drop);
    for outcome in [stack.plan(case.time, case.batch).map(drop), run] {
        match outcome {
            Err(Error::Unsupported { op: "plan", option, .. }) => {
                assert_eq!(option, format!("the kind {kind} with {reason}"));
            }
            other => panic!("{other:?}, not refused for {reason}: {case:#?}"),
        }
    }
}

/// All of a kind; returns how many cases it ran and refused.
fn all_of(kind: PlanKind) -> (usize, usize) {
    let devices = devices();
    let (mut ran, mut refused) = (0, 0);
    for weight_type in WeightType::ALL {
        for cell in 0..7 {
            let case = case(kind, weight_type, cell);
            let directions = if matches!(case.directions, Directions::Both(_)) { 2 } else { 1 };
            if let Some(reason) = refusal(kind, &case.cell, directions) {
                devices.iter().for_each(|device| is_refused(device, kind, &case, reason));
                refused += 1;
                continue;
            }
            let arrays = case.arrays();
            for device in &devices {
                agrees(device, kind, &case, &arrays);
                if weight_type != WeightType::F32 {
                    rounding::stays_within_bounds(device, kind, &case);
                }
            }
            ran += 1;
        }
    }
    (ran, refused)
}

#[test]
fn steps_compute_what_the_specification_says() {
    assert_eq!(all_of(PlanKind::Step), (28, 0));
}

#[test]
fn waves_compute_what_the_specification_says() {
    assert_eq!(all_of(PlanKind::Wave), (20, 8));
}

#[test]
fn scans_compute_what_the_specification_says() {
    assert_eq!(all_of(PlanKind::Scan), (28, 0));
}

#[test]
fn scans_over_several_workgroups_compute_what_the_specification_says() {
    assert_eq!(all_of(PlanKind::CooperativeScan), (20, 8));
}

/// A software adapter runs one workgroup after another: each chunk is begun in vain, and scanned again by one workgroup.
#[test]
fn scans_whose_workgroups_may_not_run_at_once_are_right_all_the_same() {
    let device = device(AdapterClass::Hardware, 64);
    for weight_type in WeightType::ALL {
        for cell in 0..7 {
            let case = case(PlanKind::CooperativeScan, weight_type, cell);
            if refusal(PlanKind::CooperativeScan, &case.cell, 1).is_none() {
                let arrays = case.arrays();
                let result = run(&device, PlanKind::CooperativeScan, &case, &arrays);
                let plan = matches(&result, &case, &arrays);
                assert!(
                    case.hidden <= 16
                        || matches!(plan.schedule(), Schedule::CooperativeScan(scan) if scan.workgroups > 1),
                    "{plan}"
                );
            }
        }
    }
}

#[test]
fn waves_of_two_directions_are_refused() {
    for device in devices() {
        for cell in 0..7 {
            let case = case(PlanKind::Wave, WeightType::ALL[cell % 4], cell);
            let case = Case { directions: Directions::Both(Merge::Concat), ..case };
            is_refused(&device, PlanKind::Wave, &case, "two directions");
        }
    }
}
