//! The schedule of a call, before it is made.

use super::recurrent::Recurrent;
use crate::cell::Cell;
use crate::error::Result;
use crate::path;
use crate::plan::Plan;

impl<C: Clone + Into<Cell>> Recurrent<C> {
    /// The schedule of a call on this stack's device; for a host device, on a GPU with WebGPU's least limits.
    ///
    /// # Errors
    /// [`Error::Limit`](crate::Error::Limit) if the call does not fit the device.
    pub fn plan(&self, time: usize, batch: usize) -> Result<Plan> {
        let config = self.configuration();
        path::plan(self.device(), config.problem(time, batch), config.plan)
    }
}
