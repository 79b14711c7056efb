//! A streaming step is fit for an audio thread: it makes no system call, so it neither waits for a lock nor wakes another
//! thread nor asks for memory.
#![cfg(target_os = "linux")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use gatewise::Device;
use gatewise::cell::{Cell, GruCell, LstmCell, RnnCell, WeightType};
use gatewise::cpu::CpuOptions;
use gatewise::nn::{Config, Merge, Recurrent, State};
use ndarray::Array3;

/// A stack with the input, output and state of a call.
struct Subject {
    stack: Recurrent<Cell>,
    state: State,
    x: Array3<f32>,
    y: Array3<f32>,
}

impl Subject {
    /// A warm stack, which has run once.
    fn new(config: &Config<Cell>, device: &Device, [time, batch, input]: [usize; 3]) -> Self {
        let stack = config.random(device, 1).expect("builds");
        let x = Array3::from_elem((time, batch, input), 0.1);
        let y = Array3::zeros((time, batch, stack.output_size()));
        let state = stack.zero_state(batch).expect("state");
        let mut subject = Self { stack, state, x, y };
        subject.run();
        subject
    }

    fn run(&mut self) {
        self.stack.forward_into(self.x.view(), &mut self.state, self.y.view_mut()).expect("runs");
    }
}

/// Runs what `prepare` returns ten times on a thread that the kernel ends at its first system call but `read` and `write`;
/// whether all runs came to their end.
fn needs_no_system_call(prepare: impl FnOnce() -> Vec<Subject> + Send + 'static) -> bool {
    let (thread, done) = (Arc::new(AtomicI64::new(0)), Arc::new(AtomicBool::new(false)));
    std::thread::spawn({
        let (thread, done) = (Arc::clone(&thread), Arc::clone(&done));
        #[expect(unsafe_code, reason = "system calls that the standard library has no name for")]
        move || {
            let mut subjects = prepare();
            // SAFETY: both calls concern this thread alone.
            let entered = unsafe {
                thread.store(libc::syscall(libc::SYS_gettid), Ordering::SeqCst);
                libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_STRICT)
            };
            assert_eq!(entered, 0, "the kernel has no strict mode");
            for _ in 0..10 {
                subjects.iter_mut().for_each(Subject::run);
            }
            done.store(true, Ordering::SeqCst);
            // SAFETY: ends this thread at once; what it owns is leaked, as freeing it would take system calls.
            unsafe { libc::syscall(libc::SYS_exit, 0) };
        }
    });
    loop {
        std::thread::sleep(Duration::from_millis(5));
        let thread = thread.load(Ordering::SeqCst);
        if thread != 0 && !std::path::Path::new(&format!("/proc/self/task/{thread}")).exists() {
            return done.load(Ordering::SeqCst);
        }
    }
}

fn cells() -> Vec<Cell> {
    vec![
        RnnCell::default().into(),
        LstmCell::default().into(),
        GruCell::default().into(),
        GruCell::LECTURE.into(),
        LstmCell { projection: Some(40), peephole: true, ..LstmCell::default() }.into(),
    ]
}

#[test]
fn a_streaming_step_makes_no_system_call() {
    let subjects = || {
        let mut subjects = Vec::new();
        for cell in cells() {
            for kind in WeightType::ALL {
                let config = Config::<Cell>::new(cell, 64, 128).weight_type(kind);
                let device = Device::cpu_with(&CpuOptions { threads: Some(4), ..Default::default() }).expect("threads");
                subjects.push(Subject::new(&config, &device, [1, 1, 64]));
                let deep = config.layers(2).bidirectional(Merge::Sum);
                subjects.push(Subject::new(&deep, &Device::Cpu, [1, 1, 64]));
            }
        }
        subjects
    };
    assert!(needs_no_system_call(subjects), "the kernel has met one");
}

/// The check itself: it must notice a call that hands work to other threads.
#[test]
fn a_call_on_several_threads_is_met() {
    let subjects = || {
        let device = Device::cpu_with(&CpuOptions { threads: Some(4), ..Default::default() }).expect("threads");
        vec![Subject::new(&Config::new(LstmCell::default().into(), 256, 256), &device, [8, 4, 256])]
    };
    assert!(!needs_no_system_call(subjects));
}
