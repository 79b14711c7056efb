//! A part of a model that is not carried out is refused with the file, the layer and the field.

use std::io::Write;

use gatewise::cell::{GruCell, Reset};
use gatewise::nn::{Config, Gru, Lstm, Merge};
use gatewise::weights::keras::{KerasCall, KerasFile};
use gatewise::{Device, Error, Tensor};
use ndarray::{Array2, Array3};
use rawzip::{CompressionMethod, ZipArchive, ZipArchiveWriter};
use serde_json::{Value as Json, json};

use crate::fixtures::fixture;

/// A member of a `.keras` fixture. Keras stores them without compression.
pub(crate) fn member(name: &str, member: &str) -> Vec<u8> {
    let bytes = std::fs::read(fixture(name)).expect("a fixture");
    let archive = ZipArchive::from_slice(&bytes).expect("a zip archive");
    let mut entries = archive.entries();
    while let Some(entry) = entries.next_entry().expect("an entry") {
        if entry.file_path().as_bytes() == member.as_bytes() {
            return archive.get_entry(entry.wayfinder()).expect("whole").data().to_vec();
        }
    }
    panic!("{name} has no {member}");
}

/// A zip archive of these members.
pub(crate) fn archive(members: &[(&str, &[u8])], method: CompressionMethod) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut writer = ZipArchiveWriter::new(&mut bytes);
    for (name, contents) in members {
        let (mut entry, config) = writer.new_file(name).compression_method(method).start().expect("a name");
        let descriptor = if method == CompressionMethod::DEFLATE {
            let deflate = flate2::write::DeflateEncoder::new(&mut entry, flate2::Compression::best());
            let mut to = config.wrap(deflate);
            to.write_all(contents).expect("memory");
            let (deflate, descriptor) = to.finish().expect("memory");
            deflate.finish().expect("memory");
            descriptor
        } else {
            let mut to = config.wrap(&mut entry);
            to.write_all(contents).expect("memory");
            to.finish().expect("memory").1
        };
        entry.finish(descriptor).expect("memory");
    }
    writer.finish().expect("memory");
    bytes
}

/// A fixture with another configuration.
fn changed(name: &str, change: impl Fn(&mut Json)) -> Result<KerasFile, Error> {
    let mut config: Json = serde_json::from_slice(&member(name, "config.json")).expect("JSON");
    change(&mut config);
    let (metadata, weights) = (member(name, "metadata.json"), member(name, "model.weights.h5"));
    let config = serde_json::to_vec(&config).expect("JSON");
    let members: [(&str, &[u8]); 3] =
        [("metadata.json", &metadata), ("config.json", &config), ("model.weights.h5", &weights)];
    KerasFile::from_bytes("changed.keras", archive(&members, CompressionMethod::DEFLATE))
}

/// The entry of a layer in a configuration.
fn entry<'a>(config: &'a mut Json, name: &str) -> &'a mut Json {
    let layers = config["config"]["layers"].as_array_mut().expect("layers");
    layers.iter_mut().find(|layer| layer["config"]["name"] == name).expect("a layer of this name")
}

#[test]
fn an_option_that_is_not_carried_out_is_named() {
    let cases: [(&str, &str, &str, Json, &str); 22] = [
        ("cells.keras", "lstm", "activation", json!("gelu"), "activation: expected linear, tanh"),
        (
            "cells.keras",
            "lstm",
            "activation",
            json!("softmax"),
            "activation: expected an activation of single elements",
        ),
        (
            "cells.keras",
            "lstm",
            "recurrent_activation",
            json!(null),
            "recurrent_activation: expected an activation, found nothing",
        ),
        ("cells.keras", "lstm", "time_major", json!(true), "time_major: expected false, found true"),
        ("cells.keras", "lstm", "stateful", json!(true), "stateful: expected false in KerasFile::layer"),
        (
            "cells.keras",
            "lstm",
            "units",
            json!(5),
            "layers/lstm/cell/vars/0: expected shape [any, 20], found shape [3, 16]",
        ),
        ("cells.keras", "lstm", "units", json!(0), "units: expected a whole number of at least 1, found 0"),
        ("cells.keras", "lstm", "units", json!(u64::MAX), "units that can be counted"),
        ("cells.keras", "lstm", "units", json!("4"), "units: expected a whole number of at least 1, found \"4\""),
        (
            "cells.keras",
            "lstm",
            "use_bias",
            json!(false),
            "layers/lstm/cell/vars: expected 2 arrays of layer lstm, found more",
        ),
        ("cells.keras", "hard", "use_bias", json!(true), "layers/lstm_1/cell/vars/2: expected an array of this name"),
        ("cells.keras", "lstm", "window", json!(3), "window: expected no such option, found 3"),
        ("cells.keras", "lstm", "dtype", json!("float16"), "dtype: expected float32, found float16"),
        (
            "cells.keras",
            "lstm",
            "dtype",
            json!({"config": {"name": "mixed_bfloat16"}}),
            "dtype: expected float32, found mixed_bfloat16",
        ),
        (
            "cells.keras",
            "gru",
            "reset_after",
            json!(false),
            "layers/gru/cell/vars/2: expected shape [12], found shape [2, 12]",
        ),
        ("cells.keras", "gru", "reset_after", json!(null), "reset_after: expected true or false, found nothing"),
        ("both.keras", "sum", "merge_mode", json!("max"), "merge_mode: expected concat, sum, mul, ave or null"),
        ("around.keras", "hidden", "activation", json!("softmin"), "layer hidden: activation: expected linear"),
        ("around.keras", "hidden", "units", json!(6), "layers/dense/vars/0: expected shape [any, 6]"),
        ("around.keras", "table", "input_dim", json!(8), "layers/embedding/vars/0: expected shape [8, 4]"),
        ("flow.keras", "dilated", "groups", json!(2), "groups: expected 1, found 2"),
        ("flow.keras", "dilated", "data_format", json!("channels_first"), "data_format: expected \"channels_last\""),
    ];
    for (file, layer, field, value, message) in cases {
        let changed = changed(file, |config| entry(config, layer)["config"][field] = value.clone()).expect("sound");
        let error = changed.layer(layer, &Device::Cpu).expect_err(message).to_string();
        assert!(error.starts_with("changed.keras: ") && error.contains(message), "{error}\nshould hold: {message}");
        // The other layers of the file still load.
        let beside = changed.layers().expect("layers").into_iter().map(|layer| layer.path);
        let loaded = beside.filter(|path| changed.layer(path, &Device::Cpu).is_ok()).count();
        assert!(loaded > 1, "{message}");
        assert!(changed.model(&Device::Cpu).is_err(), "{message}");
    }
}

