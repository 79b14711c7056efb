//! A warm step on the CPU allocates nothing, and one step of one row stays on the caller's thread.

#[path = "common/allocations.rs"]
mod allocations;
#[cfg(feature = "onnx")]
#[path = "common/graph.rs"]
mod graph;

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
#[cfg(feature = "onnx")]
fn a_warm_run_of_an_onnx_model_allocates_nothing() {
    use gatewise::Tensor;
    use gatewise::onnx::{Input, Outputs};

    let model = graph::speech_model();
    for batch in [1, 3] {
        let tensor =
            |width: usize| Tensor::from_array(&Device::Cpu, &Array3::from_elem((1, batch, width), 0.3)).expect("fits");
        let x = tensor(24);
        let (mut h, mut c) = (tensor(16), tensor(16));
        let mut outputs = Outputs::default();
        let mut frame = || {
            let next =
                |outputs: &Outputs, at: usize| outputs.iter().nth(at).and_then(|(_, y)| y.tensor().ok().cloned());
            let inputs = [("x", Input::from(&x)), ("h", Input::from(&h)), ("c", Input::from(&c))];
            model.run_into(&inputs, &mut outputs).expect("runs");
            (h, c) = (next(&outputs, 1).expect("a state"), next(&outputs, 2).expect("a state"));
        };
        (0..5).for_each(|_| frame());
        assert_eq!(allocations(|| (0..10).for_each(|_| frame())), 0, "B = {batch}");
    }
}

#[test]
#[cfg(feature = "keras")]
fn a_warm_call_of_a_keras_layer_allocates_nothing() {
    use gatewise::weights::keras::{KerasCall, KerasFile, KerasOutputs};
    use ndarray::{Array2, ArrayD, IxDyn};

    // Layers of inputs `[B, T, I]`, which mask nothing.
    let cases = [("around.keras", "lstm", 4), ("both.keras", "concat", 3), ("both.keras", "sum", 3)];
    for (file, layer, width) in cases {
        let layer = KerasFile::open(format!("tests/fixtures/keras/{file}")).expect("opens").layer(layer, &Device::Cpu);
        let layer = layer.expect("a layer");
        let x = ArrayD::from_elem(IxDyn(&[2, 5, width]), 0.3_f32);
        let mask = Array2::from_shape_fn((2, 5), |(b, t)| t < 3 + b);
        for call in [KerasCall::new(x.clone()), KerasCall::new(x).mask(mask)] {
            let mut outputs = KerasOutputs::default();
            let mut run = || layer.call_into(&call, &mut outputs).expect("runs");
            (0..5).for_each(|_| run());
            assert_eq!(allocations(|| (0..10).for_each(|_| run())), 0, "{layer:?}");
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
