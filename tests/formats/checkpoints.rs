//! PyTorch checkpoints and state dicts (`tests/fixtures/torch/generate.py`): read exactly, or refused with the next step.

use std::path::PathBuf;

use gatewise::cell::{Cell, GruCell, LstmCell, RnnCell};
use gatewise::nn::{Config, Merge};
use gatewise::ops::Conv1dGeometry;
use gatewise::weights::Weights;
use gatewise::{Device, Error, Tensor};
use ndarray::{Array3, ArrayD, IxDyn};

use crate::archive::stored;

fn fixture(name: &str) -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/torch")).join(name)
}

fn open(name: &str) -> Weights {
    Weights::from_file(fixture(name)).unwrap_or_else(|error| panic!("{error}"))
}

fn refusal(name: &str) -> String {
    Weights::from_file(fixture(name)).expect_err(name).to_string()
}

/// The network's input and output that PyTorch computed.
fn io(name: &str) -> [Array3<f32>; 2] {
    let stored = open(&format!("{name}.safetensors"));
    ["io.x", "io.y"].map(|name| stored.get(name).expect("three axes"))
}

/// Both files of a network.
fn doors(name: &str) -> [Weights; 2] {
    ["pt", "safetensors"].map(|ending| open(&format!("{name}.{ending}")))
}

/// The names of a network's tensors, without the input and the output beside them.
fn names(weights: &Weights) -> Vec<&str> {
    weights.names().filter(|name| !name.starts_with("io.")).collect()
}

fn close(found: &[f32], right: &[f32], what: &str) {
    assert_eq!(found.len(), right.len(), "{what}");
    let largest = right.iter().fold(0.0_f32, |largest, x| largest.max(x.abs()));
    for (at, (found, right)) in found.iter().zip(right).enumerate() {
        assert!((found - right).abs() <= 2e-6 * largest, "{what}: {found} for {right} at {at}");
    }
}

/// The output of a stack, and of the linear layer behind it if the network has one.
fn output(weights: &Weights, prefix: &str, head: Option<(&str, [usize; 2])>, x: &Array3<f32>) -> Vec<f32> {
    let device = Device::Cpu;
    let config = Config::from_shapes(weights, prefix).expect("a stack");
    let stack = weights.recurrent(prefix, &config, &device).expect("a stack");
    let mut state = stack.zero_state(x.shape()[1]).expect("a state");
    let y = stack.forward(&Tensor::from_array(&device, x).expect("an input"), &mut state).expect("an output");
    let y = match head {
        Some((prefix, sizes)) => weights.linear(prefix, sizes, &device).and_then(|head| head.forward(&y)),
        None => Ok(y),
    };
    y.and_then(|y| y.to_vec()).expect("an output")
}

#[test]
fn networks_compute_what_pytorch_computed_whichever_file_they_come_from() {
    let [lstm, gru]: [Cell; 2] = [LstmCell::default().into(), GruCell::default().into()];
    let both = |config: Config<Cell>| config.bidirectional(Merge::Concat);
    let stack = |cell: Cell, hidden, layers| Config::new(cell, 3, hidden).layers(layers);
    let projected = LstmCell { projection: Some(2), ..Default::default() };
    let no_bias = RnnCell { bias: false, ..Default::default() };
    let head = |prefix, width| Some((prefix, [width, 3]));
    let cases = [
        ("lstm", "encoder.", both(stack(lstm, 4, 2)), head("head.", 8)),
        ("gru_data_parallel", "module.encoder.", stack(gru, 4, 1), head("module.head.", 4)),
        ("gru_cell", "cell.", stack(gru, 4, 1), None),
        ("rnn_no_bias", "", stack(no_bias.into(), 4, 2), None),
        ("lstm_projected", "", both(stack(projected.into(), 6, 2)), None),
        ("lstm_bf16", "", both(stack(lstm, 4, 1)), None),
        ("gru_f16", "", stack(gru, 4, 1), None),
        ("gru_f64", "", stack(gru, 4, 1), None),
        ("weight_norm_old", "encoder.", both(stack(lstm, 4, 2)), head("head.", 8)),
        ("weight_norm_new", "encoder.", both(stack(lstm, 4, 2)), head("head.", 8)),
        ("weight_norm_mixed", "", stack(gru, 4, 2), None),
        ("weight_norm_cell", "", stack(gru, 4, 1), None),
    ];
    for (name, prefix, config, head) in cases {
        let [x, y] = io(name);
        let [checkpoint, safetensors] = doors(name);
        assert_eq!(names(&checkpoint), names(&safetensors), "{name}");
        for weights in [checkpoint, safetensors] {
            assert_eq!(weights.stacks(), [prefix], "{name}");
            assert_eq!(Config::from_shapes(&weights, prefix).expect("a stack"), config, "{name}");
            let found = output(&weights, prefix, head, &x);
            close(&found, y.as_slice().expect("contiguous"), name);
        }
    }
}

