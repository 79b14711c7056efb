//! The cost of a call that is not the first of its kind: no memory, no bind groups, no compilation, little on the host.

use gatewise::cell::Sequence;
use gatewise::gpu::{Counters, GpuDevice, GpuOptions};
use gatewise::nn::{Gru, Lstm};
use gatewise::plan::{CooperativeScans, PlanKind};
use gatewise::{Device, Error};

use super::allocations::allocations;
use super::common::{gpu, refusal};
use super::{BATCH, cells, cost, input, stacks};

/// The adapter with cooperative scans of a single workgroup: several might not run concurrently and would be scanned again.
fn alone() -> GpuDevice {
    let cooperative = Some(CooperativeScans { workgroups: 1, polls: 1 });
    GpuDevice::new(&GpuOptions { software: true, cooperative, ..Default::default() })
        .expect("install mesa-vulkan-drivers and libvulkan1")
}

/// Runs every stack by a kind of plan and counts its cost: cold, warm, and read back. Returns how many ran and were refused.
fn settle(kind: PlanKind) -> (usize, usize) {
    let gpu = alone();
    let device = Device::Gpu(gpu.clone());
    let (mut ran, mut refused) = (0, 0);
    for (cell, _) in cells() {
        for (config, _, beside) in stacks(cell) {
            let config = config.plan(kind);
            let stack = config.random(&device, 3).expect("a stack");
            let plan = match (stack.plan(6, BATCH), refusal(kind, &cell, if beside > 1 { 2 } else { 1 })) {
                (Ok(plan), None) => plan,
                (Err(Error::Unsupported { .. }), Some(_)) => {
                    refused += 1;
                    continue;
                }
                (plan, reason) => panic!("{plan:?}, refused for {reason:?}"),
            };
            let x = input(&device, [6, BATCH, 5]);
            let mut state = stack.zero_state(BATCH).expect("state");
            let mut call = |read: bool| {
                let y = stack.forward(&x, &mut state).expect("runs");
                if read {
                    y.to_vec().and(state.to_h()).and(state.to_s()).expect("read");
                }
                y
            };
            let (spent, y) = cost(&gpu, || call(true));
            assert_eq!((plan.kind(), spent.dispatches), (kind, plan.dispatches() as u64), "{config:?}");
            assert!(spent.bind_groups > 0, "{config:?}: {spent:?}");
            drop(y);
            let warm = Counters { submits: 5, passes: 5, dispatches: 5 * spent.dispatches, ..Counters::default() };
            let reads = if cell.has_cell_state() { 3 } else { 2 };
            let (spent, ()) = cost(&gpu, || (0..5).for_each(|_| drop(call(true))));
            assert_eq!(spent, Counters { submits: 5 + 5 * reads, ..warm }, "read back: {config:?}");
            let (spent, ()) = cost(&gpu, || (0..5).for_each(|_| drop(call(false))));
            // Whether its workgroups ran at once comes back into memory of each call that is under way.
            let under_way = if kind == PlanKind::CooperativeScan { 4 } else { 0 };
            assert!(spent.buffers <= under_way, "{config:?}: {spent:?}");
            assert_eq!(spent, Counters { buffers: spent.buffers, bytes: spent.bytes, ..warm }, "{config:?}");
            ran += 1;
        }
    }
    (ran, refused)
}

#[test]
fn a_warm_call_by_steps_creates_nothing() {
    assert_eq!(settle(PlanKind::Step), (30, 0));
}

#[test]
fn a_warm_wave_creates_nothing() {
    assert_eq!(settle(PlanKind::Wave), (8, 22));
}

#[test]
fn a_warm_scan_creates_nothing() {
    assert_eq!(settle(PlanKind::Scan), (30, 0));
}

#[test]
fn a_warm_scan_over_several_workgroups_creates_nothing() {
    assert_eq!(settle(PlanKind::CooperativeScan), (20, 10));
}

#[test]
fn lengths_take_one_write_a_call_and_nothing_else() {
    let gpu = gpu();
    let device = Device::Gpu(gpu.clone());
    let stack = Lstm::config(5, 7).layers(2).random(&device, 3).expect("a stack");
    let x = input(&device, [6, BATCH, 5]);
    let mut state = stack.zero_state(BATCH).expect("state");
    let sequence = Sequence::new().lengths([6, 2, 0]);
    let mut call = || drop(stack.forward_sequence(&x, &mut state, &sequence).expect("runs"));
    call();
    let (spent, ()) = cost(&gpu, call);
    assert_eq!((spent.buffers, spent.bind_groups, spent.pipelines, spent.writes), (0, 0, 0, 1));
}

