//! `gatewise bench`: its output is a contract.
#![cfg(feature = "gpu")]

mod common;

use std::process::{Command, Output};

use gatewise::cpu::Instructions;
use serde_json::Value;

/// Runs `bench` over the given shapes; returns its output.
fn run(shapes: &str, arguments: &str) -> Output {
    let folder = tempfile::tempdir().expect("a folder");
    let suite = folder.path().join("suite.json");
    std::fs::write(&suite, shapes).expect("writes");
    let mut command = Command::new(common::program());
    command.args(["bench", "--json", "--budget-ms", "1", "--min-runs", "2", "--suite"]).arg(&suite);
    command.args(arguments.split(' ')).env("XDG_CACHE_HOME", folder.path());
    command.output().expect("it runs")
}

/// Runs `bench` over the given shapes; returns its JSON lines.
fn bench(shapes: &str, arguments: &str) -> Vec<Value> {
    let output = run(shapes, arguments);
    let (out, error) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(0), "{arguments}: {error}");
    out.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

/// The one line with which `bench` refuses the given shapes.
fn refused(shapes: &str, arguments: &str) -> String {
    let output = run(shapes, arguments);
    let error = String::from_utf8_lossy(&output.stderr).trim_end().to_owned();
    assert_eq!((output.status.code(), error.lines().count(), &output.stdout[..]), (Some(2), 1, &[][..]), "{error}");
    error
}

fn number(line: &Value, field: &str) -> f64 {
    line[field].as_f64().unwrap_or_else(|| panic!("{field} of {line}"))
}

const SMALL: &str = r#"[{"name":"a","cell":"lstm","I":8,"H":16,"layers":2,"T":5,"B":2},
                        {"name":"b","cell":"gru","I":8,"H":16,"layers":1,"bidir":true,"T":3,"B":1}]"#;

#[test]
fn a_line_names_shape_machine_times_and_the_least_time() {
    let lines = bench(SMALL, "--device cpu,gpu --threads 1");
    assert_eq!(lines.len(), 4);
    for line in &lines {
        for field in ["shape", "cell", "dtype", "device", "plan", "pass", "cpu", "os", "version"] {
            assert!(line[field].is_string(), "{field} of {line}");
        }
        assert!(number(line, "cores") >= 1.0 && number(line, "runs") >= 2.0);
        let [least, median, most] = ["min_ms", "median_ms", "max_ms"].map(|field| number(line, field));
        assert!(0.0 < least && least <= median && median <= most, "{line}");
        let [mean, p99] = ["mean_ms", "p99_ms"].map(|field| number(line, field));
        assert!(least <= mean && mean <= most && median <= p99 && p99 <= most, "{line}");
        assert_eq!(number(line, "load"), 0.0);
        let roofline = number(line, "roofline_ms");
        assert!(0.0 < roofline && roofline <= number(line, "dispatch_roofline_ms"), "{line}");
        let timed = if line["device"] == "gpu" { number(line, "on_device_ms") } else { median };
        assert!((number(line, "roofline_share") / (roofline / timed) - 1.0).abs() < 1e-9, "{line}");
    }
    let gpu = lines.iter().find(|line| line["device"] == "gpu").expect("a GPU's line");
    assert!(gpu["adapter"].is_string() && gpu["driver"].is_string());
    assert!(gpu["plan"] == "scan" && number(gpu, "dispatches") == 2.0 && number(gpu, "submits") == 1.0, "{gpu}");
    let cpu = lines.iter().find(|line| line["device"] == "cpu").expect("the CPU's line");
    assert!(cpu["on_device_ms"].is_null() && number(cpu, "dispatches") == 0.0, "{cpu}");
}

