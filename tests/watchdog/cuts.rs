//! Calls that are cut up on the device: the same bits, and as many dispatches and submissions as the plan says.

use std::time::Duration;

use gatewise::cell::{Cell, GruCell, LstmCell, Noise, Reset, Sequence};
use gatewise::gpu::{Counters, GpuDevice, GpuOptions};
use gatewise::nn::{Config, Merge, TrainingOptions};
use gatewise::ops::{self, Binary, Conv1dGeometry, PadMode, Reduction};
use gatewise::plan::{AdapterClass, CooperativeScans, PlanKind, Watchdog};
use gatewise::train::{CrossEntropyOptions, Graph, LossOptions, Mode, Parameters};
use gatewise::{Device, Error, Result, Tensor};
use ndarray::Array2;

use crate::common::gpu_with;

fn opened(dispatch: u64, submission: u64, class: Option<AdapterClass>) -> GpuDevice {
    let [dispatch, submission] = [dispatch, submission].map(Duration::from_micros);
    let watchdog = Some(Watchdog { dispatch, submission });
    let cooperative = Some(CooperativeScans { workgroups: 1, polls: 1 });
    GpuDevice::new(&GpuOptions { software: true, watchdog, cooperative, class, ..Default::default() })
        .expect("install mesa-vulkan-drivers and libvulkan1")
}

/// A device of its own, with counters of its own, whose bounds no test comes near.
fn whole(class: Option<AdapterClass>) -> Device {
    Device::Gpu(opened(1_000_000, 10_000_000, class))
}

fn tensor(device: &Device, shape: &[usize]) -> Tensor {
    let data = (0..shape.iter().product()).map(|at: usize| ((at * 7 + shape.len()) as f32 * 0.37).sin()).collect();
    Tensor::from_vec(device, shape, data).expect("a tensor")
}

fn bits(tensors: &[Tensor]) -> Vec<Vec<u32>> {
    tensors.iter().map(|x| x.to_vec().expect("a read-back").into_iter().map(f32::to_bits).collect()).collect()
}

fn spent(device: &Device, work: impl FnOnce()) -> Counters {
    let Device::Gpu(gpu) = device else { panic!("{device} is no GPU") };
    let before = gpu.counters();
    work();
    gpu.counters() - before
}

const BATCH: usize = 40;
const TIME: usize = 6;

/// Returns the output, the state and the cost of a call; the counted dispatches and submissions must be those of its plan.
fn call(device: &Device, config: &Config<Cell>, sequence: &Sequence) -> (Vec<Vec<u32>>, Counters) {
    let stack = config.random(device, 3).expect("a stack");
    let x = tensor(device, &[TIME, BATCH, 12]);
    let mut state = stack.zero_state(BATCH).expect("state");
    let mut y = Vec::new();
    let spent = spent(device, || {
        y.push(stack.forward_sequence(&x, &mut state, sequence).expect("runs"));
    });
    let plan = stack.plan(TIME, BATCH).expect("fits");
    assert_eq!(spent.dispatches, plan.dispatches() as u64, "{plan}");
    assert_eq!(spent.submits, plan.submits() as u64, "{plan}");
    let mut found = bits(&y);
    found.push(state.to_h().expect("h").iter().map(|x| x.to_bits()).collect());
    found.extend(state.to_s().expect("s").map(|s| s.iter().map(|x| x.to_bits()).collect()));
    (found, spent)
}

#[test]
fn calls_that_are_cut_up_give_the_same_bits() {
    let before = Cell::from(GruCell { reset: Reset::Before, ..Default::default() });
    let projected = Cell::from(LstmCell { projection: Some(20), ..Default::default() });
    let one = |cell: Cell, kind| Config::new(cell, 12, 64).plan(kind);
    /// The stack of the plan that may round differently.
    const WIDE: usize = 5;
    let stacks = [
        one(LstmCell::default().into(), PlanKind::Step).layers(2).bidirectional(Merge::Sum),
        one(projected, PlanKind::Step),
        one(before, PlanKind::Step).layers(2),
        one(GruCell::default().into(), PlanKind::Wave).layers(3),
        one(LstmCell::default().into(), PlanKind::Scan).bidirectional(Merge::Concat),
        one(LstmCell::default().into(), PlanKind::CooperativeScan),
    ];
    let reset = Array2::from_shape_fn((TIME, BATCH), |(t, b)| (t + b) % 5 == 3);
    let lengths = (0..BATCH).map(|b| b % (TIME + 1)).collect::<Vec<_>>();
    let sequences = [Sequence::new(), Sequence::new().lengths(lengths).reset(reset)];
    // A class of devices, and the stacks that it runs.
    let all: [(Option<AdapterClass>, &[usize]); 2] =
        [(None, &[0, 1, 2, 3, 4, 5]), (Some(AdapterClass::Hardware), &[0, 4, 5])];
    for (class, numbers) in all {
        let (tight, roomy) = (Device::Gpu(opened(16, 70, class)), whole(class));
        for &at in numbers {
            let (config, sequence) = (&stacks[at], &sequences[at % 2]);
            let (expected, once) = call(&roomy, config, sequence);
            let (found, spent) = call(&tight, config, sequence);
            let what = format!("{config:?} on {class:?}: {once:?}, {spent:?}");
            assert_eq!(once.submits, 1, "{what}");
            assert!(spent.submits > 1 && spent.dispatches > once.dispatches, "{what}");
            match at {
                // Workgroups exchange h without its last bit, but a chunk passes the whole h to the next chunk.
                WIDE => assert!(distance(&found, &expected) < 1e-6, "{what}"),
                _ => assert!(found == expected, "{what}"),
            }
        }
    }
}

