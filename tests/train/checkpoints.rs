//! Checkpoints on disk: any changed byte is noticed, and a damaged file never displaces a whole one.

use std::fs;
use std::path::PathBuf;

use gatewise::train::{Adam, Checkpoint, Checkpoints, LinearModule, Parameters, Plateau, Trainer};
use gatewise::weights::Weights;
use gatewise::{Device, Error};

fn trainer() -> Trainer {
    plain_trainer().plateau(Plateau::default())
}

fn plain_trainer() -> Trainer {
    let mut parameters = Parameters::new(&Device::Cpu, 7);
    LinearModule::new(&mut parameters, "head.", [3, 2]).expect("a layer");
    Trainer::new(parameters, Adam::default(), 0.01).expect("a trainer")
}

/// Makes one step.
fn step(trainer: &mut Trainer) -> Checkpoint {
    let x = gatewise::Tensor::from_array(&Device::Cpu, &ndarray::array![[1.0, -2.0, 0.5]]).expect("an upload");
    let weight = trainer.parameters().find("head.weight").expect("a parameter");
    let step = trainer.step(|graph| {
        let (x, weight) = (graph.input(&x), graph.parameter(weight)?);
        let y = graph.linear(x, weight, None)?;
        graph.cross_entropy(y, &[1], &gatewise::train::CrossEntropyOptions::default())
    });
    step.expect("a step");
    let mut checkpoint = trainer.checkpoint().expect("a checkpoint");
    checkpoint.note("epoch", "3");
    checkpoint
}

fn steps(checkpoints: &Checkpoints) -> Vec<u64> {
    let mut steps = Vec::new();
    let latest = checkpoints.latest(|path, _| steps.push(number(path)));
    steps.extend(latest.expect("a whole one").map(|checkpoint| checkpoint.step().expect("a step")));
    steps
}

fn number(path: &std::path::Path) -> u64 {
    let name = path.file_name().expect("a name").to_string_lossy();
    name.split('.').next().expect("digits").parse().expect("a step")
}

fn flip(path: &PathBuf) {
    let mut bytes = fs::read(path).expect("a file");
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    fs::write(path, bytes).expect("written");
}

#[test]
fn every_flipped_bit_and_every_cut_is_noticed() {
    let bytes = step(&mut trainer()).to_bytes().expect("bytes");
    Checkpoint::from_bytes("whole", &bytes).expect("it is whole");
    for at in 0..bytes.len() {
        for bit in 0..8 {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1 << bit;
            assert!(Checkpoint::from_bytes("damaged", &damaged).is_err(), "bit {bit} of byte {at}");
        }
        assert!(Checkpoint::from_bytes("cut", &bytes[..at]).is_err(), "the first {at} bytes");
    }
    assert!(Checkpoint::from_bytes("longer", &[&bytes[..], &[0]].concat()).is_err());
    let mut swapped = bytes.clone();
    swapped.swap(bytes.len() - 1, bytes.len() - 5);
    assert!(swapped == bytes || Checkpoint::from_bytes("swapped", &swapped).is_err());
}

#[test]
fn damage_is_told_from_other_files() {
    let bytes = step(&mut trainer()).to_bytes().expect("bytes");
    let says = |bytes: &[u8], expected: &str| {
        let message = Checkpoint::from_bytes("file", bytes).expect_err("refused").to_string();
        assert!(message.contains(expected) && message.starts_with("file: "), "{expected}: {message}");
    };
    let mut damaged = bytes.clone();
    damaged[bytes.len() - 3] ^= 4;
    says(&damaged, "the file is damaged");
    says(&bytes[..bytes.len() - 4], "cut short");
    says(b"", "found an empty file");
    says(b"PK\x03\x04 something else altogether", "expected a safetensors file");
    says(&Weights::new().to_bytes().expect("bytes"), "weights that are no checkpoint");
    // Checkpoints of version 1 had no version and no checksum.
    let mut old = Weights::new();
    ["step", "seed"].iter().for_each(|key| old.note(key, "4"));
    old.note("slots", "");
    says(&old.to_bytes().expect("bytes"), "expected version 2 of a checkpoint, found a checkpoint without a version");
    old.note("checkpoint", "3 sha9 abc");
    says(&old.to_bytes().expect("bytes"), "found \"3 sha9 abc\"");
}

