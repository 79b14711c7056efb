//! Properties of every cell, shape and option: random calls, drawn from fixed seeds, against the specification in `f64` and
//! against themselves.
//!
//! `GATEWISE_CASES=2000 GATEWISE_SEED=7 cargo test --test properties` tries more cases.
#![cfg(feature = "gpu")]

mod common;
#[path = "properties/draw.rs"]
mod draw;

use std::sync::atomic::{AtomicU32, Ordering};

use common::case::{Case, Directions, Instructions, Outcome, forward, outcome};
use common::devices;
use gatewise::Device;
use gatewise::cell::{Pad, Sequence, WeightType};
use gatewise::nn::{Recurrent, State};
use ndarray::{Array2, Array3, Axis, s};
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestError, TestRng, TestRunner};

fn from_environment(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |value| value.parse().expect("a number"))
}

fn runner(cases: u32) -> TestRunner {
    let cases = u32::try_from(from_environment("GATEWISE_CASES", u64::from(cases))).expect("a number of cases");
    let config = Config { cases, failure_persistence: None, max_shrink_iters: 200, ..Config::default() };
    let mut seed = [0x67; 32];
    seed[..8].copy_from_slice(&from_environment("GATEWISE_SEED", 2024).to_le_bytes());
    TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &seed))
}

/// Cases of the comparison with the specification.
const CASES: u32 = 240;

/// Runs a property over random cases; one that fails is shrunk and printed.
fn check<S: Strategy<Value = Case>>(cases: u32, strategy: S, property: impl Fn(&Case) -> Result<(), TestCaseError>) {
    match runner(cases).run(&strategy, |case| property(&case)) {
        Ok(()) => {}
        Err(TestError::Fail(reason, case)) => panic!("{reason}\n{case:#?}"),
        Err(TestError::Abort(reason)) => panic!("{reason}"),
    }
}

/// Fails unless two outcomes are the same: to the last bit, or within a tolerance where rounding may differ.
fn same(
    what: &str,
    device: &Device,
    tolerance: Option<f64>,
    a: &Outcome<f32>,
    b: &Outcome<f32>,
) -> Result<(), TestCaseError> {
    let distance = a.distance(&b.wide());
    match tolerance {
        None => prop_assert!(a.bits() == b.bits(), "{device}: {what}: {distance:e} apart, wanted the same bits"),
        Some(most) => prop_assert!(distance <= most, "{device}: {what}: {distance:e} apart, at most {most:e}"),
    }
    Ok(())
}

/// The tolerance of a device whose matrix product may round a row differently at another place in the batch.
fn unless_by_place(device: &Device, tolerance: f64) -> Option<f64> {
    matches!(device, Device::Cpu).then_some(tolerance)
}

fn forward_only(case: Case) -> Case {
    Case { directions: Directions::Forward, reverse_cell: None, ..case }
}

#[test]
fn every_device_computes_what_the_specification_says() {
    let devices = devices();
    let (left_out, all) = (AtomicU32::new(0), AtomicU32::new(0));
    check(CASES, draw::case(), |case| {
        all.fetch_add(1, Ordering::Relaxed);
        let arrays = case.arrays();
        let Some((expected, tolerance)) = case.expectation(&arrays) else {
            left_out.fetch_add(1, Ordering::Relaxed);
            return Ok(());
        };
        for device in &devices {
            let distance = case.run(device, &arrays).distance(&expected);
            // The CPU's products with 8-bit weights read the state rounded to 16 bits.
            let rounds = matches!(device, Device::Cpu) && case.weight_type == WeightType::Int8;
            let tolerance = if rounds { tolerance + 3e-4 } else { tolerance };
            prop_assert!(distance <= tolerance, "{device}: off by {distance:e}, at most {tolerance:e}");
        }
        Ok(())
    });
    let (left_out, all) = (left_out.into_inner(), all.into_inner());
    assert!(20 * left_out <= all, "{left_out} of {all} cases tell nothing");
}

