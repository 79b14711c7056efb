//! Cases of the kind `silero`: Silero VAD over real recordings.

use gatewise::models::SileroVad;
use gatewise::text::shown;
use gatewise::weights::Weights;
use gatewise::{Device, Result};
use ndarray::{Array1, Array2, Axis, Slice};

use super::Verdict;
use super::case::{Case, find_near};
use super::compare::Tolerance;
use crate::audio::Recording;

const WEIGHTS: &str = "silero_vad_16k.safetensors";
const SENTENCE: &str = "sense_and_sensibility_01_austen_64kb-";

pub(super) fn run(case: &Case, device: &Device) -> Result<Verdict> {
    let weights = Weights::from_file(find_near(case, &["", "../../models", "../models"], WEIGHTS)?)?;
    let vad = SileroVad::new(device, &weights)?;
    let got = vad.trace(&samples(case)?)?;

    let mut verdict = Verdict::new();
    let comparison = &mut verdict.comparison;
    let probability = Tolerance::absolute(case.tolerance("probs_abs")?);
    let hidden = Tolerance::absolute(case.tolerance("lstm_h_abs")?);
    let features = Tolerance { to_max: case.tolerance("lstm_in_rel_to_max")?, ..Tolerance::default() };
    comparison.close(&Array1::from(got.probabilities), &case.floats("probs")?, probability);
    let row = |state: &Array1<f32>| state.clone().insert_axis(Axis(0));
    comparison.close(&row(&got.h), &case.floats("h_last")?, hidden);
    comparison.close(&row(&got.s), &case.floats("c_last")?, hidden);
    for (got, name, tolerance) in [(got.features, "lstm_in", features), (got.hidden, "lstm_h", hidden)] {
        // The case holds these values for the first frames only.
        let expected: Array2<f32> = case.floats(name)?;
        let first = Slice::from(..expected.nrows().min(got.nrows()));
        comparison.close(&got.slice_axis(Axis(0), first), &expected.into_dyn(), tolerance);
    }
    Ok(verdict)
}

/// The case's audio at 16 kHz.
fn samples(case: &Case) -> Result<Vec<f32>> {
    let read = |sentence: &str| -> Result<Vec<f32>> {
        if sentence.is_empty() || !sentence.bytes().all(|c| c.is_ascii_digit()) {
            return Err(case.refuse("name", "`librivox_` and a sentence's number", &shown(sentence).to_string()));
        }
        let name = format!("{SENTENCE}{sentence}.wav");
        Recording::open(&find_near(case, &["", "../../audio", "../audio", "../../cli/assets"], &name)?)?.rest()
    };
    match case.name.as_str() {
        "librivox_strip" => {
            let silence = |samples: usize| vec![0.0; samples];
            Ok([silence(16_000), read("0880")?, silence(24_000), read("0930")?, silence(16_000)].concat())
        }
        name => read(name.trim_start_matches("librivox_")),
    }
}
