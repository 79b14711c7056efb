//! `gatewise train` on data made up here: every job learns, goes on where it was cut off, and says what is wrong.
#![cfg(feature = "cli")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use gatewise::weights::Weights;
use ndarray::ArrayD;
use serde_json::Value;
use tempfile::TempDir;

struct Place {
    folder: TempDir,
}

impl Place {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().expect("a folder") }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn name(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    /// Three speakers who differ in which of two features rises, and how.
    fn vowels(&self) -> String {
        let mut rng = fastrand::Rng::with_seed(11);
        let mut file = |name: &str, count: usize| {
            let mut text = "#made up\n@dimensions 2\n@classLabel true a b c\n@data\n".to_owned();
            for at in 0..count {
                let class = at % 3;
                let length = 4 + rng.usize(..5);
                let mut row = |slope: f32| -> String {
                    let at = |t: usize| (slope * t as f32 + 0.4 * (rng.f32() - 0.5)).to_string();
                    (0..length).map(at).collect::<Vec<_>>().join(",")
                };
                let slopes = [[0.3, 0.0], [0.0, 0.3], [-0.3, 0.0]][class];
                let (first, second) = (row(slopes[0]), row(slopes[1]));
                text += &format!("{first}:{second}:{}\n", ["a", "b", "c"][class]);
            }
            fs::create_dir_all(self.path("data/vowels")).expect("a folder");
            fs::write(self.path("data/vowels").join(name), text).expect("a file");
        };
        file("JapaneseVowels_TRAIN.ts", 60);
        file("JapaneseVowels_TEST.ts", 30);
        self.name("data")
    }

    /// Trains on [`Place::vowels`] and returns the final line.
    fn train_vowels(&self, data: &str, out: &str, more: &[&str]) -> Output {
        let fixed =
            ["train", "vowels", "--data", data, "--out", &self.name(out), "--hidden", "6", "--rate", "0.02", "--json"];
        let mut arguments = fixed.to_vec();
        if more.contains(&"--rate") {
            arguments.drain(8..10);
        }
        arguments.extend(more);
        gatewise(&arguments)
    }

    fn checkpoints(&self, out: &str) -> Vec<PathBuf> {
        let mut files: Vec<_> = fs::read_dir(self.path(out).join("checkpoints"))
            .expect("a folder")
            .map(|entry| entry.expect("an entry").path())
            .collect();
        files.sort();
        files
    }
}