#[test]
fn a_sequence_is_its_chunks_and_its_steps_with_the_state_carried() {
    let devices = devices();
    let gpu = &devices[2];
    check(40, draw::case().prop_map(forward_only), |case| {
        // At a chunk's edge `Pad::Hold` begins anew. Sixteen rows: every piece takes the same matrix product on the GPU.
        let instructions = Instructions { pad: Pad::Zero, lengths: None, ..case.instructions.clone() };
        let case = &Case { instructions, batch: case.batch + 15, ..case.clone() };
        let arrays = case.arrays();
        let Some((_, tolerance)) = case.expectation(&arrays) else { return Ok(()) };
        let rows: Vec<usize> = (0..case.batch).collect();
        let cut = case.time / 3;
        let chunks = [0..cut, cut..case.time].map(|range| range.collect::<Vec<usize>>()).to_vec();
        let steps: Vec<Vec<usize>> = (0..case.time).map(|t| vec![t]).collect();
        for device in &devices {
            let whole = case.run(device, &arrays);
            for (what, pieces) in [("two chunks", &chunks), ("steps", &steps)] {
                let stack = case.stack(device, &arrays);
                let mut state = case.state(&stack, &arrays);
                let mut y = Array3::zeros((0, case.batch, whole.y.dim().2));
                for piece in pieces {
                    let part =
                        forward(&stack, &arrays.part(piece, &rows).x, &mut state, &case.sequence_of(piece, &rows));
                    y.append(Axis(0), part.view()).expect("the same width");
                }
                let exact = device.is_same(gpu) && pieces.iter().all(|p| same_plan(&stack, case, p.len()));
                same(what, device, (!exact).then_some(tolerance), &outcome(y, &state), &whole)?;
            }
        }
        Ok(())
    });
}

/// Whether `steps` of a case's steps run by the same schedule as all of them.
fn same_plan(stack: &Recurrent, case: &Case, steps: usize) -> bool {
    let plan = |time: usize| stack.plan(time, case.batch).expect("fits");
    plan(steps).groups() == plan(case.time).groups()
}

#[test]
fn the_rows_of_a_batch_do_not_see_each_other() {
    let devices = devices();
    check(40, draw::case(), |case| {
        let arrays = case.arrays();
        let Some((_, tolerance)) = case.expectation(&arrays) else { return Ok(()) };
        let steps: Vec<usize> = (0..case.time).collect();
        let mut order: Vec<usize> = (0..case.batch).collect();
        order.rotate_left(1);
        let row = case.seed as usize % case.batch;
        for device in &devices {
            let whole = case.run(device, &arrays);

            // The other rows hold something else.
            let mut other = arrays.clone();
            for array in [&mut other.x, &mut other.h, &mut other.s] {
                for (at, mut lane) in array.axis_iter_mut(Axis(1)).enumerate() {
                    if at != row {
                        lane.mapv_inplace(|x| if at % 2 == 0 { f32::NAN } else { 3.0 - x });
                    }
                }
            }
            let beside = case.run(device, &other).part(&steps, &[row]);
            same("beside other rows", device, None, &beside, &whole.part(&steps, &[row]))?;

            let turned = case.call(device, &arrays.part(&steps, &order), &case.sequence_of(&steps, &order));
            let tolerated = unless_by_place(device, tolerance);
            same("in another order", device, tolerated, &turned, &whole.part(&steps, &order))?;

            let alone = case.call(device, &arrays.part(&steps, &[row]), &case.sequence_of(&steps, &[row]));
            same("a row alone", device, Some(tolerance), &alone, &whole.part(&steps, &[row]))?;
        }
        Ok(())
    });
}

