//! Real models against their own packages' outputs, on every device.
#![cfg(feature = "gpu")]

use std::path::PathBuf;
use std::sync::OnceLock;

use gatewise::gpu::GpuOptions;
use gatewise::models::{G2p, RnNoise, SileroVad, ThaiSegmenter, UzMorph, UzVocabulary};
use gatewise::weights::Weights;
use gatewise::{Device, Error};
use ndarray::{Array, Array2, Array3, ArrayD, Axis, Dimension, IxDyn, s};
use safetensors::SafeTensors;
use serde_json::Value;

fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn weights(name: &str) -> Weights {
    Weights::from_file(path("models").join(name)).expect("weights")
}

fn gpu() -> Device {
    Device::gpu(&GpuOptions { software: true, ..Default::default() })
        .expect("install mesa-vulkan-drivers and libvulkan1: the GPU path is tested on every machine")
}

fn devices() -> [Device; 3] {
    static GPU: OnceLock<Device> = OnceLock::new();
    [Device::Reference, Device::Cpu, GPU.get_or_init(gpu).clone()]
}

/// A golden case: its entry in the manifest, its tensors.
struct Case {
    entry: Value,
    bytes: Vec<u8>,
}

impl Case {
    fn new(name: &str) -> Self {
        let golden = path("tests/golden");
        let manifest = std::fs::read_to_string(golden.join("manifest.json")).expect("the manifest");
        let manifest: Value = serde_json::from_str(&manifest).expect("JSON");
        let mut cases = manifest["cases"].as_array().expect("cases").iter();
        let entry = cases.find(|case| case["name"] == name && case["kind"] == "real").expect("the case").clone();
        let bytes = std::fs::read(golden.join(entry["file"].as_str().expect("file"))).expect("the case's file");
        Self { entry, bytes }
    }

    fn strings(&self, field: &str) -> Vec<String> {
        serde_json::from_value(self.entry[field].clone()).expect("a list of strings")
    }

    fn tolerance(&self, name: &str) -> f64 {
        self.entry["tol"][name].as_f64().expect("a tolerance")
    }

    fn tensor<T, D: Dimension>(&self, name: &str, read: fn([u8; 4]) -> T) -> Array<T, D> {
        let file = SafeTensors::deserialize(&self.bytes).expect("a safetensors file");
        let view = file.tensor(name).expect("the tensor");
        let values = view.data().as_chunks::<4>().0.iter().map(|word| read(*word)).collect();
        let array = ArrayD::from_shape_vec(IxDyn(view.shape()), values).expect("its shape");
        array.into_dimensionality().expect("its rank")
    }

    fn floats<D: Dimension>(&self, name: &str) -> Array<f32, D> {
        self.tensor(name, f32::from_le_bytes)
    }

    fn integers<D: Dimension>(&self, name: &str) -> Array<i32, D> {
        self.tensor(name, i32::from_le_bytes)
    }

    fn lengths(&self) -> Vec<usize> {
        self.integers::<ndarray::Ix1>("lengths").iter().map(|&n| usize::try_from(n).expect("a length")).collect()
    }
}

/// Fails where an element is further from the expected one than `tolerance`, or is no number.
fn close<D: Dimension>(what: &str, got: &Array<f32, D>, expected: &Array<f32, D>, tolerance: f64) {
    assert_eq!(got.shape(), expected.shape(), "{what}");
    let worst = got
        .iter()
        .zip(expected)
        .map(|(a, b)| f64::from((a - b).abs()))
        .fold(0.0, |most, d| if d > most || d.is_nan() { d } else { most });
    assert!(worst <= tolerance, "{what}: {worst:e} of {tolerance:e}");
}

