//! The memory of a training pass as sequences grow, with and without gradient checkpointing: on the CPU path the most bytes
//! allocated at once, on the GPU the bytes of all buffers that a fresh device creates.

#[path = "common/live_bytes.rs"]
mod live_bytes;

use gatewise::cell::{Cell, GruCell, LstmCell, RnnCell, Sequence};
use gatewise::cpu::CpuOptions;
use gatewise::nn::{Config, Merge, TrainingOptions};
use gatewise::train::{gradient_flow, gradient_flow_bytes};
use gatewise::{Device, Tensor};
use live_bytes::most_bytes;
use ndarray::Array3;

const BATCH: usize = 2;
const INPUT: usize = 4;
const HIDDEN: usize = 32;
/// Bytes per number.
const WORD: usize = size_of::<f32>();

fn wave([time, batch, width]: [usize; 3]) -> Array3<f32> {
    Array3::from_shape_fn((time, batch, width), |(t, b, i)| ((5 * t + 3 * b + i) as f32 * 0.7).sin())
}

/// A pass forward and back over `time` steps; returns every gradient with respect to a parameter.
fn pass(device: &Device, cell: Cell, sizes: [usize; 4], checkpoint: Option<usize>) -> Vec<Vec<u32>> {
    let [time, batch, input, hidden] = sizes;
    let config = Config::new(cell, input, hidden);
    let stack = config.trainable(device, &config.random_parameters(3).expect("parameters")).expect("a stack");
    let mut state = stack.zero_state(batch).expect("a state");
    let x = Tensor::from_array(device, &wave([time, batch, input])).expect("an input");
    let options = TrainingOptions { checkpoint, ..TrainingOptions::default() };
    let mut recorder = device.recorder();
    let (y, tape) =
        stack.record_training(&mut recorder, &x, &mut state, &Sequence::new(), &options).expect("a forward pass");
    let d = tape.record_backward(&mut recorder, &y, None).expect("a backward pass");
    recorder.submit().expect("a submission");
    d.tensors().map(|d| d.to_vec().expect("numbers").into_iter().map(f32::to_bits).collect()).collect()
}

fn cells() -> [Cell; 3] {
    [RnnCell::default().into(), LstmCell::default().into(), GruCell::default().into()]
}

fn cpu() -> Device {
    Device::cpu_with(&CpuOptions { threads: Some(1), ..CpuOptions::default() }).expect("a CPU")
}

/// Checks the memory that a device keeps per step, from the bytes of passes of two lengths.
fn check(cell: Cell, [short, long]: [usize; 2], bytes: impl Fn(usize, Option<usize>) -> usize) {
    const CHUNK: usize = 64;
    // Numbers per step and row.
    let slope = |checkpoint| {
        let grown = bytes(long, checkpoint) - bytes(short, checkpoint);
        grown as f64 / ((long - short) * BATCH * WORD) as f64
    };
    let (kept, again) = (slope(None), slope(Some(CHUNK)));
    println!("{cell:?}: {kept:.1} numbers per step and row, {again:.1} with checkpoints");
    // The gates' pre-activations, and their gradients or the states before each step.
    let inside = (2 * cell.gates().len() * HIDDEN) as f64;
    assert!(kept > again + inside, "{cell:?}: {kept} kept, {again} with checkpoints");
    // Inputs, outputs, the gradients with respect to them, copies for some rows of a batch; every 64 steps a state.
    let outside = (7 * (INPUT + HIDDEN)) as f64;
    assert!(again < outside, "{cell:?}: {again} of {outside}");
}

#[test]
fn memory_on_the_cpu_grows_only_by_inputs_and_outputs() {
    for cell in cells() {
        check(cell, [1024, 2048], |time, checkpoint| {
            most_bytes(|| pass(&cpu(), cell, [time, BATCH, INPUT, HIDDEN], checkpoint)).0
        });
    }
}

