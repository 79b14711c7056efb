//! Chooses an adapter and opens it with the features that the options ask for.

use super::adapter::{AdapterSummary, GpuOptions, enumerate, matrices};
use super::contained::{contained, contained_future, one_line};
use super::limits::too_low;
use crate::error::{Error, Result};
use crate::plan::Matrices;

/// The features that a [`Profile`](crate::gpu::Profile) needs, as far as an adapter has them.
pub(in crate::gpu) const TIMESTAMPS: wgpu::Features =
    wgpu::Features::TIMESTAMP_QUERY.union(wgpu::Features::TIMESTAMP_QUERY_INSIDE_PASSES);

/// A device that the crate has just opened.
pub(in crate::gpu) struct Opened {
    pub(in crate::gpu) adapter: wgpu::Adapter,
    pub(in crate::gpu) device: wgpu::Device,
    pub(in crate::gpu) queue: wgpu::Queue,
    /// The kinds of matrices that the device was opened with.
    pub(in crate::gpu) matrices: Vec<Matrices>,
}

/// The features that the kernels for these kinds of matrices need.
fn of_matrices(matrices: &[Matrices]) -> wgpu::Features {
    let one = |kind: &Matrices| match kind {
        Matrices::Half => wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX | wgpu::Features::SHADER_F16,
        Matrices::Float => wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX,
    };
    matrices.iter().map(one).fold(wgpu::Features::empty(), wgpu::Features::union)
}

/// wgpu's permission to use experimental features, if `matrices` needs them.
fn experimental(matrices: &[Matrices]) -> wgpu::ExperimentalFeatures {
    if matrices.is_empty() {
        return wgpu::ExperimentalFeatures::disabled();
    }
    #[expect(unsafe_code, reason = "wgpu permits experimental features by this function only")]
    // SAFETY: wgpu requires that its caller knows that its own code of experimental features may be unsound. The caller of this
    // crate does: `GpuOptions::matrices` says so, and no experimental feature but cooperative matrices is requested.
    unsafe {
        wgpu::ExperimentalFeatures::enabled()
    }
}

/// The adapter that options ask for, in words.
pub(in crate::gpu) fn wanted(options: &GpuOptions) -> String {
    match (&options.name, options.software) {
        (Some(name), _) => format!("the name {name:?}"),
        (None, true) => "any hardware or software adapter".to_owned(),
        (None, false) => "any hardware adapter".to_owned(),
    }
}

/// The refusal to open the adapter that options ask for.
pub(in crate::gpu) fn refused(options: &GpuOptions, reason: String) -> Error {
    Error::NoAdapter { wanted: wanted(options), reason }
}

/// Opens the first adapter that fits the options.
pub(in crate::gpu) async fn open(options: &GpuOptions) -> Result<Opened> {
    let found = enumerate().await.map_err(|reason| refused(options, reason))?;
    let seen: Vec<String> = found.iter().map(|adapter| adapter.get_info().name).collect();
    let fits = |adapter: &wgpu::Adapter| {
        let summary = AdapterSummary::of(adapter);
        (options.software || !summary.is_software())
            && options.name.as_ref().is_none_or(|name| summary.name.to_lowercase().contains(&name.to_lowercase()))
    };
    let Some(adapter) = found.into_iter().find(fits) else {
        let reason = if seen.is_empty() {
            "no driver offers one (on Debian, mesa-vulkan-drivers and libvulkan1 bring a software one)".to_owned()
        } else {
            format!("found only {}", seen.join(", "))
        };
        return Err(refused(options, reason));
    };
    let low = too_low(&adapter.limits());
    if !low.is_empty() {
        return Err(refused(
            options,
            format!("the limits of {} are too low: {}", adapter.get_info().name, low.join(", ")),
        ));
    }
    let subgroups = if options.no_subgroups { wgpu::Features::empty() } else { wgpu::Features::SUBGROUP };
    let cache = match options.pipeline_cache {
        Some(_) => wgpu::Features::PIPELINE_CACHE,
        None => wgpu::Features::empty(),
    };
    let mut matrices = if options.matrices { matrices(&adapter.cooperative_matrix_properties()) } else { Vec::new() };
    matrices.retain(|kind| adapter.features().contains(of_matrices(&[*kind])));
    if options.matrices && matrices.is_empty() {
        let reason = format!("{} lists none that there is a kernel for", adapter.get_info().name);
        return Err(Error::NoAdapter { wanted: format!("{} with cooperative matrices", wanted(options)), reason });
    }
    let descriptor = wgpu::DeviceDescriptor {
        label: Some("gatewise"),
        required_features: (adapter.features() & (subgroups | cache | TIMESTAMPS)) | of_matrices(&matrices),
        required_limits: adapter.limits(),
        experimental_features: experimental(&matrices),
        ..Default::default()
    };
    let request = contained(|| adapter.request_device(&descriptor)).map_err(|reason| refused(options, reason))?;
    let (device, queue) = contained_future(request)
        .await
        .and_then(|opened| opened.map_err(|error| one_line(&error.to_string())))
        .map_err(|reason| refused(options, reason))?;
    Ok(Opened { adapter, device, queue, matrices })
}
