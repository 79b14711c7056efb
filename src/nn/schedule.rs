//! What a call will take, before it is made.

use super::recurrent::Recurrent;
use crate::cell::Cell;
use crate::error::Result;
use crate::plan::{Limits, Plan};
use crate::tensor::Device;

impl<C: Clone + Into<Cell>> Recurrent<C> {
    /// The schedule of a call on this stack's device.
    ///
    /// # Errors
    /// [`Error::Limit`](crate::Error::Limit) where the call does not fit the device.
    pub fn plan(&self, time: usize, batch: usize) -> Result<Plan> {
        let limits = match self.device() {
            Device::Gpu(gpu) => gpu.plan_limits(),
            device => &Limits { adapter: device.to_string(), binding_bytes: isize::MAX as u64, ..Limits::portable() },
        };
        let kind = match self.device() {
            Device::Gpu(gpu) => self.configuration().plan.or(gpu.plan_kind()),
            _ => self.configuration().plan,
        };
        let plan = Plan::new(self.configuration().problem(time, batch), limits, kind)?;
        match self.device() {
            Device::Gpu(gpu) => Ok(gpu.tuned(plan, kind.is_some())),
            _ => Ok(plan),
        }
    }
}
