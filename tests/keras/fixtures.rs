//! The layers and models of all fixtures compute what Keras has computed, on every device.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use gatewise::nn::Lstm;
use gatewise::weights::keras::{KerasCall, KerasFile, KerasKind, KerasLayer};
use gatewise::{Device, Tensor, batch_first};
use ndarray::{Array2, Array3, ArrayD, Axis, Ix2, IxDyn};
use safetensors::{Dtype, SafeTensors};

use crate::common::devices;

pub(crate) fn fixture(name: &str) -> PathBuf {
    Path::new("tests/fixtures/keras").join(name)
}

/// The tensors that Keras computed: `<layer>/<case>/<tensor>`.
pub(crate) struct Expected(BTreeMap<String, ArrayD<f32>>);

impl Expected {
    pub(crate) fn new(stem: &str) -> Self {
        let bytes = std::fs::read(fixture(&format!("{stem}.safetensors"))).expect("a fixture");
        let tensors = SafeTensors::deserialize(&bytes).expect("a sound file");
        let read = |(name, view): (&str, safetensors::tensor::TensorView<'_>)| {
            let words = view.data().chunks_exact(4).map(|word| <[u8; 4]>::try_from(word).expect("a word"));
            let values = match view.dtype() {
                Dtype::F32 => words.map(f32::from_le_bytes).collect(),
                Dtype::I32 => words.map(|word| i32::from_le_bytes(word) as f32).collect(),
                other => panic!("{other:?}"),
            };
            (name.to_owned(), ArrayD::from_shape_vec(IxDyn(view.shape()), values).expect("whole"))
        };
        Self(tensors.iter().map(read).collect())
    }

    /// The names `<layer>/<case>`, each once.
    pub(crate) fn cases(&self) -> BTreeSet<&str> {
        self.0.keys().map(|name| name.rsplit_once('/').expect("a name of three parts").0).collect()
    }

    fn tensor(&self, case: &str, name: &str) -> Option<&ArrayD<f32>> {
        self.0.get(&format!("{case}/{name}"))
    }

    /// The states of all directions as Keras lists them: h and, for an LSTM, c.
    fn states(&self, case: &str, letters: [&str; 2]) -> Vec<Array2<f32>> {
        let arrays: Vec<&ArrayD<f32>> = letters.iter().filter_map(|letter| self.tensor(case, letter)).collect();
        let directions = arrays.first().map_or(0, |h| h.len_of(Axis(0)));
        let row = |array: &ArrayD<f32>, at| array.index_axis(Axis(0), at).to_owned().into_dimensionality::<Ix2>();
        let rows = (0..directions).flat_map(|at| arrays.iter().map(move |array| row(array, at).expect("[B, H]")));
        rows.collect()
    }

    fn compare(&self, what: &str, got: &Tensor, want: &ArrayD<f32>) {
        let got: ArrayD<f32> = got.to_array().expect("a result");
        assert_eq!(got.shape(), want.shape(), "{what}");
        let far =
            (&got - want).iter().fold(0.0_f32, |far, x| if x.is_nan() { f32::INFINITY } else { far.max(x.abs()) });
        assert!(far <= 1e-5, "{what}: off by {far}");
    }

    /// The call of a case.
    pub(crate) fn call(&self, case: &str, device: &Device) -> KerasCall {
        let mut call = KerasCall::new(self.tensor(case, "x").expect("x").clone());
        if let Some(mask) = self.tensor(case, "mask") {
            let mask = mask.mapv(|valid| valid != 0.0).into_dimensionality::<Ix2>().expect("[B, T]");
            call = call.mask(mask);
        }
        let initial = self.states(case, ["h0", "c0"]);
        let initial = initial.iter().map(|state| Tensor::from_array(device, state).expect("fits"));
        call.initial_state(initial)
    }

    fn check(&self, case: &str, layer: &KerasLayer, file: &str) {
        let device = layer.device();
        let site = format!("{file}, {case} on {device}");
        let got = layer.call(self.call(case, device)).unwrap_or_else(|error| panic!("{site}: {error}"));
        self.compare(&format!("{site}: y"), &got.outputs[0], self.tensor(case, "y").expect("y"));
        if let Some(reverse) = self.tensor(case, "y_reverse") {
            self.compare(&format!("{site}: y_reverse"), &got.outputs[1], reverse);
        }
        let states = self.states(case, ["h", "c"]);
        if !states.is_empty() {
            assert_eq!(got.states.len(), states.len(), "{site}");
        }
        for (at, (got, want)) in got.states.iter().zip(&states).enumerate() {
            self.compare(&format!("{site}: state {at}"), got, &want.clone().into_dyn());
        }
    }
}

