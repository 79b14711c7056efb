//! Recurrent stacks: weights, states, calls.

use gatewise::Device;
use gatewise::cell::{Cell, GruCell, LstmCell, Pad, Parameters, RnnCell, Sequence, WeightType};
use gatewise::nn::{Config, Merge, State};
use ndarray::{Array2, Array3};

use crate::{bits, cpu, devices, each_allocation_fails, each_fails, failing, numbers, state_bits, tensor};

const TIME: usize = 2;
const BATCH: usize = 72;
const INPUT: usize = 8;

fn cells() -> [Cell; 4] {
    [
        RnnCell::default().into(),
        GruCell::LECTURE.into(),
        LstmCell { projection: Some(6), peephole: true, ..LstmCell::default() }.into(),
        LstmCell::default().into(),
    ]
}

fn stacks() -> Vec<Config> {
    let mut stacks: Vec<Config> = cells().map(|cell| Config::new(cell, INPUT, 9)).into();
    stacks.push(Config::new(GruCell::default().into(), INPUT, 9).layers(2).bidirectional(Merge::Concat));
    stacks.push(Config::new(LstmCell::default().into(), INPUT, 9).layers(2).bidirectional(Merge::Mul));
    stacks
}

fn sequence() -> Sequence {
    let reset = Array2::from_shape_fn((TIME, BATCH), |(t, b)| t == 1 && b % 5 == 0);
    Sequence::new().lengths((0..BATCH).map(|b| b % (TIME + 1))).reset(reset).pad(Pad::Hold)
}

/// Every bit of some weights.
fn weights(parameters: Vec<Vec<Parameters>>) -> Vec<u32> {
    let named = parameters.iter().flatten().flat_map(|p| p.named());
    named.flat_map(|(_, array)| numbers(array.iter().copied())).collect()
}

#[test]
fn weights_are_drawn_packed_and_unpacked() {
    let _alone = failing::alone();
    for device in devices() {
        for cell in cells() {
            // The reference widens what it is given, whatever its type.
            let kinds = if let Device::Reference = device { &[WeightType::F32][..] } else { &WeightType::ALL };
            for &kind in kinds {
                let config = Config::new(cell, 40, 28).weight_type(kind);
                let name = format!("{config:?} on {device}");
                each_fails(&name, || config.random(&device, 3)?.parameters(), weights);
            }
        }
    }
}

#[test]
fn states() {
    let _alone = failing::alone();
    for device in devices() {
        let stack = Config::<Cell>::new(LstmCell::default().into(), INPUT, 9).random(&device, 1).expect("fits");
        let h = Array3::from_shape_fn((1, BATCH, 9), |(_, b, u)| (b + u) as f32);
        each_fails("zero_state", || stack.zero_state(BATCH), |state| state_bits(&state));
        each_fails("state", || stack.state(h.view(), Some(h.view())), |state| state_bits(&state));
        let state = stack.zero_state(BATCH).expect("fits");
        each_fails("h", || state.to_h(), numbers);
        each_fails("s", || state.to_s(), |s| s.into_iter().flat_map(numbers).collect());
    }
}

#[test]
fn calls_of_every_cell() {
    let _alone = failing::alone();
    for device in devices() {
        // The plain loops are slow, and the same for every cell.
        let first = if let Device::Reference = device { 5 } else { 0 };
        for config in stacks().into_iter().skip(first) {
            let stack = config.random(&device, 1).expect("fits");
            let x = tensor(&device, &[TIME, BATCH, INPUT]);
            let zeros = stack.zero_state(BATCH).expect("fits");
            let (h, s) = (zeros.to_h().expect("h") + 0.25, zeros.to_s().expect("s").map(|s| s - 0.5));
            let make = || stack.state(h.view(), s.as_ref().map(|s| s.view())).expect("fits");
            for sequence in [Sequence::new(), sequence()].into_iter().skip(usize::from(first > 0)) {
                let name = format!("{config:?} on {device}");
                let call = |state: &mut State| stack.forward_sequence(&x, state, &sequence);
                each_allocation_fails(&name, make, state_bits, call, bits);
            }
        }
    }
}

/// Weights of narrow types are widened, states rounded, in memory of their own.
#[test]
fn calls_of_every_weight_type() {
    let _alone = failing::alone();
    for kind in WeightType::ALL {
        let config = Config::<Cell>::new(GruCell::default().into(), 40, 48).weight_type(kind);
        let device = cpu(1);
        let stack = config.random(&device, 1).expect("fits");
        let x = tensor(&device, &[4, 30, 40]);
        let make = || stack.zero_state(30).expect("fits");
        each_allocation_fails(kind.name(), make, state_bits, |state| stack.forward(&x, state), bits);
    }
}

/// A clone shares its memory until one of the two is written to.
#[test]
fn shared_states_part() {
    let _alone = failing::alone();
    let device = cpu(1);
    let stack = Config::<Cell>::new(LstmCell::default().into(), INPUT, 9).random(&device, 1).expect("fits");
    let x = tensor(&device, &[1, BATCH, INPUT]);
    let make = || {
        let mut state = stack.zero_state(BATCH).expect("fits");
        stack.forward(&x, &mut state).expect("fits");
        let clone = state.try_clone().expect("fits");
        (state, clone)
    };
    let look = |(state, clone): &(State, State)| [state_bits(state), state_bits(clone)].concat();
    each_allocation_fails("forward", make, look, |(state, _)| stack.forward(&x, state), bits);
    each_allocation_fails("reset", make, look, |(state, _)| state.reset(), |()| Vec::new());
}

#[test]
fn calls_into_arrays() {
    let _alone = failing::alone();
    for device in devices() {
        let stack = Config::<Cell>::new(GruCell::default().into(), INPUT, 9).random(&device, 1).expect("fits");
        let x = Array3::from_shape_fn((BATCH, TIME, INPUT), |(b, t, i)| (b + t * i) as f32 * 0.1);
        let make = || (stack.zero_state(BATCH).expect("fits"), Array3::zeros((TIME, BATCH, 9)));
        let look = |(state, y): &(State, Array3<f32>)| [state_bits(state), numbers(y.iter().copied())].concat();
        // Arrays that are not contiguous are copied there and back.
        each_allocation_fails(
            &format!("forward_into on {device}"),
            make,
            look,
            |(state, y)| stack.forward_into(gatewise::batch_first(&x), state, y.view_mut()),
            |()| Vec::new(),
        );
    }
}
