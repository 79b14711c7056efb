//! The CPU path against the reference: every cell, option, weight type and instruction set, at the sizes at which registers,
//! tiles and threads' shares end.

#[path = "cpu/skipped.rs"]
mod skipped;

use gatewise::cell::{Activation, Cell, Forget, GruCell, LstmCell, Mix, Pad, Reset, RnnCell, Sequence, WeightType};
use gatewise::cpu::{CpuOptions, Instructions};
use gatewise::nn::{Config, Merge, State};
use gatewise::{Device, Tensor};
use ndarray::{Array2, Array3, ArrayD, Axis, IxDyn, s};

/// A bound on the error of short sequences: sums of at most a few hundred products of about 1/sqrt(hidden).
const TOLERANCE: f64 = 2e-6;

fn sets() -> Vec<Instructions> {
    Instructions::ALL.into_iter().filter(|set| set.available()).collect()
}

fn cpu(threads: usize, instructions: Instructions) -> Device {
    Device::cpu_with(&CpuOptions { threads: Some(threads), instructions: Some(instructions) }).expect("available")
}

/// One cell per kind and option.
fn cells() -> Vec<Cell> {
    let lstm = LstmCell::default();
    let gru = GruCell::default();
    let mut cells: Vec<Cell> = vec![
        RnnCell::default().into(),
        RnnCell { bias: false, gate_clip: Some(0.4), ..RnnCell::LECTURE }.into(),
        lstm.into(),
        LstmCell::LECTURE.into(),
        LstmCell { bias: false, ..lstm }.into(),
        LstmCell { forget: Forget::Never, ..lstm }.into(),
        LstmCell { forget: Forget::Coupled, peephole: true, ..lstm }.into(),
        LstmCell { peephole: true, gate_clip: Some(0.5), cell_clip: Some(0.3), ..lstm }.into(),
        gru.into(),
        GruCell::LECTURE.into(),
        GruCell { reset: Reset::Before, ..gru }.into(),
        GruCell { mix: Mix::TakesNew, bias: false, gate_clip: Some(0.7), ..gru }.into(),
    ];
    cells.extend(Activation::ALL.map(|activation| Cell::from(RnnCell { activation, ..RnnCell::default() })));
    let rare = Activation::Elu { alpha: 0.7 };
    cells.push(
        LstmCell { gate: Activation::HARD_SIGMOID_ONNX, candidate: rare, output: Activation::Softsign, ..lstm }.into(),
    );
    cells.push(GruCell { gate: Activation::HARD_SIGMOID_KERAS3, candidate: rare, ..gru }.into());
    cells
}

fn projected(width: usize) -> Cell {
    LstmCell { projection: Some(width), peephole: true, ..LstmCell::default() }.into()
}

/// Numbers in -1..1 that depend only on the seed.
fn noise(seed: u64, shape: (usize, usize, usize)) -> Array3<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    Array3::from_shape_simple_fn(shape, || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1 << 23) as f32 - 1.0
    })
}

/// Output and final state of a call from a given state.
fn run(config: &Config, device: &Device, x: &Array3<f32>, sequence: &Sequence) -> Vec<Array3<f32>> {
    let stack = config.random(device, 42).expect("builds");
    let batch = x.dim().1;
    let zero = stack.zero_state(batch).expect("state");
    let like = |seed, array: &Array3<f32>| noise(seed, array.dim());
    let h = like(5, &zero.to_h().expect("h"));
    let s = zero.to_s().expect("s").map(|s| like(6, &s));
    let mut state = stack.initial_state(h.view(), s.as_ref().map(|s| s.view())).expect("state");
    let x = Tensor::from_array(device, x).expect("input");
    let y = stack.forward_sequence(&x, &mut state, sequence).expect("runs").to_array().expect("read");
    results(y, &state)
}