#[test]
fn calls_that_hold_their_results_settle_too() {
    let gpu = gpu();
    let device = Device::Gpu(gpu.clone());
    let stack = Gru::config(5, 7).random(&device, 3).expect("a stack");
    let mut state = stack.zero_state(BATCH).expect("state");
    let mut held = None;
    // A step's tensors are dropped after the next step has run: two outputs and two inputs alternate.
    let mut step = || {
        let x = input(&device, [1, BATCH, 5]);
        let y = stack.forward(&x, &mut state).expect("runs");
        held = Some((x, y));
    };
    (0..4).for_each(|_| step());
    let (spent, ()) = cost(&gpu, || (0..10).for_each(|_| step()));
    assert_eq!((spent.buffers, spent.bind_groups, spent.pipelines), (0, 0, 0));
    assert_eq!((spent.submits, spent.writes), (10, 10), "a write for each input");
    drop(held);
}

#[test]
fn shapes_that_take_turns_find_what_they_left() {
    let gpu = gpu();
    let device = Device::Gpu(gpu.clone());
    let stack = Lstm::config(5, 7).random(&device, 3).expect("a stack");
    let sizes = [1, 4, 9, 30];
    let inputs = sizes.map(|time| input(&device, [time, BATCH, 5]));
    let mut state = stack.zero_state(BATCH).expect("state");
    let mut round = || inputs.iter().for_each(|x| drop(stack.forward(x, &mut state).expect("runs")));
    round();
    let (spent, ()) = cost(&gpu, || (0..3).for_each(|_| round()));
    let kept = Counters { submits: 12, passes: 12, dispatches: spent.dispatches, ..Counters::default() };
    assert_eq!(spent, kept);
}

#[test]
fn threads_of_one_device_share_its_bind_groups_and_get_the_same_bits() {
    let gpu = gpu();
    let device = Device::Gpu(gpu.clone());
    let stack = Lstm::config(5, 7).random(&device, 3).expect("a stack");
    let x = input(&device, [6, BATCH, 5]);
    let run = || {
        let mut state = stack.zero_state(BATCH).expect("state");
        let outputs = (0..8).map(|_| stack.forward(&x, &mut state).and_then(|y| y.to_vec()).expect("runs"));
        outputs.flatten().map(f32::to_bits).collect::<Vec<_>>()
    };
    let alone = run();
    let several: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(run)).collect();
        threads.into_iter().map(|thread| thread.join().expect("runs")).collect()
    });
    assert!(several.iter().all(|bits| *bits == alone));
}

/// Host allocations of a warm call, and its dispatches.
fn allocated(kind: PlanKind, time: usize) -> (usize, usize) {
    let device = Device::Gpu(alone());
    let stack = Lstm::config(5, 7).layers(2).plan(kind).random(&device, 3).expect("a stack");
    let x = input(&device, [time, BATCH, 5]);
    let mut state = stack.zero_state(BATCH).expect("state");
    let mut call = || drop(stack.forward(&x, &mut state).expect("runs"));
    (0..4).for_each(|_| call());
    let calls = allocations(|| (0..10).for_each(|_| call())) / 10;
    (calls, stack.plan(time, BATCH).expect("fits").dispatches())
}

#[test]
fn a_warm_call_allocates_little_on_the_host_and_about_once_a_dispatch() {
    // A wide scan's word is looked for on the host.
    let kinds = [(PlanKind::Step, 110), (PlanKind::Wave, 110), (PlanKind::Scan, 90), (PlanKind::CooperativeScan, 180)];
    for (kind, most) in kinds {
        let ((few, one), (many, other)) = (allocated(kind, 10), allocated(kind, 110));
        println!("{kind}: {few} allocations for {one} dispatches, {many} for {other}");
        assert!(few <= most + one, "{kind}: {few} for {one} dispatches");
        if matches!(kind, PlanKind::Scan | PlanKind::CooperativeScan) {
            assert_eq!(one, other, "{kind} is one dispatch or few, however many steps");
            assert!(many <= few + 10, "{kind}: {few} for 10 steps, {many} for 110");
        } else {
            assert!(other >= one + 100, "{kind}: {one} dispatches, {other}");
            // They are wgpu's own: an encoder's list of commands and barriers.
            let each = (many as f64 - few as f64) / (other - one) as f64;
            assert!((0.7..=1.3).contains(&each), "{kind}: {few} for {one} dispatches, {many} for {other}");
        }
    }
}

#[test]
fn stacks_of_one_description_share_their_pipelines() {
    let gpu = gpu();
    let device = Device::Gpu(gpu.clone());
    let run = |seed: u64| {
        let stack = Lstm::config(5, 7).layers(2).random(&device, seed).expect("a stack");
        let mut state = stack.zero_state(BATCH).expect("state");
        stack.forward(&input(&device, [6, BATCH, 5]), &mut state).expect("runs")
    };
    let (spent, _) = cost(&gpu, || run(1));
    assert!(spent.pipelines > 0);
    let (spent, _) = cost(&gpu, || run(2));
    assert_eq!(spent.pipelines, 0);
}
