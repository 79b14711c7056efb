//! `gatewise plan`: the schedule of a call, before anything runs.

use std::process::ExitCode;

use clap::{Args, ValueEnum};
use gatewise::cell::WeightType;
use gatewise::plan::{AdapterClass, Limits, Matrices, Plan, PlanKind, Problem};
use gatewise::{Device, Error, Result};
use serde::Serialize;

use crate::choice::{DeviceChoice, Simd, cell};
use crate::output::say;

#[derive(Args)]
pub(crate) struct Arguments {
    /// rnn, rnn_relu, lstm, gru or gru_reset_before.
    #[arg(long, default_value = "lstm")]
    cell: String,
    /// Features of the input.
    #[arg(short = 'I', long)]
    input: usize,
    /// Units of a layer and direction.
    #[arg(short = 'H', long)]
    hidden: usize,
    /// Layers of the stack.
    #[arg(long, default_value_t = 1)]
    layers: usize,
    /// Directions of a layer.
    #[arg(long, default_value_t = 1, value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(1..=2))]
    directions: usize,
    /// Time steps.
    #[arg(short = 'T', long)]
    time: usize,
    /// Rows of the batch.
    #[arg(short = 'B', long, default_value_t = 1)]
    batch: usize,
    /// The type of the stored weights: f32, f16, bf16 or int8.
    #[arg(long, default_value_t = WeightType::F32)]
    dtype: WeightType,
    /// The adapter whose limits apply.
    #[arg(long, value_enum, default_value = "portable")]
    adapter: Adapter,
    /// The kind of plan; by default the one that suits the call.
    #[arg(long)]
    plan: Option<PlanKind>,
    /// Plans as if the adapter listed cooperative matrices of this kind, half or float.
    #[arg(long)]
    matrices: Option<Matrices>,
    /// Prints one JSON object.
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Adapter {
    /// The minimum limits of WebGPU, which every adapter meets.
    Portable,
    /// This machine's GPU; a software adapter if there is no hardware.
    Device,
}

/// A plan; its fields are a contract.
#[derive(Serialize)]
struct Report<'a> {
    cell: &'a str,
    #[serde(rename = "I")]
    input: usize,
    #[serde(rename = "H")]
    hidden: usize,
    layers: usize,
    directions: usize,
    #[serde(rename = "T")]
    time: usize,
    #[serde(rename = "B")]
    batch: usize,
    dtype: &'static str,
    adapter: &'a str,
    plan: &'static str,
    why: &'a str,
    dispatches: usize,
    submits: usize,
    bytes: u64,
    workgroup_bytes: u64,
    /// Steps of each chunk of time.
    chunks: Vec<usize>,
    projection: String,
    step: String,
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    let mut limits = match arguments.adapter {
        Adapter::Portable => Limits::portable(),
        Adapter::Device => limits_of(&DeviceChoice::Gpu.open(Simd::default())?),
    };
    if let Some(matrices) = arguments.matrices {
        if limits.class == AdapterClass::Software {
            let option = format!("--matrices {} on {}", matrices.name(), limits.adapter);
            return Err(Error::Unsupported { op: "plan", option, by: "by a software adapter" });
        }
        limits.matrices = vec![matrices];
        if limits.subgroup == 0 {
            // Adapters with cooperative matrices have subgroups, usually of this size.
            (limits.subgroup, limits.subgroup_most) = (32, 32);
        }
    }
    let &Arguments { input, hidden, layers, directions, time, batch, dtype, .. } = arguments;
    let cells = vec![cell("plan", &arguments.cell)?; directions];
    let problem = Problem { cells, input, hidden, layers, merged: false, weight_type: dtype, time, batch };
    let plan = Plan::new(problem, &limits, arguments.plan)?;
    if !arguments.json {
        say!("{plan}")?;
        return Ok(ExitCode::SUCCESS);
    }
    let report = Report {
        cell: &arguments.cell,
        input,
        hidden,
        layers,
        directions,
        time,
        batch,
        dtype: dtype.name(),
        adapter: &limits.adapter,
        plan: plan.kind().name(),
        why: plan.why(),
        dispatches: plan.dispatches(),
        submits: plan.submits(),
        bytes: plan.bytes(),
        workgroup_bytes: plan.workgroup_bytes(),
        chunks: plan.chunks().iter().map(|chunk| chunk.steps).collect(),
        projection: plan.project().to_string(),
        step: plan.schedule().to_string(),
    };
    say!("{}", serde_json::json!(report))?;
    Ok(ExitCode::SUCCESS)
}

fn limits_of(device: &Device) -> Limits {
    match device {
        #[cfg(feature = "gpu")]
        Device::Gpu(gpu) => gpu.plan_limits().clone(),
        _ => Limits::portable(),
    }
}