#[test]
fn the_same_run_writes_the_same_bytes() {
    let once = || step(&mut trainer()).to_bytes().expect("bytes");
    let first = once();
    assert!((0..5).all(|_| once() == first));
    let read = Checkpoint::from_bytes("first", &first).expect("it is whole");
    assert!(read.to_bytes().expect("bytes") == first, "what is read is written as it was");
}

#[test]
fn a_damaged_checkpoint_does_not_count_and_costs_no_whole_one() {
    let folder = tempfile::tempdir().expect("a folder");
    let checkpoints = Checkpoints::new(folder.path(), 2).expect("a folder");
    let mut trainer = trainer();
    let mut write = |count: usize| -> Vec<PathBuf> {
        (0..count).map(|_| checkpoints.write(&step(&mut trainer)).expect("written")).collect()
    };
    let paths = write(2);
    flip(&paths[1]);
    assert_eq!(steps(&checkpoints), [2, 1]);
    let more = write(1);
    assert!(paths[0].exists() && paths[1].exists() && more[0].exists(), "1 and 3 are whole");
    assert_eq!(steps(&checkpoints), [3]);
    // Files older than the two last whole ones are removed, damaged or not.
    let last = write(1);
    assert!(!paths[0].exists() && !paths[1].exists() && more[0].exists() && last[0].exists());
}

#[test]
fn where_none_is_whole_all_are_named_and_none_is_lost() {
    let folder = tempfile::tempdir().expect("a folder");
    let checkpoints = Checkpoints::new(folder.path(), 2).expect("a folder");
    assert!(checkpoints.latest(|_, _| ()).expect("a folder").is_none());
    let mut trainer = trainer();
    let paths = [0, 1].map(|_| checkpoints.write(&step(&mut trainer)).expect("written"));
    paths.iter().for_each(flip);
    let error = checkpoints.latest(|path, _| panic!("{} is in the error", path.display())).expect_err("none is whole");
    assert!(matches!(error, Error::Format { .. }), "{error:?}");
    let message = error.to_string();
    for path in &paths {
        assert!(message.contains(&path.display().to_string()) && message.lines().count() == 1, "{message}");
    }
    // The checkpoint that is written now is kept, whatever its number, and no damaged one instead.
    let mut fresh = self::trainer();
    let first = checkpoints.write(&fresh.checkpoint().expect("a checkpoint")).expect("written");
    assert!(first.exists() && paths.iter().all(|path| path.exists()));
    assert_eq!(steps(&checkpoints), [2, 1, 0]);
    checkpoints.clear().expect("removed");
    assert!(checkpoints.latest(|_, _| ()).expect("a folder").is_none());
}

#[test]
fn a_run_that_was_taken_back_keeps_what_it_writes() {
    let folder = tempfile::tempdir().expect("a folder");
    let checkpoints = Checkpoints::new(folder.path(), 2).expect("a folder");
    let mut first = trainer();
    (0..5).for_each(|_| drop(checkpoints.write(&step(&mut first)).expect("written")));
    let mut again = trainer();
    let path = checkpoints.write(&step(&mut again)).expect("written");
    assert!(path.exists(), "the newest by time, not by number");
}

#[test]
fn a_folder_is_one_runs() {
    let folder = tempfile::tempdir().expect("a folder");
    let checkpoints = Checkpoints::new(folder.path().join("run"), 2).expect("a folder");
    let message = Checkpoints::new(folder.path().join("run"), 2).expect_err("held").to_string();
    assert!(message.contains("no other run writes to") && message.contains("run"), "{message}");
    let other = checkpoints.clone();
    drop(checkpoints);
    Checkpoints::new(folder.path().join("run"), 2).expect_err("a clone holds it");
    drop(other);
    Checkpoints::new(folder.path().join("run"), 2).expect("free again");
}

