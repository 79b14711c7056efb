//! A state has two values: where it stands, and what a reset returns to. Saved, restored, set, picked and joined, a run is the
//! unbroken run.

use crate::common::case::{self, Arrays, Case, Directions, Instructions};
use crate::common::{bits, devices, gpu_with, refusal};
use gatewise::cell::{Cell, Forget, GruCell, LstmCell, Pad, Reset, RnnCell, Sequence, WeightType};
use gatewise::nn::{Gru, Lstm, Merge, Recurrent, SavedState, State};
use gatewise::plan::PlanKind;
use gatewise::{Device, Error, Result, Tensor};
use ndarray::{Array2, Array3, ArrayView3, Axis, s};

const TIME: usize = 4;
const BATCH: usize = 3;

/// Stacks of every kind of cell, of one and two layers, in every direction, from zeros and from a given value. A GPU takes two of
/// each cell, which together are of every kind: a software adapter spends its time compiling them.
fn cases(device: &Device) -> Vec<Case> {
    let cells: [Cell; 6] = [
        RnnCell::default().into(),
        LstmCell::default().into(),
        LstmCell { forget: Forget::Coupled, peephole: true, ..LstmCell::LECTURE }.into(),
        LstmCell { projection: Some(3), ..Default::default() }.into(),
        GruCell::default().into(),
        GruCell { reset: Reset::Before, ..Default::default() }.into(),
    ];
    let directions = [
        (Directions::Forward, 2, true),
        (Directions::Reverse, 1, true),
        (Directions::Both(Merge::Concat), 2, true),
        (Directions::Forward, 1, false),
        (Directions::Both(Merge::Sum), 2, false),
    ];
    let on_gpu = matches!(device, Device::Gpu(_));
    let taken = |cell: usize, at: usize| !on_gpu || at == cell % 5 || at == (cell + 3) % 5;
    let of_cell = |(index, cell): (usize, Cell)| {
        let taken = directions.into_iter().enumerate().filter(move |(at, _)| taken(index, *at));
        taken.map(move |(_, directions)| of(cell, directions)).collect::<Vec<_>>()
    };
    cells.into_iter().enumerate().flat_map(of_cell).collect()
}

fn of(cell: Cell, (directions, layers, given_state): (Directions, usize, bool)) -> Case {
    let instructions = Instructions { lengths: None, masked: None, reset: None, pad: Pad::Zero };
    Case {
        cell,
        reverse_cell: None,
        input: 3,
        hidden: 5,
        layers,
        directions,
        time: TIME,
        batch: BATCH,
        instructions,
        weight_type: WeightType::F32,
        given_state,
        seed: 91,
    }
}

/// Resets row 0 before the first step, and row 2 inside.
fn resets() -> Sequence {
    Sequence::new().reset(Array2::from_shape_fn((TIME, BATCH), |at| at == (0, 0) || at == (2, 2)))
}

/// Calls with and without resets and a reset between them; `between` changes the state before each. Returns every bit of all
/// outputs and of both values at the end.
fn run(stack: &Recurrent, arrays: &Arrays<f32>, mut state: State, between: impl Fn(usize, State) -> State) -> Vec<u32> {
    let mut all = Vec::new();
    let masked = || Sequence::new().lengths([TIME, 0, 2]);
    let calls = [Some(Sequence::new()), Some(resets()), Some(masked()), None, Some(Sequence::new()), Some(resets())];
    for (at, sequence) in calls.into_iter().enumerate() {
        state = between(at, state);
        match sequence {
            Some(sequence) => all.extend(bits(&case::forward(stack, &arrays.x, &mut state, &sequence))),
            None => state.reset().expect("resets"),
        }
    }
    all.extend(bits_of(&state.save().expect("saved")));
    all
}

fn bits_of(saved: &SavedState) -> Vec<u32> {
    let SavedState { h, s, initial_h, initial_s } = saved;
    [Some(h), s.as_ref(), Some(initial_h), initial_s.as_ref()].into_iter().flatten().flat_map(bits).collect()
}

