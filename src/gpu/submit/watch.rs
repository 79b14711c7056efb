//! Finds out whether the workgroups of cooperative scans ran concurrently. Every call with such a scan leaves a word that says so. Later
//! calls read the words that have arrived; no call waits for one.

use std::sync::{Arc, Mutex, OnceLock};

use crate::error::Result;
use crate::gpu::device::lock;
use crate::gpu::kept::DeviceResources;
use crate::gpu::kept::buffer::Buffer;

const OP: &str = "watch";
const STAGING: wgpu::BufferUsages = wgpu::BufferUsages::MAP_READ.union(wgpu::BufferUsages::COPY_DST);
const BYTES: u64 = 4;

/// The bit of the word that says that a workgroup waited in vain (TIRED in `shaders/cell/exchange_memory.wgsl`).
const TIRED: u32 = 1;

/// A word that the host reads once a submission is done.
pub(in crate::gpu) struct Watched {
    pub(in crate::gpu) from: Buffer,
    /// The scan's name ([`Plan::cooperative_name`](crate::plan::Plan::cooperative_name)).
    pub(in crate::gpu) scan: String,
}

/// The words of a device that are on their way to the host.
#[derive(Default)]
pub(in crate::gpu) struct ConcurrencyWatch(Mutex<Vec<Expected>>);

/// A word on its way to the host.
struct Expected {
    staging: (u64, wgpu::Buffer),
    /// Set once the driver has answered: whether the word can be read.
    arrived: Arc<OnceLock<bool>>,
    scan: String,
}

/// Host memory for every watched word.
pub(in crate::gpu) fn stage(resources: &DeviceResources, watched: &[Watched]) -> Result<Vec<(u64, wgpu::Buffer)>> {
    watched.iter().map(|_| resources.take_buffer(OP, STAGING, BYTES)).collect()
}

impl ConcurrencyWatch {
    /// Asks for the words of a submission that is under way.
    pub(in crate::gpu) fn ask_for(
        &self,
        resources: &DeviceResources,
        watched: Vec<Watched>,
        staged: Vec<(u64, wgpu::Buffer)>,
    ) {
        let expected = watched.into_iter().zip(staged).map(|(Watched { scan, .. }, staging)| {
            let arrived = Arc::new(OnceLock::new());
            let answer = Arc::clone(&arrived);
            let callback = move |result: std::result::Result<(), wgpu::BufferAsyncError>| {
                // wgpu calls back once, so there is no earlier answer.
                let _ = answer.set(result.is_ok());
            };
            // If the mapping is refused, the callback gives the answer, too.
            let _ = resources.attempt(|| staging.1.slice(..BYTES).map_async(wgpu::MapMode::Read, callback));
            Expected { staging, arrived, scan }
        });
        lock(&self.0).extend(expected);
    }

    /// Takes the words that have arrived. A scan whose workgroups did not run concurrently is denied from now on.
    pub(in crate::gpu) fn take(&self, resources: &DeviceResources) {
        let arrived: Vec<Expected> = {
            let mut expected = lock(&self.0);
            if expected.is_empty() {
                return;
            }
            // A failed poll is reported by the call that waits for a result.
            let _ = resources.poll(wgpu::PollType::Poll);
            expected
                .extract_if(.., |word| word.arrived.get().is_some() || Arc::strong_count(&word.arrived) == 1)
                .collect()
        };
        for Expected { staging: (number, raw), arrived, scan } in arrived {
            // A word that cannot be read belongs to a device that is lost.
            if arrived.get() != Some(&true) {
                continue;
            }
            let word = raw.slice(..BYTES).get_mapped_range().map(|view| bytemuck::pod_read_unaligned::<u32>(&view[..]));
            if resources.attempt(|| raw.unmap()).is_ok() {
                resources.give_buffer(number, raw);
            }
            if word.is_ok_and(|word| word & TIRED != 0) {
                resources.deny(scan);
            }
        }
    }
}

impl Watched {
    /// Records the copy of the word to the host.
    pub(in crate::gpu) fn copy(&self, encoder: &mut wgpu::CommandEncoder, (_, staging): &(u64, wgpu::Buffer)) {
        encoder.copy_buffer_to_buffer(self.from.raw(), 0, staging, 0, BYTES);
    }
}
