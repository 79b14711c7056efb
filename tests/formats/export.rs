//! Layers are written to files with PyTorch's names and read back, bit for bit, on every device.

use std::sync::OnceLock;

use gatewise::cell::{Activation, Cell, Forget, GruCell, LstmCell, Mix, Parameters, Reset, RnnCell, WeightType};
use gatewise::gpu::GpuOptions;
use gatewise::nn::{Config, Conv1d, Embedding, Gru, Linear, Lstm, Merge, Recurrent, Rnn};
use gatewise::ops::Conv1dGeometry;
use gatewise::weights::{StateDict, Weights};
use gatewise::{Device, Error, Tensor};
use ndarray::{Array, Array1, Array2, Array3, ArrayD, Dimension, IxDyn, array};

/// A size that is no multiple of a register, a word or a block of units.
const INPUT: usize = 5;
const HIDDEN: usize = 11;

fn devices() -> Vec<Device> {
    static GPU: OnceLock<Device> = OnceLock::new();
    let gpu = GPU.get_or_init(|| {
        Device::gpu(&GpuOptions { software: true, ..Default::default() })
            .expect("install mesa-vulkan-drivers and libvulkan1: the GPU path is tested on every machine")
    });
    vec![Device::Reference, Device::Cpu, gpu.clone()]
}

fn bits<D: Dimension>(array: &Array<f32, D>) -> Vec<u32> {
    array.iter().map(|x| x.to_bits()).collect()
}

fn rnn(activation: Activation) -> Config<Cell> {
    Config::new(RnnCell { activation, ..Default::default() }.into(), INPUT, HIDDEN)
}

/// All forms of layers that PyTorch has.
fn forms() -> Vec<Config<Cell>> {
    let lstm = |cell: LstmCell| Config::new(Cell::from(cell), INPUT, HIDDEN);
    let gru = |cell: GruCell| Config::new(Cell::from(cell), INPUT, HIDDEN);
    let projected = LstmCell { projection: Some(6), ..Default::default() };
    vec![
        rnn(Activation::Tanh),
        rnn(Activation::Relu).layers(2),
        lstm(LstmCell::default()),
        lstm(LstmCell { bias: false, ..Default::default() }),
        lstm(projected).layers(2).bidirectional(Merge::Concat),
        gru(GruCell::default()).layers(3),
        gru(GruCell { bias: false, ..Default::default() }).bidirectional(Merge::Concat),
    ]
}

/// The parameters as a device stores them. A GPU adds two biases if the cell allows it.
fn kept(device: &Device, cell: &Cell, p: &Parameters) -> Parameters {
    let (Device::Gpu(_), Some(ih), Some(hh)) = (device, &p.bias_ih, &p.bias_hh) else { return p.clone() };
    let apart = |row: usize| matches!(cell, Cell::Gru(_)) && row >= 2 * HIDDEN;
    let side = |of: fn(f32, f32) -> f32, own: &Array1<f32>| {
        Array1::from_shape_fn(ih.len(), |row| if apart(row) { own[row] } else { of(ih[row], hh[row]) })
    };
    Parameters { bias_ih: Some(side(|a, b| a + b, ih)), bias_hh: Some(side(|_, _| 0.0, hh)), ..p.clone() }
}

fn forward(layer: &Recurrent<Cell>, device: &Device) -> Vec<u32> {
    let mut state = layer.zero_state(2).expect("state");
    let x = Array3::from_shape_fn((4, 2, INPUT), |(t, b, i)| ((t * 31 + b * 7 + i) as f32).sin());
    let y = layer.forward(&Tensor::from_array(device, &x).expect("input"), &mut state).expect("forward");
    y.to_vec().expect("output").into_iter().map(f32::to_bits).collect()
}

#[test]
fn a_layer_survives_a_file_bit_for_bit() {
    for device in devices() {
        for (seed, config) in forms().into_iter().enumerate() {
            let context = format!("{device}: {config:?}");
            let parameters = config.random_parameters(seed as u64).expect("parameters");
            let layer = config.build(&device, parameters.clone()).expect("fits");
            let cell = if seed >= 5 { GruCell::default().into() } else { Cell::from(LstmCell::default()) };
            for (own, read) in parameters.iter().flatten().zip(layer.parameters().expect("read back").iter().flatten())
            {
                let kept = kept(&device, &cell, own);
                for ((name, own), (_, read)) in kept.named().into_iter().zip(read.named()) {
                    assert_eq!(bits(&own.to_owned()), bits(&read.to_owned()), "{context}: {name}");
                }
            }

            let mut weights = Weights::new();
            weights.add("net.", &layer).expect("PyTorch has it");
            let file = weights.to_bytes().expect("a file");
            let read = Weights::from_bytes("again", &file).expect("sound");
            assert_eq!(read.metadata("format").expect("PyTorch's"), "pt");
            let again = read.recurrent("net.", &config, &device).expect("fits");
            assert_eq!(forward(&again, &device), forward(&layer, &device), "{context}");

            let mut twice = Weights::new();
            twice.add("net.", &again).expect("PyTorch has it");
            assert!(twice.to_bytes().expect("a file") == file, "{context}: a second round changes the file");
        }
    }
}