#[test]
fn normalised_convolutions_are_read() {
    let [x, y] = io("weight_norm_conv");
    let x = x.permuted_axes([1, 2, 0]).as_standard_layout().into_owned();
    for weights in doors("weight_norm_conv") {
        let device = Device::Cpu;
        let geometry = Conv1dGeometry { stride: 1, padding: 1 };
        let [first, second] = [("first.", [4, 3, 3]), ("second.", [2, 4, 3])]
            .map(|(prefix, shape)| weights.conv1d(prefix, shape, geometry, &device).expect("a convolution"));
        let x = Tensor::from_array(&device, &x).expect("an input");
        let found = first.forward(&x).and_then(|x| second.forward(&x)).and_then(|y| y.to_array());
        let found: Array3<f32> = found.expect("an output");
        let found: Vec<f32> = found.permuted_axes([2, 0, 1]).iter().copied().collect();
        close(&found, y.as_slice().expect("contiguous"), "weight_norm_conv");
    }
}

#[test]
fn other_machines_and_other_zip_programs_write_the_same_network() {
    let original = open("gru_data_parallel.pt");
    for name in ["big_endian.pt", "deflated.pt", "no_byteorder.pt", "no_checksums.pt"] {
        let weights = open(name);
        assert!(original.names().eq(weights.names()), "{name}");
        for tensor in original.names() {
            let [right, found] = [&original, &weights].map(|w| w.get::<IxDyn>(tensor).expect("a tensor"));
            assert_eq!(right, found, "{name}: {tensor}");
        }
    }
}

#[test]
fn views_are_read_element_by_element() {
    let [found, right] = doors("views");
    assert!(found.names().eq(right.names()));
    for name in right.names() {
        let [found, right]: [ArrayD<f32>; 2] = [&found, &right].map(|weights| weights.get(name).expect("a tensor"));
        assert_eq!(found, right, "{name}");
    }
    assert_eq!(found.shaped("scalar", IxDyn(&[])).expect("no axes").into_raw_vec_and_offset().0, [0.15625]);
    assert_eq!(found.shaped("empty", [0, 3]).expect("no elements").len(), 0);
}

#[test]
fn elements_that_are_no_floats_are_named_and_refused_where_they_are_asked_for() {
    let weights = open("kinds.pt");
    for name in ["float32", "float64", "float16", "bfloat16", "attribute"] {
        assert_eq!(weights.shaped(name, 3).expect("floats").to_vec(), [1.0, 2.0, 3.0], "{name}");
    }
    for (name, kind) in [
        ("int64", "Long"),
        ("int32", "Int"),
        ("int16", "Short"),
        ("int8", "Char"),
        ("uint8", "Byte"),
        ("bool", "Bool"),
        ("complex64", "ComplexFloat"),
        ("uint16", "uint16"),
        ("float8_e4m3fn", "float8_e4m3fn"),
        ("sparse", "a sparse, quantised or other special tensor"),
        ("quantized", "a sparse, quantised or other special tensor"),
        ("norm.num_batches_tracked", "Long"),
    ] {
        let error = weights.get::<IxDyn>(name).expect_err(name);
        assert!(matches!(&error, Error::Dtype { found, .. } if found == kind), "{error}");
        assert!(weights.contains(name) && weights.names().any(|known| known == name));
    }
    // Nothing is left out of a new file silently.
    assert!(matches!(weights.to_bytes().expect_err("integers"), Error::Dtype { .. }));
}

#[test]
fn state_dicts_are_found_by_their_paths() {
    let gru = |prefix: &str| {
        ["bias_hh_l0", "bias_ih_l0", "weight_hh_l0", "weight_ih_l0"].map(|name| format!("{prefix}{name}")).to_vec()
    };
    let names = |file: &str| open(file).names().map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(names("nested.pt"), gru(""));
    assert_eq!(names("lightning.pt"), gru("model."));
    let discriminator = ["discriminator.head.bias", "discriminator.head.weight"].map(str::to_owned);
    assert_eq!(names("several.pt"), [discriminator.to_vec(), gru("generator.")].concat());
    assert_eq!(open("several.pt").stacks(), ["generator."]);
    let [nested, several] = ["nested.pt", "several.pt"].map(open);
    let [one, other] = [(&nested, "weight_hh_l0"), (&several, "generator.weight_hh_l0")]
        .map(|(weights, name)| weights.shaped(name, [12, 4]).expect("a matrix"));
    assert_eq!(one, other);
}

