//! Every kernel against the reference in f64, for every instruction set that the processor has.

use ndarray::{Array1, Array2, Array3, ArrayView1, ArrayView2};
use proptest::prelude::*;

use super::super::device::{CpuDevice, CpuOptions};
use super::super::simd::Instructions;
use super::*;
use crate::cell::Activation;
use crate::op::{Binary, Math, PadMode, Reduction, StridedLayout};
use crate::reference;

fn devices(threads: usize) -> Vec<CpuDevice> {
    let of = |set| CpuDevice::new(&CpuOptions { threads: Some(threads), instructions: Some(set) }).ok();
    Instructions::ALL.into_iter().filter_map(of).collect()
}

fn numbers(len: usize, seed: u64) -> Vec<f32> {
    let mut random = fastrand::Rng::with_seed(seed);
    (0..len).map(|_| random.f32() * 2.0 - 1.0).collect()
}

fn wide(x: &[f32]) -> Vec<f64> {
    x.iter().map(|&x| f64::from(x)).collect()
}

/// Asserts that results are within `tolerance` of the truth, in proportion to `scale` and the truth.
#[track_caller]
fn close(found: &[f32], truth: &[f64], tolerance: f64, case: &str) {
    assert_eq!(found.len(), truth.len(), "{case}");
    for (at, (&found, &truth)) in found.iter().zip(truth).enumerate() {
        let same = f64::from(found) == truth || found.is_nan() && truth.is_nan();
        let near = (f64::from(found) - truth).abs() <= tolerance * truth.abs().max(1.0);
        // Beyond the largest f32, infinity is right.
        let beyond = found.is_infinite() && truth.abs() > f64::from(f32::MAX) && (found > 0.0) == (truth > 0.0);
        assert!(same || near || beyond, "{case}: {found} at {at}, not {truth}");
    }
}

/// Sizes around the registers' and the panels' edges.
fn edges(device: &CpuDevice) -> Vec<usize> {
    let lanes = device.verified().lanes();
    vec![1, 2, lanes - 1, lanes, lanes + 1, 3 * lanes, 4 * lanes + 1]
}

#[test]
fn products_agree_with_the_reference_at_the_edges_of_tiles() {
    for device in devices(1) {
        for rows in [0, 1, 2, 5, 6, 7, 9, 50] {
            for depth in [0, 1, 3, 33] {
                for columns in edges(&device) {
                    let (a, w) = (numbers(rows * depth, 1), numbers(columns * depth, 2));
                    let bias = numbers(columns, 3);
                    let case = format!("{:?}: {rows} x {depth} x {columns}", device.instructions());
                    let (wide_a, wide_w, wide_bias) = (wide(&a), wide(&w), wide(&bias));
                    let left = ArrayView2::from_shape((rows, depth), &wide_a).unwrap();
                    let right = ArrayView2::from_shape((columns, depth), &wide_w).unwrap();
                    let truth = reference::matmul(left, right.t(), Some(ArrayView1::from(&wide_bias))).unwrap();
                    let truth = truth.into_raw_vec_and_offset().0;

                    let weight = Array2::from_shape_vec((columns, depth), w.clone()).unwrap();
                    let packed = PackedMatrix::new(&device, &weight, Some(&Array1::from(bias.clone()))).unwrap();
                    let mut y = vec![f32::NAN; rows * columns];
                    packed.multiply(&a, &mut y).unwrap();
                    close(&y, &truth, 1e-5, &case);
                    assert_eq!(packed.unpack(), (weight, Array1::from(bias.clone())), "{case}");

                    let turned = |x: &[f32], [rows, columns]: [usize; 2]| -> Vec<f32> {
                        (0..rows * columns).map(|at| x[at % rows * columns + at / rows]).collect()
                    };
                    let (a_turned, b) = (turned(&a, [rows, depth]), turned(&w, [columns, depth]));
                    for (a, b) in [
                        (
                            MatrixOperand { numbers: &a, transposed: false },
                            MatrixOperand { numbers: &b, transposed: false },
                        ),
                        (
                            MatrixOperand { numbers: &a, transposed: false },
                            MatrixOperand { numbers: &w, transposed: true },
                        ),
                        (
                            MatrixOperand { numbers: &a_turned, transposed: true },
                            MatrixOperand { numbers: &b, transposed: false },
                        ),
                        (
                            MatrixOperand { numbers: &a_turned, transposed: true },
                            MatrixOperand { numbers: &w, transposed: true },
                        ),
                    ] {
                        let mut y = vec![f32::NAN; rows * columns];
                        matmul(&device, [rows, depth, columns], a, b, Some(&bias), &mut y).unwrap();
                        close(&y, &truth, 1e-5, &format!("{case}, {} {}", a.transposed, b.transposed));
                    }
                }
            }
        }
    }
}

