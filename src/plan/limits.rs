//! The limits of a device that a plan depends on.

use super::matrices::Matrices;
use super::watchdog::{Bounds, Watchdog};
use crate::error::{Error, Result};

/// The hardware that an adapter computes on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AdapterClass {
    /// A GPU: thousands of concurrent invocations, cheap barriers, and memory that is fast if neighbouring invocations read
    /// neighbouring words.
    #[default]
    Hardware,
    /// The CPU (llvmpipe, SwiftShader): a few threads that run one subgroup after another by vector instructions. Every load of a
    /// lane costs an instruction, and every barrier a switch between subgroups.
    Software,
}

/// Bounds for the workgroups of a dispatch that wait for each other
/// ([`PlanKind::CooperativeScan`](super::PlanKind::CooperativeScan)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CooperativeScans {
    /// Largest number of such workgroups: as many as the GPU certainly runs concurrently.
    pub workgroups: usize,
    /// Number of times that a workgroup reads a word of another one before it gives up. One read takes about a microsecond.
    pub polls: u32,
}

impl Default for CooperativeScans {
    fn default() -> Self {
        Self { workgroups: 64, polls: 1 << 14 }
    }
}

/// The limits of a device that a plan depends on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The device's name, for messages.
    pub adapter: String,
    /// The hardware that the adapter computes on.
    pub class: AdapterClass,
    /// Invocations of the smallest subgroup; 0 if kernels cannot use subgroups.
    pub subgroup: usize,
    /// Invocations of the largest subgroup; 0 if kernels cannot use subgroups.
    pub subgroup_most: usize,
    /// Largest storage binding in bytes.
    pub binding_bytes: u64,
    /// Largest workgroup memory in bytes.
    pub workgroup_bytes: u64,
    /// Largest number of invocations of a workgroup.
    pub workgroup_invocations: usize,
    /// Largest number of workgroups of a dispatch along one axis.
    pub workgroups: usize,
    /// The kinds of cooperative matrices that calls may use.
    pub matrices: Vec<Matrices>,
    /// Loop iterations of an invocation after which the driver silently ends its loops; `None` if it never does.
    pub loop_cap: Option<u64>,
    /// Bounds for workgroups that wait for each other.
    pub cooperative: CooperativeScans,
    /// Whether cooperative scans may be chosen if no kind of plan was asked for.
    pub cooperative_by_default: bool,
    /// The longest times of a dispatch and of a submission.
    pub watchdog: Watchdog,
}

impl Limits {
    /// The limits that every WebGPU implementation offers.
    pub fn portable() -> Self {
        Self {
            adapter: "a WebGPU adapter".to_owned(),
            class: AdapterClass::Hardware,
            subgroup: 0,
            subgroup_most: 0,
            binding_bytes: 128 << 20,
            workgroup_bytes: 16 << 10,
            workgroup_invocations: 256,
            workgroups: 65_535,
            matrices: Vec::new(),
            loop_cap: None,
            cooperative: CooperativeScans::default(),
            cooperative_by_default: false,
            watchdog: Watchdog::default(),
        }
    }

    /// Whether lanes of a subgroup pass loaded words to each other. On a software adapter, that is cheaper than loading the words again.
    pub(crate) fn shares_lanes(&self) -> bool {
        self.class == AdapterClass::Software && self.subgroup >= 8
    }

    /// The bounds that cut dispatches into parts.
    pub(crate) fn bounds(&self) -> Bounds {
        Bounds { watchdog: self.watchdog, workgroups: self.workgroups }
    }

    /// Returns [`Error::Limit`] if `needed` exceeds `limit`.
    pub(super) fn check(&self, op: &'static str, what: &'static str, needed: u64, limit: u64) -> Result<()> {
        if needed <= limit {
            return Ok(());
        }
        Err(Error::Limit { op, what, needed, limit, adapter: self.adapter.clone() })
    }
}