#[test]
fn what_stands_in_skipped_steps_changes_nothing() {
    let devices = devices();
    let skipping = draw::case().prop_map(|mut case| {
        case.instructions.masked = Some(case.instructions.masked.unwrap_or(40));
        case
    });
    check(40, skipping, |case| {
        let arrays = case.arrays();
        let mut garbage = arrays.clone();
        for ((t, b), valid) in case.valid().indexed_iter().filter(|(_, valid)| !**valid) {
            assert!(!valid);
            let value = [f32::NAN, f32::INFINITY, -1e30, 7.0][(t + b) % 4];
            garbage.x.slice_mut(s![t, b, ..]).fill(value);
        }
        for device in &devices {
            same("garbage", device, None, &case.run(device, &garbage), &case.run(device, &arrays))?;
        }
        Ok(())
    });
}

#[test]
fn steps_beyond_all_lengths_change_no_state() {
    let devices = devices();
    check(40, draw::case(), |case| {
        let arrays = case.arrays();
        let Some((_, tolerance)) = case.expectation(&arrays) else { return Ok(()) };
        let steps: Vec<usize> = (0..case.time).collect();
        let rows: Vec<usize> = (0..case.batch).collect();
        // Sixteen rows a step: both calls take the same matrix product on the GPU.
        let rows: Vec<usize> = rows.into_iter().cycle().take(16).collect();
        let short = arrays.part(&steps, &rows);
        let mut long = short.clone();
        let garbage = Array3::from_elem((3, rows.len(), case.input), f32::NAN);
        long.x.append(Axis(0), garbage.view()).expect("the same width");
        let mask = case.valid().select(Axis(1), &rows);
        let pad = case.instructions.pad;
        let lengths = vec![case.time; rows.len()];
        let longer_mask = Array2::from_shape_fn((case.time + 3, rows.len()), |(t, b)| t >= case.time || mask[[t, b]]);
        for device in &devices {
            let plain = case.call(device, &short, &Sequence::new().pad(pad).mask(mask.clone()));
            let sequence = Sequence::new().pad(pad).mask(longer_mask.clone()).lengths(lengths.iter().copied());
            let padded = case.call(device, &long, &sequence);
            let all: Vec<usize> = (0..rows.len()).collect();
            let tolerated = unless_by_place(device, tolerance);
            same("three steps more", device, tolerated, &padded.part(&steps, &all), &plain)?;
            let beyond = padded.y.slice(s![case.time.., .., ..]);
            prop_assert!(pad == Pad::Hold || beyond.iter().all(|&y| y == 0.0), "{device}: output beyond the lengths");
        }
        Ok(())
    });
}

#[test]
fn the_same_call_gives_the_same_bits() {
    let devices = devices();
    check(40, draw::case(), |case| {
        let arrays = case.arrays();
        for device in &devices {
            let first = case.run(device, &arrays);
            same("a stack built again", device, None, &case.run(device, &arrays), &first)?;
            let stack = case.stack(device, &arrays);
            for _ in 0..2 {
                let mut state = case.state(&stack, &arrays);
                let y = forward(&stack, &arrays.x, &mut state, &case.sequence());
                same("the same stack", device, None, &outcome(y, &state), &first)?;
            }
        }
        Ok(())
    });
}

