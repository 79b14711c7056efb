//! Files of weights: read exactly or refused; the error names the file, the tensor and the expected content.

use std::collections::HashMap;

use gatewise::cell::{Cell, GruCell, LstmCell, RnnCell};
use gatewise::nn::{Config, Gru, Lstm, Merge};
use gatewise::weights::{StoredCell, Weights, torch_name};
use gatewise::{Device, Error, Tensor};
use half::{bf16, f16};
use ndarray::{Array3, ArrayD, IxDyn};
use safetensors::tensor::{Dtype, TensorView};

/// The bytes of a file with these arrays.
fn file(tensors: &[(&str, &[usize])]) -> Vec<u8> {
    let arrays: Vec<(String, Vec<usize>, Vec<u8>)> = tensors
        .iter()
        .enumerate()
        .map(|(seed, (name, shape))| {
            let mut rng = fastrand::Rng::with_seed(seed as u64);
            let bytes = (0..shape.iter().product()).flat_map(|_| (rng.f32() - 0.5).to_le_bytes()).collect();
            ((*name).to_owned(), shape.to_vec(), bytes)
        })
        .collect();
    let views = arrays.iter().map(|(name, shape, bytes)| {
        (name.clone(), TensorView::new(Dtype::F32, shape.clone(), bytes).expect("a sound tensor"))
    });
    safetensors::serialize(views, None).expect("a sound file")
}

const LSTM: [(&str, &[usize]); 4] = [
    ("net.weight_ih_l0", &[20, 3]),
    ("net.weight_hh_l0", &[20, 5]),
    ("net.bias_ih_l0", &[20]),
    ("net.bias_hh_l0", &[20]),
];

fn load<C: Clone + Into<gatewise::cell::Cell>>(tensors: &[(&str, &[usize])], config: &Config<C>) -> Result<(), Error> {
    Weights::from_bytes("test.safetensors", &file(tensors))?.recurrent("net.", config, &Device::Cpu).map(|_| ())
}

#[test]
fn an_lstm_loads_under_a_prefix() {
    load(&LSTM, &Lstm::config(3, 5)).expect("fits");
}

#[test]
fn layers_and_directions_load_by_their_suffixes_and_in_their_place() {
    let names: Vec<(String, Vec<usize>)> = [("l0", 3), ("l0_reverse", 3), ("l1", 8), ("l1_reverse", 8)]
        .into_iter()
        .flat_map(|(suffix, input)| {
            [("weight_ih", vec![12, input]), ("weight_hh", vec![12, 4]), ("bias_ih", vec![12]), ("bias_hh", vec![12])]
                .map(|(stem, shape)| (format!("gru.{stem}_{suffix}"), shape))
        })
        .collect();
    let borrowed: Vec<(&str, &[usize])> = names.iter().map(|(n, s)| (n.as_str(), s.as_slice())).collect();
    let weights = Weights::from_bytes("test.safetensors", &file(&borrowed)).expect("sound");
    let config = Gru::config(3, 4).layers(2).bidirectional(Merge::Concat);
    let loaded = weights.recurrent("gru.", &config, &Device::Cpu).expect("fits");

    // Fetches every parameter of the same stack by hand.
    let by_hand = config
        .collect(|layer, direction, spec| {
            let reverse = if direction == gatewise::cell::Direction::Reverse { "_reverse" } else { "" };
            weights.get(&format!("gru.{}_l{layer}{reverse}", spec.name))
        })
        .and_then(|parameters| config.build(&Device::Cpu, parameters))
        .expect("fits");
    let x = Array3::from_shape_fn((5, 2, 3), |(t, b, i)| ((t * 7 + b * 3 + i) as f32).sin());
    let x = Tensor::from_array(&Device::Cpu, &x).expect("input");
    let run = |stack: &Gru| {
        let mut state = stack.zero_state(2).expect("state");
        stack.forward(&x, &mut state).and_then(|y| y.to_vec()).expect("forward")
    };
    assert_eq!(run(&loaded), run(&by_hand));
}

#[test]
fn a_cells_names_need_no_layer() {
    let cell = LSTM.map(|(name, shape)| (name.strip_suffix("_l0").expect("suffix"), shape));
    load(&cell, &Lstm::config(3, 5)).expect("fits");
}

