//! Dispatches and submissions of a call, as its plan names them.

use gatewise::Device;
use gatewise::cell::{Activation, Cell, GruCell, LstmCell, Pad, Reset, RnnCell, Sequence};
use gatewise::gpu::{GpuDevice, GpuOptions};
use gatewise::nn::{Config, Merge};
use gatewise::plan::AdapterClass;

use super::common::gpu;
use super::{BATCH, cells, cost, input, stacks};

#[test]
fn a_call_is_one_submission_of_the_dispatches_that_its_plan_names() {
    let gpu = gpu();
    let device = Device::Gpu(gpu.clone());
    for (cell, a_step) in cells() {
        for (config, layers, beside) in stacks(cell) {
            let stack = config.random(&device, 3).expect("a stack");
            for time in [0, 1, 7, 40] {
                for sequence in [Sequence::new(), Sequence::new().lengths([time, time / 2, 0]).pad(Pad::Hold)] {
                    let x = input(&device, [time, BATCH, 5]);
                    let mut state = stack.zero_state(BATCH).expect("state");
                    let plan = stack.plan(time, BATCH).expect("fits");
                    let (spent, _y) = cost(&gpu, || stack.forward_sequence(&x, &mut state, &sequence).expect("runs"));
                    let what = format!("{config:?}, T = {time}: {plan}");
                    assert_eq!(spent.submits, u64::from(time > 0), "{what}");
                    assert_eq!(plan.submits(), usize::from(time > 0), "{what}");
                    assert_eq!(spent.dispatches, plan.dispatches() as u64, "{what}");
                    assert_eq!(spent.passes, u64::from(time > 0), "{what}");
                    let most = layers * (a_step * time + if time > 0 { beside } else { 0 });
                    assert!(plan.dispatches() <= most, "at most {most}: {what}");
                }
            }
        }
    }
}

/// The exact counts of a GPU's schedules: small layers are scanned in one dispatch per chunk beside the projection.
#[test]
fn small_layers_take_one_dispatch_per_chunk_and_larger_ones_one_per_step() {
    let gpu = gpu();
    let device = Device::Gpu(gpu.clone());
    let one = |hidden: usize| Config::new(Cell::from(LstmCell::default()), 5, hidden);
    let before = Cell::from(GruCell { reset: Reset::Before, ..Default::default() });
    let lanes = gpu.plan_limits().subgroup >= 8;
    let [small, many] = match gpu.plan_limits().class {
        AdapterClass::Hardware => [true, false],
        AdapterClass::Software => [lanes, lanes],
    };
    // Each case has the dispatches of a scan and those of steps, and says whether this device scans it. A workgroup takes all
    // layers of a stack of one direction. In a stack of two directions, a layer reads the whole layer below first.
    let cases = [
        (one(7), 2, 9 + 1, small),
        (one(128), 2, 9 + 1, small),
        (one(7).layers(3), 2, 9 + 3, small),
        (one(7).bidirectional(Merge::Concat), 2, 9 + 1, small),
        (one(7).layers(3).bidirectional(Merge::Concat), 3 * 2, 3 * 10, small),
        (one(129), 2, 9 + 1, false),
        (one(129).layers(3), 2, 9 + 3, false),
        (one(129).bidirectional(Merge::Concat), 2, 9 + 1, false),
        // Steps would take more than T + L + 2.
        (one(129).layers(3).bidirectional(Merge::Concat), 3 * 2, 3 * 10, many),
        (one(129).layers(2).bidirectional(Merge::Sum), 2 * 3, 2 * 11, many),
        (Config::new(before, 5, 129), 2, 2 * 9 + 1, many),
    ];
    for (config, by_scans, by_steps, scans) in cases {
        let stack = config.random(&device, 3).expect("a stack");
        let x = input(&device, [9, 2, 5]);
        let mut state = stack.zero_state(2).expect("state");
        let plan = stack.plan(9, 2).expect("fits");
        let (spent, _y) = cost(&gpu, || stack.forward(&x, &mut state).expect("runs"));
        assert_eq!((spent.dispatches, spent.submits), (if scans { by_scans } else { by_steps }, 1), "{plan}");
    }
    let low = GpuDevice::new(&GpuOptions { software: true, loop_cap: Some(120), ..Default::default() }).expect("a GPU");
    let stack = one(7).random(&Device::Gpu(low.clone()), 3).expect("a stack");
    let plan = stack.plan(40, 2).expect("fits");
    let chunks = plan.chunks().len() as u64;
    let x = input(&Device::Gpu(low.clone()), [40, 2, 5]);
    let mut state = stack.zero_state(2).expect("state");
    let (spent, _y) = cost(&low, || stack.forward(&x, &mut state).expect("runs"));
    assert!(chunks > 2 || !small, "{plan}");
    assert_eq!((spent.dispatches, spent.submits), (if small { 2 * chunks } else { 40 + chunks }, 1), "{plan}");
}

#[test]
fn directions_with_cells_of_their_own_take_a_dispatch_each_at_most() {
    let gpu = gpu();
    let device = Device::Gpu(gpu.clone());
    let relu = RnnCell { activation: Activation::Relu, ..Default::default() };
    let config = Config::new(RnnCell::default(), 5, 7).bidirectional(Merge::Concat).reverse_cell(relu);
    let stack = config.random(&device, 3).expect("a stack");
    let x = input(&device, [9, BATCH, 5]);
    let mut state = stack.zero_state(BATCH).expect("state");
    let plan = stack.plan(9, BATCH).expect("fits");
    let (spent, _y) = cost(&gpu, || stack.forward(&x, &mut state).expect("runs"));
    assert_eq!((spent.submits, spent.dispatches), (1, plan.dispatches() as u64), "{plan}");
    assert!(plan.dispatches() <= 2 * 9 + 2, "{plan}");
}