/// All files with a configuration.
pub(crate) const FILES: [&str; 15] = [
    "cells.keras",
    "cells.h5",
    "both.keras",
    "both.h5",
    "last.keras",
    "last.h5",
    "last_gzip.h5",
    "around.keras",
    "around.h5",
    "keras2_cells.keras",
    "keras2_cells.h5",
    "keras2_both.h5",
    "keras2_around.keras",
    "keras2_around.h5",
    "keras2_cudnn.h5",
];

pub(crate) fn stem(file: &str) -> &str {
    file.split('.').next().unwrap_or(file).trim_end_matches("_gzip").trim_end_matches("_latest")
}

/// Layers inside the model inside `around`.
const INSIDE: [&str; 4] = ["causal", "same", "each", "inside"];

pub(crate) fn loaded(file: &KerasFile, layer: &str, device: &Device) -> KerasLayer {
    let loaded = match layer {
        "outer" => file.model(device),
        inside if INSIDE.contains(&inside) => file.layer(&format!("inner/{inside}"), device),
        other => file.layer(other, device),
    };
    loaded.unwrap_or_else(|error| panic!("{layer}: {error}"))
}

#[test]
fn every_layer_computes_what_keras_computes() {
    let devices = devices();
    for name in FILES {
        let file = KerasFile::open(fixture(name)).unwrap_or_else(|error| panic!("{error}"));
        let kind = if name.ends_with(".keras") { KerasKind::Archive } else { KerasKind::Model };
        assert_eq!(file.kind(), kind);
        assert!(file.version().expect("a version").starts_with(if name.starts_with("keras2") { "2." } else { "3." }));
        let expected = Expected::new(stem(name));
        for case in expected.cases() {
            let (layer, _) = case.split_once('/').expect("a layer and a case");
            for device in &devices {
                expected.check(case, &loaded(&file, layer, device), name);
            }
        }
    }
}

#[test]
fn a_functional_model_hands_masks_and_states_on() {
    let expected = Expected::new("flow");
    let input = |name: &str| expected.0[name].clone();
    for name in ["flow.keras", "flow.h5"] {
        let file = KerasFile::open(fixture(name)).expect("a sound file");
        for device in devices() {
            let model = file.model(&device).unwrap_or_else(|error| panic!("{name}: {error}"));
            assert_eq!(model.inputs().collect::<Vec<_>>(), ["symbols", "frames"]);
            let call = KerasCall::new(input("symbols").mapv(|x| x as i64)).input(input("frames"));
            let got = model.call(call).unwrap_or_else(|error| panic!("{name}: {error}"));
            for (at, y) in got.outputs.iter().enumerate() {
                expected.compare(&format!("{name}: output {at} on {device}"), y, &input(&format!("y{at}")));
            }
        }
    }
}

/// If a file has weights alone, the caller describes the layer.
#[test]
fn weights_alone_load_by_path() {
    let expected = Expected::new("cells");
    for name in ["cells.weights.h5", "cells_latest.weights.h5"] {
        let file = KerasFile::open(fixture(name)).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!((file.kind(), file.version()), (KerasKind::Weights, None));
        let paths: Vec<String> = file.layers().expect("groups").into_iter().map(|layer| layer.path).collect();
        let names = ["gru", "gru_1", "gru_2", "lstm", "lstm_1", "rnn", "simple_rnn"];
        let mut sorted = paths.clone();
        sorted.sort();
        assert_eq!(sorted, names.map(|name| format!("layers/{name}/cell")));
        for device in devices() {
            let x: Array3<f32> = expected.0["lstm/plain/x"].clone().into_dimensionality().expect("[B, T, I]");
            let x = Tensor::from_array(&device, &batch_first(&x)).expect("fits");
            let y = expected.0["lstm/plain/y"].clone();
            for path in ["layers/lstm/cell", "layers/lstm"] {
                let lstm = file.recurrent_with(path, &Lstm::config(3, 4), &device).expect("fits");
                let got = lstm.forward(&x, &mut lstm.zero_state(2).expect("fits")).expect("runs");
                let got: Array3<f32> = got.to_array().expect("a result");
                let far = (&batch_first(&got).into_dyn() - &y).iter().fold(0.0_f32, |far, x| far.max(x.abs()));
                assert!(far <= 1e-5, "{name} {path} on {device}: off by {far}");
            }
        }
        let table: Array2<f32> = file.array("layers/simple_rnn/cell/vars/1").expect("an array");
        assert_eq!(table.dim(), (5, 5));
    }
}

