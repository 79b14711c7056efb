//! Element-wise operations of graphs, on every device, compared with `f64`.

use std::sync::OnceLock;

use gatewise::gpu::GpuOptions;
use gatewise::ops::{self, Binary, Math};
use gatewise::{Device, Tensor};
use ndarray::Array2;

fn devices() -> Vec<Device> {
    static GPU: OnceLock<Device> = OnceLock::new();
    let gpu = GPU.get_or_init(|| {
        Device::gpu(&GpuOptions { software: true, ..Default::default() })
            .expect("install mesa-vulkan-drivers and libvulkan1: the GPU path is tested on every machine")
    });
    vec![Device::Reference, Device::Cpu, gpu.clone()]
}

/// Numbers of every kind: signs, zeros, halves, whole numbers, large, small, infinite, NaN.
const EDGES: [f32; 22] = [
    0.0,
    -0.0,
    1.0,
    -1.0,
    2.0,
    -2.0,
    3.0,
    -3.0,
    0.5,
    -0.5,
    2.5,
    -7.25,
    17.0,
    -17.0,
    1e-6,
    -1e-6,
    30.0,
    88.0,
    -100.0,
    f32::INFINITY,
    f32::NEG_INFINITY,
    f32::NAN,
];

fn close(found: f32, right: f64, relative: f64) -> bool {
    let (found, near) = (f64::from(found), right.abs().max(f64::from(f32::MIN_POSITIVE)));
    (right.is_nan() && found.is_nan())
        || (right.abs() > f64::from(f32::MAX) && found == right.signum() * f64::INFINITY)
        || (found - right).abs() <= relative * near
}

#[test]
fn functions_agree_with_f64_from_edge_to_edge() {
    for device in devices() {
        for function in Math::ALL {
            let x = Tensor::from_vec(&device, &[2, 11], EDGES.to_vec()).expect("input");
            let mut recorder = device.recorder();
            let y = ops::math(&mut recorder, function, &x).expect("fits");
            recorder.submit().expect("runs");
            assert_eq!(y.shape(), [2, 11]);
            for (x, y) in EDGES.into_iter().zip(y.to_vec().expect("result")) {
                let wide = f64::from(x);
                let right = match function {
                    Math::Exp => wide.exp(),
                    Math::Log => wide.ln(),
                    Math::Sqrt => wide.sqrt(),
                    Math::Abs => wide.abs(),
                    Math::Floor => wide.floor(),
                    Math::Ceil => wide.ceil(),
                    other => panic!("no expectation for {other:?}"),
                };
                // WGSL allows exp an error of 3 + 2 |x| units in the last place, and flushes subnormal results to zero.
                let relative = if function == Math::Exp { (4.0 + 2.0 * wide.abs()) * 6e-8 } else { 4e-7 };
                let subnormal = right.abs() < f64::from(f32::MIN_POSITIVE) && y.abs() < f32::MIN_POSITIVE;
                assert!(subnormal || close(y, right, relative), "{device}: {function:?}({x}) = {y}, not {right}");
            }
        }
    }
}

#[test]
fn binary_operations_agree_with_f64_from_edge_to_edge() {
    let pairs: Vec<(f32, f32)> = EDGES.into_iter().flat_map(|a| EDGES.map(|b| (a, b))).collect();
    let column = |pick: fn(&(f32, f32)) -> f32| pairs.iter().map(pick).collect::<Vec<_>>();
    for device in devices() {
        for op in Binary::ALL {
            let tensor = |data| Tensor::from_vec(&device, &[pairs.len()], data).expect("input");
            let (a, b) = (tensor(column(|p| p.0)), tensor(column(|p| p.1)));
            let mut recorder = device.recorder();
            let y = ops::binary(&mut recorder, op, &a, &b).expect("fits");
            recorder.submit().expect("runs");
            for (&(a, b), y) in pairs.iter().zip(y.to_vec().expect("result")) {
                let (x, z) = (f64::from(a), f64::from(b));
                let nan = x.is_nan() || z.is_nan();
                let right = match op {
                    Binary::Add => x + z,
                    Binary::Sub => x - z,
                    Binary::Mul => x * z,
                    Binary::Mean => (x + z) / 2.0,
                    Binary::Hypot => (x * x + z * z).sqrt(),
                    Binary::Div => x / z,
                    Binary::Max if nan => f64::NAN,
                    Binary::Max => x.max(z),
                    Binary::Min if nan => f64::NAN,
                    Binary::Min => x.min(z),
                    Binary::Pow => x.powf(z),
                    Binary::Equal => f64::from(u8::from(x == z)),
                    Binary::Less => f64::from(u8::from(x < z)),
                    Binary::Keep => {
                        if z == 0.0 {
                            0.0
                        } else {
                            x
                        }
                    }
                    Binary::Drop => {
                        if z == 0.0 {
                            x
                        } else {
                            assert_eq!(y.to_bits(), (-0.0_f32).to_bits(), "{device}: the sign of {op:?}({a}, {b})");
                            -0.0
                        }
                    }
                    other => panic!("no expectation for {other:?}"),
                };
                // Powers with larger exponents use a logarithm, so the error grows with the logarithm of the result.
                let relative = match op {
                    Binary::Pow if right != 0.0 && right.is_finite() => (8.0 + 4.0 * right.abs().log2().abs()) * 6e-8,
                    _ => 4e-7,
                };
                let subnormal = right.abs() < 1.2e-38 && y.abs() < 1.2e-38;
                assert!(subnormal || close(y, right, relative), "{device}: {op:?}({a}, {b}) = {y}, not {right}");
            }
        }
    }
}

#[test]
fn functions_of_many_elements_cross_every_workgroup() {
    let x = Array2::from_shape_fn((7, 1031), |(a, b)| (a * 1031 + b) as f32 * 0.001);
    for device in devices() {
        let on = Tensor::from_array(&device, &x).expect("input");
        let mut recorder = device.recorder();
        let y = ops::math(&mut recorder, Math::Sqrt, &on).expect("fits");
        recorder.submit().expect("runs");
        let y: Array2<f32> = y.to_array().expect("result");
        assert!(y.iter().zip(&x).all(|(&y, &x)| close(y, f64::from(x).sqrt(), 4e-7)), "{device}");
    }
}