#[test]
fn words_are_spoken_as_g2p_en_speaks_them() {
    let case = Case::new("g2p_en");
    let (words, expected) = (case.strings("words"), case.strings("expected"));
    assert_eq!(case.strings("phoneme_table"), G2p::PHONEMES);
    for device in devices() {
        let g2p = G2p::new(&device, &weights("g2p_en.safetensors")).expect("the net");
        let trace = g2p.trace(&words).expect("runs");
        let spoken: Vec<String> = trace.phonemes.iter().map(|phonemes| phonemes.join(" ")).collect();
        assert_eq!(spoken, expected, "{device}");
        let tolerance = |name| case.tolerance(name);
        close(&format!("enc_h, {device}"), &trace.hidden, &case.floats("enc_h"), tolerance("enc_h_abs"));
        let expected_logits = case.floats("first_logits");
        close(&format!("logits, {device}"), &trace.first_logits, &expected_logits, tolerance("first_logits_abs"));
        assert_eq!(g2p.phonemes(&words).expect("runs"), trace.phonemes, "{device}");
    }
}

#[test]
fn a_word_is_spoken_alone_as_among_others() {
    let words = [
        "a",
        "",
        "Wgpu",
        "naïve",
        "antidisestablishmentarianism",
        "wgpu",
        "pneumonoultramicroscopicsilicovolcanoconiosis",
    ];
    for device in devices() {
        let g2p = G2p::new(&device, &weights("g2p_en.safetensors")).expect("the net");
        let together = g2p.phonemes(&words).expect("runs");
        assert_eq!(together[2], together[5], "capitals are small letters");
        assert!(together.iter().all(|phonemes| phonemes.len() <= G2p::LONGEST), "{together:?}");
        assert!(together.iter().any(|phonemes| phonemes.len() == G2p::LONGEST), "{together:?}");
        for (word, expected) in words.iter().zip(&together) {
            assert_eq!(g2p.phonemes(&[word]).expect("runs"), std::slice::from_ref(expected), "{word} on {device}");
        }
        assert!(g2p.phonemes(&[""; 0]).expect("nothing to do").is_empty());
        assert_eq!(g2p.trace(&[""; 0]).expect("nothing to do").hidden.dim(), (0, 256));
    }
}

#[test]
fn a_whole_decode_is_one_submission() {
    let device = gpu();
    let Device::Gpu(counted) = &device else { panic!("a GPU") };
    let g2p = G2p::new(&device, &weights("g2p_en.safetensors")).expect("the net");
    let before = counted.counters().submits;
    g2p.phonemes(&["gate", "wise"]).expect("runs");
    // It copies the phonemes to the host, too.
    assert_eq!(counted.counters().submits - before, 1);
}

#[test]
fn thai_words_end_where_icu4x_ends_them() {
    let case = Case::new("icu4x_thai");
    let marked = case.strings("texts");
    let texts: Vec<String> = marked.iter().map(|text| text.replace('|', "")).collect();
    let (lengths, y, logits) =
        (case.lengths(), case.floats::<ndarray::Ix3>("y"), case.floats::<ndarray::Ix3>("logits"));
    let ends: Array2<i32> = case.integers("is_word_end");
    for device in devices() {
        let segmenter = ThaiSegmenter::new(&device, &weights("icu4x_thai.safetensors")).expect("the net");
        let traces = segmenter.trace(&texts).expect("runs");
        assert_eq!(traces.len(), texts.len());
        for (row, trace) in traces.iter().enumerate() {
            let what = |name: &str| format!("{name} of text {row}, {device}");
            let steps = s![row, ..lengths[row], ..];
            close(&what("y"), &trace.hidden, &y.slice(steps).to_owned(), case.tolerance("y_abs"));
            close(&what("logits"), &trace.logits, &logits.slice(steps).to_owned(), case.tolerance("logits_abs"));
            let expected: Vec<bool> = ends.slice(s![row, ..lengths[row]]).iter().map(|&end| end == 1).collect();
            assert_eq!(trace.ends, expected, "{}", what("word ends"));
        }
        let flags: Vec<Vec<bool>> = traces.into_iter().map(|trace| trace.ends).collect();
        assert_eq!(segmenter.word_ends(&texts).expect("runs"), flags, "{device}");
        for (marked, text) in marked.iter().zip(&texts).filter(|(marked, _)| marked.contains('|')) {
            assert_eq!(segmenter.words(text).expect("runs").join("|"), *marked, "{device}");
        }
    }
}