#[test]
fn training_is_timed_where_it_is_supported() {
    for line in bench(SMALL, "--device cpu,gpu --train --no-roofline") {
        if line["skipped"].is_null() {
            assert_eq!(line["on_device_ms"].is_null(), line["device"] == "cpu", "{line}");
            assert_eq!(line["pass"], "training", "{line}");
            assert!(line["roofline_ms"].is_null());
            assert!(number(&line, "median_ms") > 0.0);
        } else {
            assert_eq!(line["device"], "gpu", "{line}");
        }
    }
}

#[test]
fn training_refuses_what_it_would_not_heed() {
    for option in ["--dtype f16", "--dtype bf16", "--dtype int8", "--plan step", "--matrices", "--autotune"] {
        let error = refused(SMALL, &format!("--device gpu --train --no-roofline {option}"));
        assert!(error.contains(&format!("bench --train: {option} is not supported by training")), "{error}");
    }
    let error = refused("[]", "--device cpu --train --dtype f16 --serve --shapes absent.json");
    assert!(error.contains("bench --train: --dtype f16"), "{error}");
    assert!(bench(SMALL, "--device cpu --train --no-roofline --dtype f32").iter().all(|line| line["dtype"] == "f32"));
}

#[test]
fn sizes_that_no_memory_holds_are_refused() {
    let shape = |sizes: &str| format!(r#"[{{"name":"a","cell":"lstm","layers":1,{sizes}}}]"#);
    for (sizes, array) in [
        (r#""I":8,"H":16,"T":18446744073709551615,"B":1"#, "x"),
        (r#""I":8,"H":16,"T":3,"B":4611686018427387904"#, "x"),
        (r#""I":1,"H":16777216,"T":4096,"B":4096"#, "y"),
        (r#""I":8,"H":16,"T":0,"B":4611686018427387904"#, "x"),
        (r#""I":0,"H":16,"T":4611686018427387904,"B":4"#, "x"),
        (r#""I":16777216,"H":16777216,"T":1,"B":1"#, "weights"),
    ] {
        for device in ["cpu", "gpu --most-s 1", "cpu --train"] {
            let error = refused(&shape(sizes), &format!("--no-roofline --device {device}"));
            assert!(error.contains(&format!("bench: {array} must be an array [")), "{error}");
        }
    }
}

/// Each array fits in memory, but not all arrays that live at the same time.
#[test]
#[cfg(target_os = "linux")]
fn suites_are_refused_by_all_that_they_hold_at_once() {
    let folder = tempfile::tempdir().expect("a folder");
    let suite = folder.path().join("suite.json");
    for (sizes, limit) in [
        (r#""I":4,"H":20000,"layers":1,"T":4,"B":1"#, "4000000"),
        (r#""I":256,"H":256,"layers":1,"T":500000,"B":1"#, "900000"),
        (r#""I":4,"H":4,"layers":16777216,"T":4,"B":1"#, "4000000"),
    ] {
        std::fs::write(&suite, format!(r#"[{{"name":"a","cell":"lstm",{sizes}}}]"#)).expect("writes");
        let mut command = Command::new("sh");
        command.args(["-c", r#"ulimit -v "$0" && exec "$@""#, limit]).arg(common::program());
        command.args(["bench", "--device", "cpu", "--no-roofline", "--suite"]).arg(&suite);
        let output = command.output().expect("it runs");
        let error = String::from_utf8_lossy(&output.stderr).trim_end().to_owned();
        assert_eq!((output.status.code(), error.lines().count()), (Some(2), 1), "{sizes}: {error}");
        assert!(error.contains("bench: out of memory") && error.contains("at the same time"), "{sizes}: {error}");
    }
}

#[test]
fn the_table_tells_sizes_and_explains_its_columns() {
    let folder = tempfile::tempdir().expect("a folder");
    let suite = folder.path().join("suite.json");
    std::fs::write(&suite, SMALL).expect("writes");
    let table = |arguments: &str| {
        let mut command = Command::new(common::program());
        command.args(["bench", "--budget-ms", "1", "--min-runs", "2", "--suite"]).arg(&suite);
        let output = command.args(arguments.split(' ')).output().expect("it runs");
        assert!(output.status.success() && output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let text = table("--device cpu,reference --threads 1");
    for part in [
        "lstm x2, I 8, H 16, T 5, B 2",
        "gru both ways, I 8, H 16, T 3, B 1",
        "\nsizes: ",
        "\nms: ",
        "\nsecond line: ",
        "\n%: ",
        "\nratio: ",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let text = table("--device cpu --no-roofline --train");
    assert!(text.contains("forward and back") && !text.contains("\n%: ") && !text.contains("\nratio: "), "{text}");
}

#[test]
fn more_threads_than_a_machine_has_are_refused() {
    for threads in ["0", "1025", "18446744073709551615"] {
        let error = refused(SMALL, &format!("--device cpu --no-roofline --threads {threads}"));
        assert!(error.contains(&format!("threads must be between 1 and 1024, got {threads}")), "{error}");
    }
}

/// The competitors outnumber the cores, so the timed call gets only a part of a core.
#[test]
fn a_load_is_told_beside_the_times() {
    let shapes = r#"[{"name":"a","cell":"lstm","I":64,"H":256,"layers":1,"T":50,"B":8}]"#;
    for load in [0, 3] {
        let arguments = format!("--device cpu --threads 1 --no-roofline --load {load}");
        let lines = bench(shapes, &arguments);
        let of = |name| number(&lines[0], name);
        assert_eq!(of("load"), f64::from(load));
        assert!(of("min_ms") <= of("mean_ms") && of("mean_ms") <= of("max_ms"), "{:?}", lines[0]);
        assert!(of("median_ms") <= of("p99_ms") && of("p99_ms") <= of("max_ms"), "{:?}", lines[0]);
    }
}

#[test]
fn a_load_without_sense_is_refused() {
    for load in ["1025", "18446744073709551615"] {
        let error = refused(SMALL, &format!("--device cpu --no-roofline --load {load}"));
        assert!(error.contains(&format!("--load must be at most 1024, got {load}")), "{error}");
    }
    for wrong in ["--load=-1", "--load many", "--load 1.5", "--load 1 --peaks", "--load 1 --serve --shapes absent.json"]
    {
        let output = run(SMALL, &format!("--device cpu {wrong}"));
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(2) && error.contains("--load"), "{wrong}: {error}");
    }
}

#[test]
fn what_cannot_run_is_named_and_the_rest_goes_on() {
    // A stack of two directions cannot be a wave.
    let lines = bench(SMALL, "--device gpu --no-roofline --plan wave");
    assert!(number(&lines[0], "median_ms") > 0.0 && lines[0]["plan"] == "wave", "{}", lines[0]);
    assert!(lines[1]["skipped"].as_str().is_some_and(|reason| reason.contains("wave")), "{}", lines[1]);
    // A shape that would take too long at the rates seen so far is not begun.
    let shapes = r#"[{"name":"a","cell":"lstm","I":8,"H":16,"layers":1,"T":5,"B":2},
                     {"name":"endless","cell":"lstm","I":4096,"H":4096,"layers":1,"T":100000,"B":1}]"#;
    let lines = bench(shapes, "--device cpu --no-roofline --most-s 60");
    assert!(lines[1]["skipped"].as_str().is_some_and(|reason| reason.contains("s per pass")), "{}", lines[1]);
}

/// A single row is a launch and hardly any work: its rate says nothing of thousands.
#[test]
fn large_batches_are_not_judged_by_the_launch_of_one_row() {
    let shape =
        |batch: usize| format!(r#"{{"name":"b{batch}","cell":"lstm","I":8,"H":8,"layers":1,"T":1,"B":{batch}}}"#);
    let shapes = format!("[{}]", [1, 64, 4096, 65_536].map(shape).join(","));
    for line in bench(&shapes, "--device gpu --no-roofline --most-s 2") {
        assert!(line["skipped"].is_null(), "{line}");
    }
}

#[test]
fn a_series_of_batches_ends_with_the_crossover() {
    let shape =
        |batch: usize| format!(r#"{{"name":"b{batch}","cell":"lstm","I":8,"H":16,"layers":1,"T":2,"B":{batch}}}"#);
    let shapes = format!("[{}]", [1, 2, 4].map(shape).join(","));
    let lines = bench(&shapes, "--device cpu,gpu --no-roofline");
    let crossover = &lines.last().expect("lines")["crossover"];
    assert_eq!((lines.len(), &crossover["H"], &crossover["T"]), (7, &16.into(), &2.into()));
    assert!(crossover["B"].is_null() || crossover["B"].is_u64());
}

#[test]
fn a_tuned_bench_keeps_what_it_found() {
    let lines = bench(
        r#"[{"name":"a","cell":"lstm","I":8,"H":16,"layers":1,"T":2,"B":2}]"#,
        "--device gpu --autotune --no-roofline",
    );
    assert!(number(&lines[0], "median_ms") > 0.0);
}

#[test]
fn peaks_are_measured_on_both_devices() {
    let lines = bench("[]", "--device cpu,gpu --simd portable --peaks --threads 1");
    assert_eq!(lines.len(), 2);
    assert_eq!(lines[0]["instructions"], "portable");
    assert!(number(&lines[0], "product_gflops") > 0.0 && lines[1]["product_gflops"].is_null());
    for line in &lines {
        assert!(number(line, "fma_gflops") > 0.0, "{line}");
        let reads = line["read"].as_array().expect("a list");
        assert!(reads.len() >= 4 && reads.iter().all(|read| number(read, "gb_s") > 0.0), "{line}");
    }
    let gpu = &lines[1];
    assert_eq!(gpu["timestamps"], true);
    for field in ["copy_gb_s", "dispatch_us", "wide_dispatch_us", "submit_us", "read_back_us"] {
        assert!(number(gpu, field) > 0.0, "{field}");
    }
    assert!(lines[0]["copy_gb_s"].is_null());
}

#[test]
fn every_instruction_set_has_peaks() {
    let lines = bench("[]", "--device cpu --peaks --threads 1");
    let sets: Vec<&str> = lines.iter().filter_map(|line| line["instructions"].as_str()).collect();
    let expected: Vec<&str> =
        Instructions::ALL.into_iter().filter(|set| set.available()).map(Instructions::name).collect();
    assert_eq!(sets, expected);
}

#[test]
fn a_list_of_threads_is_a_measurement_each() {
    let lines = bench(SMALL, "--device cpu,reference --threads 1,3 --no-roofline");
    let lines: Vec<&Value> = lines.iter().filter(|line| line["shape"] == "a").collect();
    let seen: Vec<(&str, f64)> =
        lines.iter().map(|line| (line["device"].as_str().unwrap_or_default(), number(line, "threads"))).collect();
    assert_eq!(seen, [("cpu", 1.0), ("cpu", 3.0), ("reference", 1.0)]);
}

/// A process that may use one processor has one thread by default.
#[test]
#[cfg(target_os = "linux")]
fn the_default_threads_respect_the_affinity() {
    let status = std::fs::read_to_string("/proc/self/status").expect("a status");
    let allowed = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).expect("a list").trim();
    let first = allowed.split(['-', ',']).next().expect("a processor");
    let folder = tempfile::tempdir().expect("a folder");
    let suite = folder.path().join("suite.json");
    std::fs::write(&suite, SMALL).expect("writes");
    let mut command = Command::new("taskset");
    command.args(["-c", first]).arg(common::program());
    command.args(["bench", "--json", "--device", "cpu", "--no-roofline", "--budget-ms", "1", "--suite"]).arg(&suite);
    let output = command.output().expect("taskset runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let lines = String::from_utf8_lossy(&output.stdout);
    let lines: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert!(lines.len() == 2 && lines.iter().all(|line| number(line, "threads") == 1.0), "{lines:?}");
}
