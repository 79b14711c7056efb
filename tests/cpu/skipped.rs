//! Rows that steps skip on the CPU.

use gatewise::Device;
use gatewise::cell::{Cell, GruCell, LstmCell, RnnCell, Sequence, WeightType};
use gatewise::cpu::Instructions;
use gatewise::nn::{Config, Merge, State};
use gatewise::{Result, Tensor};
use ndarray::{Array2, Array3, Axis, s};

use super::{bits, cpu, noise, projected, results};

const TIME: usize = 9;
/// More rows than are multiplied at once, and more steps times rows than are projected at once.
const BATCH: usize = 60;

/// Steps in which all rows, none, every other one, some in a piece, or some at random take part. The first row never does.
fn mask() -> Array2<bool> {
    let drawn = noise(21, (1, TIME, BATCH));
    Array2::from_shape_fn((TIME, BATCH), |(t, row)| {
        row > 0
            && match t {
                0 | 7 => true,
                1 | 6 => false,
                2 => row % 2 == 0,
                3 => (50..59).contains(&row),
                8 => row == 59,
                _ => drawn[[0, t, row]] > 0.6,
            }
    })
}

/// Output and last state from a state of noise. Rows of the state are those of the whole batch from `first` on.
fn run(
    config: &Config,
    device: &Device,
    x: &Array3<f32>,
    first: usize,
    sequence: &Sequence,
) -> Result<Vec<Array3<f32>>> {
    let stack = config.random(device, 42)?;
    let of = |seed, array: &Array3<f32>| {
        let (rows, _, width) = array.dim();
        noise(seed, (rows, BATCH, width)).slice(s![.., first..first + x.dim().1, ..]).to_owned()
    };
    let zero: State = stack.zero_state(x.dim().1)?;
    let (h, s) = (of(5, &zero.to_h()?), zero.to_s()?.map(|s| of(6, &s)));
    let mut state = stack.initial_state(h.view(), s.as_ref().map(|s| s.view()))?;
    let y = stack.forward_sequence(&Tensor::from_array(device, x)?, &mut state, sequence)?.to_array()?;
    Ok(results(y, &state))
}

#[test]
fn a_row_has_the_bits_that_it_has_without_the_steps_that_skip_it() -> Result<()> {
    let mask = mask();
    let x = noise(22, (TIME, BATCH, 9));
    let cells: [Cell; 5] = [
        RnnCell::default().into(),
        LstmCell::default().into(),
        GruCell::default().into(),
        GruCell::LECTURE.into(),
        projected(11),
    ];
    for (cell, kind) in cells.into_iter().flat_map(|cell| WeightType::ALL.map(|kind| (cell, kind))) {
        let config = Config::new(cell, 9, 20).layers(2).bidirectional(Merge::Concat).weight_type(kind);
        let device = cpu(1, Instructions::detect());
        let sequence = Sequence::new().mask(mask.clone());
        let whole = run(&config, &device, &x, 0, &sequence)?;
        for row in 0..BATCH {
            let taken: Vec<usize> = (0..TIME).filter(|&t| mask[[t, row]]).collect();
            let single = x.slice(s![.., row..row + 1, ..]).select(Axis(0), &taken);
            let alone = run(&config, &device, &single, row, &Sequence::new())?;
            let y = whole[0].slice(s![.., row..row + 1, ..]);
            assert_eq!(y.select(Axis(0), &taken), alone[0], "{kind} {cell:?}: the output of row {row}");
            for (whole, alone) in whole.iter().zip(&alone).skip(1) {
                assert_eq!(whole.slice(s![.., row..row + 1, ..]), alone, "{kind} {cell:?}: the state of row {row}");
            }
        }
    }
    Ok(())
}

#[test]
fn any_number_of_threads_takes_the_same_rows() -> Result<()> {
    let x = noise(23, (TIME, BATCH, 40));
    for cell in [Cell::from(LstmCell::default()), GruCell::LECTURE.into()] {
        let config = Config::new(cell, 40, 70).layers(2).bidirectional(Merge::Sum);
        let reset = Array2::from_shape_fn((TIME, BATCH), |(t, row)| (t + 2 * row) % 7 == 0);
        let sequence = Sequence::new().mask(mask()).reset(reset);
        let one = bits(&run(&config, &cpu(1, Instructions::detect()), &x, 0, &sequence)?);
        for threads in [2, 3] {
            let again = bits(&run(&config, &cpu(threads, Instructions::detect()), &x, 0, &sequence)?);
            assert!(one == again, "{cell:?}: {threads} threads change the result");
        }
    }
    Ok(())
}
