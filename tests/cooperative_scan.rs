//! Cooperative scans: their results if all workgroups run concurrently, their results if not, and the memory of the latter.
//!
//! A software adapter runs workgroups one after another. One workgroup waits for no other. Of several workgroups the first gives up
//! at the second step, and the chunk is computed again.
#![cfg(feature = "gpu")]

mod common;

use std::path::Path;

use common::bits;
use common::case::{Arrays, Case, Directions, Instructions, Outcome};
use gatewise::cell::{Cell, GruCell, LstmCell, Mix, Pad, Reset, RnnCell, WeightType};
use gatewise::gpu::{Counters, GpuDevice, GpuOptions};
use gatewise::nn::{Merge, Recurrent};
use gatewise::plan::{AdapterClass, CooperativeScans, Plan, PlanKind, Schedule};
use gatewise::{Device, Error};

/// The adapter with at most this many workgroups, which look for a word only once. A workgroup's own words are there by then.
fn options(workgroups: usize) -> GpuOptions {
    GpuOptions {
        software: true,
        plan: Some(PlanKind::CooperativeScan),
        cooperative: Some(CooperativeScans { workgroups, polls: 1 }),
        ..Default::default()
    }
}

fn opened(options: &GpuOptions) -> GpuDevice {
    GpuDevice::new(options).expect("install mesa-vulkan-drivers and libvulkan1")
}

/// Every cell that such scans run, every weight type, both directions, lengths and resets; no width is a whole part.
fn cases() -> Vec<Case> {
    let rows: [(Cell, usize, usize, Directions, usize, WeightType); 5] = [
        (LstmCell::default().into(), 33, 3, Directions::Both(Merge::Concat), 1, WeightType::F32),
        (GruCell { mix: Mix::TakesNew, ..Default::default() }.into(), 19, 2, Directions::Forward, 2, WeightType::F16),
        (RnnCell::default().into(), 41, 5, Directions::Reverse, 1, WeightType::Int8),
        (
            LstmCell { peephole: true, ..LstmCell::LECTURE }.into(),
            21,
            2,
            Directions::Both(Merge::Sum),
            2,
            WeightType::Bf16,
        ),
        (GruCell::default().into(), 17, 4, Directions::Reverse, 1, WeightType::F32),
    ];
    let case = |(at, (cell, hidden, batch, directions, layers, weight_type)): (usize, _)| {
        let time = 9;
        let lengths = (at % 2 == 0).then(|| (0..batch).map(|row| if row == 1 { 0 } else { time - row }).collect());
        Case {
            cell,
            reverse_cell: None,
            input: 3,
            hidden,
            layers,
            directions,
            time,
            batch,
            instructions: Instructions {
                lengths,
                masked: (at == 1).then_some(30),
                reset: (at < 3).then_some(25),
                pad: if at % 3 == 0 { Pad::Hold } else { Pad::Zero },
            },
            weight_type,
            given_state: true,
            seed: 700 + at as u64,
        }
    };
    rows.into_iter().enumerate().map(case).collect()
}

/// Runs a case; returns its plan, what it left, what the device did.
fn run(gpu: &GpuDevice, case: &Case, arrays: &Arrays<f32>) -> (Plan, Outcome<f32>, Counters, Recurrent) {
    let device = Device::Gpu(gpu.clone());
    let stack = case.stack(&device, arrays);
    let plan = stack.plan(case.time, case.batch).expect("fits");
    let mut state = case.state(&stack, arrays);
    let x = gatewise::Tensor::from_array(&device, &arrays.x).expect("input");
    let before = gpu.counters();
    let y = stack.forward_sequence(&x, &mut state, &case.sequence()).expect("runs");
    let spent = gpu.counters() - before;
    (plan, common::case::outcome(y.to_array().expect("y"), &state), spent, stack)
}

/// The workgroups of a cooperative scan; `None` for other schedules.
fn scan_workgroups(plan: &Plan) -> Option<usize> {
    match plan.schedule() {
        Schedule::CooperativeScan(scan) => Some(scan.workgroups),
        _ => None,
    }
}