/// `KerasFile::recurrent` returns this crate's own layer: steps in the order of time, and a state of the caller.
#[test]
fn a_recurrent_layer_keeps_its_state_in_the_callers_hands() {
    let file = KerasFile::open(fixture("both.keras")).expect("a sound file");
    let expected = Expected::new("both");
    for device in devices() {
        for (name, width) in [("concat", 6), ("sum", 3), ("apart", 6)] {
            let layer = file.recurrent(name, &device).unwrap_or_else(|error| panic!("{error}"));
            let x: Array3<f32> =
                expected.0[&format!("{name}/plain/x")].clone().into_dimensionality().expect("[B, T, I]");
            let x = Tensor::from_array(&device, &batch_first(&x)).expect("fits");
            let mut state = layer.zero_state(2).expect("fits");
            let y: Array3<f32> = layer.forward(&x, &mut state).expect("runs").to_array().expect("a result");
            assert_eq!(y.dim(), (6, 2, width));
            let h = state.to_h().expect("a state").into_dyn();
            let far = (&h - &expected.0[&format!("{name}/plain/h")]).iter().fold(0.0_f32, |far, x| far.max(x.abs()));
            assert!(far <= 1e-5, "{name} on {device}: off by {far}");
        }
    }
    let error = KerasFile::open(fixture("around.keras")).expect("sound").recurrent("hidden", &Device::Cpu);
    assert!(error.expect_err("Dense").to_string().contains("layer hidden: expected a recurrent layer"));
}

#[test]
fn every_layer_is_listed() {
    let layers = |name: &str| KerasFile::open(fixture(name)).expect("a sound file").layers().expect("layers");
    for name in ["around.keras", "around.h5", "keras2_around.keras", "keras2_around.h5"] {
        let listed: Vec<(String, String)> =
            layers(name).into_iter().map(|layer| (layer.path, layer.class.expect("a class"))).collect();
        let expected = [
            ("table", "Embedding"),
            ("inner", "Sequential"),
            ("inner/causal", "Conv1D"),
            ("inner/same", "Conv1D"),
            ("inner/each", "TimeDistributed"),
            ("inner/each/dense", "Dense"),
            ("inner/inside", "LSTM"),
            ("lstm", "LSTM"),
            ("hidden", "Dense"),
            ("answer", "Dense"),
        ];
        let found: Vec<(&str, &str)> = listed.iter().map(|(path, class)| (path.as_str(), class.as_str())).collect();
        let found: Vec<_> = found.into_iter().filter(|(_, class)| *class != "InputLayer").collect();
        assert_eq!(found, expected, "{name}");
    }
}

#[test]
fn nan_and_infinities_in_a_file_are_reported() {
    let mut bytes = std::fs::read(fixture("cells.weights.h5")).expect("a fixture");
    let file = KerasFile::from_bytes("good.h5", bytes.clone()).expect("sound");
    assert_eq!(file.check().expect("readable"), []);
    // The first matrix that the file stores without compression.
    let matrices = file.arrays().filter_map(|(path, _)| Some((path.to_owned(), file.array::<IxDyn>(path).ok()?)));
    let place = |(path, array): (String, ArrayD<f32>)| {
        let values: Vec<u8> = array.iter().flat_map(|x| x.to_le_bytes()).collect();
        let begin = bytes.windows(values.len()).position(|window| window == values)?;
        Some((path, begin))
    };
    let (path, begin) = matrices.filter(|(_, array)| array.len() > 20).find_map(place).expect("stored as it is");
    bytes[begin + 4 * 7..][..4].copy_from_slice(&f32::NAN.to_le_bytes());
    bytes[begin + 4 * 9..][..4].copy_from_slice(&f32::INFINITY.to_le_bytes());
    let found = KerasFile::from_bytes("odd.h5", bytes).expect("sound").check().expect("readable");
    let found: Vec<String> = found.iter().map(ToString::to_string).collect();
    assert_eq!(found, [format!("{path}: 1 NaN, 1 infinite, first at 7")]);
}
