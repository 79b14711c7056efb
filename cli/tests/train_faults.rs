//! `gatewise train` with killed processes, damaged files, full disks and readers that are gone: nothing is lost, and every fault
//! is reported.

mod jobs;

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use gatewise::weights::Weights;
use jobs::{JobFolder, assert_same_files, contents, gatewise, last, lines, stderr};

/// Fails unless a command was refused with one line that says all this.
#[track_caller]
fn refused(output: &Output, expected: &[&str]) {
    let message = stderr(output);
    assert_eq!(output.status.code(), Some(2), "{message}");
    assert_eq!(message.trim_end().lines().count(), 1, "{message}");
    for expected in expected {
        assert!(message.contains(expected), "{expected}: {message}");
    }
}

/// A short run of the task of sums, whose two cells have a folder each.
fn adding(place: &JobFolder, out: &str, more: &[&str]) -> Vec<String> {
    let out = place.name(out);
    let mut arguments = vec!["train", "adding", "--hidden", "5", "--batch", "4", "--out", &out];
    if !more.contains(&"--lag") {
        arguments.extend(["--lag", "4"]);
    }
    if !more.contains(&"--device") {
        arguments.extend(["--device", "cpu"]);
    }
    arguments.extend(more);
    arguments.into_iter().map(str::to_owned).collect()
}

fn start(arguments: &[String], out: Stdio) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gatewise"));
    command.args(arguments).stdin(Stdio::null()).stdout(out).stderr(Stdio::piped());
    command.spawn().expect("the program runs")
}

fn run(arguments: &[String]) -> Output {
    gatewise(&arguments.iter().map(String::as_str).collect::<Vec<_>>())
}

#[test]
fn a_run_killed_at_any_moment_ends_as_an_unbroken_one() {
    let place = JobFolder::new();
    let job = |out: &str, more: &[&str]| adding(&place, out, &[&["--epochs", "5"], more].concat());
    let began = Instant::now();
    lines(&run(&job("unbroken", &["--json"])));
    let took = began.elapsed();
    lines(&run(&job("twice", &["--json"])));
    assert_same_files(&place, "unbroken", "twice");
    let mut rng = fastrand::Rng::with_seed(5);
    let mut kills = 0;
    for round in 0..4 {
        let out = format!("killed{round}");
        for _ in 0..4 {
            // A run that was killed before it made its folder has left nothing to resume.
            let more: &[&str] = if place.path(&out).exists() { &["--resume"] } else { &[] };
            let mut child = start(&job(&out, more), Stdio::null());
            std::thread::sleep(took.mul_f64(0.7 * rng.f64()));
            if child.try_wait().expect("a process").is_none() {
                child.kill().expect("killed");
                kills += 1;
            }
            child.wait().expect("an end");
        }
        let more: &[&str] = if place.path(&out).exists() { &["--resume", "--json"] } else { &["--json"] };
        lines(&run(&job(&out, more)));
        assert_same_files(&place, "unbroken", &out);
    }
    assert!(kills > 0, "every run ended before it could be killed");
}

