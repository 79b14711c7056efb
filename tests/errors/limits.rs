//! Calls that are too large for their GPU.

use gatewise::cell::{GruCell, LstmCell, Reset, Sequence};
use gatewise::gpu::{GpuDevice, KERNELS, Kernel, KernelRun};
use gatewise::nn::{Config, Gru, Lstm, Merge, State};
use gatewise::ops::{self, Conv1dGeometry, Reduction};
use gatewise::{Device, Error, Tensor};

use crate::common::{gpu, gpu_with};
use crate::{refused, tensor, value};

fn kernel(name: &str) -> &'static Kernel {
    KERNELS.iter().find(|kernel| kernel.name == name).expect("a kernel of the crate")
}

fn limit(gpu: &GpuDevice, op: &str, what: &str, needed: u64, limit: u64) -> String {
    format!("{op}: {what} needs {needed}, the limit of {} is {limit}", gpu.adapter().name)
}

/// A GPU whose bindings hold 1024 numbers.
fn small() -> GpuDevice {
    gpu_with(|limits| limits.max_storage_buffer_binding_size = 4096)
}

const BINDING: &str = "a storage binding in bytes";

#[test]
fn a_tensor_larger_than_a_binding() {
    let gpu = small();
    let device = Device::Gpu(gpu.clone());
    assert_eq!(gpu.adapter().binding_bytes, 4096);
    tensor(&device, &[4, 256]);
    let error = refused(Tensor::zeros(&device, &[1025]), &limit(&gpu, "tensor", BINDING, 4100, 4096));
    assert!(matches!(error, Error::Limit { needed: 4100, limit: 4096, .. }));
    refused(Tensor::from_vec(&device, &[1025], vec![0.0; 1025]), &limit(&gpu, "tensor", BINDING, 4100, 4096));
    // Far beyond the host's memory, too.
    let bytes = 4 << 50;
    refused(Tensor::zeros(&device, &[1 << 20, 1 << 30]), &limit(&gpu, "tensor", BINDING, bytes, 4096));
}

#[test]
fn a_tensor_larger_than_a_buffer() {
    let gpu = gpu_with(|limits| limits.max_buffer_size = 8192);
    let device = Device::Gpu(gpu.clone());
    tensor(&device, &[2048]);
    let message = limit(&gpu, "tensor", "a buffer's size in bytes", 8196, 8192);
    refused(Tensor::zeros(&device, &[2049]), &message);
}

#[test]
fn weights_or_a_state_larger_than_a_binding() {
    let gpu = small();
    let device = Device::Gpu(gpu.clone());
    let error = Lstm::config(3, 33).random(&device, 1).expect_err("large weights");
    assert!(matches!(error, Error::Limit { op: "weights", limit: 4096, .. }), "{error}");
    let lstm = Lstm::config(3, 8).random(&device, 1).expect("fits");
    lstm.zero_state(128).expect("fits");
    refused(lstm.zero_state(129), &limit(&gpu, "tensor", BINDING, 4128, 4096));
}

/// Fails unless a call that does not fit is refused and leaves the state as it was, both in a recorder of its own and in a shared
/// one; `good` steps fit.
#[track_caller]
fn too_large(device: &Device, config: &Config<LstmCell>, [bad, good]: [usize; 2], expected: impl Fn(&Error) -> bool) {
    let stack = config.random(device, 1).expect("fits");
    let batch = 4;
    let mut state = stack.zero_state(batch).expect("fits");
    let x = |time: usize| tensor(device, &[time, batch, 3]);
    stack.forward(&x(good), &mut state).expect("fits");
    let before = value(&state);
    let error = stack.forward(&x(bad), &mut state).expect_err("too large");
    assert!(expected(&error), "{error}");
    assert_eq!(value(&state), before, "{error}");

    let mut recorder = device.recorder();
    stack.record(&mut recorder, &x(bad), &mut state, &Sequence::new()).expect_err("too large");
    recorder.submit().expect("what was recorded before the refusal changes nothing");
    assert_eq!(value(&state), before, "{error}");
    stack.forward(&x(good), &mut state).expect("fits");
    assert_ne!(value(&state), before);
}

#[test]
fn an_output_larger_than_a_binding() {
    let device = Device::Gpu(small());
    // With 4 rows of 8 numbers per step, 32 steps fill a binding; of both directions, 16 steps do.
    let output = |error: &Error| matches!(error, Error::Limit { what: "a layer's output in bytes", limit: 4096, .. });
    too_large(&device, &Lstm::config(3, 8), [33, 32], output);
    too_large(&device, &Lstm::config(3, 8).layers(2).bidirectional(Merge::Concat), [17, 16], output);
}

#[test]
fn a_step_larger_than_a_binding() {
    let gpu = small();
    let device = Device::Gpu(gpu.clone());
    let lstm = Lstm::config(2, 8).random(&device, 1).expect("fits");
    // 32 rows of 8 units with 4 gates fill a binding.
    lstm.plan(4, 32).expect("fits");
    let message = limit(&gpu, "plan", "one step's input projection in bytes", 4224, 4096);
    let error = refused(lstm.plan(5, 33), &message);
    assert!(matches!(error, Error::Limit { op: "plan", .. }));
    let mut state = lstm.zero_state(33).expect("fits");
    let before = value(&state);
    refused(lstm.forward(&tensor(&device, &[2, 33, 2]), &mut state), &message);
    assert_eq!(value(&state), before);
}