#[track_caller]
fn agrees(case: &Case, arrays: &Arrays<f32>, got: &Outcome<f32>, plan: &Plan) {
    let (expected, tolerance) = case.expectation(arrays).expect("a tame cell");
    let distance = got.distance(&expected);
    assert!(distance <= tolerance, "off by {distance}, at most {tolerance}\n{plan}\n{case:#?}");
}

#[test]
fn one_workgroup_hears_itself_and_nothing_is_given_up() {
    let gpu = opened(&options(1));
    for case in cases() {
        let arrays = case.arrays();
        let (plan, got, spent, stack) = run(&gpu, &case, &arrays);
        assert_eq!(scan_workgroups(&plan), Some(1));
        agrees(&case, &arrays, &got, &plan);
        assert_eq!((spent.dispatches, spent.submits, spent.passes), (plan.dispatches() as u64, 1, 1), "{plan}");
        // Only the products read h without its lowest bit. After a second attempt they would read all bits.
        assert_eq!(stack.plan(case.time, case.batch).expect("fits"), plan, "denied");
    }
}

#[test]
fn workgroups_that_do_not_run_at_once_are_right_all_the_same_and_not_asked_again() {
    let gpu = opened(&options(16));
    for case in cases() {
        let arrays = case.arrays();
        let (plan, got, spent, stack) = run(&gpu, &case, &arrays);
        assert!(scan_workgroups(&plan) > Some(2), "{plan}");
        agrees(&case, &arrays, &got, &plan);
        assert_eq!((spent.dispatches, spent.submits, spent.passes), (plan.dispatches() as u64, 1, 1), "{plan}");
        let later = stack.plan(case.time, case.batch).expect("fits");
        if later == plan && !gpu.adapter().is_software() {
            // On hardware even a single look may find the word.
            continue;
        }
        assert!(matches!(later.kind(), PlanKind::Step | PlanKind::Wave), "{later}");
        assert_eq!(later.why(), "its workgroups were found not to run at once");
        let (_, again, spent, _) = run(&gpu, &case, &arrays);
        agrees(&case, &arrays, &again, &later);
        assert_eq!(spent.dispatches, later.dispatches() as u64, "{later}");
    }
}

#[test]
fn chunks_are_walked_one_after_another_whoever_walks_them() {
    for workgroups in [1, 16] {
        let gpu =
            opened(&GpuOptions { loop_cap: Some(250), class: Some(AdapterClass::Hardware), ..options(workgroups) });
        for case in cases().into_iter().take(2) {
            let arrays = case.arrays();
            let (plan, got, spent, _) = run(&gpu, &case, &arrays);
            assert!(plan.chunks().len() > 1 && scan_workgroups(&plan).is_some(), "{plan}");
            agrees(&case, &arrays, &got, &plan);
            assert_eq!((spent.dispatches, spent.passes), (plan.dispatches() as u64, 1), "{plan}");
        }
    }
}

/// A state whose words cannot be tagged is scanned again, and says nothing about the workgroups.
#[test]
fn a_state_that_is_not_finite_passes_all_the_same() {
    let gpu = opened(&options(1));
    let steps = opened(&GpuOptions { plan: Some(PlanKind::Step), ..options(1) });
    let case = Case {
        instructions: Instructions { masked: Some(40), ..cases()[1].instructions.clone() },
        ..cases()[1].clone()
    };
    for value in [f32::INFINITY, f32::NEG_INFINITY, f32::NAN, f32::from_bits(0x7f80_0001)] {
        let mut arrays = case.arrays();
        arrays.h[[0, 1, 4]] = value;
        let (plan, got, _, stack) = run(&gpu, &case, &arrays);
        let (_, expected, ..) = run(&steps, &case, &arrays);
        let near = |a: &f32, b: &f32| a.is_nan() && b.is_nan() || a == b || (a - b).abs() < 1e-5;
        assert!(got.y.iter().zip(&expected.y).all(|(a, b)| near(a, b)), "{value}: {plan}");
        assert!(got.h.iter().zip(&expected.h).all(|(a, b)| near(a, b)), "{value}: {plan}");
        assert!(got.h.iter().chain(&got.y).any(|h| !h.is_finite()), "{value} has left no trace");
        assert_eq!(stack.plan(case.time, case.batch).expect("fits"), plan, "{value} denied it");
    }
}