/// The files of a run that was killed between its checkpoint and the weights of the same epoch, or while it wrote either.
#[test]
fn what_a_killed_run_leaves_half_done_is_done_or_removed() {
    let place = JobFolder::new();
    let data = place.vowels();
    lines(&place.train_vowels(&data, "whole", &["--epochs", "4"]));
    let end = last(&place.train_vowels(&data, "killed", &["--epochs", "3"]));
    assert_eq!(end["best_epoch"].as_u64(), Some(3), "the last epoch is the best");
    let killed = place.path("killed");
    fs::remove_file(killed.join("best.safetensors")).expect("removed");
    fs::write(killed.join(".lock"), "").expect("written");
    for left in
        [".best.safetensors.partial", ".curve.svg.partial", "checkpoints/.000000000012.checkpoint.safetensors.partial"]
    {
        fs::write(killed.join(left), "half").expect("written");
    }
    lines(&place.train_vowels(&data, "killed", &["--epochs", "4", "--resume"]));
    assert_same_files(&place, "whole", "killed");

    // Killed before the oldest checkpoint was removed, with no epoch left to make.
    for (out, epochs) in [("one", "1"), ("three", "3"), ("late", "3")] {
        lines(&place.train_vowels(&data, out, &["--epochs", epochs]));
    }
    let oldest = place.checkpoints("one").pop().expect("a checkpoint");
    let name = oldest.file_name().expect("a name");
    fs::copy(&oldest, place.path("late/checkpoints").join(name)).expect("copied");
    lines(&place.train_vowels(&data, "late", &["--epochs", "3", "--resume"]));
    assert_same_files(&place, "three", "late");

    // Killed before its first checkpoint: nothing but the mark of a run. Without the mark it is no run's folder.
    fs::create_dir_all(place.path("early/checkpoints")).expect("a folder");
    refused(
        &place.train_vowels(&data, "early", &["--epochs", "4", "--resume"]),
        &["--out", "which has no checkpoints"],
    );
    fs::write(place.path("early/.lock"), "").expect("written");
    lines(&place.train_vowels(&data, "early", &["--epochs", "4", "--resume"]));
    assert_same_files(&place, "whole", "early");
}

#[test]
fn a_flipped_bit_is_named_and_the_run_ends_as_an_unbroken_one() {
    let place = JobFolder::new();
    let data = place.vowels();
    lines(&place.train_vowels(&data, "whole", &["--epochs", "4"]));
    lines(&place.train_vowels(&data, "base", &["--epochs", "3"]));
    let newest = place.checkpoints("base").pop().expect("a checkpoint");
    let bytes = fs::read(&newest).expect("a file");
    let header = 8 + u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes")) as usize;
    // The header's length, its text, its padding, the first and the last number.
    for at in [1, 200, header - 1, header, bytes.len() - 1] {
        let mut damaged = bytes.clone();
        damaged[at] ^= 1 << (at % 8);
        let out = format!("flipped{at}");
        copy(&place.path("base"), &place.path(&out));
        fs::write(place.path(&out).join("checkpoints").join(newest.file_name().expect("a name")), damaged)
            .expect("written");
        let resumed = place.train_vowels(&data, &out, &["--epochs", "4", "--resume"]);
        let message = stderr(&resumed);
        let name = newest.file_name().expect("a name").to_string_lossy().into_owned();
        assert!(message.contains(&name) && message.contains("is refused"), "byte {at}: {message}");
        assert_eq!(lines(&resumed).len(), 3, "byte {at}: epochs 3 and 4, and the end");
        assert_same_files(&place, "whole", &out);
    }
}

fn copy(from: &Path, to: &Path) {
    for (name, bytes) in contents(from) {
        let path = to.join(name);
        fs::create_dir_all(path.parent().expect("a folder")).expect("made");
        fs::write(path, bytes).expect("written");
    }
}

#[test]
fn where_no_checkpoint_is_whole_nothing_is_overwritten() {
    let place = JobFolder::new();
    let data = place.vowels();
    lines(&place.train_vowels(&data, "out", &["--epochs", "3"]));
    let files = place.checkpoints("out");
    for file in &files {
        let bytes = fs::read(file).expect("a file");
        fs::write(file, &bytes[..bytes.len() / 2]).expect("written");
    }
    let before = contents(&place.path("out"));
    let names: Vec<_> =
        files.iter().map(|file| file.file_name().expect("a name").to_string_lossy().into_owned()).collect();
    for more in [&["--resume"][..], &[], &["--resume", "--epochs", "9"]] {
        refused(&place.train_vowels(&data, "out", more), &[&names[0], &names[1], "cut short"]);
        assert!(contents(&place.path("out")) == before, "{more:?}");
    }
    lines(&place.train_vowels(&data, "out", &["--epochs", "3", "--overwrite"]));
    lines(&place.train_vowels(&data, "fresh", &["--epochs", "3"]));
    assert_same_files(&place, "fresh", "out");
}