/// The largest difference of two calls' numbers.
fn distance(a: &[Vec<u32>], b: &[Vec<u32>]) -> f32 {
    let pairs = a.iter().flatten().zip(b.iter().flatten());
    pairs.map(|(&a, &b)| (f32::from_bits(a) - f32::from_bits(b)).abs()).fold(0.0, f32::max)
}

/// One of every operation on large enough operands.
fn operations(device: &Device) -> Result<Vec<Tensor>> {
    let mut recorder = device.recorder();
    let r = &mut recorder;
    let t = |shape: &[usize]| tensor(device, shape);
    let (a, b, bias) = (t(&[70, 40]), t(&[40, 130]), t(&[130]));
    let signal = t(&[30, 5, 400]);
    let geometry = Conv1dGeometry { stride: 2, padding: 1 };
    let wide = t(&[900, 70]);
    let results = vec![
        ops::matmul(r, &a, &b, Some(&bias))?,
        ops::matmul(r, &t(&[5, 40]), &b, Some(&bias))?,
        // Deep for its few rows and columns.
        ops::matmul(r, &t(&[17, 6000]), &t(&[6000, 3]), Some(&t(&[3])))?,
        ops::conv1d(r, &signal, &t(&[8, 5, 3]), &t(&[8]), geometry)?,
        ops::pad1d(r, &signal, 3, 4, PadMode::Reflect)?,
        ops::activation(r, gatewise::cell::Activation::Sigmoid, &wide)?,
        ops::binary(r, Binary::Mul, &wide, &wide)?,
        ops::reduce_rows(r, Reduction::Max, &wide)?,
        ops::argmax_rows(r, &wide)?,
        ops::permute(r, &signal, &[2, 0, 1])?,
        ops::gather_rows(r, &wide, &(0..500).map(|at| at % 300).collect::<Vec<_>>())?,
    ];
    recorder.submit()?;
    Ok(results)
}

#[test]
fn operations_that_are_cut_up_give_the_same_bits() {
    let whole = whole(None);
    let expected = operations(&whole).expect("runs");
    let once = spent(&whole, || drop(operations(&whole).expect("runs")));
    assert_eq!((once.dispatches, once.submits), (expected.len() as u64, 1));
    let tight = Device::Gpu(opened(16, 50, None));
    let found = operations(&tight).expect("runs");
    assert_eq!(bits(&found), bits(&expected));
    let spent = spent(&tight, || drop(operations(&tight).expect("runs")));
    assert!(spent.dispatches > 3 * once.dispatches && spent.submits > 5, "{spent:?}");
}

/// Grids of more workgroups along an axis than the device takes.
#[test]
fn grids_that_no_dispatch_takes_are_cut_up() {
    let small = Device::Gpu(gpu_with(|limits| limits.max_compute_workgroups_per_dimension = 2));
    let [found, expected] = [&small, &whole(None)].map(|device| bits(&operations(device).expect("runs")));
    assert!(found == expected);
}

/// The gradients of a graph of every operation that learns.
fn gradients(device: &Device) -> Result<Vec<Tensor>> {
    let parameters = Parameters::new(device, 3);
    let mut graph = Graph::new(&parameters, Mode::Training { seed: 5, step: 2 });
    let shapes: [&[usize]; 6] = [&[50, 24], &[6, 24, 3], &[6], &[90, 360], &[90], &[40, 24, 60]];
    let [table, filter, shift, weight, bias, signal] = shapes.map(|shape| graph.variable(&tensor(device, shape)));
    let rows = graph.embedding(table, &(0..240).map(|at| at * at % 50).collect::<Vec<_>>())?;
    let rows = graph.reshape(rows, &[10, 24, 24])?;
    let near = graph.conv1d(signal, filter, shift, Conv1dGeometry { stride: 1, padding: 1 })?;
    let near = graph.reshape(near, &[40, 360])?;
    let near = graph.activation(gatewise::cell::Activation::Tanh, near)?;
    let near = graph.dropout(near, 0.2)?;
    let scores = graph.linear(near, weight, Some(bias))?;
    let loss = graph.cross_entropy(
        scores,
        &(0..40).map(|at| at * 2 % 90).collect::<Vec<_>>(),
        &CrossEntropyOptions::default(),
    )?;
    let square = graph.mean_squared_error(rows, &tensor(device, &[10, 24, 24]), &LossOptions::default())?;
    let loss = graph.add(loss, square)?;
    let gradients = graph.backward(loss)?;
    let mut found = vec![graph.value(loss)?.clone()];
    found.extend(
        [table, filter, shift, weight, bias, signal].map(|var| gradients.var(var).expect("a gradient").clone()),
    );
    graph.submit()?;
    Ok(found)
}