#[test]
fn what_is_no_state_dict_is_refused_with_the_line_that_makes_one() {
    for (name, words) in [
        ("module.pt", &["trainer.settings.Model", "weights_only=False).state_dict(), \"weights.pt\")"][..]),
        (
            "nested_module.pt",
            &["model of the class trainer.settings.Model", "weights_only=False)[\"model\"].state_dict()"],
        ),
        ("script.pt", &["TorchScript", "torch.jit.load(\"model.pt\", map_location=\"cpu\").state_dict()"]),
        (
            "legacy.pt",
            &["the format before 1.6", "torch.save(torch.load(\"model.pt\", map_location=\"cpu\"), \"weights.pt\")"],
        ),
        ("tensor.pt", &["a state dict, which has tensors by name", "a tensor without a name"]),
        ("list.pt", &["a state dict, which has tensors by name", "a list"]),
    ] {
        let error = refusal(name);
        assert!(words.iter().all(|word| error.contains(word)) && error.lines().count() == 1, "{name}: {error}");
    }
    let cut = std::fs::read(fixture("lstm.pt")).expect("a file");
    for length in [4, 30, 400, cut.len() / 2, cut.len() - 1] {
        let error = Weights::from_bytes("cut.pt", &cut[..length]).expect_err("cut short").to_string();
        assert!(error.contains("a zip archive") || error.contains("a whole zip archive"), "{length}: {error}");
    }
}

#[test]
fn wrong_prefixes_and_sizes_are_refused_with_the_names_that_are_there() {
    let weights = open("gru_data_parallel.pt");
    let gru = Config::new(GruCell::default(), 3, 4);
    let errors = [
        weights.recurrent("", &gru, &Device::Cpu).map(drop),
        Config::from_weights(&weights, "", GruCell::default()).map(drop),
        Config::from_shapes(&weights, "").map(drop),
    ];
    for error in errors {
        let error = error.expect_err("another prefix").to_string();
        let words = ["\"module.encoder.\"", "module.encoder.weight_hh_l0", "module.head.weight"];
        assert!(words.iter().all(|word| error.contains(word)), "{error}");
    }
    // Half a net is no answer: the file has two layers.
    for weights in doors("lstm").iter().chain(&doors("weight_norm_new")) {
        let one_layer = Config::new(LstmCell::default(), 3, 4).bidirectional(Merge::Concat);
        let error = weights.recurrent("encoder.", &one_layer, &Device::Cpu).expect_err("one layer").to_string();
        assert!(error.contains("_l1") && error.contains("no such tensor for this configuration"), "{error}");
    }
    let three = Config::new(LstmCell::default(), 3, 4).layers(3).bidirectional(Merge::Concat);
    let error = open("lstm.pt").recurrent("encoder.", &three, &Device::Cpu).expect_err("three layers").to_string();
    assert!(error.contains("encoder.weight_ih_l2: expected a tensor of this name and of 7 more"), "{error}");
    // A wrapper of one library keeps the recurrent weight under a name of its own.
    let error = Config::from_shapes(&open("weight_drop.pt"), "").expect_err("no weight_hh_l0").to_string();
    assert!(error.contains("weight_hh_l0: expected") && error.contains("weight_hh_l0_raw"), "{error}");
}

/// Every byte of a small checkpoint changed, with sound checksums and without.
#[test]
fn a_changed_byte_is_refused_or_read_but_never_a_panic() {
    let whole = std::fs::read(fixture("views.pt")).expect("a file");
    let pickle = stored(&whole, "views/data.pkl");
    let members: Vec<(String, Vec<u8>)> =
        (0..6).map(|key| format!("views/data/{key}")).map(|name| (name.clone(), stored(&whole, &name))).collect();
    let archive = |pickle: &[u8]| {
        let mut all = vec![("views/data.pkl", pickle)];
        all.extend(members.iter().map(|(name, data)| (name.as_str(), data.as_slice())));
        crate::archive::zipped(&all)
    };
    Weights::from_bytes("views.pt", &archive(&pickle)).expect("the changes below differ from it");
    for at in 0..pickle.len() {
        for change in [0x01, 0x02, 0x10, 0x80, 0xff] {
            let mut changed = pickle.clone();
            changed[at] ^= change;
            if let Ok(weights) = Weights::from_bytes("views.pt", &archive(&changed)) {
                drop(weights.check());
            }
        }
    }
    for at in 0..whole.len() {
        let mut changed = whole.clone();
        changed[at] ^= 0x10;
        drop(Weights::from_bytes("views.pt", &changed));
    }
}