fn results(y: Array3<f32>, state: &State) -> Vec<Array3<f32>> {
    [Some(y), Some(state.to_h().expect("h")), state.to_s().expect("s")].into_iter().flatten().collect()
}

/// The largest difference; NaN unless both are finite.
fn distance(a: &[Array3<f32>], b: &[Array3<f32>]) -> f64 {
    assert_eq!(a.len(), b.len());
    let mut worst = 0.0_f64;
    for (a, b) in a.iter().zip(b) {
        assert_eq!(a.shape(), b.shape());
        for (&a, &b) in a.iter().zip(b) {
            let difference = (f64::from(a) - f64::from(b)).abs();
            worst = if difference.is_nan() { f64::NAN } else { worst.max(difference) };
        }
    }
    worst
}

fn bits(results: &[Array3<f32>]) -> Vec<u32> {
    results.iter().flatten().map(|x| x.to_bits()).collect()
}

#[track_caller]
fn check(config: &Config, device: &Device, x: &Array3<f32>, sequence: &Sequence, tolerance: f64) {
    let expected = run(config, &Device::Reference, x, sequence);
    let error = distance(&run(config, device, x, sequence), &expected);
    assert!(error <= tolerance, "{config:?} on {device:?}, x {:?}: error {error:e}", x.dim());
}

#[test]
fn every_cell_agrees_with_the_reference_at_every_width() {
    for set in sets() {
        let device = cpu(1, set);
        for hidden in [1, 3, 7, 8, 9, 15, 16, 17, 31, 32, 33, 100] {
            let mut cells = cells();
            if hidden > 1 {
                cells.push(projected(hidden / 2));
            }
            for cell in cells {
                check(&Config::new(cell, 5, hidden), &device, &noise(1, (3, 3, 5)), &Sequence::new(), TOLERANCE);
            }
        }
    }
}

#[test]
fn every_batch_and_length_agrees_with_the_reference() {
    for set in sets() {
        let device = cpu(1, set);
        for cell in [
            RnnCell::default().into(),
            LstmCell::default().into(),
            GruCell::default().into(),
            GruCell::LECTURE.into(),
            projected(9),
        ] {
            for batch in [1, 2, 3, 5, 6, 7, 8, 9, 13, 50, 100] {
                for time in [0, 1, 3] {
                    let config = Config::new(cell, 7, 19);
                    check(&config, &device, &noise(2, (time, batch, 7)), &Sequence::new(), TOLERANCE);
                }
            }
            // Several chunks of the input projection.
            check(&Config::new(cell, 7, 19), &device, &noise(2, (300, 2, 7)), &Sequence::new(), 2.0 * TOLERANCE);
        }
    }
}

#[test]
fn layers_and_directions_agree_with_the_reference() {
    for threads in [1, 2, 3] {
        let device = cpu(threads, Instructions::detect());
        for cell in [LstmCell::default().into(), GruCell::LECTURE.into(), RnnCell::default().into(), projected(40)] {
            let config = Config::new(cell, 30, 65).layers(3);
            for config in [
                config.clone().reverse(),
                config.clone().bidirectional(Merge::Concat),
                config.clone().bidirectional(Merge::Sum),
                config.clone().bidirectional(Merge::Mul),
                config.bidirectional(Merge::Ave),
            ] {
                check(&config, &device, &noise(3, (11, 4, 30)), &Sequence::new(), 2.0 * TOLERANCE);
            }
        }
    }
}

#[test]
fn a_reverse_cell_of_its_own_is_used() {
    let lstm = LstmCell::default();
    let own = Config::<Cell>::new(lstm.into(), 4, 6)
        .bidirectional(Merge::Concat)
        .reverse_cell(LstmCell { candidate: Activation::Relu, ..lstm }.into());
    let x = noise(4, (5, 2, 4));
    check(&own, &Device::Cpu, &x, &Sequence::new(), TOLERANCE);
    let same = Config::<Cell>::new(lstm.into(), 4, 6).bidirectional(Merge::Concat);
    assert!(
        distance(&run(&own, &Device::Cpu, &x, &Sequence::new()), &run(&same, &Device::Cpu, &x, &Sequence::new()))
            > 1e-3
    );
}