/// A pass and its gradients through a stack with every kind of noise.
fn passes(device: &Device, cell: Cell) -> Result<Vec<Tensor>> {
    let config = Config::new(cell, 12, 96).layers(2).bidirectional(Merge::Concat);
    let parameters = config.random(device, 3)?.parameters()?;
    let stack = config.trainable(device, &parameters)?;
    let mut state = stack.zero_state(BATCH)?;
    let noise = Noise { dropout: 0.2, recurrent_dropout: 0.1, zoneout_h: 0.1, seed: 9, ..Default::default() };
    let options = TrainingOptions { noise, ..Default::default() };
    let mut recorder = device.recorder();
    let x = tensor(device, &[TIME, BATCH, 12]);
    let (y, tape) = stack.record_training(&mut recorder, &x, &mut state, &Sequence::new(), &options)?;
    let d = tape.record_backward(&mut recorder, &tensor(device, y.shape()), None)?;
    recorder.submit()?;
    let mut found = vec![y, d.x.clone(), d.state.h.clone()];
    found.extend(d.tensors().cloned());
    Ok(found)
}

#[test]
fn training_that_is_cut_up_gives_the_same_bits() {
    let tight = Device::Gpu(opened(37, 150, None));
    let whole = whole(None);
    let [found, expected] = [&tight, &whole].map(|device| bits(&gradients(device).expect("runs")));
    assert!(found == expected, "a graph");
    let before = GruCell { reset: Reset::Before, ..Default::default() };
    for cell in [LstmCell { peephole: true, ..Default::default() }.into(), Cell::from(before)] {
        let [found, expected] = [&tight, &whole].map(|device| bits(&passes(device, cell).expect("runs")));
        assert!(found == expected, "{cell:?}");
        let [more, once] = [&tight, &whole].map(|device| spent(device, || drop(passes(device, cell))));
        assert!(more.submits > once.submits + 10 && more.dispatches > once.dispatches + 20, "{more:?}, {once:?}");
    }
}

/// The gradient of a bias over more rows than one workgroup may read before the watchdog's limit.
#[test]
fn columns_of_many_rows_are_summed_in_pieces() {
    let bias_gradient = |device: &Device| -> Result<Tensor> {
        let mut graph = Graph::new(&Parameters::new(device, 3), Mode::Evaluation);
        let x = graph.input(&tensor(device, &[2000, 4]));
        let [weight, bias] = [&[3, 4][..], &[3]].map(|shape| graph.variable(&tensor(device, shape)));
        let y = graph.linear(x, weight, Some(bias))?;
        let loss = graph.mean_squared_error(y, &tensor(device, &[2000, 3]), &LossOptions::default())?;
        let gradients = graph.backward(loss)?;
        graph.submit()?;
        Ok(gradients.var(bias).expect("a gradient").clone())
    };
    let (tight, whole) = (Device::Gpu(opened(30, 100, None)), whole(None));
    let found = bits(&[bias_gradient(&tight).expect("runs")]);
    let expected = bits(&[bias_gradient(&whole).expect("runs")]);
    assert!(distance(&found, &expected) < 1e-5, "{found:?}, {expected:?}");
    let [more, once] = [&tight, &whole].map(|device| spent(device, || drop(bias_gradient(device))));
    assert!(more.dispatches > once.dispatches + 40, "{more:?}, {once:?}");
}

#[test]
fn what_cannot_be_cut_up_is_refused_by_name() {
    let tight = Device::Gpu(opened(12, 50, None));
    let mut recorder = tight.recorder();
    let error = ops::reduce_rows(&mut recorder, Reduction::Sum, &tensor(&tight, &[1, 4000])).expect_err("a long row");
    let Error::Limit { op, what, needed, limit, .. } = error else { panic!("{error}") };
    assert_eq!((op, limit), ("reduce_rows", 2000));
    assert!(what.contains("of a workgroup on a slow GPU") && needed > limit, "{what}: {needed}");
    recorder.submit().expect("nothing of it was recorded");
}
