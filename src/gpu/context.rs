//! The device, its limits, what it keeps between calls, and what becomes of errors.

use std::collections::BTreeSet;
use std::fmt;
use std::ops::Deref;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::adapter::{AdapterSummary, GpuOptions, enumerate, matrices};
use super::bindings::{BindGroups, Blocks};
use super::contained::{Contained, contained, one_line, silence_contained_panics};
use super::counters::{AtomicCounters, Counters};
use super::kernel::Pipelines;
use super::limits::{countable, lacking};
use super::liveness::{Canary, Loss};
use super::pipeline_cache::PipelineCache;
use super::pool::Pool;
#[cfg(not(target_arch = "wasm32"))]
use super::readback::Waiter;
use super::recorder::List;
use super::tuning::Tuning;
use super::watch::Expected;
use crate::error::{Error, Result};
use crate::plan::{self, AdapterClass, Matrices, PlanKind};

/// A GPU: cheap to clone, every clone is the same device.
#[derive(Clone)]
pub struct GpuDevice(Arc<Context>);

/// Everything that a device's owners share.
pub(super) struct Context(Contained<Fields>);

impl Deref for Context {
    type Target = Fields;

    fn deref(&self) -> &Fields {
        &self.0
    }
}

pub(super) struct Fields {
    /// The first to be dropped: its thread holds the device.
    #[cfg(not(target_arch = "wasm32"))]
    pub(super) waiter: Waiter,
    pub(super) device: wgpu::Device,
    pub(super) queue: wgpu::Queue,
    pub(super) limits: wgpu::Limits,
    plan_limits: plan::Limits,
    plan_kind: Option<PlanKind>,
    /// Bit k: a call was recorded by kind k of `PlanKind::ALL`.
    plans: AtomicU32,
    pub(super) pipelines: Mutex<Pipelines>,
    pub(super) pipeline_cache: Option<PipelineCache>,
    pub(super) tuning: Option<Mutex<Tuning>>,
    /// What was found not to run at once: [`Plan::cooperative_name`](plan::Plan::cooperative_name).
    pub(super) denied: Mutex<BTreeSet<String>>,
    /// Words that say so, on their way.
    pub(super) expected: Mutex<Vec<Expected>>,
    pub(super) pool: Mutex<Pool>,
    pub(super) bind_groups: Mutex<BindGroups>,
    pub(super) blocks: Mutex<Blocks>,
    pub(super) lists: Mutex<Vec<List>>,
    /// The next number of a buffer or pipeline.
    pub(super) numbers: AtomicU64,
    pub(super) counters: AtomicCounters,
    pub(super) adapter: AdapterSummary,
    pub(super) loss: Loss,
    pub(super) canary: Canary,
    /// The first limit that is too low for the kernels, if any: its name in wgpu, the value needed, the value found.
    pub(super) lacking: Option<(&'static str, u64, u64)>,
}

/// What a [`Profile`](super::Profile) is made of, as far as an adapter has it.
const TIMESTAMPS: wgpu::Features = wgpu::Features::TIMESTAMP_QUERY.union(wgpu::Features::TIMESTAMP_QUERY_INSIDE_PASSES);

/// What kernels of matrices ask for.
fn of_matrices(matrices: &[Matrices]) -> wgpu::Features {
    let one = |kind: &Matrices| match kind {
        Matrices::Half => wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX | wgpu::Features::SHADER_F16,
        Matrices::Float => wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX,
    };
    matrices.iter().map(one).fold(wgpu::Features::empty(), wgpu::Features::union)
}

/// wgpu's leave to use them.
fn experimental(matrices: &[Matrices]) -> wgpu::ExperimentalFeatures {
    if matrices.is_empty() {
        return wgpu::ExperimentalFeatures::disabled();
    }
    #[expect(unsafe_code, reason = "wgpu hands experimental features out on this word only")]
    // SAFETY: what is asked for is to know that wgpu's own code of these features may be unsound. The caller has asked for them
    // by `GpuOptions::matrices`, which says so, and of all of them only cooperative matrices are requested.
    unsafe {
        wgpu::ExperimentalFeatures::enabled()
    }
}

/// Whether an adapter is of those known to go on with all workgroups that they have begun with: no API promises it, Metal's and
/// mobile GPUs do not, nor do software adapters, which run one after another.
fn runs_at_once(info: &wgpu::AdapterInfo) -> bool {
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

/// What a device of the crate's own brings along.
#[derive(Default)]
struct Kept {
    pipelines: Option<PipelineCache>,
    tuning: Option<Tuning>,
    /// What the device was opened with, of what its adapter lists.
    matrices: Vec<Matrices>,
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
        let refused = |wanted: &str, reason: String| Error::NoAdapter { wanted: wanted.to_owned(), reason };
        let found = enumerate().map_err(|reason| refused(&wanted, reason))?;
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
            return Err(refused(&wanted, reason));
        };
        let subgroups = if options.no_subgroups { wgpu::Features::empty() } else { wgpu::Features::SUBGROUP };
        let cache = match options.pipeline_cache {
            Some(_) => wgpu::Features::PIPELINE_CACHE,
            None => wgpu::Features::empty(),
        };
        let wanted_features = subgroups | cache | TIMESTAMPS;
        let mut matrices =
            if options.matrices { matrices(&adapter.cooperative_matrix_properties()) } else { Vec::new() };
        matrices.retain(|kind| adapter.features().contains(of_matrices(&[*kind])));
        if options.matrices && matrices.is_empty() {
            let reason = format!("{} lists none that there is a kernel for", adapter.get_info().name);
            return Err(refused(&format!("{wanted} with cooperative matrices"), reason));
        }
        let descriptor = wgpu::DeviceDescriptor {
            label: Some("gatewise"),
            required_features: (adapter.features() & wanted_features) | of_matrices(&matrices),
            required_limits: adapter.limits(),
            experimental_features: experimental(&matrices),
            ..Default::default()
        };
        let (device, queue) = contained(|| pollster::block_on(adapter.request_device(&descriptor)))
            .and_then(|opened| opened.map_err(|error| one_line(&error.to_string())))
            .map_err(|reason| refused(&wanted, reason))?;
        let info = adapter.get_info();
        let cache = match &options.pipeline_cache {
            Some(folder) => contained(|| PipelineCache::open(&device, &info, folder))
                .map_err(|reason| refused(&wanted, reason))??,
            None => None,
        };
        let adapter = AdapterSummary::of(&adapter);
        let tuning = options.tuning.as_ref().map(|folder| Tuning::open(&adapter, folder)).transpose()?;
        let kept = Kept { pipelines: cache, tuning, matrices };
        let opened = contained(|| Self::open(&info, adapter, device, queue, options, kept))
            .map_err(|reason| refused(&wanted, reason))?;
        opened.0.loss.listen(&opened.0.device);
        opened.submit_first().map_err(|error| refused(&wanted, error.to_string()))?;
        Ok(opened)
    }