#[test]
fn a_missing_tensor_is_named() {
    let error = load(&LSTM[..3], &Lstm::config(3, 5)).expect_err("bias_hh is missing");
    assert_eq!(
        error.to_string(),
        "test.safetensors: net.bias_hh_l0: expected a tensor of this name, \
         found only net.bias_ih_l0, net.weight_hh_l0, net.weight_ih_l0"
    );
}

#[test]
fn a_wrong_shape_is_named() {
    let error = load(&LSTM, &Lstm::config(4, 5)).expect_err("input differs");
    assert_eq!(error.to_string(), "test.safetensors: net.weight_ih_l0: expected shape [20, 4], found shape [20, 3]");
}

#[test]
fn what_the_configuration_would_leave_over_is_refused() {
    for (config, name) in [
        (Config::new(LstmCell { bias: false, ..Default::default() }, 3, 5), "net.bias_hh_l0"),
        (Lstm::config(3, 5), "net.weight_hr_l0"),
        (Lstm::config(3, 5), "net.weight_ih_l1"),
        (Lstm::config(3, 5), "net.weight_ih_l0_reverse"),
    ] {
        let mut tensors = LSTM.to_vec();
        if !LSTM.iter().any(|(known, _)| *known == name) {
            tensors.push((name, &[3, 5]));
        }
        let error = load(&tensors, &config).expect_err(name);
        assert!(error.to_string().contains(name), "{error}");
    }
}

#[test]
fn narrow_and_wide_floats_are_read_and_integers_refused() {
    let value = 0.15625_f32; // exact in every float format
    let read = |dtype: Dtype, bytes: Vec<u8>| {
        let view = TensorView::new(dtype, vec![2], &bytes).expect("sound");
        let file = safetensors::serialize(HashMap::from([("x".to_owned(), view)]), None).expect("sound");
        Weights::from_bytes("test.safetensors", &file)
    };
    let twice = |one: &[u8]| [one, one].concat();
    for (dtype, bytes) in [
        (Dtype::F16, twice(&f16::from_f32(value).to_le_bytes())),
        (Dtype::BF16, twice(&bf16::from_f32(value).to_le_bytes())),
        (Dtype::F32, twice(&value.to_le_bytes())),
        (Dtype::F64, twice(&f64::from(value).to_le_bytes())),
    ] {
        let x: ArrayD<f32> = read(dtype, bytes).and_then(|weights| weights.get("x")).expect("a float");
        assert_eq!(x, ArrayD::from_elem(IxDyn(&[2]), value), "{dtype:?}");
    }
    // The other tensors of the file can be read.
    let integers = read(Dtype::I32, twice(&7_i32.to_le_bytes())).expect("a sound file");
    assert!(integers.names().eq(["x"]));
    let error = integers.get::<IxDyn>("x").expect_err("an integer");
    assert_eq!(error.to_string(), "test.safetensors: x: expected elements of type F32, F16, BF16 or F64, found I32");
    assert!(matches!(error, Error::Dtype { .. }));
}

#[test]
fn metadata_is_read_and_what_is_missing_is_named() {
    let bytes = [0; 4];
    let x = TensorView::new(Dtype::F32, vec![1], &bytes).expect("sound");
    let metadata = HashMap::from([("licence".to_owned(), "MIT".to_owned()), ("source".to_owned(), "here".to_owned())]);
    let file = safetensors::serialize([("x".to_owned(), x)], Some(metadata)).expect("sound");
    let weights = Weights::from_bytes("test.safetensors", &file).expect("sound");
    assert_eq!(weights.metadata("licence").expect("is there"), "MIT");
    let error = weights.metadata("dic").expect_err("missing");
    assert_eq!(
        error.to_string(),
        "test.safetensors: metadata dic: expected an entry of this name, found only licence, source"
    );
    let error = weights.shaped("x", [1, 1]).expect_err("another rank");
    assert_eq!(error.to_string(), "test.safetensors: x: expected shape [1, 1], found shape [1]");
}

#[test]
fn every_truncation_is_named_as_one() {
    let whole = file(&LSTM);
    for length in 1..whole.len() {
        let error = Weights::from_bytes("test.safetensors", &whole[..length]).expect_err("cut short");
        let Error::Truncated { needed, found, .. } = error else { panic!("{length}: {error}") };
        assert!(found == length as u64 && found < needed && needed <= whole.len() as u64, "{length}: {needed}");
    }
}

