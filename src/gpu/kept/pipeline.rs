//! Compiled kernels.

use std::any::TypeId;
use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use super::DeviceResources;
use super::kernel::{Constants, Kernel};
use super::pipeline_cache::PipelineCache;
use super::recent::Recent;
use super::reflection::Variant;
use super::uniform::{Declared, Uniform};
use crate::error::Result;
use crate::gpu::device::counters::count;
use crate::gpu::device::lock;

/// Variants of a kernel per generation of the cache. A model whose layers need more than twice as many variants compiles at every
/// call.
const MOST_VARIANTS: usize = 128;

/// Compiled kernels by name and `override`s. Of each kernel, the variants used last are kept.
#[derive(Default)]
pub(in crate::gpu) struct Pipelines(HashMap<&'static str, Recent<Constants, Arc<Pipeline>>>);

impl Pipelines {
    fn get(&mut self, kernel: &'static Kernel, constants: &Constants) -> Option<Arc<Pipeline>> {
        self.0.get_mut(kernel.name)?.get(constants)
    }

    fn insert(&mut self, kernel: &'static Kernel, constants: Constants, pipeline: Arc<Pipeline>) {
        let variants = self.0.entry(kernel.name).or_insert_with(|| Recent::new(MOST_VARIANTS));
        variants.insert(constants, pipeline);
    }
}

/// A compiled kernel with the layout that its WGSL declares.
pub(in crate::gpu) struct Pipeline {
    pub(in crate::gpu) name: &'static str,
    /// The kernel that was compiled.
    pub(in crate::gpu) kernel: &'static Kernel,
    /// The values of the `override`s that it was compiled with.
    pub(in crate::gpu) constants: Constants,
    /// The number that no other pipeline or buffer of the device has; `None` if no later call will ask for the pipeline.
    pub(in crate::gpu) number: Option<u64>,
    pub(in crate::gpu) raw: wgpu::ComputePipeline,
    pub(in crate::gpu) layout: wgpu::BindGroupLayout,
    /// Number of bindings after the uniform at binding 0.
    pub(in crate::gpu) buffers: usize,
    /// The uniform at binding 0.
    pub(in crate::gpu) dims: Declared,
    /// The Rust struct that was found to match the uniform.
    accepted: OnceLock<TypeId>,
}

impl Pipeline {
    /// Returns an error if the Rust struct `D` differs from the WGSL's uniform.
    pub(in crate::gpu) fn accept<D: Uniform>(&self) -> Result<()> {
        let id = TypeId::of::<D>();
        if self.accepted.get() != Some(&id) {
            self.dims.check::<D>(self.name)?;
            // If another thread was first, it has found the same struct right.
            let _ = self.accepted.set(id);
        }
        Ok(())
    }
}

impl DeviceResources {
    /// The pipeline of a kernel, compiled at its first use.
    pub(in crate::gpu) fn pipeline(
        self: &Arc<Self>,
        kernel: &'static Kernel,
        constants: &Constants,
    ) -> Result<Arc<Pipeline>> {
        if let Some(pipeline) = lock(&self.pipelines).get(kernel, constants) {
            return Ok(pipeline);
        }
        let pipeline =
            Arc::new(Pipeline { number: Some(self.next_number()), ..self.compile(kernel, constants, Checks::Access)? });
        lock(&self.pipelines).insert(kernel, constants.clone(), Arc::clone(&pipeline));
        Ok(pipeline)
    }

    pub(in crate::gpu) fn compile(
        &self,
        kernel: &'static Kernel,
        constants: &Constants,
        checks: Checks,
    ) -> Result<Pipeline> {
        let op = kernel.name;
        let variant = Variant::of(kernel, constants)?;
        // wgpu checks neither the memory (gfx-rs/wgpu#8946) nor a workgroup size that is an override.
        self.limit(
            op,
            "workgroup memory in bytes",
            variant.workgroup_bytes,
            u64::from(self.limits.max_compute_workgroup_storage_size),
        )?;
        let invocations = variant.workgroup.iter().map(|&size| u64::from(size)).product();
        let most = u64::from(self.limits.max_compute_invocations_per_workgroup);
        self.limit(op, "invocations of a workgroup", invocations, most)?;
        let limits = &self.limits;
        let longest = [
            limits.max_compute_workgroup_size_x,
            limits.max_compute_workgroup_size_y,
            limits.max_compute_workgroup_size_z,
        ];
        for (size, longest) in variant.workgroup.into_iter().zip(longest) {
            self.limit(op, "invocations of a workgroup along one axis", u64::from(size), u64::from(longest))?;
        }
        count(&self.counters.pipelines, 1);
        self.guarded(op, || {
            let layout = self.device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor {
                label: Some(op),
                entries: &variant.entries,
            });
            let pipeline_layout = self.device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
                label: Some(op),
                bind_group_layouts: &[Some(&layout)],
                immediate_size: 0,
            });
            let module = self.module(kernel, variant.module, checks);
            let raw = self.device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
                label: Some(op),
                layout: Some(&pipeline_layout),
                module: &module,
                entry_point: Some(op),
                compilation_options: wgpu::PipelineCompilationOptions::default(),
                cache: self.pipeline_cache.as_ref().map(PipelineCache::raw),
            });
            let buffers = variant.entries.len() - 1;
            let (name, dims) = (op, variant.dims);
            let constants = constants.clone();
            Pipeline { name, kernel, constants, number: None, raw, layout, buffers, dims, accepted: OnceLock::new() }
        })
    }
}

/// The checks that a compiled kernel makes while it runs.
#[derive(Clone, Copy)]
pub(in crate::gpu) enum Checks {
    /// Every access to memory and every division is checked. No loop is counted, because that would keep drivers from unrolling it.
    Access,
    /// Accesses and divisions are checked, and the iterations of every loop are counted.
    All,
}

impl DeviceResources {
    fn module(&self, kernel: &'static Kernel, module: naga::Module, checks: Checks) -> wgpu::ShaderModule {
        let source = wgpu::ShaderSource::Naga(Cow::Owned(module));
        let descriptor = wgpu::ShaderModuleDescriptor { label: Some(kernel.name), source };
        // A caller can make a `Kernel` of any text. Only the loops of the crate's own kernels are known to end.
        match checks {
            Checks::Access if kernel.is_own() => {
                let checks =
                    wgpu::ShaderRuntimeChecks { force_loop_bounding: false, ..wgpu::ShaderRuntimeChecks::checked() };
                #[expect(unsafe_code, reason = "a driver may assume that an endless loop is never reached")]
                // SAFETY: wgpu requires that no loop is endless. Every loop of the crate's kernels counts towards a bound in
                // steps that are not 0; `tests/shaders.rs` checks that. The bounds are sizes of buffers, set by this crate and
                // below 2^30 words, so no counter overflows before it reaches its bound.
                unsafe {
                    self.device.create_shader_module_trusted(descriptor, checks)
                }
            }
            _ => self.device.create_shader_module(descriptor),
        }
    }
}
