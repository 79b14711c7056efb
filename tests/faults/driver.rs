//! A driver that fails on demand: `vulkan.c`, built by the test and loaded in the place of the system's Vulkan loader.

#![expect(unsafe_code, reason = "the driver is a C library that is loaded at run time")]

use std::ffi::{CStr, CString, c_char, c_int, c_long};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Names the scenario that a process is started for.
pub(crate) const SCENARIO: &str = "GATEWISE_FAULT_SCENARIO";
/// Names the real loader for the driver.
const REAL: &str = "GATEWISE_REAL_VULKAN";
/// A scenario that takes longer hangs.
const LONGEST: Duration = Duration::from_secs(400);

/// Runs `scenario` of this test program in a process whose Vulkan driver can be told to fail.
///
/// It fails the test unless the process ends well, in time, and without a panic inside wgpu on its standard error.
pub(crate) fn in_own_process(scenario: &str) {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("driver-{scenario}"));
    build(&folder);
    let log = folder.join("log");
    let output = std::fs::File::create(&log).expect("a log");
    let mut child = Command::new(std::env::current_exe().expect("this program"))
        .args(["--exact", "scenario", "--nocapture"])
        .env("LD_LIBRARY_PATH", &folder)
        .env(SCENARIO, scenario)
        .env(REAL, real_loader())
        .env_remove("RUST_BACKTRACE")
        .stdin(Stdio::null())
        .stdout(output.try_clone().expect("the log"))
        .stderr(output)
        .spawn()
        .expect("starts");
    let begin = Instant::now();
    let status = loop {
        match child.try_wait().expect("a child") {
            Some(status) => break Some(status),
            None if begin.elapsed() > LONGEST => break None,
            None => std::thread::sleep(Duration::from_millis(20)),
        }
    };
    if status.is_none() {
        child.kill().expect("can be killed");
    }
    let said = std::fs::read_to_string(&log).expect("the log");
    let last: Vec<&str> = said.lines().rev().take(30).collect();
    let last = last.into_iter().rev().collect::<Vec<_>>().join("\n");
    assert!(status.is_some(), "no end after {LONGEST:?}:\n{last}");
    assert!(status.is_some_and(|status| status.success()), "{status:?}:\n{last}");
    assert!(!said.contains("panicked"), "a panic was seen:\n{last}");
}

fn build(folder: &Path) {
    std::fs::create_dir_all(folder).expect("a folder");
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/faults/vulkan.c");
    let compiler = std::env::var("CC").unwrap_or_else(|_| "cc".to_owned());
    let built = Command::new(compiler)
        .args(["-O1", "-shared", "-fPIC", "-o"])
        .arg(folder.join("libvulkan.so.1"))
        .args([source, "-ldl"])
        .status();
    assert!(built.expect("a C compiler: Rust links with it").success(), "the driver does not compile");
}

/// The loader that a process without the failing driver loads.
fn real_loader() -> PathBuf {
    let cached = Command::new("/sbin/ldconfig").arg("-p").output().expect("ldconfig").stdout;
    let cached = String::from_utf8_lossy(&cached);
    let line = cached.lines().find(|line| line.contains("libvulkan.so.1") && line.contains("64"));
    let path = line.and_then(|line| line.split("=> ").nth(1)).expect("install libvulkan1");
    PathBuf::from(path)
}

type Name = unsafe extern "C" fn(c_int) -> *const c_char;
type Calls = unsafe extern "C" fn(c_int) -> c_long;
type Hits = unsafe extern "C" fn() -> c_long;
type Arm = unsafe extern "C" fn(c_int, c_long, c_int, c_int);

/// The failing driver of this process.
pub(crate) struct Driver {
    name: Name,
    calls: Calls,
    hits: Hits,
    arm: Arm,
}

/// A function of Vulkan that fails.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fault {
    pub(crate) function: usize,
    /// The call that fails, counted from 1 from the moment on that the fault is armed.
    pub(crate) at: i64,
    pub(crate) answer: i32,
    /// Whether later calls work again.
    pub(crate) once: bool,
}