#[test]
fn thai_among_other_text_is_cut_by_itself() {
    let text = " ภาษาไทย,hello โรงพยาบาล\u{200b}ฟ้า\n๑๒๓ ฿5.5 รถไฟฟ้า ";
    for device in devices() {
        let segmenter = ThaiSegmenter::new(&device, &weights("icu4x_thai.safetensors")).expect("the net");
        let words = segmenter.words(text).expect("runs");
        let expected = ["ภาษา", "ไทย", ",hello", "โรง", "พยาบาล", "ฟ้า", "๑๒๓", "฿5.5", "รถ", "ไฟ", "ฟ้า"];
        assert_eq!(words, expected, "{device}");
        assert!(segmenter.words("").expect("nothing to do").is_empty());
        assert!(segmenter.words(" \n").expect("nothing to do").is_empty());
        assert_eq!(segmenter.words("wgpu").expect("nothing to do"), ["wgpu"]);
    }
}

#[test]
fn uzbek_words_are_tagged_as_uzmorph_tags_them() {
    let case = Case::new("uzmorph_bigru");
    let words = case.strings("words");
    let expected: Vec<Vec<String>> = serde_json::from_value(case.entry["expected_tags"].clone()).expect("tags");
    let numbers: Array2<i32> = case.integers("tags");
    for device in devices() {
        let morph = uzmorph(&device);
        let trace = morph.trace(&words).expect("runs");
        close(&format!("gru_y, {device}"), &trace.hidden, &case.floats("gru_y"), case.tolerance("gru_y_abs"));
        assert_eq!(trace.tags, expected, "{device}");
        for (row, tags) in trace.tags.iter().enumerate() {
            let number = |tag: &String| morph.vocabulary().tags().iter().position(|known| known == tag);
            let got: Vec<_> = tags.iter().map(|tag| number(tag).expect("a tag of the vocabulary") as i32).collect();
            assert_eq!(got, numbers.slice(s![row, ..tags.len()]).to_vec(), "{device}");
        }
    }
}

fn uzmorph(device: &Device) -> UzMorph {
    let vocabulary = UzVocabulary::from_file(path("models/uzmorph_bigru.json")).expect("the vocabulary");
    UzMorph::new(device, &weights("uzmorph_bigru.safetensors"), vocabulary).expect("the net")
}

#[test]
fn root_and_suffix_are_read_from_the_tags() {
    for device in devices() {
        let morph = uzmorph(&device);
        let long = "a".repeat(40);
        let words = morph.analyze(&[" Kitobim ", "yozyapmiz", "o'qituvchi", "", long.as_str()]).expect("runs");
        let short: Vec<_> =
            words.iter().map(|w| (w.word.as_str(), w.stem.as_str(), w.part_of_speech.as_deref())).collect();
        assert_eq!(short[0], ("kitobim", "kitob", Some("NOUN")), "{device}");
        assert_eq!(short[1], ("yozyapmiz", "yoz", Some("VERB")), "{device}");
        assert_eq!(short[2], ("o'qituvchi", "o'qituvchi", None), "{device}");
        assert_eq!(short[3], ("", "", None), "{device}");
        assert_eq!(words[0].features, ["possession=1", "singular=1"], "{device}");
        assert_eq!(words[1].features, ["tense=Present", "person=1", "verb_func=Finite", "plural=1"], "{device}");
        assert_eq!((words[4].tags.len(), words[4].word.len()), (UzMorph::LONGEST, 40), "{device}");
        assert_eq!(morph.analyze(&["yozyapmiz"]).expect("runs"), words[1..2], "alone as among others, {device}");
        assert!(morph.analyze(&[""; 0]).expect("nothing to do").is_empty());
    }
}

/// The case's features, `[T, 1, 42]`.
fn features(case: &Case) -> Array3<f32> {
    case.floats::<ndarray::Ix2>("features").insert_axis(Axis(1))
}

