//! Outputs that are inputs or other outputs, or that cannot be written.

use std::fs;
use std::path::Path;

use gatewise::onnx::proto::{Message, ModelProto};
use ndarray::Array3;
use ndarray_npy::write_npy;
use tempfile::TempDir;

use crate::{ROOT, recording, refused, run, text};

/// A folder with a recording, its copy's contents, and the names of all that is there.
struct RecordingFolder {
    folder: TempDir,
    recording: Vec<u8>,
}

impl RecordingFolder {
    fn new() -> Self {
        let folder = TempDir::new().expect("a folder");
        recording(&folder.path().join("in.wav"));
        fs::create_dir(folder.path().join("inner")).expect("a folder");
        let recording = fs::read(folder.path().join("in.wav")).expect("there");
        Self { folder, recording }
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn names(&self) -> Vec<String> {
        let name = |entry: std::io::Result<fs::DirEntry>| entry.expect("an entry").file_name().display().to_string();
        let mut names: Vec<String> = fs::read_dir(self.path()).expect("a folder").map(name).collect();
        names.sort();
        names
    }

    /// Expects a refusal that names all of the words and leaves the folder as it was.
    fn refuses(&self, arguments: &str, words: &[&str]) {
        let before = self.names();
        let said = refused(self.path(), arguments);
        words.iter().for_each(|word| assert!(said.contains(word), "{arguments}: {said}"));
        assert_eq!(self.names(), before, "{arguments}");
        assert!(fs::read(self.path().join("in.wav")).expect("there") == self.recording, "{arguments}");
    }
}

#[test]
fn an_output_that_is_an_input_is_refused() {
    let place = RecordingFolder::new();
    let weights = format!("{ROOT}/models/silero_vad_16k.safetensors");
    fs::copy(weights, place.path().join("w.svg")).expect("a copy");
    let same = ["must be a file that is not an input", "the same file as the recording in.wav"];
    place.refuses("vad in.wav --device cpu --probs in.wav", &[&same[..], &["--probs"]].concat());
    place.refuses("vad in.wav --device cpu --probs inner/../in.wav", &same);
    place.refuses("vad --weights w.svg --device cpu --plot w.svg", &["--plot", "the same file as --weights w.svg"]);
    #[cfg(unix)]
    {
        std::os::unix::fs::symlink("in.wav", place.path().join("link.csv")).expect("a link");
        fs::hard_link(place.path().join("in.wav"), place.path().join("hard.csv")).expect("a link");
        place.refuses("vad in.wav --device cpu --probs link.csv", &same);
        place.refuses("vad in.wav --device cpu --probs hard.csv", &same);
    }
}

#[test]
fn two_outputs_that_are_one_file_are_refused() {
    let place = RecordingFolder::new();
    let words = ["--plot must be a file of its own", "the same file as --"];
    place.refuses("vad in.wav --device cpu --probs a.svg --plot ./a.svg", &words);
    place.refuses("flow --time 5 --plot a.svg --csv inner/../a.svg", &words);
}

/// Refused before the work: all of these name a recording or sizes that would be refused next.
#[test]
fn what_cannot_be_written_is_refused_before_the_work() {
    let place = RecordingFolder::new();
    for bad in ["inner", "absent/x.svg", "x.svg/"] {
        for option in ["--probs", "--plot"] {
            place.refuses(&format!("vad absent.wav {option} {bad}"), &[option, "must be"]);
        }
        for option in ["--csv", "--plot"] {
            place.refuses(&format!("flow --time 0 {option} {bad}"), &["must be"]);
        }
    }
    for picture in ["x.gif", "x", "x.svg.txt"] {
        place.refuses(
            &format!("vad absent.wav --plot {picture}"),
            &["--plot must be a name that ends in .svg", picture],
        );
        place.refuses(&format!("flow --time 0 --plot {picture}"), &["a name that ends in .svg or .png", picture]);
    }
    for (arguments, file) in
        [("vad in.wav --device cpu --plot X.SVG", "X.SVG"), ("flow --time 3 --plot X.PNG", "X.PNG")]
    {
        let output = run(place.path(), arguments);
        assert!(output.status.success() && place.path().join(file).exists(), "{arguments}: {}", text(&output.stderr));
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_fifo_is_no_output() {
    let place = RecordingFolder::new();
    let made = std::process::Command::new("mkfifo").arg(place.path().join("pipe.svg")).status().expect("mkfifo runs");
    assert!(made.success());
    for option in ["--probs", "--plot"] {
        place.refuses(&format!("vad in.wav --device cpu {option} pipe.svg"), &[option, "pipe.svg"]);
    }
    place.refuses("flow --time 0 --csv pipe.svg", &["--csv", "pipe.svg"]);
}

/// A model `lstm_no_state` whose output `Y_c` is called otherwise.
fn renamed(place: &RecordingFolder, name: &str) {
    let bytes = fs::read(format!("{ROOT}/tests/fixtures/onnx/lstm_no_state.onnx")).expect("a fixture");
    let mut model = ModelProto::decode(&bytes[..]).expect("sound");
    let graph = model.graph.as_mut().expect("a graph");
    let old = graph.output.last().expect("an output").name.clone();
    let names = graph.node.iter_mut().flat_map(|node| &mut node.output);
    let names = names.chain(graph.output.iter_mut().map(|info| &mut info.name));
    names.filter(|known| **known == old).for_each(|known| *known = name.to_owned());
    fs::write(place.path().join("m.onnx"), model.encode_to_vec()).expect("a file");
}

#[test]
fn a_model_does_not_write_over_what_it_reads() {
    let place = RecordingFolder::new();
    renamed(&place, "x");
    write_npy(place.path().join("x.npy"), &Array3::<f32>::zeros((5, 3, 2))).expect("a file");
    let before = fs::read(place.path().join("x.npy")).expect("there");
    let words = ["--output must be a file that is not an input", "x.npy, the same file as --input x.npy"];
    place.refuses("run m.onnx --device cpu --input X=x.npy --output .", &words);
    fs::copy(place.path().join("m.onnx"), place.path().join("inner/x.npy")).expect("a copy");
    let words = ["--output must be a file that is not an input", "the same file as the model inner/x.npy"];
    place.refuses("run inner/x.npy --device cpu --input X=x.npy --output inner", &words);
    // A folder in the way, and names that no file has: nothing runs, and no folder is left.
    fs::create_dir_all(place.path().join("taken/x.npy")).expect("a folder");
    place.refuses("run m.onnx --device cpu --input X=x.npy --output taken", &["--output", "taken/x.npy"]);
    renamed(&place, &"n".repeat(5000));
    place.refuses("run m.onnx --device cpu --input X=x.npy --output new", &["--output", "more ...n"]);
    place.refuses("run m.onnx --device cpu --input X=x.npy --output in.wav", &["in.wav"]);
    // An input that does not fit fails within the run: the new folder goes again.
    renamed(&place, "y");
    write_npy(place.path().join("wide.npy"), &Array3::<f32>::zeros((5, 3, 9))).expect("a file");
    place.refuses("run m.onnx --device cpu --input X=wide.npy --output new", &["[5, 3, 9]"]);
    let output = run(place.path(), "run m.onnx --device cpu --input X=x.npy --output new");
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(place.path().join("new/y.npy").exists());
    assert_eq!(fs::read(place.path().join("x.npy")).expect("there"), before);
}

#[cfg(target_os = "linux")]
#[test]
fn a_failed_write_leaves_the_file_that_was_there() {
    let place = RecordingFolder::new();
    fs::write(place.path().join("p.csv"), "kept").expect("a file");
    // No file may grow beyond one block: the CSV of a second is about as long.
    let mut limited = std::process::Command::new("bash");
    let program = env!("CARGO_BIN_EXE_gatewise");
    let script = format!("trap '' XFSZ; ulimit -f 0; exec {program} vad in.wav --device cpu --probs p.csv");
    limited.args(["-c", &script]).current_dir(place.path());
    let before = place.names();
    let said = crate::one_line(&crate::finish(&mut limited), "vad");
    assert!(said.contains("p.csv"), "{said}");
    assert_eq!(fs::read_to_string(place.path().join("p.csv")).expect("there"), "kept");
    assert_eq!(place.names(), before);
}