#[test]
fn files_that_are_not_the_runs_are_left_alone() {
    let folder = tempfile::tempdir().expect("a folder");
    let checkpoints = Checkpoints::new(folder.path(), 1).expect("a folder");
    let mine = ["good.checkpoint.safetensors", "12", "+3.checkpoint.safetensors", ".checkpoint.safetensors"];
    mine.iter().for_each(|name| fs::write(folder.path().join(name), "mine").expect("written"));
    fs::create_dir(folder.path().join("000000000007.checkpoint.safetensors")).expect("a folder");
    assert!(checkpoints.latest(|_, _| ()).expect("none of the run's").is_none());
    let mut trainer = trainer();
    (0..3).for_each(|_| drop(checkpoints.write(&step(&mut trainer)).expect("written")));
    assert!(mine.iter().all(|name| folder.path().join(name).exists()));
    assert_eq!(steps(&checkpoints), [3]);
    #[cfg(target_os = "linux")]
    assert!(Checkpoint::read("/dev/zero").is_err(), "a device is not read");
}

#[test]
fn numbers_beyond_all_runs_are_refused_and_change_nothing() {
    let mut weights = Weights::from_bytes("run", &step(&mut trainer()).to_bytes().expect("bytes")).expect("weights");
    weights.note("step", &u64::MAX.to_string());
    let bytes = reseal(&weights);
    let message = Checkpoint::from_bytes("file", &bytes).expect_err("refused").to_string();
    assert!(message.contains("metadata step: expected at most"), "{message}");

    let mut trainer = trainer();
    step(&mut trainer);
    let before = trainer.checkpoint().expect("a checkpoint").to_bytes().expect("bytes");
    for (key, value) in [
        ("step", "1"),
        ("count head.weight", "18446744073709551615"),
        ("seed", "-1"),
        ("plateau", "7ff8000000000000 0 0 0"),
        ("plateau", "0 0 0"),
        ("slots", "momentum"),
    ] {
        let mut weights = Weights::from_bytes("run", &before).expect("weights");
        weights.note(key, value);
        let checkpoint = Checkpoint::from_bytes("file", &reseal(&weights)).expect("a right checksum");
        if key != "step" {
            let message = trainer.restore(&checkpoint).expect_err("refused").to_string();
            assert!(message.contains(key), "{key}: {message}");
        }
        assert!(trainer.checkpoint().expect("a checkpoint").to_bytes().expect("bytes") == before, "{key}");
    }
}

#[test]
fn a_plateau_is_restored_by_trainers_that_have_one() {
    let with_plateau = step(&mut trainer());
    let mut without = plain_trainer();
    step(&mut without);
    let before = without.checkpoint().expect("a checkpoint").to_bytes().expect("bytes");
    let message = without.restore(&with_plateau).expect_err("the rate would be another one").to_string();
    let expected =
        "metadata plateau: expected none, as the trainer has no plateau (Trainer::plateau gives it one), found";
    assert!(message.contains(expected), "{message}");
    assert!(without.checkpoint().expect("a checkpoint").to_bytes().expect("bytes") == before, "nothing has changed");
    let same = Checkpoint::from_bytes("same", &before).expect("whole");
    without.restore(&same).expect("a checkpoint without a plateau");
    let message = trainer().restore(&same).expect_err("no state for the plateau").to_string();
    assert!(message.contains("plateau"), "{message}");
}

/// A file of these weights with the right checksum.
fn reseal(weights: &Weights) -> Vec<u8> {
    let mut bytes = weights.to_bytes().expect("bytes");
    let start = 8 + "{\"__metadata__\":{\"checkpoint\":\"2 crc32 ".len();
    let mut sum = crc32fast::Hasher::new();
    sum.update(&bytes[..start]);
    sum.update(&bytes[start + 8..]);
    bytes[start..start + 8].copy_from_slice(format!("{:08x}", sum.finalize()).as_bytes());
    bytes
}

const FIXTURE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/train/linear.checkpoint.safetensors");

#[test]
fn a_checkpoint_of_this_version_stays_readable() {
    let bytes = fs::read(FIXTURE).expect("the fixture");
    let checkpoint = Checkpoint::from_bytes("fixture", &bytes).expect("it is whole");
    assert!(checkpoint.to_bytes().expect("bytes") == bytes);
    let mut trainer = trainer();
    trainer.restore(&checkpoint).expect("it fits");
    assert_eq!((trainer.steps(), checkpoint.noted("epoch")), (1, Some("3")));
}

#[test]
#[ignore = "writes the fixture, for a new version of the format"]
fn write_the_fixture() {
    step(&mut trainer()).write(FIXTURE).expect("written");
}
