//! Helpers that several test files share.

#![allow(dead_code, reason = "every test file uses a part of it")]

use std::sync::OnceLock;

use gatewise::gpu::{GpuDevice, GpuOptions};

/// The machine's GPU, a software one included: a machine without any fails the tests.
pub(crate) fn gpu() -> GpuDevice {
    static GPU: OnceLock<GpuDevice> = OnceLock::new();
    GPU.get_or_init(|| {
        let gpu = GpuDevice::new(&GpuOptions { software: true, ..Default::default() })
            .expect("install mesa-vulkan-drivers and libvulkan1: the GPU path is tested on every machine");
        eprintln!("adapter: {} ({})", gpu.adapter().name, gpu.adapter().driver);
        gpu
    })
    .clone()
}

/// Numbers from a seed, uniform in `[-scale, scale)`.
pub(crate) fn uniform(seed: u64, len: usize, scale: f32) -> Vec<f32> {
    let mut rng = fastrand::Rng::with_seed(seed);
    (0..len).map(|_| (2.0 * rng.f32() - 1.0) * scale).collect()
}

/// How far a result may lie from the reference: by `abs`, or by `rel` of the larger of the two.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tolerance {
    pub(crate) abs: f64,
    pub(crate) rel: f64,
}

impl Tolerance {
    /// Activations and gates: drivers compute `exp` to a few units in the last place.
    pub(crate) const ELEMENTWISE: Self = Self { abs: 2e-6, rel: 2e-6 };

    /// A sum of `terms` products of magnitude `scale`, in any order: each addition rounds once.
    pub(crate) fn sum(terms: usize, scale: f64) -> Self {
        Self { abs: (terms + 4) as f64 * scale * f64::from(f32::EPSILON), rel: 0.0 }
    }

    /// Whether `got` is what was expected; a NaN is equal to a NaN only.
    pub(crate) fn allows(self, got: f64, expected: f64) -> bool {
        (got.is_nan() && expected.is_nan())
            || approx::relative_eq!(got, expected, epsilon = self.abs, max_relative = self.rel)
    }

    /// Compares two lists and names the first element that differs.
    pub(crate) fn check(self, what: &str, got: &[f32], expected: &[f32]) -> Result<(), String> {
        if got.len() != expected.len() {
            return Err(format!("{what}: {} elements, expected {}", got.len(), expected.len()));
        }
        for (index, (&got, &expected)) in got.iter().zip(expected).enumerate() {
            if !self.allows(got.into(), expected.into()) {
                return Err(format!("{what}[{index}]: expected {expected}, got {got} ({self:?})"));
            }
        }
        Ok(())
    }
}
