//! The handle of a device.

use std::fmt;
use std::ops::Deref;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use super::list::List;
#[cfg(not(target_arch = "wasm32"))]
use super::waiter::Waiter;
use super::watch::ConcurrencyWatch;
use crate::error::{Error, Result};
use crate::gpu::device::DeviceCore;
use crate::gpu::device::adapter::{AdapterSummary, GpuOptions};
use crate::gpu::device::contained::{Contained, contained};
use crate::gpu::device::counters::Counters;
use crate::gpu::device::limits::too_low;
use crate::gpu::device::open::{Opened, TIMESTAMPS, open, refused};
use crate::gpu::kept::pipeline_cache::PipelineCache;
use crate::gpu::kept::tuning::Tuning;
use crate::gpu::kept::{DeviceResources, OnDevice};
use crate::plan::{self, PlanKind};

/// A GPU. A clone is cheap, and every clone is the same device.
#[derive(Clone)]
pub struct GpuDevice(Arc<Shared>);

/// The state that all clones of a handle share.
struct Shared(Contained<Submitting>);

impl Deref for Shared {
    type Target = Submitting;

    fn deref(&self) -> &Submitting {
        &self.0
    }
}

struct Submitting {
    /// Dropped first: its thread holds the device.
    #[cfg(not(target_arch = "wasm32"))]
    waiter: Waiter,
    concurrency: ConcurrencyWatch,
    lists: Mutex<Vec<List>>,
    plan_kind: Option<PlanKind>,
    /// Bit k is set if a call was recorded by kind k of `PlanKind::ALL`.
    plans: AtomicU32,
    resources: Arc<DeviceResources>,
}

