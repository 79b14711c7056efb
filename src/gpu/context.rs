//! Adapter choice, device, limits, and what becomes of errors.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::buffer::Pool;
use super::kernel::{Pipeline, PipelineKey};
use crate::error::{Error, Result};
use crate::plan::{self, AdapterClass, PlanKind};

/// Which adapter to take.
#[derive(Clone, Debug, Default)]
pub struct GpuOptions {
    /// Whether a software adapter (llvmpipe, SwiftShader) will do where no hardware is found. The CPU path is faster than
    /// any of them: they serve tests.
    pub software: bool,
    /// Takes the first adapter whose name contains this text, in any case.
    pub name: Option<String>,
    /// Plans for this class of adapter rather than for the adapter's own: how a GPU's schedule can be tested without one.
    pub class: Option<AdapterClass>,
    /// Does without subgroup operations, as on adapters that have none.
    pub no_subgroups: bool,
    /// Runs every recurrent stack that asks for no kind of plan itself by this one; a call that cannot be run so is refused.
    pub plan: Option<PlanKind>,
}

/// One adapter of the machine.
#[derive(Clone, Debug)]
pub struct AdapterSummary {
    /// Its name.
    pub name: String,
    /// The API that reaches it, for example `vulkan`.
    pub backend: String,
    /// `discrete`, `integrated`, `virtual`, `software` or `other`.
    pub kind: &'static str,
    /// The driver and its version.
    pub driver: String,
    /// Largest storage binding in bytes.
    pub binding_bytes: u64,
    /// Largest buffer in bytes.
    pub buffer_bytes: u64,
    /// Workgroup memory in bytes.
    pub workgroup_bytes: u32,
    /// Invocations of a workgroup.
    pub workgroup_invocations: u32,
    /// Names of the optional features that later kernels can use.
    pub features: Vec<&'static str>,
}

impl AdapterSummary {
    /// Whether the adapter computes on the CPU.
    pub fn is_software(&self) -> bool {
        self.kind == "software"
    }

    fn of(adapter: &wgpu::Adapter) -> Self {
        Self::new(&adapter.get_info(), &adapter.limits(), adapter.features())
    }

    fn new(info: &wgpu::AdapterInfo, limits: &wgpu::Limits, features: wgpu::Features) -> Self {
        let known = [
            (wgpu::Features::SHADER_F16, "shader-f16"),
            (wgpu::Features::SUBGROUP, "subgroup"),
            (wgpu::Features::TIMESTAMP_QUERY, "timestamp-query"),
            (wgpu::Features::PIPELINE_CACHE, "pipeline-cache"),
            (wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX, "cooperative-matrix"),
        ];
        Self {
            name: info.name.clone(),
            backend: info.backend.to_str().to_owned(),
            kind: match info.device_type {
                wgpu::DeviceType::DiscreteGpu => "discrete",
                wgpu::DeviceType::IntegratedGpu => "integrated",
                wgpu::DeviceType::VirtualGpu => "virtual",
                wgpu::DeviceType::Cpu => "software",
                wgpu::DeviceType::Other => "other",
            },
            driver: format!("{} {}", info.driver, info.driver_info).trim().to_owned(),
            binding_bytes: limits.max_storage_buffer_binding_size,
            buffer_bytes: limits.max_buffer_size,
            workgroup_bytes: limits.max_compute_workgroup_storage_size,
            workgroup_invocations: limits.max_compute_invocations_per_workgroup,
            features: known.into_iter().filter(|(flag, _)| features.contains(*flag)).map(|(_, name)| name).collect(),
        }
    }
}

/// Every adapter that the machine's drivers offer, the preferred one first.
pub fn adapters() -> Vec<AdapterSummary> {
    enumerate().iter().map(AdapterSummary::of).collect()
}

fn enumerate() -> Vec<wgpu::Adapter> {
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle());
    let mut adapters = pollster::block_on(instance.enumerate_adapters(wgpu::Backends::PRIMARY));
    adapters.sort_by_key(|adapter| match adapter.get_info().device_type {
        wgpu::DeviceType::DiscreteGpu => 0,
        wgpu::DeviceType::IntegratedGpu => 1,
        wgpu::DeviceType::VirtualGpu => 2,
        wgpu::DeviceType::Other => 3,
        wgpu::DeviceType::Cpu => 4,
    });
    adapters
}