#[test]
fn the_best_weights_of_a_finished_run_stay_unless_asked() {
    let place = JobFolder::new();
    let data = place.vowels();
    lines(&place.train_vowels(&data, "out", &["--epochs", "3"]));
    fs::remove_dir_all(place.path("out/checkpoints")).expect("removed");
    let before = contents(&place.path("out"));
    for more in [&["--epochs", "1"][..], &["--epochs", "9", "--resume"]] {
        let wrong = if more.len() == 2 { "--overwrite to start anew" } else { "which has no checkpoints" };
        refused(&place.train_vowels(&data, "out", more), &["--out", wrong]);
        assert!(contents(&place.path("out")) == before, "{more:?}");
    }
    // Also where the run before was killed.
    fs::write(place.path("out/.lock"), "").expect("written");
    refused(&place.train_vowels(&data, "out", &["--resume"]), &["best.safetensors and no checkpoints", "--overwrite"]);
    let both = place.train_vowels(&data, "out", &["--resume", "--overwrite"]);
    assert_eq!(both.status.code(), Some(2), "{}", stderr(&both));
    lines(&place.train_vowels(&data, "out", &["--epochs", "1", "--overwrite"]));
    lines(&place.train_vowels(&data, "fresh", &["--epochs", "1"]));
    assert_same_files(&place, "fresh", "out");
}

#[test]
fn best_weights_that_are_lost_are_said_and_replaced() {
    let place = JobFolder::new();
    let data = place.vowels();
    // At this rate the first epoch is and stays the best one.
    let still = ["--rate", "0", "--epochs"];
    lines(&place.train_vowels(&data, "out", &[&still[..], &["3"]].concat()));
    let best = place.path("out/best.safetensors");
    let before = fs::read(&best).expect("a file");
    fs::write(&best, &before[..before.len() / 2]).expect("written");
    let resumed = place.train_vowels(&data, "out", &[&still[..], &["3", "--resume"]].concat());
    assert_eq!(last(&resumed)["best_epoch"].as_u64(), Some(3));
    assert!(stderr(&resumed).contains("the best weights are lost"), "{}", stderr(&resumed));
    let weights = Weights::from_file(&best).expect("weights");
    assert_eq!(weights.metadata("epoch").expect("an entry"), "3");
    // Whole weights of another epoch than the checkpoint says are not taken for its own.
    lines(&place.train_vowels(&data, "other", &["--epochs", "2"]));
    fs::copy(place.path("other/best.safetensors"), &best).expect("copied");
    fs::remove_file(place.checkpoints("out").pop().expect("a checkpoint")).expect("removed");
    let refusal = place.train_vowels(&data, "out", &[&still[..], &["2", "--resume"]].concat());
    refused(&refusal, &["best.safetensors: metadata epoch", "found 2"]);
}

#[test]
fn a_second_run_in_the_same_folder_is_refused_at_once() {
    let place = JobFolder::new();
    let data = place.vowels();
    let mut first =
        start(&place.vowels_job(&data, "out", &["--epochs", "100000", "--patience", "100000"]), Stdio::piped());
    // Its first line stands behind its first checkpoint.
    let mut said = String::new();
    // A run whose reader goes ends by itself.
    let mut reader = BufReader::new(first.stdout.take().expect("a pipe"));
    reader.read_line(&mut said).expect("a line");
    assert!(said.contains("\"epoch\":1,"), "{said}");
    let second = place.train_vowels(&data, "out", &["--seed", "2"]);
    let resumed = place.train_vowels(&data, "out", &["--resume"]);
    let anew = place.train_vowels(&data, "out", &["--overwrite"]);
    first.kill().expect("killed");
    first.wait().expect("an end");
    for output in [second, resumed, anew] {
        refused(&output, &["--out", "no other run writes to", "wait for its end"]);
    }
    // A killed run blocks nobody.
    let kept = place.checkpoints("out").into_iter().filter(|path| path.extension().is_some_and(|e| e == "safetensors"));
    assert!(kept.count() > 0);
    let resumed = place.train_vowels(&data, "out", &["--epochs", "1", "--patience", "100000", "--resume"]);
    assert_eq!(resumed.status.code(), Some(0), "{}", stderr(&resumed));
    assert!(!place.path("out/.lock").exists());
}