#[test]
fn a_reset_begins_anew_from_the_value_the_state_was_created_with() {
    let devices = devices();
    let resetting = draw::case().prop_map(|case| {
        let case = if case.seed % 2 == 0 { forward_only(case) } else { case };
        let directions = if case.directions == Directions::Forward { Directions::Forward } else { Directions::Reverse };
        let reset = Some(case.instructions.reset.unwrap_or(30).clamp(10, 60));
        let batch = case.batch.min(3);
        let lengths = case.instructions.lengths.map(|lengths| lengths[..batch].to_vec());
        let instructions = Instructions { pad: Pad::Zero, reset, lengths, ..case.instructions };
        Case { directions, reverse_cell: None, instructions, batch, given_state: true, ..case }
    });
    check(30, resetting, |case| {
        let arrays = case.arrays();
        let Some((_, tolerance)) = case.expectation(&arrays) else { return Ok(()) };
        let resets = case.resets().expect("this case resets");
        // In the order in which the direction runs.
        let mut steps: Vec<usize> = (0..case.time).collect();
        if case.directions == Directions::Reverse {
            steps.reverse();
        }
        for device in &devices {
            let stack = case.stack(device, &arrays);
            // The state that the call begins with differs from the state that a reset returns to.
            let moved = |state: &mut State| drop(forward(&stack, &arrays.x, state, &Sequence::new()));
            let mut state = case.state(&stack, &arrays);
            moved(&mut state);
            let carried = state.try_clone().expect("a copy");
            let y = forward(&stack, &arrays.x, &mut state, &case.sequence());
            let whole = outcome(y, &state);
            for row in 0..case.batch {
                let rows = [row];
                let part = arrays.part(&[], &rows);
                let of = |array: Array3<f32>| array.select(Axis(1), &rows);
                let mut state = {
                    let (h, s) = (of(carried.to_h().expect("h")), carried.to_s().expect("s").map(of));
                    stack.state(h.view(), s.as_ref().map(|s| s.view())).expect("fits")
                };
                let mut y = Array3::zeros((case.time, 1, whole.y.dim().2));
                for segment in steps.chunk_by(|_, &next| !resets[[next, row]]) {
                    if resets[[segment[0], row]] {
                        state = case.state(&stack, &part);
                    }
                    let mut times = segment.to_vec();
                    times.sort_unstable();
                    let valid = case.valid().select(Axis(0), &times).select(Axis(1), &rows);
                    let x = arrays.part(&times, &rows).x;
                    let piece = forward(&stack, &x, &mut state, &Sequence::new().mask(valid));
                    for (at, &time) in times.iter().enumerate() {
                        y.index_axis_mut(Axis(0), time).assign(&piece.index_axis(Axis(0), at));
                    }
                }
                let all: Vec<usize> = (0..case.time).collect();
                let most = 8.0 * tolerance;
                same("segments", device, Some(most), &outcome(y, &state), &whole.part(&all, &rows))?;
            }
        }
        Ok(())
    });
}

#[test]
fn reverse_is_forward_over_flipped_time() {
    let devices = devices();
    check(40, draw::case().prop_map(forward_only), |case| {
        let arrays = case.arrays();
        let Some((_, tolerance)) = case.expectation(&arrays) else { return Ok(()) };
        let steps: Vec<usize> = (0..case.time).collect();
        let flipped: Vec<usize> = (0..case.time).rev().collect();
        let rows: Vec<usize> = (0..case.batch).collect();
        let reverse = Case { directions: Directions::Reverse, ..case.clone() };
        for device in &devices {
            let forward = case.call(device, &arrays.part(&flipped, &rows), &case.sequence_of(&flipped, &rows));
            let reverse = reverse.call(device, &arrays, &case.sequence_of(&steps, &rows));
            let tolerated = unless_by_place(device, tolerance);
            same("flipped", device, tolerated, &reverse.part(&flipped, &rows), &forward)?;
        }
        Ok(())
    });
}

#[test]
fn the_comparisons_can_fail() {
    let flat = |y: f32| Outcome {
        y: Array3::from_elem((1, 2, 3), y),
        h: Array3::zeros((1, 2, 3)),
        s: Array3::zeros((1, 2, 0)),
    };
    assert!(same("", &Device::Cpu, Some(1e-3), &flat(1.0), &flat(1.0005)).is_ok());
    assert!(same("", &Device::Cpu, Some(1e-3), &flat(1.0), &flat(1.002)).is_err());
    assert!(same("", &Device::Cpu, Some(1e-3), &flat(f32::NAN), &flat(1.0)).is_err());
    assert!(same("", &Device::Cpu, None, &flat(1.0), &flat(1.0 + f32::EPSILON)).is_err());
    assert!(same("", &Device::Cpu, None, &flat(0.0), &flat(-0.0)).is_err());
    assert!(same("", &Device::Cpu, None, &flat(f32::NAN), &flat(f32::NAN)).is_ok());
}