/// What a device has done so far; the difference of two readings is what a call cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Kernels dispatched.
    pub dispatches: u64,
    /// Compute passes begun.
    pub passes: u64,
    /// Command buffers submitted.
    pub submits: u64,
    /// Buffers created, rather than taken again from the pool.
    pub buffers: u64,
    /// Pipelines compiled.
    pub pipelines: u64,
}

#[derive(Debug, Default)]
pub(super) struct AtomicCounters {
    pub(super) dispatches: AtomicU64,
    pub(super) passes: AtomicU64,
    pub(super) submits: AtomicU64,
    pub(super) buffers: AtomicU64,
    pub(super) pipelines: AtomicU64,
}

/// A GPU: cheap to clone, every clone is the same device.
#[derive(Clone)]
pub struct GpuDevice(Arc<Context>);

pub(super) struct Context {
    pub(super) device: wgpu::Device,
    pub(super) queue: wgpu::Queue,
    pub(super) limits: wgpu::Limits,
    plan_limits: plan::Limits,
    plan_kind: Option<PlanKind>,
    /// Bit k: a call was recorded by kind k of `PlanKind::ALL`.
    plans: AtomicU32,
    pub(super) pipelines: Mutex<HashMap<PipelineKey, Arc<Pipeline>>>,
    pub(super) pool: Mutex<Pool>,
    pub(super) counters: AtomicCounters,
    adapter: AdapterSummary,
    lost: Arc<Mutex<Option<String>>>,
}

/// A lock whose holder panicked still guards sound data here: every critical section leaves it consistent.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl GpuDevice {
    /// Opens an adapter.
    ///
    /// # Errors
    /// [`Error::NoAdapter`] where none fits the options, or the driver refuses to open it.
    pub fn new(options: &GpuOptions) -> Result<Self> {
        let wanted = match (&options.name, options.software) {
            (Some(name), _) => format!("the name {name:?}"),
            (None, true) => "any hardware or software adapter".to_owned(),
            (None, false) => "any hardware adapter".to_owned(),
        };
        let found = enumerate();
        let seen: Vec<String> = found.iter().map(|adapter| adapter.get_info().name).collect();
        let fits = |adapter: &wgpu::Adapter| {
            let summary = AdapterSummary::of(adapter);
            (options.software || !summary.is_software())
                && options.name.as_ref().is_none_or(|name| summary.name.to_lowercase().contains(&name.to_lowercase()))
        };
        let Some(adapter) = found.into_iter().find(fits) else {
            let reason = if seen.is_empty() {
                "no driver offers one (on Debian, mesa-vulkan-drivers and libvulkan1 bring a software one)".to_owned()
            } else {
                format!("found only {}", seen.join(", "))
            };
            return Err(Error::NoAdapter { wanted, reason });
        };
        let wanted_features = if options.no_subgroups { wgpu::Features::empty() } else { wgpu::Features::SUBGROUP };
        let descriptor = wgpu::DeviceDescriptor {
            label: Some("gatewise"),
            required_features: adapter.features() & wanted_features,
            required_limits: adapter.limits(),
            ..Default::default()
        };
        let (device, queue) = pollster::block_on(adapter.request_device(&descriptor))
            .map_err(|error| Error::NoAdapter { wanted, reason: error.to_string() })?;
        Ok(Self::open(&adapter.get_info(), AdapterSummary::of(&adapter), device, queue, options))
    }

    /// Takes a caller's own device and queue; buffers can then be shared with it (`Tensor::from_wgpu_buffer`,
    /// `Tensor::wgpu_buffer`).
    ///
    /// The device's limits are respected, so a device with low limits may refuse what the adapter could do. The library
    /// sets the device's lost callback.
    pub fn from_wgpu(info: &wgpu::AdapterInfo, device: wgpu::Device, queue: wgpu::Queue) -> Self {
        Self::open(
            info,
            AdapterSummary::new(info, &device.limits(), device.features()),
            device,
            queue,
            &GpuOptions::default(),
        )
    }

    fn open(
        info: &wgpu::AdapterInfo,
        adapter: AdapterSummary,
        device: wgpu::Device,
        queue: wgpu::Queue,
        options: &GpuOptions,
    ) -> Self {
        let lost = Arc::new(Mutex::new(None));
        device.set_device_lost_callback({
            let lost = Arc::clone(&lost);
            move |reason, message| *lock(&lost) = Some(format!("{reason:?}: {message}"))
        });
        let limits = device.limits();
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
            loop_cap: loop_cap.then_some(65_535),
        };
        Self(Arc::new(Context {
            limits,
            plan_limits,
            plan_kind: options.plan,
            plans: AtomicU32::new(0),
            device,
            queue,
            pipelines: Mutex::default(),
            pool: Mutex::default(),
            counters: AtomicCounters::default(),
            adapter,
            lost,
        }))
    }

    /// What the adapter is and can do.
    pub fn adapter(&self) -> &AdapterSummary {
        &self.0.adapter
    }

    /// The device itself, for a caller's own commands beside the library's.
    pub fn wgpu(&self) -> (&wgpu::Device, &wgpu::Queue) {
        (&self.0.device, &self.0.queue)
    }

    /// What the device has done so far.
    pub fn counters(&self) -> Counters {
        let counters = &self.0.counters;
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counters {
            dispatches: read(&counters.dispatches),
            passes: read(&counters.passes),
            submits: read(&counters.submits),
            buffers: read(&counters.buffers),
            pipelines: read(&counters.pipelines),
        }
    }

    /// The limits that shape a plan on this device.
    pub fn plan_limits(&self) -> &plan::Limits {
        &self.0.plan_limits
    }

    /// The kind of plan that calls run by unless their stack asks for one.
    pub fn plan_kind(&self) -> Option<PlanKind> {
        self.0.plan_kind
    }

    /// The kinds of plan that calls were recorded by since this was last asked.
    pub fn take_plans(&self) -> Vec<PlanKind> {
        let taken = self.0.plans.swap(0, Ordering::Relaxed);
        PlanKind::ALL.into_iter().filter(|kind| taken & kind.bit() != 0).collect()
    }

    pub(super) fn note_plan(&self, kind: PlanKind) {
        self.0.plans.fetch_or(kind.bit(), Ordering::Relaxed);
    }

    pub(super) fn context(&self) -> &Arc<Context> {
        &self.0
    }

    pub(crate) fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl fmt::Debug for GpuDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("GpuDevice").field(&self.0.adapter.name).finish()
    }
}

