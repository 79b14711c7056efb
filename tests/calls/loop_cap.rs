//! llvmpipe ends every loop of an invocation after 65,535 iterations in all, without an error. The crate relies on
//! exactly that.

use crate::support::gpu;
use gatewise::gpu::{Kernel, KernelRun};
use gatewise::{Device, Tensor, ops};
use ndarray::Array2;

static COUNT: Kernel = Kernel {
    name: "count",
    files: &[],
    source: "
        struct CountDims { most: u32, a: u32, b: u32, c: u32 }
        @group(0) @binding(0) var<uniform> dims: CountDims;
        @group(0) @binding(1) var<storage, read_write> y: array<u32>;
        @compute @workgroup_size(1)
        fn count() {
            var total = 0u;
            for (var i = 0u; i < dims.most; i++) {
                total += 1u;
            }
            y[0] = total;
        }
    ",
};

fn loop_cap() -> Option<u64> {
    gpu().plan_limits().loop_cap
}

#[test]
fn the_cap_is_where_the_plan_takes_it_to_be() {
    let counted = |most: u32| {
        let run = KernelRun { constants: &[], dims: &[most, 0, 0, 0], buffers: &[vec![0]], grid: [1, 1, 1] };
        gpu().run_kernel(&COUNT, &run).expect("runs")[0][0]
    };
    assert_eq!(counted(1000), 1000);
    match loop_cap() {
        Some(cap) => {
            let below = u32::try_from(cap).expect("a cap of 32 bits");
            assert_eq!(counted(below - 1), below - 1, "the driver counts less than it is taken to");
            assert!(counted(1_000_000) < 1_000_000, "this driver has no cap: lift it in the adapter's limits");
        }
        None => assert_eq!(counted(1_000_000), 1_000_000, "this driver has a cap that nobody knows of"),
    }
}

#[test]
fn a_product_that_the_cap_would_cut_is_taken_in_pieces() {
    let device = Device::Gpu(gpu());
    let product = |depth: usize| {
        let (a, b) = (Array2::<f32>::ones((2, depth)), Array2::<f32>::ones((depth, 3)));
        let mut recorder = device.recorder();
        let (a, b) = (Tensor::from_array(&device, &a)?, Tensor::from_array(&device, &b)?);
        let y = ops::matmul(&mut recorder, &a, &b, None)?;
        recorder.submit()?;
        y.to_vec()
    };
    for depth in [20_000, 100_000] {
        assert_eq!(product(depth).expect("any depth"), [depth as f32; 6]);
    }
}