/// A command refuses a flow by this number before it begins. It is at least the memory in use at one time, and not much more.
#[test]
fn a_gradient_flow_takes_at_most_the_estimated_bytes() {
    const TIME: usize = 60;
    const HIDDEN: usize = 6;
    for cell in cells() {
        for layers in [1, 2] {
            let plain = Config::new(cell, INPUT, HIDDEN).layers(layers);
            for config in [plain.clone(), plain.bidirectional(Merge::Concat)] {
                let parameters = config.random_parameters(3).expect("parameters");
                let stack = config.trainable(&cpu(), &parameters).expect("a stack");
                let state = stack.zero_state(BATCH).expect("a state");
                let tensor = |width| Tensor::from_array(&cpu(), &wave([TIME, BATCH, width])).expect("a tensor");
                let (x, dy) = (tensor(INPUT), tensor(config.output_size()));
                let (taken, flow) = most_bytes(|| gradient_flow(&stack, &x, &state, &Sequence::new(), &dy));
                assert!(flow.is_ok());
                let estimate = gradient_flow_bytes(&config, TIME, BATCH).expect("a flow") as usize;
                println!("{config:?}: {taken} of {estimate} bytes");
                assert!(taken <= estimate && estimate < 2 * taken, "{config:?}: {taken} of {estimate} bytes");
            }
        }
    }
}

#[cfg(feature = "gpu")]
#[test]
fn memory_on_the_gpu_grows_only_by_inputs_and_outputs() {
    use gatewise::gpu::{GpuDevice, GpuOptions};
    for cell in cells() {
        check(cell, [256, 512], |time, checkpoint| {
            let gpu = GpuDevice::new(&GpuOptions { software: true, ..Default::default() })
                .expect("install mesa-vulkan-drivers and libvulkan1");
            pass(&Device::Gpu(gpu.clone()), cell, [time, BATCH, INPUT, HIDDEN], checkpoint);
            gpu.counters().bytes as usize
        });
    }
}

/// `cargo test --release --test training_memory -- --ignored --nocapture`
#[test]
#[ignore = "takes minutes without optimisation"]
fn ten_thousand_steps_of_256_units_train_in_bounded_memory() {
    const SIZES: [usize; 4] = [10_000, 2, 64, 256];
    let cell = LstmCell::default().into();
    let (again, checkpointed) = most_bytes(|| pass(&cpu(), cell, SIZES, Some(100)));
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let resident = status.lines().find(|line| line.starts_with("VmHWM")).unwrap_or("VmHWM: not known").to_owned();
    let (kept, plain) = most_bytes(|| pass(&cpu(), cell, SIZES, None));
    let mebibytes = |bytes: usize| bytes as f64 / f64::from(1 << 20);
    println!("{:.0} MiB with checkpoints ({resident}), {:.0} MiB without", mebibytes(again), mebibytes(kept));
    assert!(checkpointed == plain, "the gradients are the same bits");
    let [time, batch, input, hidden] = SIZES;
    assert!(again < 8 * time * batch * (input + hidden) * WORD, "{again} bytes");
}

/// Trains 256 units over 10,000 steps on a GPU in bounded memory.
#[cfg(feature = "gpu")]
#[test]
#[ignore = "takes minutes on a software adapter"]
fn ten_thousand_steps_of_256_units_train_in_bounded_memory_on_the_gpu() {
    use gatewise::gpu::{GpuDevice, GpuOptions};
    const SIZES: [usize; 4] = [10_000, 2, 64, 256];
    let [(again, checkpointed), (kept, plain)] = [Some(100), None].map(|checkpoint| {
        let gpu = GpuDevice::new(&GpuOptions { software: true, ..Default::default() })
            .expect("install mesa-vulkan-drivers and libvulkan1");
        let begin = std::time::Instant::now();
        let gradients = pass(&Device::Gpu(gpu.clone()), LstmCell::default().into(), SIZES, checkpoint);
        let bytes = gpu.counters().bytes as usize;
        println!("{} MiB with {checkpoint:?}, {:.0} s", bytes >> 20, begin.elapsed().as_secs_f64());
        (bytes, gradients)
    });
    assert!(checkpointed.iter().flatten().all(|&bits| f32::from_bits(bits).is_finite()));
    assert!(checkpointed == plain, "the gradients are the same bits");
    let [time, batch, input, hidden] = SIZES;
    assert!(again < 8 * time * batch * (input + hidden) * WORD, "{again} bytes");
    assert!(again < kept / 2, "{again} bytes of {kept}");
}