/// A change of the entry of a layer in a configuration.
type Change = fn(&mut Json);

#[test]
fn a_layer_that_is_not_carried_out_is_named() {
    let cases: [(&str, Change, &str); 10] = [
        (
            "class",
            |lstm| lstm["class_name"] = json!("ConvLSTM1D"),
            "layer lstm: class_name: expected a supported layer, found ConvLSTM1D",
        ),
        (
            "module",
            |lstm| lstm["module"] = json!("my.layers"),
            "layer lstm: module: expected one of Keras, found my.layers",
        ),
        ("no class", |lstm| lstm["class_name"] = json!(3), "class_name: expected the name of a class, found 3"),
        ("no config", |lstm| lstm["config"] = json!([]), "layer lstm: config: expected an object, found []"),
        (
            "wrapper",
            |lstm| lstm["class_name"] = json!("TimeDistributed"),
            "layer lstm: layer: expected a layer, found nothing",
        ),
        ("rnn", |lstm| lstm["class_name"] = json!("RNN"), "layer lstm: cell: expected a layer, found nothing"),
        ("call", |lstm| lstm["inbound_nodes"] = json!(7), "lstm: inbound_nodes: expected a list, found 7"),
        (
            "cycle",
            |lstm| lstm["inbound_nodes"][0]["args"][0]["config"]["keras_history"][0] = json!("lstm"),
            "changed.keras: a cycle among layer lstm",
        ),
        (
            "no such layer",
            |lstm| lstm["inbound_nodes"][0]["args"][0]["config"]["keras_history"][0] = json!("nobody"),
            "layer lstm reads \"nobody:0\", which nothing defines",
        ),
        (
            "option",
            |lstm| lstm["inbound_nodes"][0]["kwargs"]["training"] = json!(true),
            "expected no option but mask and initial_state, found training true",
        ),
    ];
    for (what, change, message) in cases {
        let changed = changed("cells.keras", |config| change(entry(config, "lstm"))).expect("sound");
        // Renaming the configuration hides the layer's name.
        let error = changed.model(&Device::Cpu).expect_err(what).to_string();
        assert!(error.contains(message), "{what}: {error}");
    }
    let stray = changed("cells.keras", |config| config["config"]["output_layers"] = json!([["nobody", 0, 0]]));
    let error = stray.expect("sound").model(&Device::Cpu).expect_err("no such layer").to_string();
    assert!(error.contains("output_layers reads \"nobody:0\", which nothing defines"), "{error}");
    let file = KerasFile::open(fixture("cells.keras")).expect("sound");
    let error = file.layer("lstm_9", &Device::Cpu).expect_err("no such layer").to_string();
    assert!(
        error.contains("layer lstm_9: expected a layer of this name, found only input_layer, simple, lstm"),
        "{error}"
    );
}

