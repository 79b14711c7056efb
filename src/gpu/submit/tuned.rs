//! Chooses the plans that calls run by: by measurements, and without plans that the device has failed to run.

use super::handle::GpuDevice;
use crate::error::Result;
use crate::gpu::device::lock;
use crate::gpu::kept::OnDevice;
use crate::gpu::kept::tuning::key;
use crate::plan::{Choice, Plan, Problem};

impl GpuDevice {
    /// Whether calls run by the results of autotuning ([`GpuOptions::tuning`](crate::gpu::GpuOptions::tuning)).
    pub fn is_tuned(&self) -> bool {
        self.resources().tuning.is_some()
    }

    /// The plan that was measured to be fastest for calls of this kind, or `plan` itself if none was measured. If `forced`, the kind of
    /// `plan` stays, unless its workgroups did not run concurrently.
    pub(crate) fn tuned(&self, plan: Plan, forced: bool) -> Plan {
        let known = self.resources().tuning.as_ref();
        let known = known.and_then(|tuning| lock(tuning).entries.get(&key(plan.problem())).copied());
        let plan = match known {
            Some(choice) if !forced || choice.kind == plan.kind() => {
                let as_it_is = plan.clone();
                plan.with_choice(&choice, self.plan_limits()).unwrap_or(as_it_is)
            }
            _ => plan,
        };
        self.permitted(plan)
    }

    /// Sets the choice by which calls of a problem's kind run from now on; `None` means their default plan. Returns the former choice.
    pub(crate) fn prefer(&self, problem: &Problem, choice: Option<Choice>) -> Option<Choice> {
        let mut tuning = lock(self.resources().tuning.as_ref()?);
        match choice {
            Some(choice) => tuning.entries.insert(key(problem), choice),
            None => tuning.entries.remove(&key(problem)),
        }
    }

    /// Writes the results of autotuning to disk.
    pub(crate) fn save_tuning(&self) -> Result<()> {
        self.resources().tuning.as_ref().map_or(Ok(()), |tuning| lock(tuning).save())
    }

    /// Returns `plan` itself, or, if its workgroups were found not to run concurrently, a plan by a wave or by steps.
    fn permitted(&self, plan: Plan) -> Plan {
        let Some(name) = plan.cooperative_name() else { return plan };
        self.concurrency().take(self.resources());
        if !self.resources().is_denied(&name) {
            return plan;
        }
        let as_it_is = plan.clone();
        plan.by_steps(self.plan_limits(), "its workgroups were found not to run at once").unwrap_or(as_it_is)
    }
}
