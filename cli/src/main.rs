//! The command line. Exit codes: 0 done; 1 the job ran and the answer is bad; 2 bad arguments or bad input; 141 nobody reads
//! standard output any more.
#![deny(clippy::print_stdout, clippy::print_stderr)]

mod audio;
mod bench;
mod chart;
mod choice;
mod devices;
mod file;
mod flow;
mod generate;
mod npy;
mod output;
mod plan;
mod plot;
mod run;
mod sentiment;
mod train;
mod vad;
mod verify;
mod written;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use gatewise::Result;

/// Recurrent networks (RNN, LSTM, GRU) on any GPU.
#[derive(Parser)]
#[command(name = "gatewise", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Lists the machine's GPU adapters and its CPU, and says which of them `auto` takes.
    Devices(devices::Arguments),
    /// Times forward passes, or training with `--train`.
    Bench(bench::Arguments),
    /// Prints how a GPU would run a call: dispatches, memory, chunks. Needs no GPU.
    Plan(plan::Arguments),
    /// Shows how far a gradient reaches back in time in each cell.
    Flow(flow::Arguments),
    /// Trains a model on real or synthetic data and reports its accuracy.
    Train(train::Arguments),
    /// Shows how a trained model reads a sentence, word by word.
    Sentiment(sentiment::Arguments),
    /// Writes text with a trained character model.
    Generate(generate::Arguments),
    /// Runs an ONNX model over NumPy files.
    Run(run::Arguments),
    /// Finds speech in a recording with Silero's voice activity detector.
    Vad(vad::Arguments),
    /// Runs golden cases on this machine's devices and compares them with their oracles.
    Verify(verify::Arguments),
}

fn main() -> ExitCode {
    quiet_drivers();
    let result = Arguments::try_parse().map_or_else(|said| output::usage(&said), |arguments| run(arguments.command));
    result.unwrap_or_else(|error| output::end(&error))
}

fn run(command: Command) -> Result<ExitCode> {
    match command {
        Command::Devices(arguments) => devices::run(&arguments),
        Command::Bench(arguments) => bench::run(&arguments),
        Command::Plan(arguments) => plan::run(&arguments),
        Command::Flow(arguments) => flow::run(&arguments),
        Command::Train(arguments) => train::run(&arguments),
        Command::Sentiment(arguments) => sentiment::run(&arguments),
        Command::Generate(arguments) => generate::run(&arguments),
        Command::Run(arguments) => run::run(&arguments),
        Command::Vad(arguments) => vad::run(&arguments),
        Command::Verify(arguments) => verify::run(&arguments),
    }
}

/// Sets a runtime directory if there is none, for example in a container. Without one, Mesa's Vulkan layer prints two lines on
/// standard error.
fn quiet_drivers() {
    if std::env::var_os("XDG_RUNTIME_DIR").is_none() {
        #[expect(unsafe_code, reason = "the environment is changed before any other thread exists")]
        unsafe {
            std::env::set_var("XDG_RUNTIME_DIR", std::env::temp_dir());
        }
    }
}