#[test]
fn lengths_masks_resets_and_padding_agree_with_the_reference() {
    let (time, batch) = (9, 5);
    let some = |seed, share: f32| noise(seed, (1, time, batch)).index_axis(Axis(0), 0).mapv(|x| x < 2.0 * share - 1.0);
    let (mask, reset): (Array2<bool>, Array2<bool>) = (some(7, 0.6), some(8, 0.3));
    let mut starts_with_reset = reset.clone();
    starts_with_reset.row_mut(0).fill(true);
    starts_with_reset.row_mut(time - 1).fill(true);
    for pad in [Pad::Zero, Pad::Hold] {
        let sequences = [
            Sequence::new().lengths([9, 5, 0, 1, 8]).pad(pad),
            Sequence::new().mask(mask.clone()).pad(pad),
            Sequence::new().reset(reset.clone()).pad(pad),
            Sequence::new().lengths([9, 5, 0, 1, 8]).mask(mask.clone()).reset(starts_with_reset.clone()).pad(pad),
        ];
        for sequence in sequences {
            for cell in [
                RnnCell::default().into(),
                LstmCell::default().into(),
                GruCell::default().into(),
                GruCell::LECTURE.into(),
                projected(7),
            ] {
                let config = Config::new(cell, 6, 18).layers(2).bidirectional(Merge::Concat);
                check(&config, &Device::Cpu, &noise(9, (time, batch, 6)), &sequence, TOLERANCE);
            }
        }
    }
}

#[test]
fn narrow_weights_agree_with_the_reference_of_the_same_weights() {
    for set in sets() {
        let device = cpu(1, set);
        for (kind, tolerance) in [(WeightType::F16, TOLERANCE), (WeightType::Bf16, TOLERANCE), (WeightType::Int8, 3e-4)]
        {
            for cell in [
                RnnCell::default().into(),
                LstmCell::default().into(),
                GruCell::default().into(),
                GruCell::LECTURE.into(),
                projected(5),
            ] {
                for hidden in [7, 16, 33, 100] {
                    for (time, batch) in [(0, 2), (1, 1), (3, 2), (12, 5)] {
                        let config = Config::new(cell, 9, hidden).weight_type(kind);
                        check(&config, &device, &noise(10, (time, batch, 9)), &Sequence::new(), tolerance);
                    }
                }
            }
            let config = Config::<Cell>::new(LstmCell::default().into(), 9, 20);
            let x = noise(10, (3, 2, 9));
            let wide = run(&config, &device, &x, &Sequence::new());
            let narrow = run(&config.weight_type(kind), &device, &x, &Sequence::new());
            assert!(distance(&wide, &narrow) > TOLERANCE, "{kind} computed with f32 weights");
        }
    }
}

/// All products of a column have one sign, so that their sum is as large as it gets: it must not leave 32 bits.
#[test]
fn sums_of_8_bit_products_fit_at_any_depth() {
    for set in sets() {
        for hidden in [507, 509, 1100] {
            let config = Config::<Cell>::new(RnnCell::default().into(), 3, hidden).weight_type(WeightType::Int8);
            let parameters =
                config.collect(|_, _, spec| Ok(ArrayD::from_elem(IxDyn(&spec.shape), 0.8 / hidden as f32)));
            let parameters = parameters.expect("parameters");
            let [expected, found] = [Device::Reference, cpu(1, set)].map(|device| {
                let stack = config.build(&device, parameters.clone()).expect("builds");
                let h = Array3::from_shape_fn((1, 2, hidden), |(_, row, _)| if row == 0 { 0.99 } else { -0.7 });
                let mut state = stack.initial_state(h.view(), None).expect("state");
                let x = Tensor::from_array(&device, &noise(12, (3, 2, 3))).expect("input");
                let y = stack.forward(&x, &mut state).expect("runs").to_array().expect("read");
                results(y, &state)
            });
            let error = distance(&expected, &found);
            assert!(error < 3e-4, "{set}, {hidden} units: error {error:e}");
        }
    }
}