impl Driver {
    /// The driver of this process, which all of its devices share.
    pub(crate) fn loaded() -> Self {
        // SAFETY: the library stays loaded: its handle is never closed. Every symbol has the type that `vulkan.c` gives it.
        unsafe {
            let folder = std::env::var("LD_LIBRARY_PATH").expect("set by `in_own_process`");
            let path = CString::new(format!("{folder}/libvulkan.so.1")).expect("no NUL");
            let library = libc::dlopen(path.as_ptr(), libc::RTLD_NOW);
            assert!(!library.is_null(), "the failing driver is in LD_LIBRARY_PATH");
            let symbol = |name: &CStr| {
                let found = libc::dlsym(library, name.as_ptr());
                assert!(!found.is_null(), "{name:?}: the driver is not the failing one");
                found
            };
            Self {
                name: std::mem::transmute::<*mut libc::c_void, Name>(symbol(c"fault_name")),
                calls: std::mem::transmute::<*mut libc::c_void, Calls>(symbol(c"fault_calls")),
                hits: std::mem::transmute::<*mut libc::c_void, Hits>(symbol(c"fault_hits")),
                arm: std::mem::transmute::<*mut libc::c_void, Arm>(symbol(c"fault_arm")),
            }
        }
    }

    /// Counts from now on, and fails nothing.
    pub(crate) fn disarm(&self) {
        // SAFETY: the function takes any numbers.
        unsafe { (self.arm)(-1, 0, 0, 0) }
    }

    pub(crate) fn arm(&self, fault: Fault) {
        let function = c_int::try_from(fault.function).expect("an index");
        // SAFETY: the function takes any numbers.
        unsafe { (self.arm)(function, fault.at, fault.answer, c_int::from(fault.once)) }
    }

    /// How often the armed function has failed.
    pub(crate) fn hits(&self) -> i64 {
        // SAFETY: the function has no arguments.
        unsafe { (self.hits)() }
    }

    pub(crate) fn name(&self, function: usize) -> Option<&'static str> {
        let function = c_int::try_from(function).expect("an index");
        // SAFETY: the function answers with a null pointer or a constant of the library, which is never unloaded.
        let name = unsafe { (self.name)(function) };
        // SAFETY: see above.
        (!name.is_null()).then(|| unsafe { CStr::from_ptr(name) }.to_str().expect("ASCII"))
    }

    fn calls(&self, function: usize) -> i64 {
        // SAFETY: `name` has found the function.
        unsafe { (self.calls)(c_int::try_from(function).expect("an index")) }
    }

    /// Faults of every function that was called since the counting began: at up to `places` of its calls, once and for good.
    pub(crate) fn faults(&self, places: i64) -> Vec<Fault> {
        let mut faults = Vec::new();
        for function in (0..).take_while(|&function| self.name(function).is_some()) {
            let calls = self.calls(function);
            let mut at: Vec<i64> =
                (0..places).map(|place| 1 + place * calls / places).filter(|&at| at <= calls).collect();
            at.dedup();
            for answer in answers(self.name(function).expect("a name")) {
                for &at in &at {
                    faults.extend([true, false].map(|once| Fault { function, at, answer: *answer, once }));
                }
            }
        }
        faults
    }
}

/// Failures that a driver may report, by the numbers of Vulkan.
fn answers(function: &str) -> &'static [i32] {
    const OUT_OF_HOST_MEMORY: i32 = -1;
    const OUT_OF_DEVICE_MEMORY: i32 = -2;
    const INITIALIZATION_FAILED: i32 = -3;
    const DEVICE_LOST: i32 = -4;
    const MEMORY_MAP_FAILED: i32 = -5;
    match function {
        "vkQueueSubmit" => &[DEVICE_LOST, OUT_OF_DEVICE_MEMORY],
        "vkAllocateMemory" | "vkCreateBuffer" => &[OUT_OF_DEVICE_MEMORY],
        "vkMapMemory" => &[MEMORY_MAP_FAILED],
        "vkWaitSemaphores" | "vkWaitForFences" | "vkGetSemaphoreCounterValue" | "vkGetFenceStatus" => &[DEVICE_LOST],
        "vkCreateDevice" | "vkCreateInstance" => &[INITIALIZATION_FAILED],
        _ => &[OUT_OF_HOST_MEMORY],
    }
}
