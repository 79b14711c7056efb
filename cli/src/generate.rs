//! `gatewise generate`: text from a trained character model.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use gatewise::{Error, Result};
use ndarray::Axis;

use crate::choice::{DeviceChoice, Simd};
use crate::output;
use crate::train::{Model, symbols_of};

/// The most characters that a text may have.
const MOST_CHARACTERS: usize = 1 << 24;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The weights that `gatewise train text` wrote.
    #[arg(long, default_value = "runs/text-gru/best.safetensors", value_name = "FILE")]
    weights: PathBuf,
    /// The beginning of the text; it is printed, too.
    #[arg(long, default_value = "\n")]
    prompt: String,
    /// The number of characters to write, at most 16777216.
    #[arg(long, default_value_t = 400)]
    length: usize,
    /// The number that divides the scores: below 1, likely characters become likelier; 0 always takes the likeliest.
    #[arg(long, default_value_t = 0.8, allow_negative_numbers = true)]
    temperature: f32,
    /// The seed of the random draws; the same seed writes the same text.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Where to run.
    #[arg(long, value_enum, default_value_t = DeviceChoice::Auto)]
    device: DeviceChoice,
    #[command(flatten)]
    simd: Simd,
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    let Arguments { weights: path, prompt, length, temperature, seed, device, simd } = arguments;
    let refuse = |what, expected, found| Err(Error::Value { op: "generate", what, expected, found });
    if !(temperature.is_finite() && *temperature >= 0.0) {
        return refuse("--temperature", "a number, at least 0", temperature.to_string());
    }
    if *length > MOST_CHARACTERS {
        return refuse("--length", "at most 16777216", length.to_string());
    }
    if !path.exists() {
        return Ok(output::no_model("generate", path, "gatewise train text FILE"));
    }
    let device = device.open(*simd)?;
    let (model, parameters, weights) = Model::load(path, "text", &device)?;
    let symbols = symbols_of(weights.metadata("characters")?);
    if symbols.len() != model.shape.symbols || symbols.characters.is_empty() {
        return Err(Error::Format {
            file: path.display().to_string(),
            field: "metadata characters".to_owned(),
            expected: format!("{} characters", model.shape.symbols.saturating_sub(1).max(1)),
            found: symbols.characters.len().to_string(),
        });
    }
    let mut rng = fastrand::Rng::with_seed(*seed);
    let mut state = model.stack.zero_state(&device, 1)?;
    let mut read = symbols.numbers(prompt.chars());
    if read.is_empty() {
        read.push(0);
    }
    let mut out = io::stdout().lock();
    write!(out, "{}", prompt.trim_start_matches('\n')).map_err(output::failed)?;
    for _ in 0..*length {
        let scores = model.read(&parameters, &read, &mut state)?;
        let last = scores.index_axis(Axis(0), scores.len_of(Axis(0)) - 1).iter().copied().collect::<Vec<_>>();
        let next = sample(&last, *temperature, &mut rng);
        // Number 0 stands for all rare characters and is never written.
        write!(out, "{}", symbols.characters[next - 1]).map_err(output::failed)?;
        read = vec![next];
    }
    writeln!(out).and_then(|()| out.flush()).map_err(output::failed)?;
    Ok(ExitCode::SUCCESS)
}

/// Draws an index with the probabilities of the softmax over all scores but the first.
fn sample(scores: &[f32], temperature: f32, rng: &mut fastrand::Rng) -> usize {
    let best = (1..scores.len()).fold(1, |best, at| if scores[at] > scores[best] { at } else { best });
    if temperature == 0.0 {
        return best;
    }
    let weight = |at: usize| f64::from((scores[at] - scores[best]) / temperature).exp();
    let mut left = rng.f64() * (1..scores.len()).map(weight).sum::<f64>();
    for at in 1..scores.len() {
        left -= weight(at);
        if left <= 0.0 {
            return at;
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::sample;

    #[test]
    fn samples_follow_the_softmax() {
        let mut rng = fastrand::Rng::with_seed(4);
        let scores = [9.0, 0.0, 1.0, -1.0];
        let mut counts = [0; 4];
        (0..20_000).for_each(|_| counts[sample(&scores, 1.0, &mut rng)] += 1);
        let total: f64 = scores[1..].iter().map(|s: &f32| f64::from(*s).exp()).sum();
        assert_eq!(counts[0], 0, "the unknown character is never drawn");
        for at in 1..4 {
            let share = f64::from(counts[at]) / 20_000.0;
            assert!((share - f64::from(scores[at]).exp() / total).abs() < 0.02, "{counts:?}");
        }
        assert!((0..50).all(|_| sample(&scores, 0.0, &mut rng) == 2));
        assert!((0..200).filter(|_| sample(&scores, 0.2, &mut rng) == 2).count() > 190);
    }
}