#[test]
fn a_row_of_a_product_depends_on_no_other_row_and_on_no_number_of_threads() {
    let (depth, columns) = (700, 1100);
    for rows in [1, 2, 9] {
        let weight = Array2::from_shape_vec((columns, depth), numbers(columns * depth, 4)).unwrap();
        let x = numbers(rows * depth, 5);
        for (one, three) in devices(1).iter().zip(&devices(3)) {
            let of = |device: &CpuDevice, x: &[f32]| {
                let mut y = vec![0.0; x.len() / depth * columns];
                PackedMatrix::new(device, &weight, None).unwrap().multiply(x, &mut y).unwrap();
                y
            };
            // Twice the work of a thread in a row, so that threads share even a single one.
            let whole = of(one, &x);
            assert_eq!(whole, of(three, &x), "{:?}: {rows} rows", one.instructions());
            assert_eq!(whole[(rows - 1) * columns..], of(one, &x[(rows - 1) * depth..]), "{:?}", one.instructions());
        }
    }
}

/// A convolution with all that it may have.
#[derive(Clone, Copy, Debug)]
struct Case {
    count: usize,
    /// Channels and filters per group.
    channels: usize,
    filters: usize,
    groups: usize,
    windows: Windows,
    length: usize,
    padding: [usize; 2],
}

impl Case {
    fn out_length(&self) -> Option<usize> {
        let padded = self.length + self.padding[0] + self.padding[1];
        padded.checked_sub(self.windows.span()).map(|room| room / self.windows.stride + 1)
    }

    fn weight(&self) -> Array3<f32> {
        let shape = (self.groups * self.filters, self.channels, self.windows.kernel);
        Array3::from_shape_vec(shape, numbers(shape.0 * shape.1 * shape.2, 6)).unwrap()
    }

    fn signal(&self) -> Vec<f32> {
        numbers(self.count * self.groups * self.channels * self.length, 7)
    }

    fn bias(&self) -> Array1<f32> {
        Array1::from(numbers(self.groups * self.filters, 8))
    }

    fn truth(&self, out_length: usize) -> Vec<f64> {
        let (weight, x, bias) = (self.weight(), self.signal(), self.bias());
        let outputs = self.groups * self.filters;
        let of = |at: usize| {
            let (n, o, l) = (at / out_length / outputs, at / out_length % outputs, at % out_length);
            let mut sum = f64::from(bias[o]);
            for ((c, k), &w) in weight.index_axis(ndarray::Axis(0), o).indexed_iter() {
                let at = l * self.windows.stride + k * self.windows.dilation;
                if (self.padding[0]..self.padding[0] + self.length).contains(&at) {
                    let channel = (n * self.groups + o / self.filters) * self.channels + c;
                    sum += f64::from(w) * f64::from(x[channel * self.length + at - self.padding[0]]);
                }
            }
            sum
        };
        (0..self.count * outputs * out_length).map(of).collect()
    }

    fn run(&self, device: &CpuDevice, out_length: usize) -> Vec<f32> {
        let bias = self.bias();
        let packed = PackedFilters::new(device, &self.weight(), Some(&bias), self.windows, self.groups).unwrap();
        assert_eq!(packed.unpack(), (self.weight(), bias), "{self:?}");
        let mut y = vec![f32::NAN; self.count * self.groups * self.filters * out_length];
        let numbers = self.signal();
        let signal = Signal { numbers: &numbers, length: self.length, before: self.padding[0] };
        packed.convolve(signal, out_length, &mut y).unwrap();
        y
    }