#[test]
fn a_run_is_resumed_with_its_own_settings_or_not_at_all() {
    let place = JobFolder::new();
    let data = place.vowels();
    lines(&place.train_vowels(&data, "out", &["--epochs", "1"]));
    let before = contents(&place.path("out"));
    let others: [(&[&str], &str); 7] = [
        (&["--rate", "0.5"], "--rate 0.5 instead of 0.02"),
        (&["--seed", "9"], "--seed 9 instead of 1"),
        (&["--batch", "9"], "--batch 9 instead of 16"),
        (&["--cell", "gru"], "--cell gru instead of lstm"),
        (&["--device", "reference"], "--device reference instead of cpu"),
        (&["--seed", "9", "--rate", "1"], "--rate 1 instead of 0.02, --seed 9 instead of 1"),
        (&["--device", "reference", "--batch", "3"], "--batch 3 instead of 16, --device reference instead of cpu"),
    ];
    for (other, expected) in others {
        let output = place.train_vowels(&data, "out", &[other, &["--epochs", "2", "--resume"]].concat());
        refused(&output, &["--resume", expected]);
    }
    let path = place.path("data/vowels/JapaneseVowels_TRAIN.ts");
    let text = fs::read_to_string(&path).expect("text");
    fs::write(&path, text.replacen("#made up", "#made UP", 1)).expect("written");
    refused(&place.train_vowels(&data, "out", &["--epochs", "2", "--resume"]), &["the data crc32", "instead of crc32"]);
    assert!(contents(&place.path("out")) == before);
    fs::write(&path, text).expect("written");
    lines(&place.train_vowels(&data, "out", &["--epochs", "2", "--patience", "7", "--resume"]));

    lines(&run(&adding(&place, "sums", &["--epochs", "1", "--cell", "rnn,lstm", "--json"])));
    for (other, expected) in [
        (["--lag", "5"], "--lag 5 instead of 4"),
        (["--initial", "torch"], "--initial Torch instead of Chrono"),
        (["--curriculum", "true"], "--curriculum true instead of false"),
    ] {
        let output = run(&adding(&place, "sums", &[&other[..], &["--epochs", "2", "--resume"]].concat()));
        refused(&output, &["--resume", expected]);
    }
}

#[test]
fn nothing_is_resumed_where_nothing_was_begun() {
    let place = JobFolder::new();
    let data = place.vowels();
    refused(
        &place.train_vowels(&data, "typo", &["--epochs", "1", "--resume"]),
        &["--out", "typo, which has no checkpoints"],
    );
    assert!(!place.path("typo").exists());
    fs::create_dir(place.path("photos")).expect("a folder");
    fs::write(place.path("photos/best.jpg"), "mine").expect("written");
    refused(&place.train_vowels(&data, "photos", &["--resume"]), &["photos, which has no checkpoints"]);
    assert_eq!(contents(&place.path("photos")).len(), 1);
    // A command that is refused for its data leaves no folder behind either.
    refused(&place.train_vowels(&place.name("nowhere"), "new/folder", &[]), &["scripts/fetch-data"]);
    assert!(!place.path("new").exists());
}

