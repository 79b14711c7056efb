//! The command `gatewise plan`.

use std::process::Command;

use gatewise::cell::{LstmCell, WeightType};
use gatewise::plan::{Limits, Plan, PlanKind, Problem};

fn run(arguments: &str) -> (Option<i32>, String, String) {
    let done = Command::new(env!("CARGO_BIN_EXE_gatewise"))
        .args(arguments.split(' '))
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
        .output()
        .expect("it runs");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (done.status.code(), text(&done.stdout), text(&done.stderr))
}

#[test]
fn the_command_prints_the_plan_of_the_library() {
    let problem = Problem {
        cells: vec![LstmCell::default().into(); 2],
        input: 64,
        hidden: 128,
        layers: 1,
        merged: false,
        weight_type: WeightType::F32,
        time: 100,
        batch: 3,
    };
    let (code, text, _) = run("plan --cell lstm -I 64 -H 128 --layers 1 --directions 2 -T 100 -B 3");
    let plan = Plan::new(problem.clone(), &Limits::portable(), None).expect("fits");
    assert_eq!((code, text), (Some(0), format!("{plan}\n")));

    let (code, text, _) = run("plan -I 64 -H 128 -T 100 -B 3 --dtype f16 --matrices half");
    assert!(code == Some(0) && text.contains("\nprojection  32 rows x 16 units by matrices of f16\n"), "{text}");

    // The former name of a kind is accepted; the current one is printed.
    for name in ["cooperative", "wide"] {
        let (code, text, _) = run(&format!("plan -I 64 -H 128 -T 100 -B 3 --plan {name}"));
        assert!(code == Some(0) && text.contains("\nplan        cooperative: asked for\n"), "{text}");
    }

    let (code, text, _) = run("plan -I 64 -H 128 --directions 2 -T 100 -B 3 --plan step --json");
    let plan = Plan::new(problem, &Limits::portable(), Some(PlanKind::Step)).expect("fits");
    let report: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(code, Some(0));
    assert_eq!((&report["plan"], &report["why"]), (&"step".into(), &"asked for".into()));
    for (field, value) in [
        ("dispatches", plan.dispatches() as u64),
        ("submits", 1),
        ("bytes", plan.bytes()),
        ("workgroup_bytes", plan.workgroup_bytes()),
        ("T", 100),
        ("B", 3),
    ] {
        assert_eq!(report[field], value, "{field}: {report}");
    }
    assert_eq!(report["chunks"], serde_json::json!([100]));
}

#[test]
fn what_cannot_be_planned_is_one_line_and_exit_code_2() {
    for (arguments, words) in [
        ("plan -I 3 -H 8 -T 5 --directions 2 --plan wave", "the kind wave with two directions"),
        ("plan -I 3 -H 8 -T 5 --cell lstn", "rnn, rnn_relu, lstm, gru or gru_reset_before, got lstn"),
        ("plan -I 3 -H 8 -T 5 -B 99999999", "one step's input projection in bytes"),
        ("plan -I 3 -H 0 -T 5", "hidden must be at least 1, got 0"),
        ("plan -I 3 -H 8 -T 5 --layers 0", "layers must be at least 1, got 0"),
        ("plan -I 3 -H 8 -T 18446744073709551615 --json", "the input in bytes"),
        ("plan -I 3 -H 4611686018427387904 -T 5 -B 0", "one step's input projection in bytes"),
        ("plan -I 4611686018427387904 -H 8 -T 0", "a layer's weights in bytes"),
        ("plan -I 3 -H 8 -T 5 -B 0 --layers 18446744073709551615", "the state in bytes"),
    ] {
        let (code, text, message) = run(arguments);
        assert_eq!((code, text.as_str()), (Some(2), ""), "{message}");
        assert!(message.contains(words) && message.trim_end().lines().count() == 1, "{message}");
    }
}

#[cfg(feature = "gpu")]
#[test]
fn matrices_that_the_adapter_does_not_list_are_refused() {
    let listed = gatewise::gpu::adapters()[0].features.contains(&"cooperative-matrix");
    let (code, _, message) = run("verify --device gpu --matrices tests/golden --case rnn_tanh_T1_B1");
    let refused = code == Some(2) && message.contains("lists none that there is a kernel for");
    assert_eq!(refused, !listed, "{message}");
}

#[cfg(feature = "gpu")]
#[test]
fn matrices_that_a_software_adapter_would_not_use_are_refused() {
    let software = gatewise::gpu::adapters().iter().all(|adapter| adapter.is_software());
    let (code, text, message) = run("plan -I 64 -H 128 -T 100 -B 64 --dtype f16 --matrices half --adapter device");
    if software {
        assert_eq!((code, text.as_str(), message.lines().count()), (Some(2), "", 1), "{message}");
        assert!(message.contains("--matrices half on") && message.contains("a software adapter"), "{message}");
    } else {
        assert!(code == Some(0) && text.contains("by matrices of f16"), "{text}{message}");
    }
}

/// `--plan` reaches the calls of a bench, and its lines name the plan that ran.
#[cfg(feature = "gpu")]
#[test]
fn a_bench_names_the_plan_that_ran() {
    let folder = tempfile::tempdir().expect("a folder");
    let suite = folder.path().join("suite.json");
    let shapes = r#"[{"name": "a", "cell": "lstm", "I": 3, "H": 5, "layers": 2, "bidir": false, "T": 4, "B": 2}]"#;
    std::fs::write(&suite, shapes).expect("a file");
    let bench = format!("bench --suite {} --device cpu,gpu --budget-ms 1 --min-runs 1 --json", suite.display());
    for (asked, ran) in [("step", "step"), ("wave", "wave"), ("scan", "scan")] {
        let (code, text, message) = run(&format!("{bench} --plan {asked}"));
        assert_eq!(code, Some(0), "{message}");
        let plans: Vec<String> = text
            .lines()
            .map(|line| serde_json::from_str::<serde_json::Value>(line).expect("JSON")["plan"].to_string())
            .collect();
        assert_eq!(plans, ["\"none\"".to_owned(), format!("\"{ran}\"")]);
    }
}
