//! Cases of the kind `real`: whole models of other packages, compared with their own inference on real inputs.

use std::path::PathBuf;

use gatewise::models::RnNoise;
use gatewise::weights::Weights;
use gatewise::{Device, Result};
use gatewise_demos::{G2p, ThaiSegmenter, UzMorph, UzVocabulary};
use ndarray::{Array1, Array2, ArrayD, Axis, Ix2, Ix3, s};
use serde::Deserialize;

use super::case::{Case, find_near};
use super::compare::Tolerance;
use super::{Verdict, unsupported};

const MODELS: [&str; 3] = ["../../models", "../models", ""];

pub(super) fn run(case: &Case, device: &Device) -> Result<Verdict> {
    match case.name.as_str() {
        "g2p_en" => phonemes(case, device),
        "icu4x_thai" => thai(case, device),
        "rnnoise" => noise(case, device),
        "uzmorph_bigru" => morphology(case, device),
        other => Ok(unsupported(format!("model {other}"))),
    }
}

fn weights(case: &Case) -> Result<Weights> {
    let path: PathBuf = find_near(case, &MODELS, &format!("{}.safetensors", case.name))?;
    Weights::from_file(path)
}

fn within(case: &Case, name: &str) -> Result<Tolerance> {
    Ok(Tolerance::absolute(case.tolerance(name)?))
}

#[derive(Deserialize)]
struct Words {
    words: Vec<String>,
    expected: Vec<String>,
}

fn phonemes(case: &Case, device: &Device) -> Result<Verdict> {
    let Words { words, expected } = case.fields()?;
    let got = G2p::new(device, &weights(case)?)?.trace(&words)?;
    let spoken: Vec<String> = got.phonemes.iter().map(|phonemes| phonemes.join(" ")).collect();
    let mut verdict = Verdict::new();
    let comparison = &mut verdict.comparison;
    comparison.equal(&spoken, &expected);
    comparison.close(&got.hidden, &case.floats("enc_h")?, within(case, "enc_h_abs")?);
    comparison.close(&got.first_logits, &case.floats("first_logits")?, within(case, "first_logits_abs")?);
    Ok(verdict)
}

#[derive(Deserialize)]
struct Texts {
    /// Words are divided by `|`.
    texts: Vec<String>,
}

fn thai(case: &Case, device: &Device) -> Result<Verdict> {
    let Texts { texts } = case.fields()?;
    let texts: Vec<String> = texts.iter().map(|text| text.replace('|', "")).collect();
    let lengths = case.lengths("lengths")?.unwrap_or_default();
    let (y, logits) = (case.floats::<Ix3>("y")?, case.floats::<Ix3>("logits")?);
    let ends: Array2<i32> = case.integers("is_word_end")?;
    let mut verdict = Verdict::new();
    let comparison = &mut verdict.comparison;
    let traces = ThaiSegmenter::new(device, &weights(case)?)?.trace(&texts)?;
    comparison.equal(&[traces.len(), logits.len_of(Axis(0)), ends.nrows(), lengths.len()], &[y.len_of(Axis(0)); 4]);
    let rows = [y.len_of(Axis(0)), logits.len_of(Axis(0)), ends.nrows()];
    let steps = [y.len_of(Axis(1)), logits.len_of(Axis(1)), ends.ncols()];
    let least = |sizes: [usize; 3]| sizes.into_iter().min().unwrap_or_default();
    if traces.len() > least(rows) || lengths.iter().any(|&length| length > least(steps)) {
        let found = format!("{} texts, lengths up to {:?}", traces.len(), lengths.iter().max());
        return Err(case.refuse(
            "lengths",
            &format!("at most {} texts of {} letters", least(rows), least(steps)),
            &found,
        ));
    }
    for (row, (trace, &length)) in traces.iter().zip(&lengths).enumerate() {
        let steps = s![row, ..length, ..];
        comparison.close(&trace.hidden, &y.slice(steps).to_owned().into_dyn(), within(case, "y_abs")?);
        comparison.close(&trace.logits, &logits.slice(steps).to_owned().into_dyn(), within(case, "logits_abs")?);
        let expected: Vec<bool> = ends.slice(s![row, ..length]).iter().map(|&end| end == 1).collect();
        comparison.equal(&trace.ends, &expected);
    }
    Ok(verdict)
}

fn noise(case: &Case, device: &Device) -> Result<Verdict> {
    /// The case holds the states of one frame in four.
    const EVERY: isize = 4;
    let features = case.floats::<Ix2>("features")?;
    let channel = features.view().insert_axis(Axis(1));
    let got = RnNoise::new(device, &weights(case)?)?.stream(1)?.trace(channel, None)?;
    let only = |array: &ndarray::Array3<f32>| array.index_axis(Axis(1), 0).to_owned();
    let mut verdict = Verdict::new();
    let comparison = &mut verdict.comparison;
    let vad: Array1<f32> = got.suppression.vad.column(0).to_owned();
    comparison.close(&vad, &case.floats("vad")?, within(case, "vad_abs")?);
    comparison.close(&only(&got.suppression.gains), &case.floats("gains")?, within(case, "gains_abs")?);
    let states = only(&got.states);
    comparison.close(&states.slice(s![..;EVERY, ..]), &case.floats("states")?, within(case, "states_abs")?);
    Ok(verdict)
}

#[derive(Deserialize)]
struct Tagged {
    words: Vec<String>,
    expected_tags: Vec<Vec<String>>,
}

fn morphology(case: &Case, device: &Device) -> Result<Verdict> {
    let Tagged { words, expected_tags } = case.fields()?;
    // The names of the tags and the numbers of the letters are part of neither the case nor its weights.
    let vocabulary = UzVocabulary::from_bytes("uzmorph_bigru.json", UzVocabulary::PACKAGED)?;
    let got = UzMorph::new(device, &weights(case)?, vocabulary)?.trace(&words)?;
    let mut verdict = Verdict::new();
    let expected: ArrayD<f32> = case.floats("gru_y")?;
    verdict.comparison.close(&got.hidden, &expected, within(case, "gru_y_abs")?);
    verdict.comparison.equal(&got.tags, &expected_tags);
    Ok(verdict)
}