#[test]
fn outputs_are_looked_at_before_the_training() {
    let place = JobFolder::new();
    let data = place.vowels();
    let training = place.name("data/vowels/JapaneseVowels_TRAIN.ts");
    fs::write(place.path("text.svg"), "the cat sat. ".repeat(3000)).expect("written");
    let text = place.name("text.svg");
    let before = fs::read(&text).expect("a file");
    let refusals = [
        (place.train_vowels(&data, "out", &["--plot", &place.name("x.gif")]), ".svg or .png"),
        (place.train_vowels(&data, "out", &["--plot", &training]), ".svg or .png"),
        (place.train_vowels(&data, "out", &["--plot", &place.name("none/x.svg")]), "none/x.svg"),
        (place.train_vowels(&data, "out", &["--plot", &place.name("x.svg/")]), "x.svg/"),
        (gatewise(&["train", "text", &text, "--out", &place.name("out"), "--plot", &text]), "which is read"),
        (run(&adding(&place, "out", &["--plot", &place.name("x.svg")])), "several cells"),
        (run(&adding(&place, "out", &["--cell", "lstm,lstm"])), "--cell must be cells that differ"),
        (run(&adding(&place, "out", &["--cell", "gru", "--plot", &place.name("out/flow.svg")])), "gradient flow's"),
        (gatewise(&["train", "adding", "--out", &text]), "text.svg"),
    ];
    for (output, expected) in &refusals {
        refused(output, &[expected]);
    }
    assert!(!place.path("out").exists() && fs::read(&text).expect("a file") == before);
    lines(&place.train_vowels(&data, "out", &["--epochs", "1", "--plot", &place.name("x.PNG")]));
    assert!(fs::read(place.path("x.PNG")).expect("a picture").starts_with(b"\x89PNG"));
}

#[test]
fn no_epochs_name_no_weights() {
    let place = JobFolder::new();
    let data = place.vowels();
    let end = last(&place.train_vowels(&data, "none", &["--epochs", "0"]));
    assert!(end["weights"].is_null() && end["epochs"].as_u64() == Some(0), "{end}");
    let said = run(&adding(&place, "sums", &["--epochs", "0"]));
    let text = String::from_utf8_lossy(&said.stdout).into_owned();
    assert!(text.contains("nothing was trained") && !text.contains("safetensors"), "{text}");
    assert!(!place.path("none").exists());
    // Where a run was made before, its weights are still there and are named.
    lines(&place.train_vowels(&data, "some", &["--epochs", "1"]));
    let end = last(&place.train_vowels(&data, "some", &["--epochs", "0", "--resume"]));
    assert!(end["weights"].as_str().is_some_and(|path| Path::new(path).exists()), "{end}");
}

#[cfg(unix)]
#[test]
fn files_get_the_permissions_that_the_umask_leaves() {
    use std::os::unix::fs::MetadataExt;
    let place = JobFolder::new();
    let data = place.vowels();
    let shell = |umask: &str, out: &str| {
        let job = place.vowels_job(&data, out, &["--epochs", "1"]);
        let script = format!("umask {umask}; exec \"$@\"");
        let mut command = Command::new("sh");
        command.args(["-c", &script, "sh", env!("CARGO_BIN_EXE_gatewise")]).args(job);
        lines(&command.output().expect("a shell"));
        let mode = |name: &Path| fs::metadata(place.path(out).join(name)).expect("a file").mode() & 0o777;
        contents(&place.path(out)).keys().map(|name| mode(name)).collect::<Vec<_>>()
    };
    assert_eq!(shell("022", "open"), [0o644; 3]);
    assert_eq!(shell("077", "closed"), [0o600; 3]);
}

