//! The plans that calls run by: those that measurements have chosen, without those that the device has failed to run.

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

    /// The plan that was measured to be fastest for such calls, or the plan itself if none was measured. If `forced`, the kind of the
    /// plan stays, unless its workgroups did not run concurrently.
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

    /// Has calls of a problem's kind run by a choice from now on, or by their default plan if it is `None`. Returns the former choice.
    pub(crate) fn prefer(&self, problem: &Problem, choice: Option<Choice>) -> Option<Choice> {
        let mut tuning = lock(self.resources().tuning.as_ref()?);
        match choice {
            Some(choice) => tuning.entries.insert(key(problem), choice),
            None => tuning.entries.remove(&key(problem)),
        }
    }

    /// Writes the results to disk.
    pub(crate) fn save_tuning(&self) -> Result<()> {
        self.resources().tuning.as_ref().map_or(Ok(()), |tuning| lock(tuning).save())
    }

    /// The plan itself, or one by steps if its workgroups were found not to run concurrently.
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