#[test]
fn names_are_pytorchs() {
    let config = Lstm::config(3, 4).layers(2).bidirectional(Merge::Concat);
    let mut weights = Weights::new();
    weights.add("a.b.", &config.random(&Device::Cpu, 1).expect("fits")).expect("PyTorch has it");
    let names: Vec<&str> = weights.names().collect();
    let mut expected: Vec<String> = ["weight_ih", "weight_hh", "bias_ih", "bias_hh"]
        .iter()
        .flat_map(|name| ["l0", "l0_reverse", "l1", "l1_reverse"].map(|suffix| format!("a.b.{name}_{suffix}")))
        .collect();
    expected.sort();
    assert_eq!(names, expected);
    let upper: Array2<f32> = weights.get("a.b.weight_ih_l1_reverse").expect("there");
    assert_eq!(upper.dim(), (16, 8));
}

/// The golden cases have the names of PyTorch's own `state_dict`.
#[test]
fn a_state_dict_of_pytorchs_goes_through_a_layer_unchanged() {
    let rnn = |activation| Cell::from(RnnCell { activation, ..Default::default() });
    let lstm = |cell: LstmCell| Cell::from(cell);
    let both = |config: Config<Cell>| config.bidirectional(Merge::Concat);
    let plain = LstmCell::default();
    for (case, config) in [
        ("rnn_relu_L2", Config::new(rnn(Activation::Relu), 5, 8).layers(2)),
        ("lstm_L2_bi_nobias", both(Config::new(lstm(LstmCell { bias: false, ..plain }), 5, 8).layers(2))),
        ("lstm_proj_L2_bi", both(Config::new(lstm(LstmCell { projection: Some(3), ..plain }), 5, 8).layers(2))),
        ("gru_L3_bi", both(Config::new(GruCell::default().into(), 4, 6).layers(3))),
    ] {
        let path = format!("{}/tests/golden/torch__{case}.safetensors", env!("CARGO_MANIFEST_DIR"));
        let pytorchs = Weights::from_file(path).expect("a golden case");
        let own = |name: &&str| name.starts_with("weight_") || name.starts_with("bias_");
        for device in [Device::Reference, Device::Cpu] {
            let layer = pytorchs.recurrent("", &config, &device).unwrap_or_else(|error| panic!("{case}: {error}"));
            let mut weights = Weights::new();
            weights.add("", &layer).expect("PyTorch has it");
            assert!(weights.names().eq(pytorchs.names().filter(own)), "{case}");
            for name in weights.names() {
                let of = |weights: &Weights| weights.get::<IxDyn>(name).expect("there");
                assert_eq!(of(&weights), of(&pytorchs), "{case}, {device}: {name}");
            }
        }
    }
}

#[test]
fn narrow_weights_are_written_as_they_are_stored() {
    let cells: [Cell; 3] = [
        RnnCell::default().into(),
        LstmCell { projection: Some(6), ..Default::default() }.into(),
        GruCell::default().into(),
    ];
    for device in devices() {
        for kind in WeightType::ALL {
            for cell in cells {
                let config = Config::new(cell, INPUT, HIDDEN).weight_type(kind);
                let parameters = config.random_parameters(3).expect("parameters");
                let layer = config.build(&device, parameters.clone()).expect("fits");
                let rounded = kept(&device, &cell, &kind.round_parameters(parameters[0][0].clone()));
                let read = &layer.parameters().expect("read back")[0][0];
                for ((name, own), (_, read)) in rounded.named().into_iter().zip(read.named()) {
                    // A scale is a quotient, so that rounding rounded weights moves an int8 weight by one bit at most.
                    let close =
                        |a: f32, b: f32| a == b || (kind == WeightType::Int8 && a.to_bits().abs_diff(b.to_bits()) <= 1);
                    let same = own.iter().zip(read.iter()).all(|(&a, &b)| close(a, b));
                    assert!(same, "{device}, {kind}, {cell:?}: {name}");
                }
                let mut weights = Weights::new();
                weights.add("", &layer).expect("PyTorch has it");
                weights.recurrent("", &config, &device).expect("fits");
            }
        }
    }
}