#[test]
fn any_number_of_threads_gives_the_same_bits() {
    for set in sets() {
        for kind in WeightType::ALL {
            for cell in [
                RnnCell::default().into(),
                LstmCell::default().into(),
                GruCell::default().into(),
                GruCell::LECTURE.into(),
                projected(90),
            ] {
                let config = Config::new(cell, 40, 150).layers(2).bidirectional(Merge::Concat).weight_type(kind);
                let x = noise(11, (5, 7, 40));
                let one = bits(&run(&config, &cpu(1, set), &x, &Sequence::new()));
                for threads in [1, 2, 5] {
                    let again = bits(&run(&config, &cpu(threads, set), &x, &Sequence::new()));
                    assert!(one == again, "{set}, {kind}, {cell:?}: {threads} threads change the result");
                }
            }
        }
    }
}

#[test]
fn rows_and_pieces_of_a_call_do_not_change_its_bits() {
    for kind in WeightType::ALL {
        for cell in [Cell::from(LstmCell::default()), GruCell::LECTURE.into()] {
            let stack = Config::new(cell, 20, 40).weight_type(kind).random(&Device::Cpu, 3).expect("builds");
            let x = noise(12, (30, 7, 20));
            let forward = |x: &Array3<f32>, state: &mut State| -> Array3<f32> {
                let x = Tensor::from_array(&Device::Cpu, x).expect("input");
                stack.forward(&x, state).expect("runs").to_array().expect("read")
            };
            let whole = forward(&x, &mut stack.zero_state(7).expect("state"));
            let mut state = stack.zero_state(7).expect("state");
            for t in 0..30 {
                let step = forward(&x.slice(s![t..t + 1, .., ..]).to_owned(), &mut state);
                assert_eq!(step, whole.slice(s![t..t + 1, .., ..]), "{kind}, step {t}");
            }
            for row in 0..7 {
                let single =
                    forward(&x.slice(s![.., row..row + 1, ..]).to_owned(), &mut stack.zero_state(1).expect("state"));
                assert_eq!(single, whole.slice(s![.., row..row + 1, ..]), "{kind}, row {row}");
            }
        }
    }
}

#[test]
fn special_numbers_stay_in_their_row() {
    let specials = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 1e-42, 1e30];
    for set in sets() {
        let device = cpu(1, set);
        for kind in WeightType::ALL {
            for cell in cells().into_iter().chain([projected(6)]) {
                let mut x = noise(13, (3, 7, 5));
                for (row, special) in specials.into_iter().enumerate() {
                    x[[1, row + 1, 2]] = special;
                }
                let config = Config::new(cell, 5, 13).weight_type(kind);
                let (got, expected) = (
                    run(&config, &device, &x, &Sequence::new()),
                    run(&config, &Device::Reference, &x, &Sequence::new()),
                );
                // In another order of summation, infinities may cancel to NaN. So only the row with a NaN and the rows of ordinary
                // numbers are compared.
                for (got, expected) in got.iter().zip(&expected) {
                    for ((_, row, _), &y) in got.indexed_iter() {
                        assert!(!y.is_nan() || matches!(row, 1..=3 | 5), "{set} {kind} {cell:?}: a NaN in row {row}");
                    }
                    for row in [0, 4, 6] {
                        let axis = Axis(1);
                        let (got, expected) = (got.index_axis(axis, row), expected.index_axis(axis, row));
                        let error = got.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
                        assert!(error < 5e-4, "{set} {kind} {cell:?}: row {row} off by {error:e}");
                    }
                }
                assert!(got[0].slice(s![1.., 1, ..]).iter().all(|y| y.is_nan()));
            }
        }
    }
}