fn views<'a>((h, s): &'a (Array3<f32>, Option<Array3<f32>>)) -> (ArrayView3<'a, f32>, Option<ArrayView3<'a, f32>>) {
    (h.view(), s.as_ref().map(|s| s.view()))
}

/// The two values of a state on the host: where it stands, and what a reset returns to.
fn values(state: &State) -> [(Array3<f32>, Option<Array3<f32>>); 2] {
    let SavedState { h, s, initial_h, initial_s } = state.save().expect("saved");
    [(h, s), (initial_h, initial_s)]
}

/// A value for a state of another one's shapes.
fn value(state: &State, seed: f32) -> (Array3<f32>, Option<Array3<f32>>) {
    let wave = |of: Array3<f32>| {
        Array3::from_shape_fn(of.dim(), |(l, b, u)| (seed + l as f32 + 3.0 * b as f32 + 7.0 * u as f32).sin())
    };
    (wave(state.to_h().expect("h")), state.to_s().expect("s").map(wave))
}

/// Saves and restores a state.
fn restored(stack: &Recurrent, state: &State) -> State {
    stack.restore(&state.save().expect("saved")).expect("restored")
}

/// Takes a state apart into rows and joins them again.
fn rejoined(state: &State) -> State {
    let part = |rows: &[usize]| state.rows(rows).expect("rows");
    State::join(&[&part(&[2]), &part(&[0, 1])]).expect("one state").rows(&[1, 2, 0]).expect("in their order")
}

/// Sets another state to both values.
fn set(stack: &Recurrent, state: &State) -> State {
    let [now, initial] = values(state);
    let mut other = stack.zero_state(BATCH).expect("zeros");
    let (h, s) = views(&now);
    other.set(h, s).expect("fits");
    let (h, s) = views(&initial);
    other.set_initial(h, s).expect("fits");
    other
}

#[test]
fn saving_restoring_and_resetting_in_any_order_equals_the_unbroken_run() {
    for device in devices() {
        // Which of the three comes before which call.
        let orders = if matches!(device, Device::Gpu(_)) { 0..1 } else { 0..3 };
        for case in cases(&device) {
            let arrays = case.arrays();
            let stack = case.stack(&device, &arrays);
            let begin = || case.state(&stack, &arrays);
            let unbroken = run(&stack, &arrays, begin(), |_, state| state);
            for order in orders.clone() {
                let broken = run(&stack, &arrays, begin(), |at, state| match (at + order) % 3 {
                    0 => restored(&stack, &state),
                    1 => rejoined(&state),
                    _ => set(&stack, &state),
                });
                assert_eq!(broken, unbroken, "{device}, order {order}: {case:#?}");
            }
        }
    }
}

/// Every kind of schedule keeps the initial value in a place of its own.
#[test]
fn every_plan_goes_on_from_a_restored_state() {
    let device = devices().pop().expect("the GPU");
    let one = (Directions::Forward, 2, true);
    for cell in [Cell::from(LstmCell::default()), GruCell::default().into(), RnnCell::default().into()] {
        for kind in [PlanKind::Step, PlanKind::Wave, PlanKind::Scan] {
            assert!(refusal(kind, &cell, 1).is_none());
            let case = of(cell, one);
            let arrays = case.arrays();
            let stack = case.config().plan(kind).build(&device, arrays.parameters.clone()).expect("a stack");
            let unbroken = run(&stack, &arrays, case.state(&stack, &arrays), |_, state| state);
            let broken = run(&stack, &arrays, case.state(&stack, &arrays), |_, state| restored(&stack, &state));
            assert_eq!(broken, unbroken, "{kind:?} {cell:?}");
        }
    }
}

