//! A device's limits: those that kernels need, and those that exceed what kernels can count.

/// Largest number of storage buffers of a kernel; `tests/shaders.rs` holds every kernel to it.
pub(in crate::gpu) const MOST_BINDINGS: usize = 8;

/// Names every limit that is too low for every plan, with its value and the value needed: a kernel has up to [`MOST_BINDINGS`]
/// storage buffers, and a uniform at a dynamic offset. A kernel's other needs are checked when it is compiled.
pub(in crate::gpu) fn too_low(limits: &wgpu::Limits) -> Vec<String> {
    let storage = MOST_BINDINGS as u32;
    let needed = [
        ("max_storage_buffers_per_shader_stage", storage, limits.max_storage_buffers_per_shader_stage),
        ("max_bindings_per_bind_group", storage + 1, limits.max_bindings_per_bind_group),
        ("max_bind_groups", 1, limits.max_bind_groups),
        ("max_uniform_buffers_per_shader_stage", 1, limits.max_uniform_buffers_per_shader_stage),
        ("max_dynamic_uniform_buffers_per_pipeline_layout", 1, limits.max_dynamic_uniform_buffers_per_pipeline_layout),
        // A device for WebGL computes nothing.
        ("max_compute_invocations_per_workgroup", 1, limits.max_compute_invocations_per_workgroup),
        ("max_compute_workgroups_per_dimension", 1, limits.max_compute_workgroups_per_dimension),
    ];
    let short = needed.into_iter().filter(|(_, needed, found)| found < needed);
    short.map(|(name, needed, found)| format!("{name} = {found} (at least {needed} needed)")).collect()
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
    use super::{LONGEST_BINDING, countable, too_low};

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
    fn every_limit_that_is_too_low_is_named() {
        let none: [&str; 0] = [];
        assert_eq!(too_low(&crate::gpu::GpuDevice::required_limits()), none);
        let storage = |found| format!("max_storage_buffers_per_shader_stage = {found} (at least 8 needed)");
        assert_eq!(too_low(&wgpu::Limits::downlevel_defaults()), [storage(4)]);
        let limits = wgpu::Limits {
            max_storage_buffers_per_shader_stage: 7,
            max_bindings_per_bind_group: 8,
            max_bind_groups: 0,
            max_uniform_buffers_per_shader_stage: 0,
            max_dynamic_uniform_buffers_per_pipeline_layout: 0,
            max_compute_invocations_per_workgroup: 0,
            max_compute_workgroups_per_dimension: 0,
            ..wgpu::Limits::default()
        };
        let one = |name: &str| format!("{name} = 0 (at least 1 needed)");
        let expected = [
            storage(7),
            "max_bindings_per_bind_group = 8 (at least 9 needed)".to_owned(),
            one("max_bind_groups"),
            one("max_uniform_buffers_per_shader_stage"),
            one("max_dynamic_uniform_buffers_per_pipeline_layout"),
            one("max_compute_invocations_per_workgroup"),
            one("max_compute_workgroups_per_dimension"),
        ];
        assert_eq!(too_low(&limits), expected);
    }
}