#[test]
fn noise_is_judged_as_rnnoise_judges_it() {
    let case = Case::new("rnnoise");
    let (features, expected) = (features(&case), case.floats::<ndarray::Ix2>("states"));
    for device in devices() {
        let net = RnNoise::new(&device, &weights("rnnoise.safetensors")).expect("the net");
        let mut stream = net.stream(1).expect("a stream");
        let trace = stream.trace(features.view(), None).expect("runs");
        let one = |array: &Array3<f32>| array.index_axis(Axis(1), 0).to_owned();
        let vad = trace.suppression.vad.index_axis(Axis(1), 0).to_owned();
        close(&format!("vad, {device}"), &vad, &case.floats("vad"), case.tolerance("vad_abs"));
        let gains = one(&trace.suppression.gains);
        close(&format!("gains, {device}"), &gains, &case.floats("gains"), case.tolerance("gains_abs"));
        let states = one(&trace.states).slice(s![..;4, ..]).to_owned();
        close(&format!("states, {device}"), &states, &expected, case.tolerance("states_abs"));
        let last = trace.states.index_axis(Axis(0), features.len_of(Axis(0)) - 1).to_owned();
        assert_eq!(stream.states().expect("states"), last, "{device}");
    }
}

#[test]
fn pieces_and_channels_of_noise_equal_the_whole() {
    let case = Case::new("rnnoise");
    let features = features(&case).slice(s![..60, .., ..]).to_owned();
    let turned = features.slice(s![..;-1, .., ..]).to_owned();
    let both = ndarray::concatenate(Axis(1), &[features.view(), turned.view()]).expect("fits");
    for device in devices() {
        let net = RnNoise::new(&device, &weights("rnnoise.safetensors")).expect("the net");
        let run = |x: &Array3<f32>| {
            net.stream(x.len_of(Axis(1))).and_then(|mut stream| stream.push(x.view(), None)).expect("runs").gains
        };
        let alone = [run(&features), run(&turned)];
        let mut stream = net.stream(2).expect("a stream");
        let mut first = 0;
        for size in [1, 0, 30, 2, 27] {
            let piece = s![first..first + size, .., ..];
            let got = stream.push(both.slice(piece), None).expect("runs");
            assert_eq!(got.vad.dim(), (size, 2));
            for (channel, alone) in alone.iter().enumerate() {
                let got = got.gains.index_axis(Axis(1), channel).to_owned();
                // Products of other sizes may round otherwise.
                close(&format!("{device}"), &got, &alone.slice(s![first..first + size, 0, ..]).to_owned(), 1e-5);
            }
            first += size;
        }
    }
}

#[test]
fn silence_leaves_the_states_as_they_were() {
    let case = Case::new("rnnoise");
    let features = features(&case).slice(s![..30, .., ..]).to_owned();
    let both = ndarray::concatenate(Axis(1), &[features.view(), features.view()]).expect("fits");
    // The second channel's silences hold anything; the first hears everything.
    let heard = Array2::from_shape_fn((30, 2), |(t, channel)| channel == 0 || t % 3 != 1);
    let kept: Vec<usize> = (0..30).filter(|t| t % 3 != 1).collect();
    for device in devices() {
        let net = RnNoise::new(&device, &weights("rnnoise.safetensors")).expect("the net");
        let mut stream = net.stream(2).expect("a stream");
        let out = stream.push(both.view(), Some(heard.view())).expect("runs");
        let mut short = net.stream(1).expect("a stream");
        let expected = short.push(features.select(Axis(0), &kept).view(), None).expect("runs");
        for (at, &t) in kept.iter().enumerate() {
            let got = out.gains.slice(s![t, 1, ..]).to_owned();
            close(&format!("{device}"), &got, &expected.gains.slice(s![at, 0, ..]).to_owned(), 1e-5);
        }
        assert!(out.gains.slice(s![1..;3, 1, ..]).iter().all(|&gain| gain == 0.0), "{device}");
        assert!(out.vad.slice(s![1..;3, 1]).iter().all(|&vad| vad == 0.0), "{device}");
        assert!(out.gains.slice(s![1..;3, 0, ..]).iter().all(|&gain| gain > 0.0), "{device}");
        let (long, short) = (stream.states().expect("states"), short.states().expect("states"));
        close(&format!("states, {device}"), &long.slice(s![1..2, ..]).to_owned(), &short, 1e-5);
    }
}