#[test]
fn more_workgroup_memory_than_there_is() {
    let needed = {
        // The adapter's own limit is large enough, or no other test would pass.
        let gpu = gpu_with(|limits| limits.max_compute_workgroup_storage_size = 64);
        let run =
            KernelRun { constants: &[], dims: &[0; 6], buffers: &[vec![0], vec![0], vec![0], vec![0]], grid: [1; 3] };
        let error = gpu.run_kernel(kernel("matmul"), &run).expect_err("64 bytes hold no tile");
        match error {
            Error::Limit { op: "matmul", what: "workgroup memory in bytes", needed, limit: 64, .. } => needed,
            other => panic!("{other}"),
        }
    };
    let bytes = u32::try_from(needed).expect("32 bits");
    let short = gpu_with(|limits| limits.max_compute_workgroup_storage_size = bytes - 1);
    let enough = gpu_with(|limits| limits.max_compute_workgroup_storage_size = bytes);
    let message = limit(&short, "matmul", "workgroup memory in bytes", needed, needed - 1);
    let product = |gpu: &GpuDevice| {
        let device = Device::Gpu(gpu.clone());
        let mut recorder = device.recorder();
        ops::matmul(&mut recorder, &tensor(&device, &[40, 5]), &tensor(&device, &[5, 6]), None)?;
        recorder.submit()
    };
    refused(product(&short), &message);
    product(&enough).expect("just enough");
}

#[test]
fn a_workgroup_larger_than_the_device_takes() {
    let few = gpu_with(|limits| limits.max_compute_invocations_per_workgroup = 4);
    let short = gpu_with(|limits| limits.max_compute_workgroup_size_x = 4);
    for (gpu, what) in [(few, "invocations of a workgroup"), (short, "invocations of a workgroup along one axis")] {
        let device = Device::Gpu(gpu);
        for batch in [1, 20] {
            let lstm = Lstm::config(3, 8).random(&device, 1).expect("weights need no kernel");
            let mut state = lstm.zero_state(batch).expect("state");
            let before = value(&state);
            let error = lstm.forward(&tensor(&device, &[2, batch, 3]), &mut state).expect_err("no kernel fits");
            assert!(matches!(error, Error::Limit { what: found, limit: 4, .. } if found == what), "{error}");
            assert_eq!(value(&state), before);
        }
    }
}

#[test]
fn loops_that_the_driver_would_cut_short() {
    let gpu = gpu();
    let Some(cap) = gpu.plan_limits().loop_cap else { return };
    let device = Device::Gpu(gpu.clone());
    let loops = |op: &str, needed: u64| limit(&gpu, op, "loop iterations of one invocation", needed, cap);
    let mut recorder = device.recorder();
    let geometry = Conv1dGeometry { stride: 1, padding: 0 };
    let (x, weight) = (tensor(&device, &[1, 700, 99]), tensor(&device, &[1, 700, 99]));
    refused(ops::conv1d(&mut recorder, &x, &weight, &tensor(&device, &[1]), geometry), &loops("conv1d", 70_000));
    let row = Tensor::zeros(&device, &[1, 64 * 65_536]).expect("16 MiB");
    refused(ops::reduce_rows(&mut recorder, Reduction::Sum, &row), &loops("reduce_rows", 65_600));

    let gru = Gru::config(270_000, 2).random(&device, 1).expect("fits");
    let mut state = gru.zero_state(2).expect("state");
    let before = value(&state);
    let message = loops("plan", 67_506);
    refused(gru.forward(&tensor(&device, &[1, 2, 270_000]), &mut state), &message);
    refused(gru.plan(1, 2), &message);
    assert_eq!(value(&state), before);
}

#[test]
fn more_axes_than_a_kernel_walks() {
    let gpu = gpu();
    let device = Device::Gpu(gpu.clone());
    let nine = [2, 1, 1, 1, 1, 1, 1, 1, 3];
    let x = tensor(&device, &nine);
    let order = [8, 7, 6, 5, 4, 3, 2, 1, 0];
    let message = limit(&gpu, "strided_copy", "axes", 9, 8);
    refused(ops::permute(&mut device.recorder(), &x, &order), &message);
    ops::permute(&mut Device::Cpu.recorder(), &tensor(&Device::Cpu, &nine), &order).expect("the CPU walks any number");
}

/// A refused step of two dispatches leaves its state as it was, too.
#[test]
fn a_refused_call_of_every_schedule_keeps_the_state() {
    let device = Device::Gpu(small());
    let cells: [gatewise::cell::Cell; 3] = [
        GruCell { reset: Reset::Before, ..Default::default() }.into(),
        LstmCell { projection: Some(5), ..Default::default() }.into(),
        GruCell::default().into(),
    ];
    for cell in cells {
        let stack = Config::new(cell, 3, 8).layers(2).random(&device, 1).expect("fits");
        let mut state: State = stack.zero_state(4).expect("fits");
        stack.forward(&tensor(&device, &[9, 4, 3]), &mut state).expect("fits");
        let before = value(&state);
        let error = stack.forward(&tensor(&device, &[60, 4, 3]), &mut state).expect_err("too large");
        assert!(matches!(error, Error::Limit { .. }), "{error}");
        assert_eq!(value(&state), before, "{cell:?}");
    }
}
