//! `gatewise flow`: its text, JSON, CSV and pictures.

use std::process::{Command, Output};

fn flow(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gatewise"));
    command.arg("flow").args(["--time", "40", "--batch", "2", "--hidden", "6"]).args(arguments);
    command.output().expect("the program runs")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn an_rnn_forgets_and_a_gated_cell_remembers() {
    let output = flow(&["--json"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let reach = |at: usize| {
        let dh = &json["cells"][at]["flow"]["layers"][0]["dh"];
        dh[0].as_f64().expect("a number") / dh[39].as_f64().expect("a number")
    };
    let names: Vec<_> = (0..3).map(|at| json["cells"][at]["cell"].as_str().expect("a name").to_owned()).collect();
    assert_eq!(names, ["rnn", "lstm", "gru"]);
    assert!((json["cells"][1]["flow"]["layers"][0]["dh"][39].as_f64().expect("a number") - 1.0).abs() < 1e-6);
    assert!(reach(0) < 0.1 * reach(1) && reach(0) < 0.1 * reach(2), "{} {} {}", reach(0), reach(1), reach(2));
}

#[test]
fn the_forget_bias_decides_how_far_an_lstm_remembers() {
    let kept = |bias: &str| {
        let output = flow(&["--json", "--cell", "lstm", "--forget-bias", bias]);
        let json: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
        let layer = &json["cells"][0]["flow"]["layers"][0];
        (layer["openings"]["kept"][20].as_f64().expect("a mean"), layer["path"][0].as_f64().expect("a norm"))
    };
    let (closed, none, open) = (kept("-3"), kept("none"), kept("5"));
    assert!(closed.0 < 0.2 && (0.3..0.7).contains(&none.0) && open.0 > 0.9, "{closed:?} {none:?} {open:?}");
    assert!(closed.1 < none.1 && none.1 < open.1);
}

#[test]
fn text_csv_and_pictures_are_written() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
    let output = flow(&["--layers", "2", "--loss", "all", "--csv", &path("flow.csv"), "--plot", &path("flow.svg")]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(text(&output.stdout).contains("lstm, layer 1: |dL/dh| is"), "{}", text(&output.stdout));
    let csv = std::fs::read_to_string(path("flow.csv")).expect("CSV");
    assert_eq!(csv.lines().count(), 1 + 3 * 2 * 40);
    assert_eq!(csv.matches("layer,direction").count(), 1);
    let svg = std::fs::read_to_string(path("flow.svg")).expect("a picture");
    for name in ["rnn, layer 0", "gru, layer 1: state only", "lstm, layer 0: kept", "log10 |dL/dh|"] {
        assert!(svg.contains(name), "{name}");
    }
    assert!(flow(&["--plot", &path("flow.png")]).status.success());
    let png = std::fs::read(path("flow.png")).expect("a picture");
    assert_eq!(&png[..8], b"\x89PNG\r\n\x1a\n");
}

/// Each array fits in memory, but not all arrays that live at the same time.
#[test]
#[cfg(target_os = "linux")]
fn a_flow_is_refused_by_all_that_it_holds_at_once() {
    for sizes in [["200000", "64", "32"], ["8000", "16", "64"]] {
        let [time, batch, hidden] = sizes;
        let mut command = Command::new("sh");
        command.args(["-c", r#"ulimit -v 900000 && exec "$@""#, "sh", env!("CARGO_BIN_EXE_gatewise"), "flow"]);
        command.args(["--time", time, "--batch", batch, "--hidden", hidden]);
        let output = command.output().expect("the program runs");
        let message = text(&output.stderr);
        assert_eq!((output.status.code(), message.trim_end().lines().count()), (Some(2), 1), "{message}");
        assert!(message.contains("flow: "), "{message}");
        assert!(message.contains("at the same time") || message.contains("that memory holds"), "{message}");
    }
}

#[test]
fn bad_arguments_get_one_line() {
    for (arguments, expected) in [
        (&["--forget-bias", "wide"][..], "--forget-bias must be a number, `chrono` or `none`, got wide"),
        (&["--time", "0"], "--time must be at least 1"),
        (&["--batch", "18446744073709551615"], "x must be an array [T, B, input] that memory holds"),
        (&["--time", "1", "--batch", "1", "--hidden", "16777216"], "weights must be an array [layers, hidden, hidden]"),
        (&["--plot", "flow.jpg"], ".svg or .png"),
    ] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_gatewise"));
        let output = command.arg("flow").args(arguments).output().expect("the program runs");
        let message = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{message}");
        assert!(message.contains(expected) && message.trim_end().lines().count() == 1, "{message}");
    }
}
