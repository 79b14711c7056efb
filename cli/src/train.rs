//! `gatewise train`: jobs that train a model on real or synthetic data and report its accuracy.

mod curve;
mod data;
mod folder;
mod memory;
mod model;
mod options;
mod run;
mod sentiment;
mod settings;
mod text;
mod vowels;

use std::process::ExitCode;

use gatewise::Result;

pub(crate) use data::{Vocabulary, words};
pub(crate) use model::Model;
pub(crate) use text::symbols_of;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    job: Job,
}

#[derive(clap::Subcommand)]
enum Job {
    /// Tells nine speakers of Japanese vowels apart.
    Vowels(vowels::Arguments),
    /// Tells whether a line of a movie review praises.
    Sentiment(sentiment::Arguments),
    /// Adds two marked numbers that are far apart.
    Adding(memory::Arguments),
    /// Repeats symbols after a long pause.
    Copy(memory::Arguments),
    /// Predicts the next character of a text.
    Text(text::Arguments),
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    match &arguments.job {
        Job::Vowels(arguments) => vowels::run(arguments),
        Job::Sentiment(arguments) => sentiment::run(arguments),
        Job::Adding(arguments) => memory::run(memory::Kind::Adding, arguments),
        Job::Copy(arguments) => memory::run(memory::Kind::Copy, arguments),
        Job::Text(arguments) => text::run(arguments),
    }
}
