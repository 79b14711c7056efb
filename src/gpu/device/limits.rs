//! A device's limits: those that kernels need, and those that exceed what kernels can count.

/// Largest number of storage buffers of a kernel; `tests/shaders.rs` holds every kernel to it.
pub(in crate::gpu) const MOST_BINDINGS: usize = 8;

/// The first limit that is too low for every plan: a kernel has up to [`MOST_BINDINGS`] storage buffers, and a uniform at a dynamic
/// offset. A kernel's other needs are checked when it is compiled.
pub(in crate::gpu) fn lacking(limits: &wgpu::Limits) -> Option<(&'static str, u64, u64)> {
    let storage = MOST_BINDINGS as u32;
    let needed = [
        ("max_storage_buffers_per_shader_stage", storage, limits.max_storage_buffers_per_shader_stage),
        ("max_bindings_per_bind_group", storage + 1, limits.max_bindings_per_bind_group),
        ("max_bind_groups", 1, limits.max_bind_groups),
        ("max_dynamic_uniform_buffers_per_pipeline_layout", 1, limits.max_dynamic_uniform_buffers_per_pipeline_layout),
    ];
    let short = needed.into_iter().find(|(_, needed, found)| found < needed);
    short.map(|(name, needed, found)| (name, u64::from(needed), u64::from(found)))
}

/// The longest storage binding in bytes. Kernels count elements in 32 bits. Metal's bindings may be longer, but naga passes Metal their
/// length in bytes in 32 bits, so accesses beyond it would reach other elements.
const LONGEST_BINDING: u64 = (1 << 32) - 16;

/// A device's limits, reduced to sizes that kernels can count.
pub(in crate::gpu) fn countable(mut limits: wgpu::Limits) -> wgpu::Limits {
    limits.max_storage_buffer_binding_size = limits.max_storage_buffer_binding_size.min(LONGEST_BINDING);
    limits
}

#[cfg(test)]
mod tests {
    use super::{LONGEST_BINDING, countable, lacking};

    #[test]
    fn no_binding_is_longer_than_kernels_count() {
        let limits = |bytes| wgpu::Limits { max_storage_buffer_binding_size: bytes, ..wgpu::Limits::default() };
        for bytes in [LONGEST_BINDING + 1, 1 << 32, 36 << 30, u64::MAX] {
            let most = countable(limits(bytes)).max_storage_buffer_binding_size;
            assert_eq!((most, most / 4 < 1 << 30, most % 16), (LONGEST_BINDING, true, 0));
        }
        for bytes in [128 << 20, (1 << 31) - 1, LONGEST_BINDING] {
            assert_eq!(countable(limits(bytes)), limits(bytes));
        }
    }

    #[test]
    fn a_limit_that_is_too_low_is_named() {
        assert_eq!(lacking(&crate::gpu::GpuDevice::required_limits()), None);
        let downlevel = wgpu::Limits::downlevel_defaults();
        assert_eq!(lacking(&downlevel), Some(("max_storage_buffers_per_shader_stage", 8, 4)));
    }
}