    fn check(&self) {
        let Some(out_length) = self.out_length() else { return };
        let truth = self.truth(out_length);
        for device in devices(1) {
            let case = format!("{:?}: {self:?}", device.instructions());
            let y = self.run(&device, out_length);
            close(&y, &truth, 1e-5, &case);
            if self.groups == 1 {
                let (numbers, weight, bias) = (self.signal(), self.weight(), self.bias());
                let signal = Signal { numbers: &numbers, length: self.length, before: self.padding[0] };
                let filters = (weight.as_slice().unwrap(), bias.as_slice().unwrap());
                let mut own = vec![f32::NAN; y.len()];
                conv1d(&device, signal, self.windows, self.channels, filters, [out_length, self.count], &mut own)
                    .unwrap();
                assert_eq!(own, y, "{case}: filters that are not constant");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn convolutions_agree_with_the_sum_that_defines_them(
        count in 1_usize..4, channels in 1_usize..6, filters in prop_oneof![1_usize..10, 30_usize..70],
        groups in 1_usize..4, kernel in 1_usize..6, stride in 1_usize..5, dilation in 1_usize..4,
        length in prop_oneof![0_usize..20, 150_usize..200], before in 0_usize..9, behind in 0_usize..9,
    ) {
        let windows = Windows { kernel, stride, dilation };
        Case { count, channels, filters, groups, windows, length, padding: [before, behind] }.check();
    }
}

#[test]
fn convolutions_at_the_edges_agree_with_the_sum_that_defines_them() {
    let of =
        |[count, channels, filters, groups]: [usize; 4], [kernel, stride, dilation]: [usize; 3], length, padding| {
            let windows = Windows { kernel, stride, dilation };
            Case { count, channels, filters, groups, windows, length, padding }.check();
        };
    of([2, 0, 3, 1], [1, 1, 1], 4, [0, 0]);
    of([2, 3, 40, 1], [3, 1, 1], 0, [2, 1]);
    of([2, 1, 1, 17], [5, 1, 1], 33, [2, 2]);
    of([60, 3, 64, 1], [3, 2, 1], 2, [1, 1]);
    of([1, 1, 66, 1], [16, 8, 1], 40, [0, 0]);
    of([2, 2, 33, 2], [2, usize::MAX, 1], 3, [0, 0]);
    of([1, 2, 1, 1], [2, 3, 4], 300, [5, 0]);
}

#[test]
fn convolutions_give_the_same_bits_on_any_number_of_threads() {
    for (filters, groups, count, length) in [(70, 1, 1, 400), (4, 16, 2, 1500), (40, 2, 40, 5)] {
        let windows = Windows { kernel: 5, stride: 1, dilation: 1 };
        let channels = if length == 5 { 128 } else { 32 };
        let case = Case { count, channels, filters, groups, windows, length, padding: [2, 2] };
        let out_length = case.out_length().unwrap();
        for (one, three) in devices(1).iter().zip(&devices(3)) {
            assert_eq!(case.run(one, out_length), case.run(three, out_length), "{:?}: {case:?}", one.instructions());
        }
    }
}

/// Numbers of every kind.
fn special() -> Vec<f32> {
    let mut x = vec![0.0, -0.0, f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX, f32::MIN, 1e-40, -1e-40, 1e-20];
    x.extend([88.0, 88.7, 88.8, 89.5, 200.0, -87.0, -87.4, -88.0, -95.0, -103.0, -103.5, -104.5, -200.0, 0.5, 1.0]);
    x.extend((-70..70).map(|at| at as f32 / 9.0));
    x
}

#[test]
fn functions_of_one_number_agree_with_the_reference() {
    let x = special();
    for device in devices(1) {
        for len in edges(&device).into_iter().chain([0, x.len()]) {
            let x = &x[..len.min(x.len())];
            for activation in Activation::ALL {
                let mut y = vec![7.0; x.len()];
                super::activation(&device, activation, x, &mut y);
                let truth = reference::unary(activation, ArrayView1::from(&wide(x))).unwrap().to_vec();
                close(&y, &truth, 4e-7, &format!("{:?}: {activation:?} of {len}", device.instructions()));
            }
            for function in Math::ALL {
                let mut y = vec![7.0; x.len()];
                math(&device, function, x, &mut y);
                let truth = reference::math(function, ArrayView1::from(&wide(x))).unwrap().to_vec();
                close(&y, &truth, 4e-7, &format!("{:?}: {function:?} of {len}", device.instructions()));
            }
        }
    }
}

#[test]
fn tanh_and_exp_are_exact_in_proportion_and_exp_reaches_subnormal_numbers() {
    let x: Vec<f32> = (0..=u32::MAX >> 13).map(|i| f32::from_bits(i << 13)).filter(|x| x.is_finite()).collect();
    for device in devices(1) {
        let mut y = vec![0.0; x.len()];
        super::activation(&device, Activation::Tanh, &x, &mut y);
        for (&x, &y) in x.iter().zip(&y).filter(|(x, _)| x.abs() > 1e-36) {
            let truth = f64::from(x).tanh();
            assert!(
                (f64::from(y) - truth).abs() <= 1e-6 * truth.abs() && y.abs() <= 1.0,
                "{device:?}: tanh({x}) = {y}"
            );
        }
        math(&device, Math::Exp, &x, &mut y);
        for (&x, &y) in x.iter().zip(&y) {
            let truth = f64::from(x).exp();
            // Half the distance of two subnormal numbers.
            let near = (f64::from(y) - truth).abs() <= 2e-7 * truth + 1e-45;
            assert!(near || y == f32::INFINITY && truth > 3.4e38, "{device:?}: exp({x}) = {y}, not {truth}");
        }
    }
}

#[test]
fn functions_of_two_numbers_broadcast() {
    let shapes: [[&[usize]; 3]; 9] = [
        [&[3, 5], &[3, 5], &[3, 5]],
        [&[3, 37], &[37], &[3, 37]],
        [&[4, 1], &[4, 33], &[4, 33]],
        [&[], &[2, 3], &[2, 3]],
        [&[2, 1, 5], &[1, 3, 1], &[2, 3, 5]],
        [&[1, 3, 1, 2], &[4, 1, 6, 1], &[4, 3, 6, 2]],
        [&[0, 3], &[1], &[0, 3]],
        [&[1, 1], &[1], &[1, 1]],
        [&[], &[], &[]],
    ];
    for device in devices(1) {
        for op in Binary::ALL {
            for [a_shape, b_shape, shape] in shapes {
                let (a_len, b_len): (usize, usize) = (a_shape.iter().product(), b_shape.iter().product());
                let (mut a, mut b) = (numbers(a_len, 9), numbers(b_len, 10));
                let special = [f32::NAN, 0.0, f32::INFINITY, f32::NEG_INFINITY, 1e-40, 1.0];
                a.iter_mut().skip(1).step_by(3).zip(special).for_each(|(a, x)| *a = x);
                b.iter_mut().skip(2).step_by(4).zip(special).for_each(|(b, x)| *b = x);
                let of = |x: &[f32], own: &[usize]| {
                    let x = ndarray::ArrayD::from_shape_vec(own, wide(x)).unwrap();
                    x.broadcast(shape).unwrap().iter().copied().collect::<Vec<f64>>()
                };
                let (wide_a, wide_b) = (of(&a, a_shape), of(&b, b_shape));
                let truth: Vec<f64> = wide_a.iter().zip(&wide_b).map(|(&a, &b)| op.apply(a, b)).collect();
                let mut y = vec![7.0; truth.len()];
                binary(&device, op, (&a, a_shape), (&b, b_shape), shape, &mut y);
                close(&y, &truth, 3e-7, &format!("{:?}: {op:?} of {a_shape:?} and {b_shape:?}", device.instructions()));
            }
            let (x, mut y) = (numbers(2 * 3 * 21, 11), vec![7.0; 3 * 21]);
            binary_halves(&device, op, &x, 21, &mut y);
            let truth: Vec<f64> = (0..63)
                .map(|at| at / 21 * 42 + at % 21)
                .map(|at| op.apply(f64::from(x[at]), f64::from(x[at + 21])))
                .collect();
            close(&y, &truth, 3e-7, &format!("{:?}: halves, {op:?}", device.instructions()));
        }
    }
}

#[test]
fn reductions_agree_with_the_reference_and_keep_nan() {
    for device in devices(1) {
        for columns in edges(&device).into_iter().chain([31, 32, 33, 1000]) {
            let mut x = numbers(4 * columns, 12);
            x[columns + columns / 2] = f32::NAN;
            x[2 * columns] = f32::NEG_INFINITY;
            for op in Reduction::ALL {
                let mut y = vec![7.0; 4];
                reduce_rows(&device, op, &x, columns, &mut y);
                let wide_x = wide(&x);
                let view = ArrayView2::from_shape((4, columns), &wide_x).unwrap();
                let truth = reference::reduce_rows(op, view).unwrap().to_vec();
                close(&y, &truth, 1e-6 * columns as f64, &format!("{:?}: {op:?} of {columns}", device.instructions()));
            }
        }
        let mut y = [7.0; 2];
        reduce_rows(&device, Reduction::Sum, &[], 0, &mut y);
        assert_eq!(y, [0.0, 0.0]);
        reduce_rows(&device, Reduction::Max, &[f32::NEG_INFINITY; 80], 40, &mut y);
        assert_eq!(y, [f32::NEG_INFINITY; 2]);
    }
}

#[test]
fn softmax_agrees_with_its_definition() {
    for device in devices(1) {
        for columns in edges(&device) {
            let mut x: Vec<f32> = numbers(4 * columns, 13).iter().map(|x| 30.0 * x).collect();
            x[columns] = f32::NAN;
            x[2 * columns] = f32::NEG_INFINITY;
            x[3 * columns] = 1000.0;
            for logarithm in [false, true] {
                let mut y = vec![7.0; x.len()];
                softmax_rows(&device, &x, columns, logarithm, &mut y);
                let wide_x = wide(&x);
                let truth = wide_x.chunks(columns).flat_map(|row| {
                    let most = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                    let sum: f64 = row.iter().map(|x| (x - most).exp()).sum();
                    let of = move |x: &f64| if logarithm { x - most - sum.ln() } else { (x - most).exp() / sum };
                    row.iter().map(of).collect::<Vec<_>>()
                });
                let case = format!("{:?}: softmax of {columns}, logarithm {logarithm}", device.instructions());
                close(&y, &truth.collect::<Vec<_>>(), 1e-6, &case);
            }
        }
    }
}

#[test]
fn arrays_are_copied_between_layouts_as_by_the_reference() {
    let layout = |offset, strides: &[isize]| StridedLayout { offset, strides: strides.to_vec() };
    let cases: [(&[usize], StridedLayout, StridedLayout); 9] = [
        (&[19, 21], layout(0, &[1, 19]), layout(0, &[21, 1])),
        (&[3, 17, 9], layout(2, &[1, 27, 3]), layout(0, &[153, 9, 1])),
        (&[2, 3, 4, 5], layout(0, &[1, 40, 2, 8]), layout(0, &[60, 20, 5, 1])),
        (&[4, 6], layout(23, &[-6, -1]), layout(0, &[6, 1])),
        (&[4, 6], layout(1, &[0, 1]), layout(0, &[6, 1])),
        (&[4, 6], layout(1, &[3, 0]), layout(3, &[10, 1])),
        (&[5, 3], layout(0, &[7, 2]), layout(0, &[3, 1])),
        (&[5, 3], layout(0, &[3, 1]), layout(40, &[-8, 2])),
        (&[3, 0, 2], layout(0, &[1, 1, 1]), layout(0, &[0, 2, 1])),
    ];
    for (shape, from, to) in cases {
        let x = numbers(500, 14);
        let (mut y, mut truth) = (vec![7.0; 500], vec![7.0; 500]);
        strided_copy(shape, &x, &from, &mut y, &to);
        reference::strided_copy(shape, &x, &from, &mut truth, &to);
        assert_eq!(y, truth, "{shape:?} from {from:?} to {to:?}");
    }
}

#[test]
fn rows_are_padded_and_picked_as_by_the_reference() {
    let x = numbers(3 * 7, 15);
    let view = ArrayView2::from_shape((3, 7), &x).unwrap();
    for mode in [PadMode::Zero, PadMode::Reflect] {
        for [left, right] in [[0, 0], [2, 0], [0, 6], [6, 3]] {
            let mut y = vec![7.0; 3 * (7 + left + right)];
            pad_rows(&x, 7, [left, right], mode, &mut y);
            assert_eq!(y, reference::pad1d(view, left, right, mode).unwrap().into_raw_vec_and_offset().0);
        }
    }
    let mut y = vec![7.0; 4 * 7];
    gather_rows(&x, 7, [2, 0, 2, 1].into_iter(), &mut y);
    assert_eq!(y, reference::gather_rows(view, &[2, 0, 2, 1]).unwrap().into_raw_vec_and_offset().0);
}
