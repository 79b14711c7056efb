//! Compiled pipelines on disk, if the backend hands them out (Vulkan).

use std::path::{Path, PathBuf};
use std::sync::Mutex;

use crate::error::{Error, Result};
use crate::files;
use crate::gpu::device::lock;

/// The first bytes of a file. If the layout changes, the number at the end changes.
const MAGIC: &[u8; 16] = b"gatewise-cache-1";

/// A driver's cache of compiled pipelines, with the file that keeps it from run to run.
pub(in crate::gpu) struct PipelineCache {
    raw: wgpu::PipelineCache,
    file: PathBuf,
    /// Checksum of the file's contents when this process last read or wrote it.
    kept: Mutex<Option<u64>>,
}

impl PipelineCache {
    /// Opens the cache of an adapter in a folder; `None` if the backend has none. A file that is missing, damaged, irregular or of
    /// another driver counts as an empty cache.
    pub(in crate::gpu) fn open(device: &wgpu::Device, info: &wgpu::AdapterInfo, folder: &Path) -> Result<Option<Self>> {
        let Some(name) = wgpu::util::pipeline_cache_key(info) else { return Ok(None) };
        if !device.features().contains(wgpu::Features::PIPELINE_CACHE) {
            return Ok(None);
        }
        std::fs::create_dir_all(folder).map_err(|error| Error::io(folder, error))?;
        let file = folder.join(format!("{name}.bin"));
        let bytes = files::read(&file).unwrap_or_default();
        let contents = unwrap(&bytes);
        let descriptor = wgpu::PipelineCacheDescriptor { label: Some("gatewise"), data: contents, fallback: true };
        #[expect(unsafe_code, reason = "a driver trusts the contents of its cache")]
        // SAFETY: wgpu requires contents that `get_data` has returned. The checksum shows that they are whole, and wgpu's own
        // header that they belong to this adapter and driver. `GpuOptions::pipeline_cache` obliges the caller to let only trusted
        // users write to the folder.
        let raw = unsafe { device.create_pipeline_cache(&descriptor) };
        Ok(Some(Self { raw, file, kept: Mutex::new(contents.map(checksum)) }))
    }

    pub(in crate::gpu) fn raw(&self) -> &wgpu::PipelineCache {
        &self.raw
    }

    /// Writes the cache to its file if their contents differ.
    pub(in crate::gpu) fn save(&self) -> Result<()> {
        let Some(contents) = self.raw.get_data() else { return Ok(()) };
        let (mut kept, now) = (lock(&self.kept), Some(checksum(&contents)));
        if *kept == now {
            return Ok(());
        }
        // Another process may read or write the same file.
        files::replace(&self.file, |out| out.write_all(&wrap(&contents)))?;
        *kept = now;
        Ok(())
    }
}

impl Drop for PipelineCache {
    fn drop(&mut self) {
        // No caller is left to receive an error. Without the file, the next process compiles anew.
        let _ = self.save();
    }
}

fn wrap(contents: &[u8]) -> Vec<u8> {
    [&MAGIC[..], &checksum(contents).to_le_bytes(), contents].concat()
}

fn unwrap(bytes: &[u8]) -> Option<&[u8]> {
    let (expected, contents) = bytes.strip_prefix(MAGIC)?.split_first_chunk()?;
    (checksum(contents) == u64::from_le_bytes(*expected)).then_some(contents)
}

/// FNV-1a: finds damage, not malice.
fn checksum(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::{unwrap, wrap};

    #[test]
    fn what_is_damaged_is_nothing() {
        let contents: Vec<u8> = (0..=255).cycle().take(1000).collect();
        let file = wrap(&contents);
        assert_eq!(unwrap(&file), Some(&contents[..]));
        for at in 0..file.len() {
            let mut damaged = file.clone();
            damaged[at] ^= 0x10;
            assert_eq!(unwrap(&damaged), None, "byte {at}");
            assert_eq!(unwrap(&file[..at]), None, "the first {at} bytes");
        }
        assert_eq!(unwrap(&[&file[..], b"more"].concat()), None);
        assert_eq!(unwrap(&wrap(&[])), Some(&[][..]));
    }
}