#[test]
fn a_refused_frame_leaves_the_stream_as_it_was() {
    let case = Case::new("rnnoise");
    let features = features(&case);
    for device in devices() {
        let net = RnNoise::new(&device, &weights("rnnoise.safetensors")).expect("the net");
        let mut stream = net.stream(1).expect("a stream");
        stream.push(features.slice(s![..20, .., ..]), None).expect("runs");
        let before = stream.states().expect("states");
        let mut broken = features.slice(s![20..30, .., ..]).to_owned();
        broken[[7, 0, 3]] = f32::NAN;
        let error = stream.push(broken.view(), None).expect_err("a NaN");
        assert!(matches!(error, Error::NotFinite { index: 297, .. }), "{error}");
        let error = stream.push(features.slice(s![.., .., ..41]), None).expect_err("too few features");
        assert!(matches!(error, Error::Shape { what: "features", .. }), "{error}");
        let heard = Array2::from_elem((9, 1), true);
        let error = stream.push(features.slice(s![20..30, .., ..]), Some(heard.view())).expect_err("too short a mask");
        assert!(matches!(error, Error::Shape { what: "heard", .. }), "{error}");
        assert_eq!(stream.states().expect("states"), before, "{device}");
    }
}

/// A safetensors file without one tensor, or with other metadata.
fn altered(name: &str, without: &str, metadata: &[(&str, &str)]) -> Weights {
    let bytes = std::fs::read(path("models").join(name)).expect("weights");
    let file = SafeTensors::deserialize(&bytes).expect("sound");
    let tensors = file.tensors().into_iter().filter(|(name, _)| name != without);
    let metadata = metadata.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    Weights::from_bytes(name, &safetensors::serialize(tensors, Some(metadata)).expect("sound")).expect("sound")
}