impl GpuDevice {
    /// Opens an adapter.
    ///
    /// # Errors
    /// [`Error::NoAdapter`](crate::Error::NoAdapter) if none fits the options, or if the driver refuses to open it.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn new(options: &GpuOptions) -> Result<Self> {
        pollster::block_on(Self::new_async(options))
    }

    /// Returns an error: waiting would block the thread that a browser needs to open the adapter. Use [`GpuDevice::new_async`].
    ///
    /// # Errors
    /// [`Error::Unsupported`](crate::Error::Unsupported), always.
    #[cfg(target_arch = "wasm32")]
    pub fn new(_: &GpuOptions) -> Result<Self> {
        let option = "opening an adapter without awaiting it".to_owned();
        Err(Error::Unsupported { op: "GpuDevice::new", option, by: "in browsers" })
    }

    /// Opens an adapter as [`GpuDevice::new`] does, without blocking.
    ///
    /// # Errors
    /// As [`GpuDevice::new`].
    pub async fn new_async(options: &GpuOptions) -> Result<Self> {
        let Opened { adapter, device, queue, matrices } = open(options).await?;
        let info = adapter.get_info();
        let pipelines = match &options.pipeline_cache {
            Some(folder) => contained(|| PipelineCache::open(&device, &info, folder))
                .map_err(|reason| refused(options, reason))??,
            None => None,
        };
        let adapter = AdapterSummary::of(&adapter);
        let tuning = options.tuning.as_ref().map(|folder| Tuning::open(&adapter, folder)).transpose()?;
        let core = contained(|| DeviceCore::new(&info, adapter, (device, queue), options, matrices))
            .map_err(|reason| refused(options, reason))?;
        let opened = Self::of(DeviceResources::new(core, pipelines, tuning), options.plan);
        opened.resources().loss.listen(&opened.resources().device);
        opened.submit_first().map_err(|error| refused(options, error.to_string()))?;
        Ok(opened)
    }

    /// Uses a caller's own device and queue. Buffers can then be shared (`Tensor::from_wgpu_buffer`, `Tensor::wgpu_buffer`).
    ///
    /// The device's limits are respected, so a device with low limits may refuse calls that the adapter could do.
    ///
    /// The library sets no device-lost callback on the device, and detects a loss without one.
    ///
    /// # Errors
    /// [`Error::Value`](crate::Error::Value) if limits are too low for every call; it names all of them. A device with
    /// [`GpuDevice::required_limits`] is not refused. Likewise if the device is lost already, or the queue belongs to another device.
    pub fn from_wgpu(info: &wgpu::AdapterInfo, device: wgpu::Device, queue: wgpu::Queue) -> Result<Self> {
        const OP: &str = "GpuDevice::from_wgpu";
        let low = too_low(&device.limits());
        if !low.is_empty() {
            let expected = "opened with the limits of GpuDevice::required_limits() or higher ones";
            return Err(Error::Value { op: OP, what: "device", expected, found: low.join(", ") });
        }
        let adapter = AdapterSummary::new(info, &device.limits(), device.features());
        let core = DeviceCore::new(info, adapter, (device, queue), &GpuOptions::default(), Vec::new());
        core.try_queue().map_err(|found| {
            let expected = "one that is not lost, with its own queue";
            Error::Value { op: OP, what: "device", expected, found }
        })?;
        Ok(Self::of(DeviceResources::new(core, None, None), None))
    }

    /// The limits that suffice for [`GpuDevice::from_wgpu`]: WebGPU's default ones. Higher limits allow larger calls and faster plans.
    pub fn required_limits() -> wgpu::Limits {
        wgpu::Limits::default()
    }

    /// The features of an adapter that a caller's own device should have: subgroups for faster plans, and timestamps for
    /// [`Profile`](crate::gpu::Profile)s. None of them is required.
    ///
    /// ```
    /// use gatewise::gpu::GpuDevice;
    /// # async fn open(adapter: &wgpu::Adapter) -> Result<GpuDevice, Box<dyn std::error::Error>> {
    /// let descriptor = wgpu::DeviceDescriptor {
    ///     required_limits: GpuDevice::required_limits(),
    ///     required_features: GpuDevice::optional_features(adapter.features()),
    ///     ..Default::default()
    /// };
    /// let (device, queue) = adapter.request_device(&descriptor).await?;
    /// Ok(GpuDevice::from_wgpu(&adapter.get_info(), device, queue)?)
    /// # }
    /// ```
    pub fn optional_features(of_adapter: wgpu::Features) -> wgpu::Features {
        of_adapter & (wgpu::Features::SUBGROUP | TIMESTAMPS)
    }

    fn of(resources: DeviceResources, plan_kind: Option<PlanKind>) -> Self {
        Self(Arc::new(Shared(Contained::new(Submitting {
            #[cfg(not(target_arch = "wasm32"))]
            waiter: Waiter::default(),
            concurrency: ConcurrencyWatch::default(),
            lists: Mutex::default(),
            plan_kind,
            plans: AtomicU32::new(0),
            resources: Arc::new(resources),
        }))))
    }

    /// Makes an empty submission, so that a driver without memory for submissions fails here rather than in a call.
    ///
    /// wgpu-hal 30 creates a semaphore in the first submission. If that fails, it destroys another one twice when the device is
    /// dropped (`RelaySemaphores::advance`). Such a device is therefore never dropped.
    fn submit_first(&self) -> Result<()> {
        let resources = self.resources();
        let submitted = resources.guarded("opening a device", || resources.queue.submit([]));
        if submitted.is_err() {
            std::mem::forget(Arc::clone(resources));
        }
        submitted.map(drop)
    }

    /// Checks that the device is not lost.
    ///
    /// # Errors
    /// [`Error::DeviceLost`](crate::Error::DeviceLost), as every call on a lost device.
    ///
    /// ```
    /// use gatewise::gpu::{GpuDevice, GpuOptions};
    /// let device = GpuDevice::new(&GpuOptions::new().software(true))?;
    /// device.check()?;
    /// # Ok::<(), gatewise::Error>(())
    /// ```
    pub fn check(&self) -> Result<()> {
        self.resources().ask_whether_alive("GpuDevice::check")
    }

    /// The adapter's properties.
    pub fn adapter(&self) -> &AdapterSummary {
        &self.resources().adapter
    }

    /// wgpu's device and queue, for a caller's own commands.
    pub fn wgpu(&self) -> (&wgpu::Device, &wgpu::Queue) {
        (&self.resources().device, &self.resources().queue)
    }

    /// Writes compiled pipelines to disk ([`GpuOptions::pipeline_cache`]). Dropping the last owner of the device does so, too.
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io) if the file cannot be written.
    pub fn save_pipelines(&self) -> Result<()> {
        self.resources().pipeline_cache.as_ref().map_or(Ok(()), PipelineCache::save)
    }

    /// The work that the device has done so far.
    pub fn counters(&self) -> Counters {
        self.resources().counters.read()
    }

    unstable! {
        /// The limits that shape a plan on this device.
        pub fn plan_limits(&self) -> &plan::Limits {
            &self.resources().plan_limits
        }
    }

    /// The kind of plan that calls run by unless their stack asks for another.
    pub fn plan_kind(&self) -> Option<PlanKind> {
        self.0.plan_kind
    }

    /// Returns the kinds of plan that calls have been recorded by since the last call of this method.
    pub fn take_plans(&self) -> Vec<PlanKind> {
        let taken = self.0.plans.swap(0, Ordering::Relaxed);
        PlanKind::ALL.into_iter().filter(|kind| taken & kind.bit() != 0).collect()
    }

    pub(in crate::gpu) fn note_plan(&self, kind: PlanKind) {
        self.0.plans.fetch_or(kind.bit(), Ordering::Relaxed);
    }

    #[cfg(not(target_arch = "wasm32"))]
    pub(in crate::gpu) fn waiter(&self) -> &Waiter {
        &self.0.waiter
    }

    pub(in crate::gpu) fn concurrency(&self) -> &ConcurrencyWatch {
        &self.0.concurrency
    }

    /// Emptied lists for later recorders.
    pub(in crate::gpu) fn lists(&self) -> &Mutex<Vec<List>> {
        &self.0.lists
    }

    pub(crate) fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl OnDevice for GpuDevice {
    fn resources(&self) -> &Arc<DeviceResources> {
        &self.0.resources
    }
}

impl fmt::Debug for GpuDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("GpuDevice").field(&self.adapter().name).finish()
    }
}