/// A user keeps only the value that was read back of a run from zeros.
#[test]
fn a_value_of_a_run_from_zeros_goes_on_and_resets_as_the_run() {
    for device in devices() {
        for case in cases(&device).into_iter().filter(|case| !case.given_state) {
            let arrays = case.arrays();
            let stack = case.stack(&device, &arrays);
            let mut state = stack.zero_state(BATCH).expect("zeros");
            case::forward(&stack, &arrays.x, &mut state, &Sequence::new());
            let [now, _] = values(&state);
            let (h, s) = views(&now);
            let mut again = stack.state(h, s).expect("fits");
            let of = |state: &mut State| bits(&case::forward(&stack, &arrays.x, state, &resets()));
            assert_eq!(of(&mut again), of(&mut state), "{device}: {case:#?}");
        }
    }
}

/// The table of [`State`].
#[test]
fn what_a_state_stands_at_and_what_a_reset_returns_to_are_chosen_apart() {
    for device in devices() {
        for cell in [Cell::from(LstmCell::default()), GruCell::default().into()] {
            let case = of(cell, (Directions::Both(Merge::Concat), 2, true));
            let stack = case.stack(&device, &case.arrays());
            let zero = stack.zero_state(BATCH).expect("zeros");
            let zeros = values(&zero)[0].clone();
            let (a, b) = (value(&zero, 1.0), value(&zero, 2.0));
            let of = |value| views(value);
            assert_eq!(values(&zero), [zeros.clone(), zeros.clone()]);

            let mut standing = stack.state(of(&a).0, of(&a).1).expect("fits");
            assert_eq!(values(&standing), [a.clone(), zeros.clone()], "{device}");
            standing.set_initial(of(&b).0, of(&b).1).expect("fits");
            assert_eq!(values(&standing), [a.clone(), b.clone()], "{device}");
            assert_eq!(values(&standing.try_clone().expect("a copy")), [a.clone(), b.clone()], "{device}");
            standing.reset().expect("resets");
            assert_eq!(values(&standing), [b.clone(), b.clone()], "{device}");

            let mut beginning = stack.initial_state(of(&a).0, of(&a).1).expect("fits");
            assert_eq!(values(&beginning), [a.clone(), a.clone()], "{device}");
            beginning.set(of(&b).0, of(&b).1).expect("fits");
            assert_eq!(values(&beginning), [b.clone(), a.clone()], "{device}");
            beginning.set_initial(of(&zeros).0, of(&zeros).1).expect("fits");
            beginning.reset().expect("resets");
            assert_eq!(values(&beginning), [zeros.clone(), zeros.clone()], "{device}");

            let mut recorder = device.recorder();
            let tensor = |array: &Array3<f32>| Tensor::from_array(&device, array).expect("a tensor");
            let (h, s) = (tensor(&a.0), a.1.as_ref().map(tensor));
            let recorded = [
                stack.record_state(&mut recorder, &h, s.as_ref()).expect("fits"),
                stack.record_initial_state(&mut recorder, &h, s.as_ref()).expect("fits"),
            ];
            recorder.submit().expect("runs");
            assert_eq!(values(&recorded[0]), [a.clone(), zeros], "{device}");
            assert_eq!(values(&recorded[1]), [a.clone(), a], "{device}");
        }
    }
}

