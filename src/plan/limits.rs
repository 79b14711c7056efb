//! What a device allows, as far as a plan depends on it.

use super::matrices::Matrices;
use super::watchdog::{Bounds, Watchdog};
use crate::error::{Error, Result};

/// What an adapter computes on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AdapterClass {
    /// A GPU: thousands of invocations at once, memory that wants neighbours to read neighbouring words, cheap barriers.
    #[default]
    Hardware,
    /// The CPU (llvmpipe, SwiftShader): a few threads of wide vectors, one subgroup after another; every load of a lane
    /// costs an instruction, every barrier a switch.
    Software,
}

/// Workgroups of one dispatch that wait for each other ([`PlanKind::Wide`](super::PlanKind::Wide)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Together {
    /// How many of them may, at the most: as many as the GPU surely runs at once.
    pub workgroups: usize,
    /// How often one looks for what another one has to tell before it gives up. A look takes about a microsecond.
    pub looks: u32,
}

impl Default for Together {
    fn default() -> Self {
        Self { workgroups: 64, looks: 1 << 14 }
    }
}

/// The limits of a device that shape a plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The device's name, for messages.
    pub adapter: String,
    /// What the adapter computes on.
    pub class: AdapterClass,
    /// Invocations of the smallest subgroup; 0 where kernels cannot use subgroups.
    pub subgroup: usize,
    /// Invocations of the largest subgroup; 0 where kernels cannot use subgroups.
    pub subgroup_most: usize,
    /// Largest storage binding in bytes.
    pub binding_bytes: u64,
    /// Workgroup memory in bytes.
    pub workgroup_bytes: u64,
    /// Invocations of a workgroup.
    pub workgroup_invocations: usize,
    /// Workgroups of a dispatch along one axis.
    pub workgroups: usize,
    /// The adapter's own matrices that calls may use.
    pub matrices: Vec<Matrices>,
    /// Loop iterations after which the driver silently leaves a shader, if it does.
    pub loop_cap: Option<u64>,
    /// Workgroups that may wait for each other.
    pub together: Together,
    /// Whether they may where no plan was asked for.
    pub together_unasked: bool,
    /// How long a dispatch and a submission may be.
    pub watchdog: Watchdog,
}

impl Limits {
    /// The least that every WebGPU implementation offers.
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
            together: Together::default(),
            together_unasked: false,
            watchdog: Watchdog::default(),
        }
    }

    /// Whether lanes of a subgroup pass each other what they have loaded: a load of a lane costs a software adapter more.
    pub(crate) fn shares_lanes(&self) -> bool {
        self.class == AdapterClass::Software && self.subgroup >= 8
    }

    /// The bounds that cut dispatches into parts.
    pub(crate) fn bounds(&self) -> Bounds {
        Bounds { watchdog: self.watchdog, workgroups: self.workgroups }
    }

    pub(super) fn check(&self, op: &'static str, what: &'static str, needed: u64, limit: u64) -> Result<()> {
        if needed <= limit {
            return Ok(());
        }
        Err(Error::Limit { op, what, needed, limit, adapter: self.adapter.clone() })
    }
}
