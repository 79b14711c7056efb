//! `gatewise devices`: the devices of this machine.

use std::process::ExitCode;

use clap::Args;
use gatewise::{Device, Result};
use serde::Serialize;

use crate::output::say;

#[derive(Args)]
pub(crate) struct Arguments {
    /// Prints one JSON object.
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Report {
    adapters: Vec<Adapter>,
    cpu: Cpu,
    /// The device that `--device auto` takes.
    auto: String,
}

#[derive(Serialize)]
struct Adapter {
    name: String,
    backend: String,
    #[serde(rename = "type")]
    kind: &'static str,
    driver: String,
    max_binding_bytes: u64,
    max_buffer_bytes: u64,
    workgroup_memory_bytes: u32,
    workgroup_invocations: u32,
    features: Vec<&'static str>,
}

#[derive(Serialize)]
struct Cpu {
    threads: usize,
    simd: Vec<&'static str>,
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    let report = Report { adapters: adapters(), cpu: Cpu::of_this_machine(), auto: Device::auto().to_string() };
    if arguments.json {
        say!("{}", serde_json::json!(report))?;
    } else {
        report.print()?;
    }
    Ok(ExitCode::SUCCESS)
}

#[cfg(feature = "gpu")]
fn adapters() -> Vec<Adapter> {
    let of = |adapter: gatewise::gpu::AdapterSummary| Adapter {
        name: adapter.name,
        backend: adapter.backend,
        kind: adapter.kind,
        driver: adapter.driver,
        max_binding_bytes: adapter.binding_bytes,
        max_buffer_bytes: adapter.buffer_bytes,
        workgroup_memory_bytes: adapter.workgroup_bytes,
        workgroup_invocations: adapter.workgroup_invocations,
        features: adapter.features,
    };
    gatewise::gpu::adapters().into_iter().map(of).collect()
}

#[cfg(not(feature = "gpu"))]
fn adapters() -> Vec<Adapter> {
    Vec::new()
}

impl Cpu {
    fn of_this_machine() -> Self {
        let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Self { threads, simd: simd() }
    }
}

#[cfg(target_arch = "x86_64")]
fn simd() -> Vec<&'static str> {
    let known = [
        ("avx2", std::is_x86_feature_detected!("avx2")),
        ("fma", std::is_x86_feature_detected!("fma")),
        ("f16c", std::is_x86_feature_detected!("f16c")),
        ("avx512f", std::is_x86_feature_detected!("avx512f")),
    ];
    known.into_iter().filter(|(_, found)| *found).map(|(name, _)| name).collect()
}

#[cfg(target_arch = "aarch64")]
fn simd() -> Vec<&'static str> {
    vec!["neon"]
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn simd() -> Vec<&'static str> {
    Vec::new()
}

impl Report {
    fn print(&self) -> Result<()> {
        const MEBIBYTE: u64 = 1 << 20;
        if self.adapters.is_empty() {
            say!("no GPU adapter")?;
        }
        for a in &self.adapters {
            say!("{} ({}, {}, {})", a.name, a.backend, a.kind, a.driver)?;
            say!(
                "  binding {} MiB, buffer {} MiB, workgroup memory {} KiB, {} invocations",
                a.max_binding_bytes / MEBIBYTE,
                a.max_buffer_bytes / MEBIBYTE,
                a.workgroup_memory_bytes / 1024,
                a.workgroup_invocations
            )?;
            say!("  features: {}", if a.features.is_empty() { "none".to_owned() } else { a.features.join(", ") })?;
        }
        say!("CPU: {} threads, {}", self.cpu.threads, self.cpu.simd.join(", "))?;
        say!("auto takes: {}", self.auto)
    }
}