#[test]
fn weights_that_do_not_fit_are_refused_by_file_and_tensor() {
    let vocabulary = || UzVocabulary::from_file(path("models/uzmorph_bigru.json")).expect("the vocabulary");
    let thai = |dictionary: &str| {
        ThaiSegmenter::new(&Device::Cpu, &altered("icu4x_thai.safetensors", "", &[("dic", dictionary)])).map(|_| ())
    };
    let rnnoise = |without: &str, activation: &str| {
        let weights = altered("rnnoise.safetensors", without, &[("vad_gru.activation", activation)]);
        RnNoise::new(&Device::Cpu, &weights).map(|_| ())
    };
    let uzmorph = |weights: &Weights, vocabulary: &str| {
        let vocabulary = UzVocabulary::from_bytes("vocabulary.json", vocabulary.as_bytes())?;
        UzMorph::new(&Device::Cpu, weights, vocabulary).map(|_| ())
    };
    let good = weights("uzmorph_bigru.safetensors");
    for (refused, words) in [
        (
            G2p::new(&Device::Cpu, &altered("g2p_en.safetensors", "dec_b_hh", &[])).map(|_| ()),
            ["g2p_en.safetensors", "dec_b_hh"],
        ),
        (G2p::new(&Device::Cpu, &weights("rnnoise.safetensors")).map(|_| ()), ["rnnoise.safetensors", "enc_emb"]),
        (thai("{}"), ["icu4x_thai.safetensors", "embedding"]),
        (thai("[1]"), ["icu4x_thai.safetensors", "metadata dic"]),
        (thai(r#"{"ก": 0, "ข": 2}"#), ["metadata dic", "2 in the place of 1"]),
        (
            ThaiSegmenter::new(&Device::Cpu, &altered("icu4x_thai.safetensors", "", &[])).map(|_| ()),
            ["icu4x_thai.safetensors", "metadata dic"],
        ),
        (rnnoise("noise_gru.kernel", "relu"), ["rnnoise.safetensors", "noise_gru.kernel"]),
        (rnnoise("", "tanh"), ["rnnoise.safetensors", "metadata vad_gru.activation: expected relu, found tanh"]),
        (
            UzMorph::new(&Device::Cpu, &altered("uzmorph_bigru.safetensors", "gru.bias_hh_l1", &[]), vocabulary())
                .map(|_| ()),
            ["uzmorph_bigru.safetensors", "gru.bias_hh_l1"],
        ),
        (
            uzmorph(&good, r#"{"characters": ["PAD", "UNK", "a"], "tags": ["B-ROOT"]}"#),
            ["char_embeddings.weight", "[3, 64]"],
        ),
        (
            uzmorph(&good, r#"{"characters": ["PAD", "UNK", "ab"], "tags": []}"#),
            ["vocabulary.json: characters", "\"ab\" at 2"],
        ),
        (
            uzmorph(&good, r#"{"characters": ["PAD", "UNK", "a", "a"], "tags": []}"#),
            ["vocabulary.json: characters", "at 3"],
        ),
        (uzmorph(&good, r#"{"characters": ["PAD"], "tags": []}"#), ["vocabulary.json: characters", "UNK"]),
        (uzmorph(&good, r#"{"characters": ["PAD", "UNK"]}"#), ["vocabulary.json: tags", "a list of strings"]),
        (uzmorph(&good, "no JSON"), ["vocabulary.json", "JSON"]),
        (UzVocabulary::from_file("no/such.json").map(|_| ()), ["no/such.json", ""]),
    ] {
        let error = refused.expect_err(words[0]).to_string();
        assert!(words.iter().all(|word| error.contains(word)), "{words:?} in {error}");
    }
}

/// A file's weights with one element of a tensor changed.
fn spoiled(file: &str, tensor: &str, value: f32) -> Weights {
    let good = weights(file);
    let mut spoiled = Weights::new();
    for name in good.names() {
        let mut array: ArrayD<f32> = good.get(name).expect("there");
        if name == tensor {
            *array.iter_mut().last().expect("elements") = value;
        }
        spoiled.insert(name, array).expect("a name of its own");
    }
    // The dictionary of the Thai net.
    good.metadata("dic").into_iter().for_each(|text| spoiled.note("dic", text));
    spoiled
}

#[test]
fn weights_with_a_nan_or_an_infinity_are_refused_by_every_model() {
    type Build = fn(&Weights) -> gatewise::Result<()>;
    let models: [(&str, Build); 5] = [
        ("silero_vad_16k.safetensors", |weights| SileroVad::new(&Device::Cpu, weights).map(drop)),
        ("rnnoise.safetensors", |weights| RnNoise::new(&Device::Cpu, weights).map(drop)),
        ("g2p_en.safetensors", |weights| G2p::new(&Device::Cpu, weights).map(drop)),
        ("icu4x_thai.safetensors", |weights| ThaiSegmenter::new(&Device::Cpu, weights).map(drop)),
        ("uzmorph_bigru.safetensors", |weights| {
            let vocabulary = UzVocabulary::from_file(path("models/uzmorph_bigru.json")).expect("the vocabulary");
            UzMorph::new(&Device::Cpu, weights, vocabulary).map(drop)
        }),
    ];
    for (file, build) in models {
        let names: Vec<String> = weights(file).names().map(str::to_owned).collect();
        build(&spoiled(file, "", 0.0)).expect("as they were");
        for name in &names {
            for value in [f32::NAN, f32::NEG_INFINITY] {
                let error = build(&spoiled(file, name, value)).expect_err(name).to_string();
                let (nan, infinite) = if value.is_nan() { (1, 0) } else { (0, 1) };
                let words = format!("{name}: expected finite weights, found {nan} NaN, {infinite} infinite, first at ");
                assert!(error.contains(&words), "{file}: {error}");
            }
        }
    }
}
