//! The models of the examples against their own packages' outputs, on every device.
#![cfg(feature = "gpu")]

#[path = "../../tests/common/place.rs"]
mod place;
#[path = "../../tests/common/real.rs"]
mod real;

use gatewise::Device;
use gatewise::weights::Weights;
use gatewise_demos::{G2p, ThaiSegmenter, UzMorph, UzVocabulary};
use ndarray::{Array2, s};
use place::root;
use real::{Build, Case, altered, close, devices, gpu, not_finite_is_refused, weights};

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
    let vocabulary = UzVocabulary::from_file(root().join("cli/demos/uzmorph_bigru.json")).expect("the vocabulary");
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

#[test]
fn weights_that_do_not_fit_are_refused_by_file_and_tensor() {
    let vocabulary = || UzVocabulary::from_file(root().join("cli/demos/uzmorph_bigru.json")).expect("the vocabulary");
    let thai = |dictionary: &str| {
        ThaiSegmenter::new(&Device::Cpu, &altered("icu4x_thai.safetensors", "", &[("dic", dictionary)])).map(|_| ())
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

#[test]
fn weights_with_a_nan_or_an_infinity_are_refused_by_every_model() {
    let models: [(&str, Build); 3] = [
        ("g2p_en.safetensors", |weights| G2p::new(&Device::Cpu, weights).map(drop)),
        ("icu4x_thai.safetensors", |weights| ThaiSegmenter::new(&Device::Cpu, weights).map(drop)),
        ("uzmorph_bigru.safetensors", |weights| {
            let vocabulary =
                UzVocabulary::from_file(root().join("cli/demos/uzmorph_bigru.json")).expect("the vocabulary");
            UzMorph::new(&Device::Cpu, weights, vocabulary).map(drop)
        }),
    ];
    not_finite_is_refused(&models);
}

#[test]
fn texts_side_by_side_are_one_submission() {
    let device = gpu();
    let Device::Gpu(counted) = &device else { panic!("a GPU") };
    let submits = |work: &dyn Fn()| {
        let before = counted.counters().submits;
        work();
        counted.counters().submits - before
    };
    let g2p = G2p::new(&device, &weights("g2p_en.safetensors")).expect("the net");
    assert_eq!(submits(&|| drop(g2p.phonemes(&["vulkan", "words"]).expect("runs"))), 1, "G2p");
    let thai = ThaiSegmenter::new(&device, &weights("icu4x_thai.safetensors")).expect("the net");
    assert_eq!(submits(&|| drop(thai.words("ภาษาไทย ภาษาไทย").expect("runs"))), 1, "ThaiSegmenter");
    let morph = uzmorph(&device);
    assert_eq!(submits(&|| drop(morph.analyze(&["kitobim", "maktabda"]).expect("runs"))), 1, "UzMorph");
}
