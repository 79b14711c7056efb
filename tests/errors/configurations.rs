//! Configurations that are refused.

use gatewise::cell::{Cell, Forget, GruCell, LstmCell, Parameters, Reset, RnnCell};
use gatewise::nn::{Config, Gru, Lstm, Merge, Rnn};
use gatewise::{Device, Error};
use ndarray::{Array1, Array2, ArrayD, IxDyn};

use crate::common::devices;
use crate::refused;

#[test]
fn sizes_without_a_unit_or_beyond_counting() {
    for device in devices() {
        for (config, message) in [
            (Lstm::config(0, 4), "input must be between 1 and 16777216, got 0"),
            (Lstm::config(3, 0), "hidden must be between 1 and 16777216, got 0"),
            (Lstm::config(3, 4).layers(0), "layers must be between 1 and 65536, got 0"),
            (Lstm::config(usize::MAX, 4), "input must be between 1 and 16777216, got 18446744073709551615"),
            (Lstm::config(3, usize::MAX / 2), "hidden must be between 1 and 16777216, got 9223372036854775807"),
            (Lstm::config(3, 4).layers(1 << 40), "layers must be between 1 and 65536, got 1099511627776"),
        ] {
            let message = format!("Recurrent: {message}");
            let error = refused(config.random(&device, 1), &message);
            assert!(matches!(error, Error::Value { op: "Recurrent", .. }));
            refused(config.build(&device, Vec::new()), &message);
            refused(config.collect(|_, _, spec| Ok(ArrayD::zeros(IxDyn(&spec.shape)))), &message);
        }
    }
}

#[test]
fn options_that_no_equation_covers() {
    let lstm = |change: fn(&mut LstmCell)| {
        let mut cell = LstmCell::default();
        change(&mut cell);
        Cell::from(cell)
    };
    for device in devices() {
        for (cell, message) in [
            (lstm(|c| c.gate_clip = Some(0.0)), "gate_clip must be a positive number, got 0"),
            (lstm(|c| c.cell_clip = Some(-1.0)), "cell_clip must be a positive number, got -1"),
            (
                RnnCell { gate_clip: Some(f32::NAN), ..Default::default() }.into(),
                "gate_clip must be a positive number, got NaN",
            ),
            (
                GruCell { gate_clip: Some(-0.5), ..Default::default() }.into(),
                "gate_clip must be a positive number, got -0.5",
            ),
            (lstm(|c| c.projection = Some(0)), "projection must be at least 1 and below the hidden size, got 0"),
            (lstm(|c| c.projection = Some(4)), "projection must be at least 1 and below the hidden size, got 4"),
        ] {
            let error = refused(Config::new(cell, 3, 4).random(&device, 1), &format!("cell: {message}"));
            assert!(matches!(error, Error::Value { op: "cell", .. }));
        }
    }
}

#[test]
fn a_reverse_cell_of_another_build() {
    let plain = LstmCell::default();
    let pairs: [(Cell, Cell); 5] = [
        (plain.into(), GruCell::default().into()),
        (plain.into(), LstmCell { forget: Forget::Coupled, ..plain }.into()),
        (plain.into(), LstmCell { peephole: true, ..plain }.into()),
        (plain.into(), LstmCell { bias: false, ..plain }.into()),
        (GruCell::default().into(), GruCell { reset: Reset::Before, ..Default::default() }.into()),
    ];
    for (cell, other) in pairs {
        let config = Config::new(cell, 3, 4).bidirectional(Merge::Concat).reverse_cell(other);
        let error = config.random(&Device::Cpu, 1).expect_err("other gates");
        let message = error.to_string();
        let expected = "Recurrent: reverse_cell must be a cell with the same gates and parameters, got [";
        assert!(message.starts_with(expected), "{message}");
        assert!(message.contains(&format!("{other:?}")), "{message}");
    }
}

/// The parameters of an LSTM with every option, in two layers of both directions.
fn parameters(config: &Config<LstmCell>) -> Vec<Vec<Parameters>> {
    config.collect(|_, _, spec| Ok(ArrayD::zeros(IxDyn(&spec.shape)))).expect("the shapes asked for")
}

#[test]
fn parameters_that_do_not_fit_the_cell() {
    let cell = LstmCell { peephole: true, projection: Some(2), ..Default::default() };
    let config = Config::new(cell, 3, 4).layers(2).bidirectional(Merge::Concat);
    let build = |change: fn(&mut Vec<Vec<Parameters>>)| {
        let mut parameters = parameters(&config);
        change(&mut parameters);
        config.build(&Device::Cpu, parameters)
    };
    build(|_| ()).expect("fits");
    for (change, message) in [
        ((|p| drop(p.pop())) as fn(&mut Vec<Vec<Parameters>>), "Recurrent: parameters must be [2], got [1]"),
        (|p| drop(p[1].pop()), "Recurrent: parameters of a layer must be [2], got [1]"),
        // The second layer reads both directions' projections.
        (|p| p[1][0].weight_ih = Array2::zeros((16, 3)), "parameters: weight_ih must be [16, 4], got [16, 3]"),
        (|p| p[0][1].weight_hh = Array2::zeros((16, 4)), "parameters: weight_hh must be [16, 2], got [16, 4]"),
        (|p| p[0][0].bias_ih = Some(Array1::zeros(4)), "parameters: bias_ih must be [16], got [4]"),
        (|p| p[0][0].bias_hh = None, "parameters: bias_hh must be [16], got []"),
        (|p| p[1][1].weight_hr = Some(Array2::zeros((4, 2))), "parameters: weight_hr must be [2, 4], got [4, 2]"),
        (|p| p[1][1].peephole = None, "parameters: peephole must be [3, 4], got []"),
    ] {
        let error = refused(build(change), message);
        assert!(matches!(error, Error::Shape { .. }));
    }
}

#[test]
fn parameters_that_the_cell_does_not_have() {
    let config = Gru::config(3, 4);
    let specs = |change: fn(&mut Parameters)| {
        let mut parameters =
            config.collect(|_, _, spec| Ok(ArrayD::zeros(IxDyn(&spec.shape)))).expect("the shapes asked for");
        change(&mut parameters[0][0]);
        config.build(&Device::Cpu, parameters)
    };
    refused(specs(|p| p.peephole = Some(Array2::zeros((3, 4)))), "parameters: peephole must be [], got [3, 4]");
    refused(specs(|p| p.weight_hr = Some(Array2::zeros((2, 4)))), "parameters: weight_hr must be [], got [2, 4]");
    let bare = Config::new(RnnCell { bias: false, ..Default::default() }, 3, 4);
    let mut parameters =
        Rnn::config(3, 4).collect(|_, _, spec| Ok(ArrayD::zeros(IxDyn(&spec.shape)))).expect("the shapes asked for");
    parameters[0][0].bias_hh = None;
    refused(bare.build(&Device::Cpu, parameters), "parameters: bias_ih must be [], got [4]");
}

#[test]
fn a_fetch_that_fails_or_returns_another_shape() {
    let config = Lstm::config(3, 4);
    refused(
        config.collect(|_, _, spec| Ok(ArrayD::zeros(IxDyn(&[spec.shape[0], 9])))),
        "parameters: weight_ih must be [16, 3], got [16, 9]",
    );
    let error = Error::NotFinite { op: "fetch", what: "weights", index: 3, found: f32::INFINITY };
    let mut errors = Some(error);
    let fetched = config.collect(|_, _, spec| match errors.take() {
        Some(error) => Err(error),
        None => Ok(ArrayD::zeros(IxDyn(&spec.shape))),
    });
    refused(fetched, "fetch: weights must be finite, found inf at 3");
}
