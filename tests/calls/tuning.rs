//! Plans chosen by measuring: only if asked for, right for every choice, and the same again from disk.

use std::path::{Path, PathBuf};

use crate::common::bits;
use gatewise::cell::{Cell, LstmCell};
use gatewise::gpu::{GpuDevice, GpuOptions};
use gatewise::nn::{Config, Recurrent};
use gatewise::plan::{Choice, Method, Plan, Tile};
use gatewise::{Device, Error, Tensor};
use ndarray::Array3;
use serde_json::{Value, json};

const TIME: usize = 5;
const BATCH: usize = 6;

fn opened(tuning: Option<&Path>) -> GpuDevice {
    let tuning = tuning.map(Path::to_path_buf);
    GpuDevice::new(&GpuOptions { software: true, tuning, ..Default::default() }).expect("opens")
}

/// Two layers: both kinds of plan are candidates.
fn config() -> Config {
    let lstm: Cell = LstmCell::default().into();
    Config::new(lstm, 5, 40).layers(2)
}

fn stack(gpu: &GpuDevice, config: &Config) -> Recurrent {
    config.random(&Device::Gpu(gpu.clone()), 3).expect("a stack")
}

fn output(stack: &Recurrent) -> Array3<f32> {
    let x = Array3::from_shape_fn((TIME, BATCH, 5), |(t, b, i)| ((5 * t + 3 * b + i) as f32 * 0.7).sin());
    let x = Tensor::from_array(stack.device(), &x).expect("x");
    let mut state = stack.zero_state(BATCH).expect("state");
    stack.forward(&x, &mut state).and_then(|y| y.to_array()).expect("runs")
}

fn only_file(folder: &Path) -> PathBuf {
    let files: Vec<_> = std::fs::read_dir(folder).expect("made").map(|entry| entry.expect("an entry").path()).collect();
    let [file] = &files[..] else { panic!("{files:?}") };
    file.clone()
}

fn written(choice: &Choice) -> Value {
    let tile = |tile: &Tile| {
        let method = if tile.method == Method::Rows { "rows" } else { "lanes" };
        json!({ "method": method, "rows": tile.rows, "units": tile.units, "slices": tile.slices })
    };
    json!({ "kind": choice.kind.name(), "project": tile(choice.project()), "step": choice.step().map(tile) })
}

#[test]
fn without_the_option_nothing_is_tuned() {
    let gpu = opened(None);
    let stack = stack(&gpu, &config());
    match stack.tune(TIME, BATCH) {
        Err(Error::Unsupported { op: "Recurrent::tune", option, .. }) => assert_eq!(option, "tuning"),
        other => panic!("{other:?}"),
    }
    let plan = stack.plan(TIME, BATCH).expect("fits");
    assert_eq!(plan, Plan::new(plan.problem().clone(), gpu.plan_limits(), None).expect("fits"));
    let cpu = config().random(&Device::Cpu, 3).expect("a stack");
    assert!(matches!(cpu.tune(TIME, BATCH), Err(Error::Unsupported { op: "Recurrent::tune", .. })));
}

#[test]
fn what_is_found_is_kept_used_again_and_right_whatever_it_is() {
    let config = &config();
    let temporary = tempfile::tempdir().expect("a folder");
    let plain = opened(None);
    let plain_stack = stack(&plain, config);
    let untuned = plain_stack.plan(TIME, BATCH).expect("fits");
    let expected = output(&plain_stack);

    let gpu = opened(Some(temporary.path()));
    let own = stack(&gpu, config);
    assert_eq!(own.plan(TIME, BATCH).expect("fits"), untuned, "nothing is known yet");
    let tuned = own.tune(TIME, BATCH).expect("measures");
    assert!(tuned.times.windows(2).all(|pair| pair[0].1 <= pair[1].1));
    assert!(tuned.times.iter().any(|(choice, _)| *choice == untuned.choice()));
    assert!(tuned.times[0].1 <= tuned.untuned);
    let best = tuned.times[0].0;
    assert_eq!(own.plan(TIME, BATCH).expect("fits").choice(), best);
    // Eight rows round up to the same power of two, nine do not.
    assert_eq!(own.plan(TIME, 8).expect("fits").choice(), best);
    let nine = Plan::new(own.plan(TIME, 9).expect("fits").problem().clone(), gpu.plan_limits(), None);
    assert_eq!(own.plan(TIME, 9).expect("fits"), nine.expect("fits"));

    // Another opening finds it without measuring, and computes the same bits.
    let again = opened(Some(temporary.path()));
    let before = again.counters();
    let again_stack = stack(&again, config);
    assert_eq!(again_stack.plan(TIME, BATCH).expect("fits").choice(), best);
    assert_eq!((again.counters() - before).dispatches, 0);
    assert_eq!(bits(&output(&again_stack)), bits(&output(&own)));

    // Any candidate computes what the reference plan does, up to the order of sums.
    let file = only_file(temporary.path());
    let mut known: Value = serde_json::from_slice(&std::fs::read(&file).expect("a file")).expect("JSON");
    let entries = known["entries"].as_object().expect("entries").clone();
    let (key, value) = entries.iter().next().expect("one");
    assert_eq!((entries.len(), value), (1, &written(&best)));
    for (choice, _) in tuned.times.iter().step_by(6) {
        known["entries"][key] = written(choice);
        std::fs::write(&file, known.to_string()).expect("writes");
        let chosen = stack(&opened(Some(temporary.path())), config);
        assert_eq!(chosen.plan(TIME, BATCH).expect("fits").choice(), *choice);
        let y = output(&chosen);
        let worst = y.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(worst < 2e-6, "{choice}: {worst}");
    }

    // A damaged file, or one of another driver, counts as empty.
    let mut other = known.clone();
    other["driver"] = json!("another");
    let mut wrong = known.clone();
    wrong["entries"][key]["step"]["units"] = json!(-3);
    for text in [String::new(), "{\"format\":1".to_owned(), other.to_string(), wrong.to_string()] {
        std::fs::write(&file, &text).expect("writes");
        let stack = stack(&opened(Some(temporary.path())), config);
        assert_eq!(stack.plan(TIME, BATCH).expect("fits"), untuned, "{text}");
    }
}
