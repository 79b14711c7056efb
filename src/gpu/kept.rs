//! The objects that a device keeps between calls: memory, pipelines, bind groups, uniforms and plans. This layer names only the layer
//! below it, `device`.

pub(super) mod bindings;
pub(super) mod buffer;
pub(super) mod kernel;
pub(super) mod part;
pub(super) mod pipeline;
pub(super) mod pipeline_cache;
pub(super) mod pool;
pub(super) mod recent;
pub(super) mod reflection;
pub(super) mod specialize;
pub(super) mod tuning;
pub(super) mod uniform;

use std::collections::BTreeSet;
use std::ops::Deref;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use self::bindings::{BindGroups, Blocks};
use self::pipeline::Pipelines;
use self::pipeline_cache::PipelineCache;
use self::pool::Pool;
use self::tuning::Tuning;
use super::device::DeviceCore;
use super::device::contained::Contained;

/// A device and the objects that it keeps. Buffers own it, so it lives as long as any of them.
pub(crate) struct DeviceResources(Contained<Kept>);

pub(crate) struct Kept {
    core: DeviceCore,
    pipelines: Mutex<Pipelines>,
    pub(super) pipeline_cache: Option<PipelineCache>,
    pub(super) tuning: Option<Mutex<Tuning>>,
    /// Names ([`Plan::cooperative_name`](crate::plan::Plan::cooperative_name)) of the cooperative scans whose workgroups did not run
    /// concurrently.
    denied: Mutex<BTreeSet<String>>,
    pub(super) pool: Mutex<Pool>,
    bind_groups: Mutex<BindGroups>,
    blocks: Mutex<Blocks>,
    /// The next number of a buffer or pipeline.
    numbers: AtomicU64,
}

/// A handle of a device, from which buffers can be allocated.
pub(crate) trait OnDevice {
    fn resources(&self) -> &Arc<DeviceResources>;
}

impl DeviceResources {
    /// Wraps a device that keeps nothing yet, apart from the results that earlier processes left on disk.
    pub(super) fn new(core: DeviceCore, pipeline_cache: Option<PipelineCache>, tuning: Option<Tuning>) -> Self {
        Self(Contained::new(Kept {
            core,
            pipelines: Mutex::default(),
            pipeline_cache,
            denied: Mutex::new(tuning.as_ref().map(Tuning::denied).unwrap_or_default()),
            tuning: tuning.map(Mutex::new),
            pool: Mutex::default(),
            bind_groups: Mutex::default(),
            blocks: Mutex::default(),
            numbers: AtomicU64::new(1),
        }))
    }

    /// A number that no other buffer or pipeline of the device has.
    fn next_number(&self) -> u64 {
        self.numbers.fetch_add(1, Ordering::Relaxed)
    }
}

impl Deref for DeviceResources {
    type Target = Kept;

    fn deref(&self) -> &Kept {
        &self.0
    }
}

impl Deref for Kept {
    type Target = DeviceCore;

    fn deref(&self) -> &DeviceCore {
        &self.core
    }
}