#[test]
fn rows_of_several_states_become_one() {
    for device in devices() {
        for cell in [Cell::from(LstmCell { projection: Some(3), ..Default::default() }), GruCell::default().into()] {
            let case = of(cell, (Directions::Both(Merge::Concat), 2, true));
            let arrays = case.arrays();
            let stack = case.stack(&device, &arrays);
            let (mut begun, mut zero) = (case.state(&stack, &arrays), stack.zero_state(BATCH).expect("zeros"));
            for state in [&mut begun, &mut zero] {
                case::forward(&stack, &arrays.x, state, &Sequence::new());
            }
            // Of either state some rows, one of them twice.
            let mut mixed = State::join(&[
                &begun.rows(&[2, 0, 2]).expect("rows"),
                &begun.rows(&[]).expect("none"),
                &zero.rows(&[1]).expect("a row"),
            ])
            .expect("one state");
            let places = [(&begun, 2), (&begun, 0), (&begun, 2), (&zero, 1)];
            for (at, (state, row)) in places.into_iter().enumerate() {
                for (found, expected) in values(&mixed).iter().zip(&values(state)) {
                    let of = |array: &Array3<f32>, row| bits(&array.index_axis(Axis(1), row));
                    assert_eq!(of(&found.0, at), of(&expected.0, row), "{device}, row {at}");
                    assert_eq!(found.1.as_ref().map(|s| of(s, at)), expected.1.as_ref().map(|s| of(s, row)));
                }
            }
            // The rows go on and reset as in the states that they come from.
            let x = arrays.x.select(Axis(1), &[2, 0, 2, 1]);
            let all = Sequence::new().reset(Array2::from_shape_fn((TIME, 4), |(t, _)| t == 2));
            let y = case::forward(&stack, &x, &mut mixed, &all);
            let all = Sequence::new().reset(Array2::from_shape_fn((TIME, BATCH), |(t, _)| t == 2));
            let own = [&mut begun, &mut zero].map(|state| case::forward(&stack, &arrays.x, state, &all));
            for (at, (from, row)) in [(0, 2), (0, 0), (0, 2), (1, 1)].into_iter().enumerate() {
                let (found, expected) = (y.slice(s![.., at, ..]), own[from].slice(s![.., row, ..]));
                let far = (&found - &expected).iter().fold(0.0_f32, |most, x| most.max(x.abs()));
                assert!(far < 1e-5, "{device}, row {at}: {far} apart");
            }
        }
    }
}

#[track_caller]
fn refused<T>(result: Result<T>, message: &str) {
    match result {
        Err(error) => assert_eq!(error.to_string(), message),
        Ok(_) => panic!("accepted: {message}"),
    }
}

#[test]
fn a_value_that_does_not_fit_is_refused_and_changes_nothing() {
    for device in devices() {
        let lstm = Lstm::config(3, 4).layers(2).random(&device, 5).expect("a stack");
        let gru = Gru::config(3, 4).layers(2).random(&device, 5).expect("a stack");
        let good = Array3::from_elem((2, 3, 4), 0.5);
        let mut state = lstm.initial_state(good.view(), Some(good.view())).expect("fits");
        lstm.forward(&Tensor::zeros(&device, &[2, 3, 3]).expect("x"), &mut state).expect("runs");
        let before = bits_of(&state.save().expect("saved"));
        let narrow = Array3::zeros((2, 2, 4));
        refused(state.set(narrow.view(), Some(good.view())), "state: h must be [2, 3, 4], got [2, 2, 4]");
        refused(state.set(good.view(), None), "state: s must be [2, 3, 4], got []");
        refused(state.set_initial(good.view(), Some(narrow.view())), "state: s must be [2, 3, 4], got [2, 2, 4]");
        refused(lstm.initial_state(good.view(), None), "state: s must be [2, 3, 4], got []");
        let saved = state.save().expect("saved");
        refused(gru.restore(&saved), "state: s must be [], got [2, 3, 4]");
        refused(
            lstm.restore(&SavedState { initial_h: narrow.clone(), ..saved.clone() }),
            "state: h must be [2, 3, 4], got [2, 2, 4]",
        );
        refused(lstm.restore(&SavedState { s: None, ..saved }), "state: s must be [2, 3, 4], got []");
        refused(state.rows(&[1, 3]), "State: rows must be below the state's rows, got 3 of a state of 3 rows");
        refused(State::join(&[]), "State: states must be at least one, got none");
        let other = gru.zero_state(1).expect("a state");
        refused(State::join(&[&state, &other]), "State: the state's s must be [2, 1, 4], got []");
        let deeper = Lstm::config(3, 4).layers(3).random(&device, 5).expect("a stack").zero_state(1).expect("a state");
        refused(State::join(&[&state, &deeper]), "State: the state's h must be [2, 1, 4], got [3, 1, 4]");
        let elsewhere = if matches!(device, Device::Reference) { Device::Cpu } else { Device::Reference };
        let elsewhere = lstm_on(&elsewhere).zero_state(1).expect("a state");
        let mixed = State::join(&[&state, &elsewhere]);
        assert!(matches!(mixed, Err(Error::DeviceMismatch { .. })), "{mixed:?}");
        assert_eq!(bits_of(&state.save().expect("saved")), before, "{device}");
    }
}