    /// Takes a caller's own device and queue; buffers can then be shared with it (`Tensor::from_wgpu_buffer`,
    /// `Tensor::wgpu_buffer`).
    ///
    /// The device's limits are respected, so a device with low limits may refuse what the adapter could do. A device whose
    /// limits no kernel can live with is refused by [`GpuDevice::check`] and by every call on it.
    ///
    /// The device's lost callback stays the caller's: the library sets none, and notices a loss by itself.
    pub fn from_wgpu(info: &wgpu::AdapterInfo, device: wgpu::Device, queue: wgpu::Queue) -> Self {
        let adapter = AdapterSummary::new(info, &device.limits(), device.features());
        Self::open(info, adapter, device, queue, &GpuOptions::default(), Kept::default())
    }

    fn open(
        info: &wgpu::AdapterInfo,
        adapter: AdapterSummary,
        device: wgpu::Device,
        queue: wgpu::Queue,
        options: &GpuOptions,
        kept: Kept,
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
            matrices: kept.matrices,
            loop_cap: loop_cap.then_some(65_535).into_iter().chain(options.loop_cap).min(),
            cooperative: options.cooperative.unwrap_or_default(),
            cooperative_by_default: options.cooperative.is_some() && runs_at_once(info),
            watchdog: options.watchdog.unwrap_or_default(),
        };
        let (canary, lacking) = (Canary::new(&device), lacking(&limits));
        Self(Arc::new(Context(Contained::new(Fields {
            limits,
            plan_limits,
            plan_kind: options.plan,
            plans: AtomicU32::new(0),
            device,
            queue,
            pipelines: Mutex::default(),
            pipeline_cache: kept.pipelines,
            denied: Mutex::new(kept.tuning.as_ref().map(Tuning::denied).unwrap_or_default()),
            expected: Mutex::default(),
            tuning: kept.tuning.map(Mutex::new),
            pool: Mutex::default(),
            bind_groups: Mutex::default(),
            blocks: Mutex::default(),
            lists: Mutex::default(),
            #[cfg(not(target_arch = "wasm32"))]
            waiter: Waiter::default(),
            numbers: AtomicU64::new(1),
            counters: AtomicCounters::default(),
            adapter,
            loss: Loss::default(),
            canary,
            lacking,
        }))))
    }

    /// Submits nothing, so that a driver without memory for submissions fails here rather than in a call.
    ///
    /// wgpu-hal 30 creates a semaphore in the first submission; if that fails, it destroys another one twice when the device
    /// is dropped (`RelaySemaphores::advance`). Such a device is therefore never dropped.
    fn submit_first(&self) -> Result<()> {
        let submitted = self.0.guarded("opening a device", || self.0.queue.submit([]));
        if submitted.is_err() {
            std::mem::forget(self.clone());
        }
        submitted.map(drop)
    }

    /// Whether the device can be worked with: it is not lost, and its limits are those that the kernels need.
    ///
    /// # Errors
    /// [`Error::DeviceLost`], or [`Error::Limit`] with the limit's name in wgpu. Every call on the device returns the same error.
    ///
    /// ```
    /// use gatewise::gpu::{GpuDevice, GpuOptions};
    /// let device = GpuDevice::new(&GpuOptions { software: true, ..Default::default() })?;
    /// device.check()?;
    /// # Ok::<(), gatewise::Error>(())
    /// ```
    pub fn check(&self) -> Result<()> {
        self.0.ask_whether_alive("GpuDevice::check")
    }

    /// What the adapter is and can do.
    pub fn adapter(&self) -> &AdapterSummary {
        &self.0.adapter
    }

    /// The device itself, for a caller's own commands beside the library's.
    pub fn wgpu(&self) -> (&wgpu::Device, &wgpu::Queue) {
        (&self.0.device, &self.0.queue)
    }

    /// Writes compiled pipelines out ([`GpuOptions::pipeline_cache`]); dropping the last owner of the device does it, too.
    ///
    /// # Errors
    /// [`Error::Io`] where the file cannot be written.
    pub fn save_pipelines(&self) -> Result<()> {
        self.0.pipeline_cache.as_ref().map_or(Ok(()), PipelineCache::save)
    }

    /// What the device has done so far.
    pub fn counters(&self) -> Counters {
        self.0.counters.read()
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

    pub(super) fn of(context: &Arc<Context>) -> Self {
        Self(Arc::clone(context))
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
