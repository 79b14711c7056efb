//! The declarations of a kernel's WGSL, and the module that a driver gets.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex};

use naga::Module;
use naga::valid::{Capabilities, ModuleInfo, ValidationFlags, Validator};

use crate::error::{Error, Result};
use crate::gpu::device::lock;
use crate::gpu::kept::kernel::{Constants, Kernel};
use crate::gpu::kept::part::{PART, PartDims, of_part};
use crate::gpu::kept::specialize::specialized;
use crate::gpu::kept::uniform::Declared;

/// A kernel for some values of its `override`s.
pub(in crate::gpu) struct Variant {
    pub(in crate::gpu) entries: Vec<wgpu::BindGroupLayoutEntry>,
    pub(in crate::gpu) dims: Declared,
    pub(in crate::gpu) workgroup_bytes: u64,
    /// Invocations of a workgroup along each axis.
    pub(in crate::gpu) workgroup: [u32; 3],
    /// The module for the driver, without `override`s and without the branches that they exclude.
    pub(in crate::gpu) module: Module,
}

/// A text as naga reads it.
struct Parsed {
    module: Module,
    info: ModuleInfo,
}

/// The capabilities that any kernel may need; the planner checks that the device has them.
pub(in crate::gpu) const CAPABILITIES: Capabilities = Capabilities::SUBGROUP
    .union(Capabilities::SHADER_FLOAT16_IN_FLOAT32)
    .union(Capabilities::SHADER_FLOAT16)
    .union(Capabilities::COOPERATIVE_MATRIX);

/// The parsed texts of the crate's own kernels. Each is parsed once per process, however many variants and devices use it.
static PARSED: LazyLock<Mutex<HashMap<&'static str, Arc<Parsed>>>> = LazyLock::new(Mutex::default);

fn parsed(kernel: &'static Kernel) -> Result<Arc<Parsed>> {
    let text = kernel.source;
    let refused = |message: String| Error::Gpu { op: kernel.name, message };
    if let Some(parsed) = lock(&PARSED).get(text) {
        return Ok(Arc::clone(parsed));
    }
    let module = naga::front::wgsl::parse_str(text).map_err(|e| refused(e.emit_to_string(text)))?;
    let info = Validator::new(ValidationFlags::all(), CAPABILITIES)
        .subgroup_stages(naga::valid::ShaderStages::COMPUTE)
        .subgroup_operations(naga::valid::SubgroupOperationSet::all())
        .validate(&module)
        .map_err(|e| refused(e.emit_to_string(text)))?;
    let parsed = Arc::new(Parsed { module, info });
    // A caller may bring any number of texts, so these are not kept.
    if kernel.is_own() {
        lock(&PARSED).insert(text, Arc::clone(&parsed));
    }
    Ok(parsed)
}

impl Variant {
    pub(in crate::gpu) fn of(kernel: &'static Kernel, constants: &Constants) -> Result<Self> {
        let refused = |message: String| Error::Gpu { op: kernel.name, message };
        let parsed = parsed(kernel)?;
        let mut values = naga::back::PipelineConstants::default();
        let overrides = constants.iter().filter(|(name, _)| *name != PART);
        values.extend(overrides.map(|&(name, value)| (name.to_owned(), f64::from(value))));
        let (module, _) = naga::back::pipeline_constants::process_overrides(
            &parsed.module,
            &parsed.info,
            Some((naga::ShaderStage::Compute, kernel.name)),
            &values,
        )
        .map_err(|e| refused(e.to_string()))?;
        let mut layouter = naga::proc::Layouter::default();
        layouter.update(module.to_ctx()).map_err(|e| refused(e.to_string()))?;

        let workgroup = module.entry_points.iter().find(|point| point.name == kernel.name).map(|p| p.workgroup_size);
        let mut variant = Self {
            entries: Vec::new(),
            dims: Declared::default(),
            workgroup_bytes: 0,
            workgroup: workgroup.unwrap_or([1; 3]),
            module: specialized(&module),
        };
        for (_, variable) in module.global_variables.iter() {
            let bytes = layouter[variable.ty].size;
            let ty = match variable.space {
                naga::AddressSpace::WorkGroup => {
                    variant.workgroup_bytes += u64::from(bytes);
                    continue;
                }
                naga::AddressSpace::Uniform => {
                    variant.dims = Declared::of(&module, variable.ty, bytes);
                    wgpu::BufferBindingType::Uniform
                }
                naga::AddressSpace::Storage { access } => {
                    wgpu::BufferBindingType::Storage { read_only: !access.contains(naga::StorageAccess::STORE) }
                }
                _ => continue,
            };
            let Some(binding) = &variable.binding else {
                continue;
            };
            variant.entries.push(wgpu::BindGroupLayoutEntry {
                binding: binding.binding,
                visibility: wgpu::ShaderStages::COMPUTE,
                ty: wgpu::BindingType::Buffer {
                    ty,
                    has_dynamic_offset: ty == wgpu::BufferBindingType::Uniform,
                    min_binding_size: None,
                },
                count: None,
            });
        }
        if constants.iter().any(|(name, _)| *name == PART) {
            let whole = std::mem::take(&mut variant.module);
            let unfit = || refused("the kernel has no uniform, so its grid cannot be divided into parts".to_owned());
            let (module, place) = of_part(whole, kernel.name).ok_or_else(unfit)?;
            variant.module = module;
            variant.dims.place = u64::from(place);
            variant.dims.bound = (variant.dims.place + size_of::<PartDims>() as u64).next_multiple_of(16);
        }
        Ok(variant)
    }
}