#[test]
fn forward_into_gives_what_forward_gives_in_any_layout() {
    let stack = Config::<Cell>::new(LstmCell::default().into(), 6, 10).random(&Device::Cpu, 3).expect("builds");
    let x = noise(14, (4, 3, 6));
    let mut state = stack.zero_state(3).expect("state");
    let expected: Array3<f32> = stack
        .forward(&Tensor::from_array(&Device::Cpu, &x).expect("input"), &mut state)
        .expect("runs")
        .to_array()
        .expect("read");
    let mut y = Array3::zeros((4, 3, 10));
    let mut again = stack.zero_state(3).expect("state");
    stack.forward_into(x.view(), &mut again, y.view_mut()).expect("runs");
    assert_eq!(y, expected);
    assert_eq!(state.to_h().expect("h"), again.to_h().expect("h"));

    let batch_first = x.clone().permuted_axes([1, 0, 2]).as_standard_layout().into_owned();
    let mut y = Array3::zeros((3, 4, 10));
    again.reset().expect("resets");
    let view = y.view_mut().permuted_axes([1, 0, 2]);
    stack.forward_into(batch_first.view().permuted_axes([1, 0, 2]), &mut again, view).expect("runs");
    assert_eq!(y.permuted_axes([1, 0, 2]), expected);
    assert_eq!(state.to_s().expect("s"), again.to_s().expect("s"));

    let before = again.to_h().expect("h");
    let mut narrow = Array3::zeros((4, 3, 9));
    assert!(stack.forward_into(x.view(), &mut again, narrow.view_mut()).is_err());
    assert!(
        stack
            .forward_into(x.view(), &mut stack.zero_state(2).expect("state"), Array3::zeros((4, 3, 10)).view_mut())
            .is_err()
    );
    assert_eq!(again.to_h().expect("h"), before);
}

#[test]
fn a_state_and_its_clone_are_independent() {
    let stack = Config::<Cell>::new(GruCell::default().into(), 3, 5).random(&Device::Cpu, 3).expect("builds");
    let x = Tensor::from_array(&Device::Cpu, &noise(15, (4, 2, 3))).expect("input");
    let mut state = stack.zero_state(2).expect("state");
    stack.forward(&x, &mut state).expect("runs");
    let (saved, kept) = (state.try_clone().expect("clone"), state.to_h().expect("h"));
    stack.forward(&x, &mut state).expect("runs");
    assert_eq!(saved.to_h().expect("h"), kept);
    assert_ne!(state.to_h().expect("h"), kept);
    state.reset().expect("resets");
    assert_eq!(state.to_h().expect("h"), Array3::<f32>::zeros((1, 2, 5)));
    assert_eq!(saved.to_h().expect("h"), kept);
}

#[test]
fn calls_from_many_threads_share_one_device() {
    let device = cpu(3, Instructions::detect());
    let stack = Config::<Cell>::new(LstmCell::default().into(), 64, 128).random(&device, 3).expect("builds");
    let x = noise(16, (20, 4, 64));
    let forward = || {
        let mut state = stack.zero_state(4).expect("state");
        let mut y = Array3::zeros((20, 4, 128));
        stack.forward_into(x.view(), &mut state, y.view_mut()).expect("runs");
        y
    };
    let expected = forward();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| (0..5).for_each(|_| assert_eq!(forward(), expected)));
        }
    });
}

#[test]
fn impossible_options_are_refused() {
    assert!(Device::cpu_with(&CpuOptions { threads: Some(0), ..Default::default() }).is_err());
    for set in Instructions::ALL {
        let device = Device::cpu_with(&CpuOptions { instructions: Some(set), ..Default::default() });
        assert_eq!(device.is_ok(), set.available(), "{set}");
    }
}
