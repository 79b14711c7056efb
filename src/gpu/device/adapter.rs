//! The machine's adapters, and the options to open one.

use std::path::PathBuf;

use super::contained::{contained, contained_future, silence_contained_panics};
use crate::plan::{AdapterClass, CooperativeScans, Matrices, PlanKind, Watchdog};

/// The adapter to open, and how to use it.
///
/// # Examples
/// ```
/// use gatewise::gpu::GpuOptions;
/// let options = GpuOptions::new().software(true).name("llvmpipe");
/// assert_eq!(options, GpuOptions { software: true, name: Some("llvmpipe".to_owned()), ..Default::default() });
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GpuOptions {
    /// Whether to open a software adapter (llvmpipe, SwiftShader) if there is no hardware. The CPU path is faster than any of them:
    /// they serve tests.
    pub software: bool,
    /// Takes the first adapter whose name contains this text, in any case.
    pub name: Option<String>,
    /// Plans for this class of adapter instead of the adapter's own: for tests of a GPU's schedules without a GPU.
    #[doc(hidden)]
    pub class: Option<AdapterClass>,
    /// Uses no subgroup operations, as on adapters that have none.
    #[doc(hidden)]
    pub no_subgroups: bool,
    /// The kind of plan for every recurrent stack that asks for none itself. A call that this kind cannot run is refused.
    pub plan: Option<PlanKind>,
    /// Plans as if the driver ended loops after this many iterations, or after its own cap if that is lower: for tests of chunks on
    /// short sequences.
    #[doc(hidden)]
    pub loop_cap: Option<u64>,
    /// Bounds for dispatches and submissions in place of the default ones. A longer bound risks that the system resets a slow GPU.
    pub watchdog: Option<Watchdog>,
    /// A folder for compiled pipelines, if the backend hands them out (Vulkan); it is created. Without it nothing is written to disk.
    /// The driver trusts the file, so only the folder's owner may be able to write to it. A damaged file is ignored.
    pub pipeline_cache: Option<PathBuf>,
    /// A folder for the results of [`Recurrent::tune`](crate::nn::Recurrent::tune), per adapter and driver; it is created. Calls then
    /// run by the plans found there. Without it a plan depends only on the call and the device's limits.
    pub tuning: Option<PathBuf>,
    /// Permits cooperative scans ([`PlanKind::CooperativeScan`]), in which workgroups wait for each other, and bounds them.
    ///
    /// No API promises that workgroups run concurrently. If they do not, the call is computed again on the device, correctly but
    /// slowly, and later calls take steps. Through Vulkan or DX12, plans choose such scans by themselves on GPUs of NVIDIA and Intel and
    /// on discrete GPUs of AMD. On other GPUs they choose them only if the kind is asked for.
    pub cooperative: Option<CooperativeScans>,
    /// Multiplies with the adapter's cooperative matrices if they keep the precision of a layer's weights: matrices of f16 for weights
    /// that are exact in f16, matrices of f32 for all weights.
    ///
    /// This turns on experimental code of wgpu (`Features::EXPERIMENTAL_COOPERATIVE_MATRIX`), which wgpu calls unsound: it may have
    /// undefined behaviour even if it is used correctly. No other experimental feature is turned on. An adapter is refused if it lists
    /// no kind of matrices that this crate has a kernel for.
    pub matrices: bool,
}

impl GpuOptions {
    /// The first hardware adapter, with all else left to the library.
    pub const fn new() -> Self {
        Self {
            software: false,
            name: None,
            class: None,
            no_subgroups: false,
            plan: None,
            loop_cap: None,
            watchdog: None,
            pipeline_cache: None,
            tuning: None,
            cooperative: None,
            matrices: false,
        }
    }

    /// Sets whether to open a software adapter if there is no hardware.
    pub fn software(self, software: bool) -> Self {
        Self { software, ..self }
    }

    /// Takes the first adapter whose name contains this text, in any case.
    pub fn name(self, name: impl Into<String>) -> Self {
        Self { name: Some(name.into()), ..self }
    }

    /// Plans for this class of adapter instead of the adapter's own.
    #[doc(hidden)]
    pub fn class(self, class: AdapterClass) -> Self {
        Self { class: Some(class), ..self }
    }

    /// Sets whether to do without subgroup operations.
    #[doc(hidden)]
    pub fn no_subgroups(self, no_subgroups: bool) -> Self {
        Self { no_subgroups, ..self }
    }

