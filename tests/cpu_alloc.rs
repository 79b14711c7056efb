//! A warm step on the CPU allocates nothing, and one step of one row stays on the caller's thread.

#[path = "common/allocations.rs"]
mod allocations;

use allocations::allocations;
use gatewise::Device;
use gatewise::cell::{Cell, GruCell, LstmCell, RnnCell, WeightType};
use gatewise::cpu::CpuOptions;
use gatewise::nn::{Config, Merge};
use ndarray::Array3;

fn configs() -> Vec<Config> {
    let projected = LstmCell { projection: Some(40), peephole: true, ..LstmCell::default() };
    let cells: [Cell; 5] = [
        RnnCell::default().into(),
        LstmCell::default().into(),
        GruCell::default().into(),
        GruCell::LECTURE.into(),
        projected.into(),
    ];
    let kinds = WeightType::ALL;
    let config = |cell: Cell| {
        let config = Config::new(cell, 64, 128);
        [
            config.clone(),
            config.clone().layers(2).bidirectional(Merge::Concat),
            config.layers(2).bidirectional(Merge::Sum),
        ]
    };
    let all = cells.into_iter().flat_map(config);
    all.flat_map(|config| kinds.map(|kind| config.clone().weight_type(kind))).collect()
}

#[test]
fn the_counter_counts() {
    assert_eq!(allocations(|| drop(std::hint::black_box(vec![1, 2, 3]))), 1);
}

#[test]
fn a_warm_call_allocates_nothing() {
    for config in configs() {
        let stack = config.random(&Device::Cpu, 1).expect("builds");
        for (time, batch) in [(1, 1), (1, 3), (5, 2)] {
            let x = Array3::from_elem((time, batch, 64), 0.1);
            let mut y = Array3::zeros((time, batch, stack.output_size()));
            let mut state = stack.zero_state(batch).expect("state");
            stack.forward_into(x.view(), &mut state, y.view_mut()).expect("first call");
            let count = allocations(|| {
                for _ in 0..10 {
                    stack.forward_into(x.view(), &mut state, y.view_mut()).expect("runs");
                }
                state.reset().expect("resets");
            });
            assert_eq!(count, 0, "{config:?}, T = {time}, B = {batch}");
        }
    }
}

#[test]
#[cfg(target_os = "linux")]
fn a_streaming_step_starts_no_thread_but_a_large_call_does() {
    let device = Device::cpu_with(&CpuOptions { threads: Some(4), ..Default::default() }).expect("threads");
    let stack = Config::<Cell>::new(LstmCell::default().into(), 512, 512).random(&device, 1).expect("builds");
    let run = |time: usize, batch: usize| {
        let mut state = stack.zero_state(batch).expect("state");
        let mut y = Array3::zeros((time, batch, 512));
        stack.forward_into(Array3::zeros((time, batch, 512)).view(), &mut state, y.view_mut()).expect("runs");
    };
    let named = || {
        let tasks = std::fs::read_dir("/proc/self/task").expect("tasks").flatten();
        let names = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("comm")).ok());
        names.filter(|name| name.starts_with("gatewise-")).count()
    };
    let before = named();
    run(1, 1);
    assert_eq!(named(), before, "a streaming step started a thread");
    run(8, 4);
    assert_eq!(named(), before + 3);
}