fn gatewise(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_gatewise")).args(arguments).output().expect("the program runs")
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn lines(output: &Output) -> Vec<Value> {
    assert_eq!(output.status.code(), Some(0), "{}", stderr(output));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.lines().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect()
}

fn last(output: &Output) -> Value {
    lines(output).pop().expect("a final line")
}

/// Every tensor of a file, bit by bit.
fn bits(path: &Path) -> Vec<(String, Vec<u32>)> {
    let weights = Weights::from_file(path).expect("weights");
    let read = |name: &str| {
        let array: ArrayD<f32> = weights.get(name).expect("a tensor");
        (name.to_owned(), array.iter().map(|x| x.to_bits()).collect())
    };
    let mut all: Vec<_> = weights.names().map(read).collect();
    all.sort();
    all
}

fn assert_same_run(place: &Place, a: &str, b: &str) {
    let newest = |out: &str| place.checkpoints(out).pop().expect("a checkpoint");
    assert_eq!(newest(a).file_name(), newest(b).file_name());
    assert_eq!(bits(&newest(a)), bits(&newest(b)));
    let best = |out: &str| bits(&place.path(out).join("best.safetensors"));
    assert_eq!(best(a), best(b));
    let progress = |out: &str| {
        let weights = Weights::from_file(newest(out)).expect("weights");
        weights.metadata("note progress").expect("a note").to_owned()
    };
    assert_eq!(progress(a), progress(b));
}

#[test]
fn a_job_learns_and_leaves_weights_and_a_picture() {
    let place = Place::new();
    let data = place.vowels();
    for cell in ["rnn", "lstm", "gru"] {
        let out = format!("runs/{cell}");
        let end = last(&place.train_vowels(&data, &out, &["--cell", cell, "--epochs", "15"]));
        assert!(end["accuracy"].as_f64().expect("a share") > 0.9, "{end}");
        assert_eq!(
            (end["job"].as_str(), end["cell"].as_str(), end["device"].as_str()),
            (Some("vowels"), Some(cell), Some("cpu"))
        );
        assert!(fs::read_to_string(place.path(&out).join("curve.svg")).expect("a picture").contains("gradient norm"));
        let weights = Weights::from_file(place.path(&out).join("best.safetensors")).expect("weights");
        assert_eq!(weights.metadata("cell").expect("an entry"), cell);
    }
}

#[test]
fn a_resumed_run_equals_an_unbroken_one_bit_for_bit() {
    let place = Place::new();
    let data = place.vowels();
    lines(&place.train_vowels(&data, "whole", &["--epochs", "5"]));
    lines(&place.train_vowels(&data, "parts", &["--epochs", "2"]));
    lines(&place.train_vowels(&data, "parts", &["--epochs", "5", "--resume"]));
    assert_same_run(&place, "whole", "parts");
    lines(&place.train_vowels(&data, "other", &["--epochs", "5", "--seed", "2"]));
    assert_ne!(bits(&place.path("whole/best.safetensors")), bits(&place.path("other/best.safetensors")));
}

#[test]
fn a_checkpoint_cut_short_is_refused_and_the_one_before_is_used() {
    let place = Place::new();
    let data = place.vowels();
    lines(&place.train_vowels(&data, "whole", &["--epochs", "5"]));
    lines(&place.train_vowels(&data, "cut", &["--epochs", "4"]));
    let files = place.checkpoints("cut");
    assert_eq!(files.len(), 2, "the last two are kept");
    let bytes = fs::read(&files[1]).expect("a file");
    fs::write(&files[1], &bytes[..bytes.len() - 7]).expect("written");
    let resumed = place.train_vowels(&data, "cut", &["--epochs", "5", "--resume"]);
    let epochs: Vec<_> = lines(&resumed).iter().filter_map(|line| line["epoch"].as_u64()).collect();
    assert_eq!(epochs, [4, 5], "from the checkpoint of epoch 3 on");
    let message = stderr(&resumed);
    let name = files[1].file_name().expect("a name").to_string_lossy().into_owned();
    assert!(message.contains(&name) && message.contains("refused"), "{message}");
    assert_same_run(&place, "whole", "cut");
}

#[test]
fn a_run_without_progress_ends_early() {
    let place = Place::new();
    let data = place.vowels();
    let output = place.train_vowels(&data, "still", &["--rate", "0", "--epochs", "30", "--patience", "2"]);
    let end = last(&output);
    assert_eq!((end["epochs"].as_u64(), end["best_epoch"].as_u64()), (Some(4), Some(1)), "{end}");
}

#[test]
fn a_loss_that_is_no_number_stops_and_keeps_the_last_good_checkpoint() {
    let place = Place::new();
    let data = place.vowels();
    lines(&place.train_vowels(&data, "wild", &["--epochs", "2"]));
    let before = place.checkpoints("wild");
    let output = place.train_vowels(&data, "wild", &["--epochs", "9", "--resume", "--rate", "1e38"]);
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    let message = stderr(&output);
    for word in ["diverged at step", "gradient norm", "the checkpoint of step", "is kept"] {
        assert!(message.contains(word), "{word}: {message}");
    }
    assert_eq!(place.checkpoints("wild"), before);
    // With a sane rate the run goes on.
    lines(&place.train_vowels(&data, "wild", &["--epochs", "3", "--resume"]));
}

#[test]
fn what_is_wrong_is_said_in_one_line() {
    let place = Place::new();
    let data = place.vowels();
    lines(&place.train_vowels(&data, "first", &["--epochs", "1"]));
    let nowhere = place.name("nowhere");
    let refusals = [
        (place.train_vowels(&nowhere, "out", &[]), "scripts/fetch-data"),
        (place.train_vowels(&data, "first", &["--epochs", "2"]), "--resume to go on"),
        (place.train_vowels(&data, "first", &["--epochs", "2", "--resume", "--seed", "9"]), "settings"),
        (place.train_vowels(&data, "out", &["--batch", "0"]), "--batch must be between 1 and 16777216"),
        (gatewise(&["train", "adding", "--lag", "0"]), "--lag must be between 1 and 16777216"),
        (gatewise(&["train", "adding", "--lag", "18446744073709551615"]), "--lag must be between 1 and 16777216"),
        (gatewise(&["train", "copy", "--batch", "4611686018427387904"]), "--batch must be between 1 and 16777216"),
        (gatewise(&["train", "copy", "--lag", "16777216", "--batch", "16777216"]), "x must be an array [T, B, inputs]"),
        (
            gatewise(&["train", "copy", "--hidden", "16777216", "--batch", "1", "--lag", "1"]),
            "weights must be an array [layers, hidden",
        ),
        (gatewise(&["train", "text", &place.name("none.txt")]), "scripts/fetch-data"),
        (
            gatewise(&["sentiment", "fine", "--weights", &place.name("first/best.safetensors")]),
            "metadata job: expected sentiment",
        ),
    ];
    for (output, expected) in refusals {
        let message = stderr(&output);
        assert_eq!(output.status.code(), Some(2), "{message}");
        assert!(message.contains(expected) && message.trim_end().lines().count() == 1, "{expected}: {message}");
    }
    let path = place.path("data/vowels/JapaneseVowels_TEST.ts");
    let text = fs::read_to_string(&path).expect("text");
    fs::write(&path, text + "1,2:3,4:d\n").expect("written");
    let message = stderr(&place.train_vowels(&data, "out", &[]));
    assert!(message.contains("line 35") && message.contains("a class among a b c, found d"), "{message}");
}

#[test]
fn short_lags_of_both_memory_tasks_are_learnt_and_the_flow_is_drawn() {
    let place = Place::new();
    for (task, more) in [("adding", &["--lag", "6"][..]), ("copy", &["--lag", "4", "--symbols", "1"])] {
        let out = place.name(task);
        let mut arguments = vec!["train", task, "--out", &out, "--cell", "lstm", "--hidden", "12", "--json"];
        arguments.extend(more);
        arguments.extend(["--epochs", "12", "--rate", "0.02"]);
        let output = gatewise(&arguments);
        let all = lines(&output);
        let (first, end) = (&all[0], all.last().expect("a final line"));
        let (before, after) = (first["training_loss"].as_f64(), end["loss"].as_f64());
        assert!(after.expect("a loss") < 0.25 * before.expect("a loss"), "{task}: {before:?} {after:?}");
        let picture = fs::read_to_string(place.path(task).join("flow.svg")).expect("a picture");
        assert!(picture.contains("lstm: state only"));
    }
}

#[test]
fn a_text_is_learnt_and_written_on() {
    let place = Place::new();
    let pattern = "the cat sat. a dog ran. ";
    fs::write(place.path("text.txt"), pattern.repeat(1200)).expect("a file");
    let out = place.name("text");
    let arguments = [
        "train",
        "text",
        &place.name("text.txt"),
        "--out",
        &out,
        "--hidden",
        "24",
        "--batch",
        "8",
        "--window",
        "16",
        "--width",
        "8",
        "--rate",
        "0.02",
        "--epochs",
        "3",
        "--json",
    ];
    let end = last(&gatewise(&arguments));
    assert!(end["loss"].as_f64().expect("a loss") < 0.1, "{end}");
    let weights = place.name("text/best.safetensors");
    let write = |more: &[&str]| {
        let mut arguments = vec!["generate", "--weights", &weights, "--prompt", "the cat ", "--length", "40"];
        arguments.extend(more);
        let output = gatewise(&arguments);
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let expected: String = pattern.repeat(3).chars().take(48).collect();
    assert_eq!(write(&["--temperature", "0"]).trim_end_matches('\n'), expected);
    let hot = ["--temperature", "8", "--seed", "5"];
    assert_eq!(write(&hot), write(&hot));
    assert_ne!(write(&hot), write(&["--temperature", "8", "--seed", "6"]));
    let refused = gatewise(&["generate", "--weights", &weights, "--temperature", "-1"]);
    assert!(refused.status.code() == Some(2) && stderr(&refused).contains("--temperature"), "{}", stderr(&refused));
}

#[test]
fn a_mood_is_learnt_and_shown_word_by_word() {
    let place = Place::new();
    let mut rng = fastrand::Rng::with_seed(3);
    let mut text = String::new();
    for at in 0..400 {
        let good = rng.bool();
        let mood = if good { ["lovely", "great"] } else { ["dull", "awful"] };
        let filler = |rng: &mut fastrand::Rng| ["the", "film", "is", "a", "plot", "with"][rng.usize(..6)];
        let mut words: Vec<&str> = (0..3 + rng.usize(..4)).map(|_| filler(&mut rng)).collect();
        words.insert(rng.usize(..words.len()), mood[rng.usize(..2)]);
        text += &format!("{at}\t{}\t{}\n", if good { 2.0 } else { -1.5 }, words.join(" "));
    }
    fs::create_dir_all(place.path("data/sentiment")).expect("a folder");
    fs::write(place.path("data/sentiment/movieReviewSnippets_GroundTruth.txt"), text).expect("a file");
    let (data, out) = (place.name("data"), place.name("out"));
    let arguments = [
        "train",
        "sentiment",
        "--data",
        &data,
        "--out",
        &out,
        "--hidden",
        "8",
        "--width",
        "8",
        "--rate",
        "0.02",
        "--epochs",
        "6",
        "--json",
    ];
    let end = last(&gatewise(&arguments));
    assert!(end["accuracy"].as_f64().expect("a share") > 0.9, "{end}");
    let weights = place.name("out/best.safetensors");
    let say = |text: &str| last(&gatewise(&["sentiment", text, "--weights", &weights, "--json"]));
    let (good, bad) = (say("The plot is GREAT"), say("awful unheard film"));
    assert!(good["praise"].as_f64() > Some(0.5) && bad["praise"].as_f64() < Some(0.5), "{good} {bad}");
    assert_eq!((bad["words"][1]["known"].as_bool(), bad["words"][0]["known"].as_bool()), (Some(false), Some(true)));
    for gate in ["written", "forgotten", "read"] {
        let share = good["words"][3][gate].as_f64().expect("a share");
        assert!(share > 0.0 && share < 1.0, "{gate} {share}");
    }
    let table = gatewise(&["sentiment", "awful film", "--weights", &weights]);
    assert!(String::from_utf8_lossy(&table.stdout).contains("forgotten"));
}