#[test]
fn reset_before_and_peepholes_are_read_back_where_no_file_takes_them() {
    let cells: [Cell; 4] = [
        GruCell::LECTURE.into(),
        LstmCell { peephole: true, ..Default::default() }.into(),
        LstmCell { forget: Forget::Coupled, peephole: true, ..Default::default() }.into(),
        LstmCell { forget: Forget::Never, ..Default::default() }.into(),
    ];
    for device in devices() {
        for cell in cells {
            let config = Config::new(cell, INPUT, HIDDEN);
            let parameters = config.random_parameters(9).expect("parameters");
            let layer = config.build(&device, parameters.clone()).expect("fits");
            let expected = match device {
                // These cells have one bias per gate.
                Device::Gpu(_) => kept(&device, &RnnCell::default().into(), &parameters[0][0]),
                _ => parameters[0][0].clone(),
            };
            assert_eq!(layer.parameters().expect("read back")[0][0], expected, "{device}: {cell:?}");
        }
    }
}

#[test]
fn what_pytorch_does_not_have_is_refused_by_name() {
    let lstm = |cell: LstmCell| Config::new(Cell::from(cell), 3, 4);
    let gru = |cell: GruCell| Config::new(Cell::from(cell), 3, 4);
    let plain = LstmCell::default();
    let relu = Cell::from(RnnCell { activation: Activation::Relu, ..Default::default() });
    let cases = [
        (rnn(Activation::Sigmoid), "cell activation Sigmoid"),
        (Config::new(RnnCell { gate_clip: Some(2.0), ..Default::default() }.into(), 3, 4), "gate_clip 2"),
        (lstm(LstmCell { gate: Activation::HARD_SIGMOID_KERAS3, ..plain }), "gate activation HardSigmoid"),
        (lstm(LstmCell::LECTURE), "candidate activation Sigmoid"),
        (lstm(LstmCell { output: Activation::Identity, ..plain }), "output activation Identity"),
        (lstm(LstmCell { forget: Forget::Coupled, ..plain }), "forget Coupled"),
        (lstm(LstmCell { forget: Forget::Never, ..plain }), "forget Never"),
        (lstm(LstmCell { peephole: true, ..plain }), "peephole"),
        (lstm(LstmCell { gate_clip: Some(1.5), ..plain }), "gate_clip 1.5"),
        (lstm(LstmCell { cell_clip: Some(3.0), ..plain }), "cell_clip 3"),
        (gru(GruCell { reset: Reset::Before, ..Default::default() }), "reset Before"),
        (gru(GruCell { mix: Mix::TakesNew, ..Default::default() }), "mix TakesNew"),
        (gru(GruCell { gate_clip: Some(1.0), ..Default::default() }), "gate_clip 1"),
        (lstm(plain).reverse(), "reverse without forward"),
        (lstm(plain).bidirectional(Merge::Sum), "merge Sum"),
        (rnn(Activation::Tanh).bidirectional(Merge::Concat).reverse_cell(relu), "reverse_cell"),
    ];
    for (config, option) in cases {
        let mut weights = Weights::new();
        let error = weights.add("", &config.random(&Device::Cpu, 1).expect("fits")).expect_err(option);
        assert!(matches!(&error, Error::Unsupported { option: named, .. } if named.contains(option)), "{error}");
        assert!(error.to_string().ends_with("by PyTorch"), "{error}");
        assert_eq!(weights.names().count(), 0);
        let trainable = config.trainable(&Device::Cpu, &config.random_parameters(1).expect("parameters"));
        weights.add("", &trainable.expect("fits")).expect_err(option);
    }
}

#[test]
fn trainable_layers_keep_both_biases_on_the_hosts_devices() {
    for device in [Device::Reference, Device::Cpu] {
        let config = Gru::config(3, 4).layers(2);
        let parameters = config.random_parameters(5).expect("parameters");
        let trainable = config.trainable(&device, &parameters).expect("fits");
        let mut weights = Weights::new();
        weights.add("gru.", &trainable).expect("PyTorch has it");
        let bias: Array1<f32> = weights.get("gru.bias_hh_l1").expect("there");
        assert_eq!(Some(&bias), parameters[1][0].bias_hh.as_ref());
        let frozen = trainable.freeze().expect("fits");
        let mut again = Weights::new();
        again.add("gru.", &frozen).expect("PyTorch has it");
        assert_eq!(again.to_bytes().expect("a file"), weights.to_bytes().expect("a file"));
    }
}

