//! Sizes that no memory holds, or that overflow an integer.

use gatewise::cell::{Cell, LstmCell, Sequence};
use gatewise::nn::{Config, Lstm};
use gatewise::ops::{self, Conv1dGeometry, PadMode, Slice};
use gatewise::train::Parameters;
use gatewise::{Device, Error, Result, Tensor};

use crate::failing::{self, Fails, failing};

/// More than any test here needs. Without this limit a machine that promises more memory than it has would hide the fault.
const MOST: usize = 1 << 30;

#[track_caller]
fn refused<T>(name: &str, call: impl FnOnce() -> Result<T>) {
    match failing(Fails::Above(MOST), call).0 {
        Ok(_) => panic!("{name}: accepted"),
        Err(error) => {
            let clear = matches!(
                error,
                Error::OutOfMemory { .. } | Error::Limit { .. } | Error::Shape { .. } | Error::Value { .. }
            );
            assert!(clear && !error.to_string().contains('\n'), "{name}: {error}");
        }
    }
}

#[test]
fn sizes_beyond_memory() {
    let _alone = failing::alone();
    for device in [Device::Reference, Device::Cpu] {
        let d = &device;
        let zeros = |shape: &[usize]| Tensor::zeros(d, shape).expect("small");
        let (row, column) = (zeros(&[1, 1 << 15]), zeros(&[1 << 15, 1]));
        let (signal, filter, bias) = (zeros(&[1, 1, 8]), zeros(&[1, 1, 3]), zeros(&[1]));
        let far = Conv1dGeometry { stride: 1, padding: 1 << 40 };
        refused("zeros", || Tensor::zeros(d, &[1 << 42]));
        refused("weights", || Lstm::config(1 << 24, 1 << 24).random(d, 1));
        refused("layers", || Lstm::config(1, 1).layers(1 << 24).random(d, 1));
        refused("parameters", || Parameters::new(d, 1).uniform("x", &[1 << 40], 1.0));
        refused("pad1d", || ops::pad1d(&mut d.recorder(), &row, 1 << 41, 0, PadMode::Zero));
        refused("expand", || ops::expand(&mut d.recorder(), &row, &[1 << 41, 1 << 15]));
        refused("matmul", || ops::matmul(&mut d.recorder(), &column, &row, None));
        refused("conv1d", || ops::conv1d(&mut d.recorder(), &signal, &filter, &bias, far));
        let stack = Lstm::config(1, 64).random(d, 1).expect("small");
        refused("zero_state", || stack.zero_state(1 << 42));
        let (x, mut state) = (zeros(&[1 << 23, 1, 1]), stack.zero_state(1).expect("small"));
        refused("forward", || stack.forward(&x, &mut state));
        let stack = Lstm::config(1, 64);
        let parameters = stack.random_parameters(1).expect("small");
        let stack = stack.trainable(d, &parameters).expect("small");
        let mut state = stack.zero_state(1).expect("small");
        refused("forward_training", || stack.forward_training(&x, &mut state, &Sequence::new()));
    }
}

/// If one extent is 0, the others may be anything.
#[test]
fn sizes_that_no_word_counts() {
    let _alone = failing::alone();
    const WIDE: usize = 1 << 40;
    for device in [Device::Reference, Device::Cpu] {
        let d = &device;
        let empty = Tensor::zeros(d, &[WIDE, WIDE, 0]).expect("nothing");
        assert_eq!((empty.len(), empty.is_empty()), (0, true));
        let mut recorder = d.recorder();
        assert_eq!(ops::permute(&mut recorder, &empty, &[2, 0, 1]).expect("nothing").shape(), [0, WIDE, WIDE]);
        let slice = Slice { axis: 0, start: 1, step: 1, count: 7 };
        assert_eq!(ops::slice(&mut recorder, &empty, slice).expect("nothing").shape(), [7, WIDE, 0]);
        assert_eq!(ops::softmax(&mut recorder, &empty).expect("nothing").shape(), empty.shape());
        refused("pad1d", || ops::pad1d(&mut d.recorder(), &empty, 1, 1, PadMode::Zero));
        let most = Tensor::zeros(d, &[usize::MAX, 0]).expect("nothing");
        refused("concat", || ops::concat(&mut d.recorder(), &[&most, &most], 0));
        let (a, b) = (Tensor::zeros(d, &[WIDE, 0]).expect("nothing"), Tensor::zeros(d, &[0, WIDE]).expect("nothing"));
        refused("matmul", || ops::matmul(&mut d.recorder(), &a, &b, None));
    }
    let config = Config::<Cell>::new(LstmCell::default().into(), 1, 1).layers(usize::MAX);
    refused("layers", || config.random_parameters(1));
}