impl Context {
    /// Runs driver calls and turns what they report into an error.
    pub(super) fn guarded<T>(&self, op: &'static str, calls: impl FnOnce() -> T) -> Result<T> {
        self.check_alive(op)?;
        let memory = self.device.push_error_scope(wgpu::ErrorFilter::OutOfMemory);
        let internal = self.device.push_error_scope(wgpu::ErrorFilter::Internal);
        let validation = self.device.push_error_scope(wgpu::ErrorFilter::Validation);
        let value = calls();
        let refused = pollster::block_on(validation.pop());
        let broken = pollster::block_on(internal.pop());
        let exhausted = pollster::block_on(memory.pop());
        let error = refused.or(broken).or(exhausted);
        if error.is_some() {
            // What a lost device refuses, it refuses for being lost, and says so once the work in flight is done.
            let _ = self.device.poll(wgpu::PollType::wait_indefinitely());
            self.check_alive(op)?;
        }
        match error {
            None => Ok(value),
            Some(wgpu::Error::OutOfMemory { source }) => Err(Error::OutOfMemory { op, message: source.to_string() }),
            Some(error) => Err(Error::Gpu { op, message: error.to_string() }),
        }
    }

    /// Refuses to go on with a lost device: the driver would accept the commands and drop them.
    pub(super) fn check_alive(&self, op: &'static str) -> Result<()> {
        // The loss is reported while polling. A failed poll is reported by the call that waits for a result.
        let _ = self.device.poll(wgpu::PollType::Poll);
        match &*lock(&self.lost) {
            Some(reason) => Err(Error::DeviceLost { op, reason: reason.clone() }),
            None => Ok(()),
        }
    }

    pub(super) fn limit(&self, op: &'static str, what: &'static str, needed: u64, limit: u64) -> Result<()> {
        if needed <= limit {
            return Ok(());
        }
        Err(Error::Limit { op, what, needed, limit, adapter: self.adapter.name.clone() })
    }
}
