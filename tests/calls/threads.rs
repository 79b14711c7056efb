//! One GPU device shared by threads.

use gatewise::gpu::{KERNELS, KernelRun};

use crate::support::{gpu, uniform};

/// A thread's wait may finish the work of another thread while a third one records. The result must reach the thread that asked
/// for it, and nobody else may get its memory before.
#[test]
fn threads_read_back_at_the_same_time() {
    let gpu = gpu();
    let unary = KERNELS.iter().find(|kernel| kernel.name == "unary").expect("is in the table");
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let gpu = &gpu;
            scope.spawn(move || {
                for round in 0..60 {
                    let x: Vec<u32> = uniform(thread * 1000 + round, 70, 1.0).iter().map(|x| x.to_bits()).collect();
                    let buffers = [x.clone(), vec![0; 70]];
                    let run = KernelRun { constants: &[], dims: &[70, 0, 0], buffers: &buffers, grid: [2, 1, 1] };
                    let after = gpu.run_kernel(unary, &run).expect("runs");
                    assert_eq!(after, [x.clone(), x], "thread {thread}, round {round}");
                }
            });
        }
    });
}
