//! The library's models against their own packages' outputs, on every device.
#![cfg(all(feature = "gpu", feature = "models"))]

#[path = "common/place.rs"]
mod place;
#[path = "common/real.rs"]
mod real;

use gatewise::models::{RnNoise, SileroVad};
use gatewise::weights::Weights;
use gatewise::{Device, Error};
use ndarray::{Array2, Array3, Axis, s};
use real::{Build, Case, altered, close, devices, not_finite_is_refused, weights};

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
                // Products of other sizes may round differently.
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

#[test]
fn weights_that_do_not_fit_are_refused_by_file_and_tensor() {
    let refusal = |without: &str, activation: &str| {
        let weights = altered("rnnoise.safetensors", without, &[("vad_gru.activation", activation)]);
        RnNoise::new(&Device::Cpu, &weights).expect_err("weights that do not fit").to_string()
    };
    for (error, words) in [
        (refusal("noise_gru.kernel", "relu"), ["rnnoise.safetensors", "noise_gru.kernel"]),
        (refusal("", "tanh"), ["rnnoise.safetensors", "metadata vad_gru.activation: expected relu, found tanh"]),
    ] {
        assert!(words.iter().all(|word| error.contains(word)), "{words:?} in {error}");
    }
}

#[test]
fn weights_with_a_nan_or_an_infinity_are_refused_by_every_model() {
    let models: [(&str, Build); 2] = [
        ("silero_vad_16k.safetensors", |weights| SileroVad::new(&Device::Cpu, weights).map(drop)),
        ("rnnoise.safetensors", |weights| RnNoise::new(&Device::Cpu, weights).map(drop)),
    ];
    not_finite_is_refused(&models);
}

#[test]
fn the_detectors_own_weights_are_those_of_the_file() {
    let file = std::fs::read(place::root().join("models/silero_vad_16k.safetensors")).expect("weights");
    assert!(SileroVad::WEIGHTS == file);
    SileroVad::new(&Device::Cpu, &Weights::from_bytes("bytes", SileroVad::WEIGHTS).expect("sound")).expect("the net");
}