fn lstm_on(device: &Device) -> Lstm {
    Lstm::config(3, 4).layers(2).random(device, 5).expect("a stack")
}

/// The way back after a loss: a device opened anew, the same weights, the last saved state, the same bits.
#[test]
fn a_saved_state_goes_on_after_the_device_is_lost() {
    let config = Lstm::config(3, 6).layers(2).bidirectional(Merge::Concat);
    let parameters = config.random_parameters(3).expect("parameters");
    let x = Array3::from_shape_fn((TIME, BATCH, 3), |(t, b, i)| (t as f32 + 2.0 * b as f32 + 5.0 * i as f32).cos());
    let h = Array3::from_elem((4, BATCH, 6), 0.25);
    let open = || {
        let gpu = gpu_with(|_| ());
        let stack = config.build(&Device::Gpu(gpu.clone()), parameters.clone()).expect("a stack");
        (gpu, stack)
    };
    let forward = |stack: &Lstm, state: &mut State, sequence: &Sequence| -> Result<Vec<u32>> {
        let y = stack.forward_sequence(&Tensor::from_array(stack.device(), &x)?, state, sequence)?;
        Ok(y.to_vec()?.into_iter().map(f32::to_bits).collect())
    };
    let (gpu, stack) = open();
    let mut state = stack.initial_state(h.view(), Some(h.view())).expect("a state");
    forward(&stack, &mut state, &Sequence::new()).expect("runs");
    let saved = pollster::block_on(state.save_async()).expect("saved");
    assert_eq!(bits_of(&saved), bits_of(&state.save().expect("saved")));
    let onward = [Sequence::new(), resets()].map(|sequence| forward(&stack, &mut state, &sequence).expect("runs"));

    gpu.wgpu().0.destroy();
    gpu.wgpu().0.poll(wgpu::PollType::wait_indefinitely()).expect("waits");
    assert!(matches!(state.save(), Err(Error::DeviceLost { .. })));
    assert!(matches!(pollster::block_on(state.save_async()), Err(Error::DeviceLost { .. })));
    assert!(matches!(stack.restore(&saved), Err(Error::DeviceLost { .. })));

    let (_gpu, stack) = open();
    let mut state = stack.restore(&saved).expect("restored");
    let again = [Sequence::new(), resets()].map(|sequence| forward(&stack, &mut state, &sequence).expect("runs"));
    assert_eq!(again, onward);
}

/// A training pass reads both values, too.
#[test]
fn a_training_pass_from_a_restored_state_is_that_of_the_unbroken_run() {
    for device in devices() {
        for case in cases(&device) {
            let arrays = case.arrays();
            let stack = case.config().trainable(&device, &arrays.parameters).expect("a stack");
            let (h, s) = (arrays.h.view(), case.cell.has_cell_state().then(|| arrays.s.view()));
            let run = |broken: bool| -> Result<Vec<Vec<f32>>> {
                let x = Tensor::from_array(&device, &arrays.x)?;
                let mut state = stack.initial_state(h, s)?;
                stack.forward_training(&x, &mut state, &Sequence::new())?;
                if broken {
                    state = stack.restore(&state.save()?)?;
                }
                let (y, tape) = stack.forward_training(&x, &mut state, &resets())?;
                let d = tape.backward(&y, None)?;
                [&y, &d.x, &d.state.h, &d.initial.h].into_iter().chain(d.tensors()).map(Tensor::to_vec).collect()
            };
            assert_eq!(run(true).expect("runs"), run(false).expect("runs"), "{device}: {case:#?}");
        }
    }
}
