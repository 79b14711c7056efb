//! The device itself: its adapter, its limits, wgpu's device and queue, and whether it is lost. As the lowest layer of the GPU path, it
//! names no other layer.

pub(super) mod adapter;
pub(super) mod contained;
pub(super) mod counters;
#[cfg(test)]
pub(crate) mod faults;
pub(super) mod limits;
pub(super) mod liveness;
pub(super) mod open;

use std::sync::{Mutex, MutexGuard, PoisonError};

use self::adapter::{AdapterSummary, GpuOptions};
use self::contained::silence_contained_panics;
use self::counters::AtomicCounters;
use self::limits::countable;
use self::liveness::{Canary, Loss};
use crate::error::{Error, Result};
use crate::plan::{self, AdapterClass, Matrices};

/// An open device.
pub(crate) struct DeviceCore {
    pub(super) device: wgpu::Device,
    pub(super) queue: wgpu::Queue,
    pub(super) limits: wgpu::Limits,
    pub(super) plan_limits: plan::Limits,
    pub(super) counters: AtomicCounters,
    pub(super) adapter: AdapterSummary,
    pub(super) loss: Loss,
    canary: Canary,
}

/// Locks a mutex. If a holder panicked, the data is consistent all the same, because every critical section leaves it so.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl DeviceCore {
    /// Describes an open device, whose limits suffice for the kernels. `matrices` lists the kinds of cooperative matrices that it was opened with.
    pub(super) fn new(
        info: &wgpu::AdapterInfo,
        adapter: AdapterSummary,
        (device, queue): (wgpu::Device, wgpu::Queue),
        options: &GpuOptions,
        matrices: Vec<Matrices>,
    ) -> Self {
        silence_contained_panics();
        let limits = countable(device.limits());
        let subgroup = |size: u32| if device.features().contains(wgpu::Features::SUBGROUP) { size as usize } else { 0 };
        let own = if adapter.is_software() { AdapterClass::Software } else { AdapterClass::Hardware };
        // llvmpipe ends every loop of an invocation after 65,535 iterations in all, without an error
        // (Mesa, LP_MAX_TGSI_LOOP_ITERATIONS).
        let loop_cap = adapter.driver.contains("llvmpipe") || adapter.name.contains("llvmpipe");
        let plan_limits = plan::Limits {
            adapter: adapter.name.clone(),
            class: options.class.unwrap_or(own),
            subgroup: subgroup(info.subgroup_min_size),
            subgroup_most: subgroup(info.subgroup_max_size),
            binding_bytes: limits.max_storage_buffer_binding_size.min(limits.max_buffer_size),
            workgroup_bytes: u64::from(limits.max_compute_workgroup_storage_size),
            workgroup_invocations: limits.max_compute_invocations_per_workgroup as usize,
            workgroups: limits.max_compute_workgroups_per_dimension as usize,
            matrices,
            loop_cap: loop_cap.then_some(65_535).into_iter().chain(options.loop_cap).min(),
            cooperative: options.cooperative.unwrap_or_default(),
            cooperative_by_default: options.cooperative.is_some() && runs_concurrently(info),
            watchdog: options.watchdog.unwrap_or_default(),
        };
        let canary = Canary::new(&device);
        Self {
            limits,
            plan_limits,
            device,
            queue,
            counters: AtomicCounters::default(),
            adapter,
            loss: Loss::default(),
            canary,
        }
    }

    /// Returns [`Error::Limit`] if `needed` exceeds `limit`.
    pub(super) fn limit(&self, op: &'static str, what: &'static str, needed: u64, limit: u64) -> Result<()> {
        if needed <= limit {
            return Ok(());
        }
        Err(Error::Limit { op, what, needed, limit, adapter: self.adapter.name.clone() })
    }

    /// Converts a size to 32 bits, in which kernels count.
    pub(super) fn word(&self, op: &'static str, size: usize) -> Result<u32> {
        u32::try_from(size).map_err(|_| Error::Limit {
            op,
            what: "elements",
            needed: size as u64,
            limit: u64::from(u32::MAX),
            adapter: self.adapter.name.clone(),
        })
    }
}

/// Whether an adapter is known to continue all workgroups that it has started. No API promises this. Metal's and mobile GPUs do not do
/// so; software adapters run one workgroup after another.
fn runs_concurrently(info: &wgpu::AdapterInfo) -> bool {
    const NVIDIA: u32 = 0x10de;
    const AMD: u32 = 0x1002;
    const INTEL: u32 = 0x8086;
    let discrete = info.device_type == wgpu::DeviceType::DiscreteGpu;
    let integrated = info.device_type == wgpu::DeviceType::IntegratedGpu;
    matches!(info.backend, wgpu::Backend::Vulkan | wgpu::Backend::Dx12)
        && match info.vendor {
            NVIDIA | INTEL => discrete || integrated,
            AMD => discrete,
            _ => false,
        }
}
