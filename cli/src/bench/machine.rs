//! The machine and the source code of a measurement.

use gatewise::{Device, Result};
use serde::Serialize;

use crate::output::say;

/// The machine and the program, part of every line of output.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Machine {
    pub(super) cpu: String,
    cores: usize,
    os: String,
    version: &'static str,
    /// The commit of the source code: from the variable `GATEWISE_COMMIT`, otherwise from the repository around the program.
    commit: Option<String>,
}

impl Machine {
    pub(super) fn of_this_process() -> Self {
        Self {
            cpu: cpu_name().unwrap_or_else(|| std::env::consts::ARCH.to_owned()),
            cores: num_cpus::get_physical(),
            os: system(),
            version: env!("CARGO_PKG_VERSION"),
            commit: std::env::var("GATEWISE_COMMIT").ok().or_else(commit),
        }
    }

    pub(super) fn print(&self) -> Result<()> {
        let commit = self.commit.as_deref().unwrap_or("of no known commit");
        say!("{}, {} cores, {}; gatewise {} {commit}", self.cpu, self.cores, self.os, self.version)
    }
}

fn cpu_name() -> Option<String> {
    let text = std::fs::read_to_string("/proc/cpuinfo").ok();
    let model = |text: String| {
        let line = text.lines().find(|line| line.starts_with("model name"))?.to_owned();
        Some(line.split_once(':')?.1.trim().to_owned())
    };
    text.and_then(model)
        .or_else(|| std::env::var("PROCESSOR_IDENTIFIER").ok())
        .or_else(|| output("sysctl", &["-n", "machdep.cpu.brand_string"]))
}

/// The operating system and the release of its kernel, if known.
fn system() -> String {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!("{} {}", std::env::consts::OS, release.trim()).trim().to_owned()
}

/// The commit of the repository around the program, with a mark if files were changed since.
fn commit() -> Option<String> {
    let program = std::env::current_exe().ok()?;
    let folder = program.parent()?.to_str()?;
    let head = output("git", &["-C", folder, "rev-parse", "--short", "HEAD"])?;
    let changed = output("git", &["-C", folder, "status", "--porcelain", "--untracked-files=no"]).is_some();
    Some(if changed { format!("{head}-dirty") } else { head })
}

/// The output of a command; `None` if it prints nothing or fails.
fn output(program: &str, arguments: &[&str]) -> Option<String> {
    let output = std::process::Command::new(program).args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?.trim().to_owned();
    (output.status.success() && !text.is_empty()).then_some(text)
}

/// The name of a GPU's driver.
pub(super) fn driver(device: &Device) -> Option<String> {
    match device {
        #[cfg(feature = "gpu")]
        Device::Gpu(gpu) => Some(gpu.adapter().driver.clone()),
        _ => None,
    }
}