    /// Sets the kind of plan for every recurrent stack that asks for none itself.
    pub fn plan(self, plan: PlanKind) -> Self {
        Self { plan: Some(plan), ..self }
    }

    /// Plans as if the driver ended loops after this many iterations.
    #[doc(hidden)]
    pub fn loop_cap(self, loop_cap: u64) -> Self {
        Self { loop_cap: Some(loop_cap), ..self }
    }

    /// Sets the bounds for the times of dispatches and submissions.
    pub fn watchdog(self, watchdog: Watchdog) -> Self {
        Self { watchdog: Some(watchdog), ..self }
    }

    /// Keeps compiled pipelines in this folder. Only the folder's owner may be able to write to it.
    pub fn pipeline_cache(self, folder: impl Into<PathBuf>) -> Self {
        Self { pipeline_cache: Some(folder.into()), ..self }
    }

    /// Keeps the results of [`Recurrent::tune`](crate::nn::Recurrent::tune) in this folder.
    pub fn tuning(self, folder: impl Into<PathBuf>) -> Self {
        Self { tuning: Some(folder.into()), ..self }
    }

    /// Permits cooperative scans and bounds them.
    pub fn cooperative(self, cooperative: CooperativeScans) -> Self {
        Self { cooperative: Some(cooperative), ..self }
    }

    /// Sets whether to multiply with the adapter's cooperative matrices, which are experimental.
    pub fn matrices(self, matrices: bool) -> Self {
        Self { matrices, ..self }
    }
}

/// One adapter of the machine.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct AdapterSummary {
    /// The adapter's name.
    pub name: String,
    /// The API that reaches it, for example `vulkan`.
    pub backend: String,
    /// `discrete`, `integrated`, `virtual`, `software` or `other`.
    pub kind: &'static str,
    /// The driver and its version.
    pub driver: String,
    /// Largest storage binding in bytes.
    pub binding_bytes: u64,
    /// Largest buffer in bytes.
    pub buffer_bytes: u64,
    /// Largest workgroup memory in bytes.
    pub workgroup_bytes: u32,
    /// Largest number of invocations of a workgroup.
    pub workgroup_invocations: u32,
    /// Names of the adapter's optional features that this crate can use.
    pub features: Vec<&'static str>,
}

impl AdapterSummary {
    /// Whether the adapter computes on the CPU.
    pub fn is_software(&self) -> bool {
        self.kind == "software"
    }

    pub(in crate::gpu) fn of(adapter: &wgpu::Adapter) -> Self {
        Self::new(&adapter.get_info(), &adapter.limits(), adapter.features())
    }

    pub(in crate::gpu) fn new(info: &wgpu::AdapterInfo, limits: &wgpu::Limits, features: wgpu::Features) -> Self {
        let known = [
            (wgpu::Features::SHADER_F16, "shader-f16"),
            (wgpu::Features::SUBGROUP, "subgroup"),
            (wgpu::Features::TIMESTAMP_QUERY, "timestamp-query"),
            (wgpu::Features::PIPELINE_CACHE, "pipeline-cache"),
            (wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX, "cooperative-matrix"),
        ];
        Self {
            name: info.name.clone(),
            backend: info.backend.to_str().to_owned(),
            kind: match info.device_type {
                wgpu::DeviceType::DiscreteGpu => "discrete",
                wgpu::DeviceType::IntegratedGpu => "integrated",
                wgpu::DeviceType::VirtualGpu => "virtual",
                wgpu::DeviceType::Cpu => "software",
                wgpu::DeviceType::Other => "other",
            },
            driver: format!("{} {}", info.driver, info.driver_info).trim().to_owned(),
            binding_bytes: limits.max_storage_buffer_binding_size,
            buffer_bytes: limits.max_buffer_size,
            workgroup_bytes: limits.max_compute_workgroup_storage_size,
            workgroup_invocations: limits.max_compute_invocations_per_workgroup,
            features: known.into_iter().filter(|(flag, _)| features.contains(*flag)).map(|(_, name)| name).collect(),
        }
    }
}

