//! The command line. Exit codes: 0 done; 1 the job ran and the answer is bad; 2 bad arguments or bad input.

mod choice;
mod devices;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Recurrent networks (RNN, LSTM, GRU) on any GPU.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Lists the machine's adapters and its CPU, and which of them `auto` takes.
    Devices(devices::Arguments),
}

fn main() -> ExitCode {
    // clap prints usage errors itself and exits with 2.
    let arguments = Arguments::parse();
    let result = match arguments.command {
        Command::Devices(arguments) => devices::run(&arguments),
    };
    result.unwrap_or_else(|error| {
        eprintln!("gatewise: {error}");
        ExitCode::from(2)
    })
}