/// A limit on the size of a file stands in for a full disk: it needs no rights, and the write fails at the same place.
#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_costs_the_epoch_that_did_not_fit_and_no_other() {
    let place = JobFolder::new();
    let data = place.vowels();
    lines(&place.train_vowels(&data, "whole", &["--epochs", "4"]));
    lines(&place.train_vowels(&data, "full", &["--epochs", "2"]));
    let before = contents(&place.path("full"));
    let job = place.vowels_job(&data, "full", &["--epochs", "4", "--resume"]);
    let limited = |bytes: usize| {
        let blocks = bytes.div_ceil(512);
        let script = format!("trap '' XFSZ; ulimit -f {blocks}; exec \"$@\"");
        let mut command = Command::new("sh");
        command.args(["-c", &script, "sh", env!("CARGO_BIN_EXE_gatewise")]).args(&job);
        command.output().expect("a shell")
    };
    // Room for the best weights, which the resumed run writes again, and not for a checkpoint; then not even for these.
    let room = before[Path::new("best.safetensors")].len();
    for (room, expected) in [(room, "checkpoint.safetensors: File too large"), (1, "best.safetensors: File too large")]
    {
        refused(&limited(room), &[expected]);
        assert!(contents(&place.path("full")) == before);
    }
    lines(&place.train_vowels(&data, "full", &["--epochs", "4", "--resume"]));
    assert_same_files(&place, "whole", "full");
}

#[cfg(target_os = "linux")]
#[test]
fn a_reader_that_goes_costs_no_epoch() {
    let place = JobFolder::new();
    let data = place.vowels();
    lines(&place.train_vowels(&data, "whole", &["--epochs", "4"]));
    let mut child = start(&place.vowels_job(&data, "pipe", &["--epochs", "4"]), Stdio::piped());
    drop(child.stdout.take());
    let end = child.wait_with_output().expect("an end");
    assert_eq!((end.status.code(), stderr(&end)), (Some(141), String::new()), "a quiet end");
    assert_eq!(place.checkpoints("pipe").len(), 1, "the epoch that was to be told of is kept");

    let full = fs::OpenOptions::new().write(true).open("/dev/full").expect("a device");
    let end = start(&place.vowels_job(&data, "full", &["--epochs", "4"]), full.into()).wait_with_output();
    refused(&end.expect("an end"), &["standard output: No space left"]);
    assert_eq!(place.checkpoints("full").len(), 1);
    for out in ["pipe", "full"] {
        lines(&place.train_vowels(&data, out, &["--epochs", "4", "--resume"]));
        assert_same_files(&place, "whole", out);
    }

    // Nobody hears the message: the exit code says it all the same.
    let full = fs::OpenOptions::new().write(true).open("/dev/full").expect("a device");
    let mut command = Command::new(env!("CARGO_BIN_EXE_gatewise"));
    command.args(place.vowels_job(&data, "wild", &["--rate", "1e38", "--epochs", "4"])).stderr(full);
    assert_eq!(command.output().expect("an end").status.code(), Some(1));
}

#[cfg(unix)]
#[test]
fn pipes_are_refused_and_not_waited_for() {
    let place = JobFolder::new();
    let data = place.vowels();
    lines(&place.train_vowels(&data, "out", &["--epochs", "2"]));
    let newest = place.path("out/checkpoints/000000000099.checkpoint.safetensors");
    let pipe = |path: &Path| {
        assert!(Command::new("mkfifo").arg(path).status().expect("mkfifo").success());
    };
    pipe(&newest);
    pipe(&place.path("pipe"));
    pipe(&place.path("pipe.svg"));
    let began = Instant::now();
    let resumed = place.train_vowels(&data, "out", &["--epochs", "2", "--resume"]);
    assert!(stderr(&resumed).contains("not a regular file"), "{}", stderr(&resumed));
    assert_eq!(lines(&resumed).len(), 1, "the end");
    refused(&gatewise(&["train", "text", &place.name("pipe"), "--out", &place.name("new")]), &["must be a file"]);
    refused(&place.train_vowels(&data, "new", &["--plot", &place.name("pipe.svg")]), &["pipe.svg", "name a file"]);
    assert!(began.elapsed() < Duration::from_secs(60) && !place.path("new").exists());
}
