//! `gatewise train` on generated data: every job learns, goes on after an interruption, and names the cause of a refusal.

mod jobs;

use std::fs;

use gatewise::weights::Weights;
use jobs::{JobFolder, assert_same_files, gatewise, last, lines, stderr};

#[test]
fn a_job_learns_and_leaves_weights_and_a_picture() {
    let place = JobFolder::new();
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
fn a_job_marks_its_best_epoch_and_ends_in_a_short_block() {
    let place = JobFolder::new();
    let data = place.vowels();
    let job = place.vowels_job(&data, "out", &["--epochs", "3"]);
    let output = gatewise(&job.iter().map(String::as_str).filter(|word| *word != "--json").collect::<Vec<_>>());
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines[0].starts_with("epoch   1: training loss ") && lines[0].ends_with("best so far"), "{text}");
    assert!(lines[3].starts_with("vowels, lstm: accuracy ") && lines[3].ends_with(" on the test data"), "{text}");
    let names: Vec<_> = lines[4..].iter().filter_map(|line| line.strip_prefix("  ")?.split("  ").next()).collect();
    assert_eq!(names, ["best epoch", "trained", "weights", "losses"], "{text}");
    assert!(lines[4].ends_with(" of 3") && output.stderr.is_empty(), "{text}");
    let curve = fs::read_to_string(place.path("out/curve.svg")).expect("a picture");
    assert!(curve.contains("The best validation score is that of epoch "), "{curve}");
}

/// Every command takes the device that `devices` names, unless it is told another.
#[test]
fn train_takes_the_device_that_auto_is() {
    let place = JobFolder::new();
    let data = place.vowels();
    let auto = last(&gatewise(&["devices", "--json"]))["auto"].as_str().expect("a name").to_owned();
    let train = |more: &[&str]| {
        let out = place.name("out");
        let mut arguments = vec![
            "train",
            "vowels",
            "--data",
            &data,
            "--out",
            &out,
            "--epochs",
            "1",
            "--hidden",
            "4",
            "--json",
            "--overwrite",
        ];
        arguments.extend(more);
        last(&gatewise(&arguments))["device"].as_str().expect("a name").to_owned()
    };
    let device = train(&[]);
    assert!(auto.starts_with(&device), "{device} of {auto}");
    assert_eq!(train(&["--device", "auto"]), device);
    assert_eq!(train(&["--threads", "1"]), "cpu", "threads are the CPU's");
}

#[test]
fn a_missing_model_names_the_command_that_makes_it() {
    let place = JobFolder::new();
    let run = |arguments: &[&str]| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_gatewise"));
        command.args(arguments).current_dir(place.folder.path()).output().expect("the program runs")
    };
    for (arguments, path, maker) in [
        (&["generate"][..], "runs/text-gru/best.safetensors", "gatewise train text FILE"),
        (&["generate", "--weights", "none"], "none", "gatewise train text FILE"),
        (&["sentiment", "fine"], "models/sentiment_lstm.safetensors", "gatewise train sentiment"),
    ] {
        let output = run(arguments);
        let message = stderr(&output);
        assert_eq!((output.status.code(), message.lines().count()), (Some(2), 1), "{message}");
        assert!(message.contains(&format!("no model at {path}: run `{maker}` first")), "{message}");
    }
}

#[test]
fn a_resumed_run_equals_an_unbroken_one_bit_for_bit() {
    let place = JobFolder::new();
    let data = place.vowels();
    lines(&place.train_vowels(&data, "whole", &["--epochs", "5"]));
    lines(&place.train_vowels(&data, "parts", &["--epochs", "2"]));
    lines(&place.train_vowels(&data, "parts", &["--epochs", "5", "--resume"]));
    assert_same_files(&place, "whole", "parts");
    lines(&place.train_vowels(&data, "other", &["--epochs", "5", "--seed", "2"]));
    let best = |out: &str| fs::read(place.path(out).join("best.safetensors")).expect("a file");
    assert_ne!(best("whole"), best("other"));
}

#[test]
fn a_checkpoint_cut_short_is_refused_and_the_one_before_is_used() {
    let place = JobFolder::new();
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
    assert_same_files(&place, "whole", "cut");
}

#[test]
fn a_run_without_progress_ends_early() {
    let place = JobFolder::new();
    let data = place.vowels();
    let output = place.train_vowels(&data, "still", &["--rate", "0", "--epochs", "30", "--patience", "2"]);
    let end = last(&output);
    assert_eq!(
        (end["epochs"].as_u64(), end["best_epoch"].as_u64()),
        (Some(3), Some(1)),
        "two epochs without progress: {end}"
    );
}

/// A learning rate with which the first epoch ends well and a later one does not.
const WILD: &str = "1.5e37";

#[test]
fn a_loss_that_is_no_number_stops_and_keeps_the_last_good_checkpoint() {
    let place = JobFolder::new();
    let data = place.vowels();
    // The weights grow by about the rate with each of an epoch's four steps, until the answers overflow.
    let wild = ["--rate", WILD];
    lines(&place.train_vowels(&data, "wild", &[&wild[..], &["--epochs", "1"]].concat()));
    let output = place.train_vowels(&data, "wild", &[&wild[..], &["--epochs", "40", "--resume"]].concat());
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    let message = stderr(&output);
    for word in ["diverged at step", "gradient norm", "the checkpoint of step", "is kept", "a smaller --rate"] {
        assert!(message.contains(word), "{word}: {message}");
    }
    let kept = place.checkpoints("wild");
    assert!(!kept.is_empty());
    // The same steps from the last checkpoint diverge again, and lose nothing.
    let again = place.train_vowels(&data, "wild", &[&wild[..], &["--epochs", "40", "--resume"]].concat());
    assert_eq!((again.status.code(), place.checkpoints("wild")), (Some(1), kept));
    lines(&place.train_vowels(&data, "wild", &["--epochs", "1", "--overwrite"]));
}

#[test]
fn what_is_wrong_is_said_in_one_line() {
    let place = JobFolder::new();
    let data = place.vowels();
    lines(&place.train_vowels(&data, "first", &["--epochs", "1"]));
    let nowhere = place.name("nowhere");
    let refusals = [
        (place.train_vowels(&nowhere, "out", &[]), "scripts/fetch-data"),
        (place.train_vowels(&data, "first", &["--epochs", "2"]), "--resume to continue it"),
        (place.train_vowels(&data, "first", &["--epochs", "2", "--resume", "--seed", "9"]), "--seed 9 instead of 1"),
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
    let place = JobFolder::new();
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
    let place = JobFolder::new();
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
    let place = JobFolder::new();
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