#[test]
fn a_changed_byte_is_refused_or_read_but_never_a_panic() {
    let whole = file(&LSTM);
    for at in 0..whole.len() {
        for change in [0x01, 0x10, 0x80, 0xff] {
            let mut changed = whole.clone();
            changed[at] ^= change;
            if let Ok(weights) = Weights::from_bytes("test.safetensors", &changed) {
                drop(weights.recurrent("net.", &Lstm::config(3, 5), &Device::Cpu));
                drop(weights.check());
            }
        }
    }
}

/// A file with any text as its header.
fn with_header(header: &str, data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), data].concat()
}

/// A file with one tensor, `x`, and any text as its description.
fn with_entry(dtype: &str, shape: &str, offsets: &str) -> Vec<u8> {
    let header = format!(r#"{{"x":{{"dtype":{dtype},"shape":{shape},"data_offsets":{offsets}}}}}"#);
    with_header(&header, &[0; 16])
}

#[test]
fn every_kind_of_broken_file_has_its_own_error() {
    let right = r#""dtype":"F32","shape":[2],"data_offsets""#;
    let pair = |second: &str| with_header(&format!(r#"{{"x":{{{right}:[0,8]}},{second}}}"#), &[0; 16]);
    Weights::from_bytes("right", &pair(&format!(r#""y":{{{right}:[8,16]}}"#))).expect("the cases below differ from it");
    let unrecognized = |e: &Error| matches!(e, Error::Unrecognized { .. });
    let truncated = |e: &Error| matches!(e, Error::Truncated { .. });
    let too_large = |e: &Error| matches!(e, Error::TooLarge { .. });
    let dtype = |e: &Error| matches!(e, Error::Dtype { .. });
    let duplicate = |e: &Error| matches!(e, Error::Duplicate { .. });
    let format = |e: &Error| matches!(e, Error::Format { .. });
    type Variant<'a> = &'a dyn Fn(&Error) -> bool;
    let cases: Vec<(Vec<u8>, Variant<'_>, &str)> = vec![
        (Vec::new(), &unrecognized, "expected a safetensors file, found an empty file"),
        (b"PK\x03\x04 and so on".to_vec(), &unrecognized, "found a zip archive"),
        (b"\x89HDF\r\n\x1a\n and so on".to_vec(), &unrecognized, "found an HDF5 file"),
        (b"version https://git-lfs.github.com/spec/v1".to_vec(), &unrecognized, "a pointer of Git LFS"),
        (b"\x7fELF, a program".to_vec(), &unrecognized, "begins with 7f 45 4c 46"),
        ([&[8, 8, 0x12, 7], &b"pytorch: an ONNX model"[..]].concat(), &unrecognized, "found an ONNX model"),
        (vec![1, 2, 3], &truncated, "the header's length: cut short, 8 bytes are needed and 3 are there"),
        (with_header(r#"{"x":"#, &[])[..10].to_vec(), &truncated, "header: cut short, 13 bytes are needed"),
        ([&u64::MAX.to_le_bytes(), &b"{}"[..]].concat(), &too_large, "header: at most 100000000 bytes"),
        (with_header("{", &[]), &format, "header: expected a JSON object"),
        (with_header(r#"{"x":7}"#, &[]), &dtype, "x: expected elements of type"),
        (with_entry(r#""F33""#, "[4]", "[0,16]"), &dtype, r#"found "F33""#),
        (with_entry(r#""F32""#, "[4]", "[0,32]"), &format, "x: expected data_offsets 16 bytes apart"),
        (with_entry(r#""F32""#, "[4]", "[16,0]"), &format, "x: expected data_offsets 16 bytes apart"),
        (with_entry(r#""F32""#, "[-4]", "[0,16]"), &format, "x: expected a shape of whole numbers"),
        (with_entry(r#""F32""#, "[8]", "[0,32]"), &truncated, "the tensors' data: cut short"),
        (with_entry(r#""F32""#, "[3]", "[0,12]"), &format, "not fully covered"),
        (with_entry(r#""F32""#, "[4294967296,4294967296]", "[0,16]"), &too_large, "x: at most"),
        (with_entry(r#""F32""#, "[0,4294967296,4294967296]", "[0,0]"), &format, "x"),
        (pair(&format!(r#""y":{{{right}:[4,12]}}"#)), &format, "y: expected data_offsets that begin where"),
        (pair(&format!(r#""y":{{{right}:[12,20]}}"#)), &format, "y: expected data_offsets that begin where"),
        (pair(&format!(r#""x":{{{right}:[8,16]}}"#)), &format, "x: expected data_offsets that begin where"),
        (
            with_header(&format!(r#"{{"x":{{{right}:[0,8]}},"x":{{{right}:[0,8]}}}}"#), &[0; 8]),
            &duplicate,
            r#"the header defines "x", which an entry before has defined"#,
        ),
    ];
    for (at, (bytes, variant, words)) in cases.iter().enumerate() {
        let error = Weights::from_bytes("test.safetensors", bytes).expect_err(words);
        let text = error.to_string();
        assert!(variant(&error) && text.contains(words) && text.starts_with("test.safetensors: "), "{at}: {text}");
    }
}

#[test]
fn nan_and_infinities_are_reported() {
    let values = [1.0, f32::NAN, f32::NEG_INFINITY, f32::NAN].map(f32::to_le_bytes).concat();
    let view = |bytes| TensorView::new(Dtype::F32, vec![2, 2], bytes).expect("sound");
    let file = safetensors::serialize([("good", view(&[0; 16])), ("odd", view(&values))], None).expect("sound");
    let weights = Weights::from_bytes("test.safetensors", &file).expect("sound");
    let error = weights.check_finite().expect_err("a NaN").to_string();
    assert_eq!(error, "test.safetensors: odd: expected finite weights, found 2 NaN, 1 infinite, first at 1");
    let found = weights.check();
    let found: Vec<String> = found.iter().map(ToString::to_string).collect();
    assert_eq!(found, ["odd: 2 NaN, 1 infinite, first at 1"]);
}

#[test]
fn a_missing_file_is_named() {
    let error = Weights::from_file("no/such/file.safetensors").expect_err("missing");
    assert!(matches!(&error, Error::Io { path, .. } if path.ends_with("file.safetensors")), "{error}");
}

/// The weights of a stack under the prefix `net.`, all zero.
fn stored<C: Clone + Into<Cell>>(config: &Config<C>) -> Weights {
    let mut weights = Weights::new();
    let parameters = config.collect(|layer, direction, spec| {
        let array = ArrayD::zeros(IxDyn(&spec.shape));
        weights.insert(&format!("net.{}", torch_name(spec.name, layer, direction)), array.clone())?;
        Ok(array)
    });
    parameters.expect("a possible configuration");
    weights
}

/// Reads the configuration off the weights of a stack, from a cell whose stored options are other ones.
fn is_read_back<C: StoredCell + std::fmt::Debug + PartialEq>(cell: C, other: C) {
    for layers in [1, 3] {
        let stack = Config::new(cell.clone(), 3, 4).layers(layers);
        for config in [stack.clone(), stack.clone().reverse(), stack.bidirectional(Merge::Concat)] {
            let weights = stored(&config);
            let read = Config::from_weights(&weights, "net.", other.clone()).expect("a whole stack");
            assert_eq!(read, config);
            assert!(weights.recurrent("net.", &read, &Device::Cpu).is_ok());
        }
    }
}

#[test]
fn a_configuration_is_read_off_the_weights() {
    let bare = LstmCell { bias: false, ..Default::default() };
    let projected = LstmCell { projection: Some(2), ..Default::default() };
    let peephole = LstmCell { peephole: true, bias: false, projection: Some(3), ..Default::default() };
    for cell in [LstmCell::default(), bare, projected, peephole] {
        is_read_back(cell, LstmCell { projection: Some(7), peephole: !cell.peephole, bias: !cell.bias, ..cell });
        is_read_back(Cell::from(cell), Cell::from(LstmCell { bias: !cell.bias, ..Default::default() }));
    }
    for bias in [false, true] {
        is_read_back(GruCell { bias, ..GruCell::LECTURE }, GruCell { bias: !bias, ..GruCell::LECTURE });
        is_read_back(RnnCell { bias, ..Default::default() }, RnnCell { bias: !bias, ..Default::default() });
    }
}

#[test]
fn a_configuration_is_read_off_a_cells_names() {
    let cell = LSTM.map(|(name, shape)| (name.strip_suffix("_l0").expect("suffix"), shape));
    let weights = Weights::from_bytes("test.safetensors", &file(&cell)).expect("sound");
    assert_eq!(Config::from_weights(&weights, "net.", LstmCell::default()).expect("a cell"), Lstm::config(3, 5));
}

#[test]
fn weights_of_no_stack_have_no_configuration() {
    let refused = |tensors: &[(&str, &[usize])], cell: Cell, words: &[&str]| {
        let weights = Weights::from_bytes("test.safetensors", &file(tensors)).expect("sound");
        let error = Config::from_weights(&weights, "net.", cell).expect_err("no stack").to_string();
        assert!(words.iter().all(|word| error.contains(word)), "{words:?}: {error}");
    };
    let lstm = Cell::from(LstmCell::default());
    refused(&[], lstm, &["net.weight_ih_l0", "a tensor of this name"]);
    // The number of gate rows belongs to another cell.
    refused(&LSTM, GruCell::default().into(), &["net.weight_ih_l0", "3 rows per unit", "gru", "[20, 3] for 5 units"]);
    refused(&LSTM, RnnCell::default().into(), &["net.weight_ih_l0", "1 row per unit", "rnn", "[20, 3] for 5 units"]);
    // A tensor is missing, or one has another shape.
    for (at, (name, shape)) in LSTM.into_iter().enumerate() {
        let mut without = LSTM.to_vec();
        without.remove(at);
        refused(&without, lstm, &[name, "a tensor of this name"]);
        let (mut longer, mut tensors) = (shape.to_vec(), LSTM.to_vec());
        longer[0] += 4;
        tensors[at] = (name, &longer);
        refused(&tensors, lstm, &[if at == 0 { "net.weight_ih_l0" } else { name }, "[24"]);
        let deeper = [shape, &[1]].concat();
        tensors[at] = (name, &deeper);
        refused(&tensors, lstm, &[name, "1]"]);
    }
    refused(&[("net.weight_ih_l0", &[0, 3]), ("net.weight_hh_l0", &[0, 0])], lstm, &["at least one unit"]);
    // A tensor belongs to no such stack: a layer after a gap, half of a direction, a projection of a GRU, peepholes of an RNN.
    let with = |name: &'static str, shape: &'static [usize]| [&LSTM[..], &[(name, shape)]].concat();
    refused(&with("net.weight_ih_l2", &[20, 5]), lstm, &["net.weight_ih_l2", "no such tensor"]);
    refused(&with("net.weight_ih_l0_reverse", &[20, 3]), lstm, &["net.weight_hh_l0_reverse", "a tensor of this name"]);
    refused(&with("net.bias_ih_l0_reverse", &[20]), lstm, &["net.bias_ih_l0_reverse", "no such tensor"]);
    refused(&with("net.weight_hr_l0", &[2, 5]), lstm, &["net.weight_hh_l0", "[20, 2]", "[20, 5]"]);
    let gru: [(&str, &[usize]); 3] =
        [("net.weight_ih_l0", &[15, 3]), ("net.weight_hh_l0", &[15, 2]), ("net.weight_hr_l0", &[2, 5])];
    refused(&gru, GruCell::default().into(), &["net.weight_hr_l0", "no such tensor for the cell gru"]);
    let rnn: [(&str, &[usize]); 3] =
        [("net.weight_ih_l0", &[5, 3]), ("net.weight_hh_l0", &[5, 5]), ("net.peephole_l0", &[3, 5])];
    refused(&rnn, RnnCell::default().into(), &["net.peephole_l0", "no such tensor for the cell rnn"]);
}

#[test]
fn directions_that_are_not_concatenated_have_no_configuration() {
    let config = Gru::config(3, 4).layers(2).bidirectional(Merge::Sum);
    let error = Config::from_weights(&stored(&config), "net.", GruCell::default()).expect_err("a sum");
    let words = ["net.weight_ih_l1", "shape [12, 8]", "shape [12, 4]"];
    assert!(words.iter().all(|word| error.to_string().contains(word)), "{error}");
}