/// Selects, from the matrices that an adapter lists, the kinds that this crate has a kernel for.
pub(in crate::gpu) fn matrices(listed: &[wgpu::CooperativeMatrixProperties]) -> Vec<Matrices> {
    use wgpu::CooperativeScalarType::{F16, F32};
    let is_listed = |kind: &Matrices| {
        let operand = match kind {
            Matrices::Half => F16,
            Matrices::Float => F32,
        };
        listed.iter().any(|p| {
            [p.m_size, p.n_size, p.k_size].iter().all(|&size| size as usize == kind.size())
                && (p.ab_type, p.cr_type) == (operand, F32)
        })
    };
    Matrices::ALL.into_iter().filter(is_listed).collect()
}

/// Every adapter that the machine's drivers offer, the preferred one first.
#[cfg(not(target_arch = "wasm32"))]
pub fn adapters() -> Vec<AdapterSummary> {
    pollster::block_on(enumerate()).unwrap_or_default().iter().map(AdapterSummary::of).collect()
}

/// Lists the machine's adapters, the preferred one first. If a driver fails meanwhile, its message is the error.
pub(in crate::gpu) async fn enumerate() -> Result<Vec<wgpu::Adapter>, String> {
    silence_contained_panics();
    let found = contained(|| {
        let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle());
        instance.enumerate_adapters(wgpu::Backends::PRIMARY)
    })?;
    let mut adapters = contained_future(found).await?;
    adapters.sort_by_key(|adapter| match adapter.get_info().device_type {
        wgpu::DeviceType::DiscreteGpu => 0,
        wgpu::DeviceType::IntegratedGpu => 1,
        wgpu::DeviceType::VirtualGpu => 2,
        wgpu::DeviceType::Other => 3,
        wgpu::DeviceType::Cpu => 4,
    });
    Ok(adapters)
}

#[cfg(test)]
mod tests {
    use wgpu::CooperativeScalarType::{F16, F32, I32};

    use std::time::Duration;

    use super::{AdapterClass, CooperativeScans, GpuOptions, Matrices, PlanKind, Watchdog, matrices};

    #[test]
    fn every_option_has_a_method_that_sets_it_alone() {
        assert_eq!(GpuOptions::new(), GpuOptions::default());
        let watchdog = Watchdog { dispatch: Duration::from_millis(7), ..Watchdog::default() };
        let cooperative = CooperativeScans { workgroups: 3, ..CooperativeScans::default() };
        let all = GpuOptions {
            software: true,
            name: Some("a".to_owned()),
            class: Some(AdapterClass::Software),
            no_subgroups: true,
            plan: Some(PlanKind::Wave),
            loop_cap: Some(5),
            watchdog: Some(watchdog),
            pipeline_cache: Some("b".into()),
            tuning: Some("c".into()),
            cooperative: Some(cooperative),
            matrices: true,
        };
        let one_way = GpuOptions::new().software(true).name("a").class(AdapterClass::Software).no_subgroups(true);
        let one_way = one_way.plan(PlanKind::Wave).loop_cap(5).watchdog(watchdog).pipeline_cache("b").tuning("c");
        assert_eq!(one_way.cooperative(cooperative).matrices(true), all);
        let backwards = GpuOptions::new().matrices(true).cooperative(cooperative).tuning("c").pipeline_cache("b");
        let backwards = backwards.watchdog(watchdog).loop_cap(5).plan(PlanKind::Wave).no_subgroups(true);
        assert_eq!(backwards.class(AdapterClass::Software).name("a").software(true), all);
    }

    #[test]
    fn matrices_are_those_that_there_is_a_kernel_for() {
        let listed = |m_size, n_size, k_size, ab_type, cr_type| wgpu::CooperativeMatrixProperties {
            m_size,
            n_size,
            k_size,
            ab_type,
            cr_type,
            saturating_accumulation: false,
        };
        let (half, float) = (listed(16, 16, 16, F16, F32), listed(8, 8, 8, F32, F32));
        assert_eq!(matrices(&[half, float]), [Matrices::Half, Matrices::Float]);
        assert_eq!(matrices(&[float]), [Matrices::Float]);
        // Another size, another type of operands or of sums.
        let others = [
            listed(16, 8, 16, F16, F32),
            listed(16, 16, 8, F16, F32),
            listed(16, 16, 16, F16, F16),
            listed(8, 8, 8, F16, F32),
            listed(16, 16, 16, F32, F32),
            listed(16, 16, 16, I32, I32),
        ];
        assert_eq!(matrices(&others), []);
        assert_eq!(matrices(&[others[3], half]), [Matrices::Half]);
    }
}