/// Keras has two hard sigmoids; without a version the file does not say which one it means.
#[test]
fn an_activation_that_depends_on_the_version_asks_for_one() {
    let (config, weights) = (member("cells.keras", "config.json"), member("cells.keras", "model.weights.h5"));
    let file = |metadata: &str| {
        let members: [(&str, &[u8]); 3] =
            [("metadata.json", metadata.as_bytes()), ("config.json", &config), ("model.weights.h5", &weights)];
        KerasFile::from_bytes("test.keras", archive(&members, CompressionMethod::STORE)).expect("sound")
    };
    let unknown = file("{}");
    unknown.layer("lstm", &Device::Cpu).expect("no version needed");
    let error = unknown.layer("gru", &Device::Cpu).expect_err("hard_sigmoid").to_string();
    assert!(error.contains("layer gru: recurrent_activation: expected a version of Keras"), "{error}");
    let error =
        file("{\"keras_version\": \"4.0\"}").layer("lstm", &Device::Cpu).expect_err("a later Keras").to_string();
    assert!(error.contains("keras_version: expected 1, 2 or 3, found 4.0"), "{error}");
}

#[test]
fn weights_alone_must_fit_the_callers_configuration() {
    let file = KerasFile::open(fixture("cells.weights.h5")).expect("sound");
    let wrong = |path: &str, config: Config<GruCell>| {
        file.recurrent_with(path, &config, &Device::Cpu).expect_err("does not fit").to_string()
    };
    let before = |config: Config<GruCell>| config;
    assert!(
        wrong("layers/gru/cell", before(Gru::config(3, 5))).contains("expected shape [any, 15], found shape [3, 12]")
    );
    let cell = GruCell { reset: Reset::Before, ..Default::default() };
    assert!(wrong("layers/gru/cell", Config::new(cell, 3, 4)).contains("expected shape [12], found shape [2, 12]"));
    let bare = GruCell { bias: false, ..Default::default() };
    assert!(
        wrong("layers/gru/cell", Config::new(bare, 3, 4))
            .contains("expected 2 arrays of layer layers/gru/cell, found more")
    );
    assert!(wrong("layers/gru", Gru::config(3, 4).bidirectional(Merge::Sum)).contains("forward_layer"));
    assert!(wrong("layers/gru_7/cell", Gru::config(3, 4)).contains("expected an array of this name"));
    assert!(
        wrong("layers/gru/cell", Gru::config(3, 4).layers(2)).contains("a configuration of 2 layers is not supported")
    );
    assert!(wrong("layers/gru/cell", Gru::config(2, 4)).contains("weight_ih"));
    for refused in [file.model(&Device::Cpu).map(|_| ()), file.layer("gru", &Device::Cpu).map(|_| ())] {
        assert!(refused.expect_err("no configuration").to_string().contains("for KerasFile::recurrent_with"));
    }
    let whole = KerasFile::open(fixture("cells.keras")).expect("sound");
    let error = whole.recurrent_with("layers/lstm/cell", &Lstm::config(3, 4), &Device::Cpu).expect_err("configured");
    assert!(error.to_string().contains("for KerasFile::recurrent, found Archive"), "{error}");
}

#[test]
fn a_call_that_does_not_fit_is_refused_by_layer() {
    let file = KerasFile::open(fixture("around.keras")).expect("sound");
    let model = file.model(&Device::Cpu).expect("fits");
    let lstm = file.layer("lstm", &Device::Cpu).expect("fits");
    let call = |shape| KerasCall::new(Array3::<f32>::zeros(shape));
    let state = Tensor::zeros(&Device::Cpu, &[2, 3]).expect("fits");
    let cases = [
        (model.call(KerasCall::new(Array2::from_elem((2, 6), 7_i64))), "layer table: gather_rows"),
        (model.call(KerasCall::new(Array2::from_elem((2, 6), -1_i64))), "layer table: KerasLayer: symbols"),
        (model.call(KerasCall::new(Array2::from_elem((2, 6), 0.5_f32))), "layer table: KerasLayer: symbols"),
        (model.call(KerasCall::new(state.clone())), "layer table: KerasLayer: symbols must be an array on the host"),
        (
            model.call(call((2, 6, 4)).input(state.clone())),
            "inputs must be one value per input of the model, got 2 for input_layer_4",
        ),
        (lstm.call(call((2, 6, 5))), "layer lstm: Recurrent: x"),
        (lstm.call(call((2, 0, 4))), "layer lstm: KerasLayer: x must be [B, T, I] with B and T at least 1"),
        (
            lstm.call(KerasCall::new(Array2::<f32>::zeros((2, 4)))),
            "layer lstm: KerasLayer: x must be [B, T, I], got [2, 4]",
        ),
        (
            lstm.call(call((2, 6, 4)).mask(Array2::from_elem((2, 5), true))),
            "layer lstm: KerasLayer: mask must be [2, 6]",
        ),
        (lstm.call(call((2, 6, 4)).initial_state([state.clone()])), "initial_state must be [2] states, got [1]"),
        (
            lstm.call(call((3, 6, 4)).initial_state([state.clone(), state.clone()])),
            "layer lstm: Recurrent: the state's h must be [1, 3, 3], got [1, 2, 3]",
        ),
    ];
    for (refused, message) in cases {
        let error = refused.expect_err(message).to_string();
        assert!(error.contains(message), "{error}\nshould hold: {message}");
    }
}