#[test]
fn the_layers_around_come_back_as_they_were() {
    let (matrix, bias) = (array![[1.0, 2.0, 3.0], [4.0, 5.0, 6.5]], array![0.5, -0.25]);
    let kernel = Array3::from_shape_fn((2, 3, 4), |(o, c, k)| (100 * o + 10 * c + k) as f32);
    let geometry = Conv1dGeometry { stride: 1, padding: 0 };
    for device in devices() {
        let mut weights = Weights::new();
        weights.add("head.", &Linear::new(&device, &matrix, Some(&bias)).expect("fits")).expect("added");
        weights.add("bare.", &Linear::new(&device, &matrix, None).expect("fits")).expect("added");
        weights.add("conv.", &Conv1d::new(&device, &kernel, Some(&bias), geometry).expect("fits")).expect("added");
        weights.add("conv_bare.", &Conv1d::new(&device, &kernel, None, geometry).expect("fits")).expect("added");
        weights.add("table.", &Embedding::new(&device, &matrix).expect("fits")).expect("added");
        let file = weights.to_bytes().expect("a file");
        let read = Weights::from_bytes("again", &file).expect("sound");
        let names: Vec<&str> = read.names().collect();
        let expected = ["bare.weight", "conv.bias", "conv.weight", "conv_bare.weight", "head.bias", "head.weight"];
        assert_eq!(names, [&expected[..], &["table.weight"]].concat());
        for name in ["head.weight", "bare.weight", "table.weight"] {
            assert_eq!(read.get::<ndarray::Ix2>(name).expect("there"), matrix, "{device}: {name}");
        }
        for name in ["conv.weight", "conv_bare.weight"] {
            assert_eq!(read.get::<ndarray::Ix3>(name).expect("there"), kernel, "{device}: {name}");
        }
        for name in ["conv.bias", "head.bias"] {
            assert_eq!(read.get::<ndarray::Ix1>(name).expect("there"), bias, "{device}: {name}");
        }
    }
}

#[test]
fn a_name_is_given_once_and_a_failed_layer_adds_nothing() {
    let layer = Rnn::config(3, 4).random(&Device::Cpu, 1).expect("fits");
    let mut weights = Weights::new();
    weights.insert("net.weight_hh_l0", Array1::from_elem(2, 1.5)).expect("free");
    let error = weights.add("net.", &layer).expect_err("taken");
    assert!(matches!(&error, Error::Duplicate { name, .. } if name == "net.weight_hh_l0"), "{error}");
    assert_eq!(weights.names().collect::<Vec<_>>(), ["net.weight_hh_l0"]);
    weights.add("other.", &layer).expect("free");
    let error = weights.insert("other.bias_ih_l0", Array1::zeros(1)).expect_err("taken");
    assert!(matches!(error, Error::Duplicate { .. }), "{error}");
}

#[test]
fn a_file_is_written_as_a_whole_or_not_at_all() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("net.safetensors");
    let mut weights = Weights::new();
    weights.insert("x", array![[1.5_f32, -0.0], [f32::MIN_POSITIVE / 2.0, f32::NAN]]).expect("free");
    weights.save(&file).expect("written");
    let read: ArrayD<f32> = Weights::from_file(&file).and_then(|read| read.get("x")).expect("read");
    assert_eq!(bits(&read), bits(&weights.get::<IxDyn>("x").expect("there")));
    let error = weights.save(folder.path().join("absent").join("net.safetensors")).expect_err("no folder");
    assert!(matches!(error, Error::Io { .. }), "{error}");
    let mut odd = Weights::new();
    odd.insert("__metadata__", array![1.0_f32]).expect("free");
    let error = odd.to_bytes().expect_err("the metadata's name");
    assert!(matches!(&error, Error::Format { field, .. } if field == "__metadata__"), "{error}");
}

/// A caller's own type can be written, too.
#[test]
fn a_caller_writes_what_he_likes() {
    struct Scale(f32);
    impl StateDict for Scale {
        fn state_dict(&self) -> gatewise::Result<Vec<(String, ArrayD<f32>)>> {
            Ok(vec![("scale".to_owned(), array![self.0].into_dyn())])
        }
    }
    let mut weights = Weights::new();
    weights.add("norm.", &Scale(2.5)).expect("free");
    assert_eq!(weights.get::<ndarray::Ix1>("norm.scale").expect("there"), array![2.5]);
}
