//! Whether workgroups that were to run at once did: a word of every such call, looked at by later calls, waited for by none.

use std::sync::{Arc, OnceLock};

use super::buffer::Buffer;
use super::context::{Context, GpuDevice, lock};
use super::recorder::Recorder;
use crate::error::Result;
use crate::plan::Plan;

const OP: &str = "watch";
const STAGING: wgpu::BufferUsages = wgpu::BufferUsages::MAP_READ.union(wgpu::BufferUsages::COPY_DST);
const BYTES: u64 = 4;

/// Bit of the word that says that somebody was waited for in vain (TIRED in `shaders/cell/exchange_memory.wgsl`).
const TIRED: u32 = 1;

/// A word to look at once a submission is done.
pub(super) struct Watched {
    from: Buffer,
    /// The scan: [`Plan::cooperative_name`].
    scan: String,
}

/// A word on its way to the host. It holds no [`Buffer`]: that would hold the device, which holds this.
pub(super) struct Expected {
    staging: (u64, wgpu::Buffer),
    /// Whether it can be read.
    arrived: Arc<OnceLock<bool>>,
    scan: String,
}

impl Recorder {
    /// Has the first word of `exchange` looked at when the submission is done.
    pub(super) fn watch(&mut self, exchange: &Buffer, scan: String) {
        self.watched().push(Watched { from: exchange.clone(), scan });
    }
}

impl Context {
    /// Room on the host's side for every watched word.
    pub(super) fn stage(&self, watched: &[Watched]) -> Result<Vec<(u64, wgpu::Buffer)>> {
        watched.iter().map(|_| self.take_buffer(OP, STAGING, BYTES)).collect()
    }

    /// Asks for the words of a submission that is under way.
    pub(super) fn ask_for(&self, watched: Vec<Watched>, staged: Vec<(u64, wgpu::Buffer)>) {
        let expected = watched.into_iter().zip(staged).map(|(Watched { scan, .. }, staging)| {
            let arrived = Arc::new(OnceLock::new());
            let answer = Arc::clone(&arrived);
            let callback = move |result: std::result::Result<(), wgpu::BufferAsyncError>| {
                // There is one answer.
                let _ = answer.set(result.is_ok());
            };
            // A refused mapping gives the answer, too.
            let _ = self.attempt(|| staging.1.slice(..BYTES).map_async(wgpu::MapMode::Read, callback));
            Expected { staging, arrived, scan }
        });
        lock(&self.expected).extend(expected);
    }

    /// Takes the words that have arrived: what they tell to be wanting is denied from now on.
    fn take_expected(&self) {
        let arrived: Vec<Expected> = {
            let mut expected = lock(&self.expected);
            if expected.is_empty() {
                return;
            }
            // The call that waits for a result reports a failed poll.
            let _ = self.poll(wgpu::PollType::Poll);
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
            if self.attempt(|| raw.unmap()).is_ok() {
                self.give_buffer(number, raw);
            }
            if word.is_ok_and(|word| word & TIRED != 0) {
                self.deny(scan);
            }
        }
    }
}

impl Watched {
    /// Has the word copied.
    pub(super) fn copy(&self, encoder: &mut wgpu::CommandEncoder, (_, staging): &(u64, wgpu::Buffer)) {
        encoder.copy_buffer_to_buffer(self.from.raw(), 0, staging, 0, BYTES);
    }
}

impl GpuDevice {
    /// A plan as it is, or one by steps where its workgroups were found not to run at once.
    pub(super) fn permitted(&self, plan: Plan) -> Plan {
        let Some(name) = plan.cooperative_name() else { return plan };
        self.context().take_expected();
        if !self.context().is_denied(&name) {
            return plan;
        }
        let as_it_is = plan.clone();
        plan.by_steps(self.plan_limits(), "its workgroups were found not to run at once").unwrap_or(as_it_is)
    }
}