fn only_file(folder: &Path) -> std::path::PathBuf {
    let files: Vec<_> = std::fs::read_dir(folder).expect("made").map(|entry| entry.expect("an entry").path()).collect();
    let [file] = &files[..] else { panic!("{files:?}") };
    file.clone()
}

#[test]
fn what_was_found_is_remembered_on_disk_where_there_is_a_folder() {
    let folder = tempfile::tempdir().expect("a folder");
    let kept = GpuOptions { tuning: Some(folder.path().to_path_buf()), ..options(16) };
    let case = &cases()[4];
    let arrays = case.arrays();
    let kind = |gpu: &GpuDevice| {
        let stack = case.stack(&Device::Gpu(gpu.clone()), &arrays);
        stack.plan(case.time, case.batch).expect("fits").kind()
    };
    let gpu = opened(&kept);
    let (plan, first, ..) = run(&gpu, case, &arrays);
    if kind(&gpu) == PlanKind::CooperativeScan && !gpu.adapter().is_software() {
        // They ran at once: there is nothing to remember.
        return;
    }
    assert_eq!((plan.kind(), kind(&gpu)), (PlanKind::CooperativeScan, PlanKind::Step));
    // Another process knows it before it runs anything; other workgroups are another matter.
    let again = opened(&kept);
    assert_eq!(kind(&again), PlanKind::Step);
    assert_eq!(
        kind(&opened(&GpuOptions { cooperative: options(1).cooperative, ..kept.clone() })),
        PlanKind::CooperativeScan
    );
    assert_eq!(kind(&opened(&options(16))), PlanKind::CooperativeScan, "no folder, no memory");
    let (_, second, ..) = run(&again, case, &arrays);
    assert!(bits(&first.y).len() == bits(&second.y).len());
    agrees(case, &arrays, &second, &plan);
    // A damaged file, or one of another driver, counts as empty.
    let file = only_file(folder.path());
    let mut known: serde_json::Value = serde_json::from_slice(&std::fs::read(&file).expect("a file")).expect("JSON");
    assert_eq!(known["denied"].as_array().map(Vec::len), Some(1), "{known}");
    known["driver"] = "another".into();
    for text in [known.to_string(), "{\"format\":1".to_owned()] {
        std::fs::write(&file, text).expect("writes");
        assert_eq!(kind(&opened(&kept)), PlanKind::CooperativeScan);
    }
}

#[test]
fn nobody_is_made_to_wait_unasked() {
    let cooperative = Some(CooperativeScans::default());
    let gpu =
        opened(&GpuOptions { software: true, cooperative, class: Some(AdapterClass::Hardware), ..Default::default() });
    let asked = gpu.plan_limits().cooperative_by_default;
    assert!(!(asked && gpu.adapter().is_software()), "a software adapter runs workgroups one after another");
    let expected = if asked { PlanKind::CooperativeScan } else { PlanKind::Step };
    let lstm = gatewise::nn::Lstm::config(3, 200).random(&Device::Gpu(gpu), 5).expect("a stack");
    assert_eq!(lstm.plan(20, 2).expect("fits").kind(), expected);
}

#[test]
fn what_takes_two_products_a_step_is_refused() {
    let device = Device::Gpu(opened(&options(1)));
    let before: Cell = GruCell { reset: Reset::Before, ..Default::default() }.into();
    let projected: Cell = LstmCell { projection: Some(5), ..Default::default() }.into();
    for cell in [before, projected] {
        let stack = gatewise::nn::Config::new(cell, 3, 9).random(&device, 5).expect("a stack");
        match stack.plan(4, 2) {
            Err(Error::Unsupported { option, .. }) => {
                assert_eq!(option, "the kind cooperative with two dependent products per step");
            }
            other => panic!("{other:?}"),
        }
    }
}
