//! The results of autotuning on an adapter, kept on disk.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::cell::Cell;
use crate::error::{Error, Result};
use crate::files;
use crate::gpu::device::adapter::AdapterSummary;
use crate::gpu::device::lock;
use crate::gpu::kept::DeviceResources;
use crate::plan::{Choice, Method, Problem, Tile};

const FORMAT: u64 = 1;

/// The choices for one adapter and driver by the kind of call, and the file that they are kept in.
pub(in crate::gpu) struct Tuning {
    file: PathBuf,
    adapter: String,
    driver: String,
    pub(in crate::gpu) entries: BTreeMap<String, Choice>,
    /// Names of the cooperative scans whose workgroups did not run concurrently.
    denied: BTreeSet<String>,
}

impl Tuning {
    /// Reads the results for an adapter from a folder. A file that is missing, damaged, irregular, of another driver or of another
    /// layout counts as empty.
    pub(in crate::gpu) fn open(adapter: &AdapterSummary, folder: &Path) -> Result<Self> {
        std::fs::create_dir_all(folder).map_err(|error| Error::io(folder, error))?;
        let plain = |text: &str| -> String {
            text.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' }).collect()
        };
        let file = folder.join(format!("tuning-{}-{}.json", adapter.backend, plain(&adapter.name)));
        let (adapter, driver) = (adapter.name.clone(), adapter.driver.clone());
        let text = files::read(&file).unwrap_or_default();
        let known: Value = serde_json::from_slice(&text).unwrap_or_default();
        let own =
            known["format"] == FORMAT && known["adapter"] == adapter.as_str() && known["driver"] == driver.as_str();
        let denied = known["denied"].as_array().filter(|_| own).into_iter().flatten();
        let denied = denied.filter_map(|scan| scan.as_str().map(str::to_owned)).collect();
        let entries = known["entries"].as_object().filter(|_| own).into_iter().flatten();
        let entries = entries.filter_map(|(key, value)| Some((key.clone(), choice(value)?))).collect();
        Ok(Self { file, adapter, driver, entries, denied })
    }

    pub(in crate::gpu) fn denied(&self) -> BTreeSet<String> {
        self.denied.clone()
    }

    /// Writes the file.
    pub(in crate::gpu) fn save(&self) -> Result<()> {
        let entries: serde_json::Map<String, Value> =
            self.entries.iter().map(|(key, choice)| (key.clone(), written(choice))).collect();
        let mut all = json!({ "format": FORMAT, "adapter": self.adapter, "driver": self.driver, "entries": entries });
        if !self.denied.is_empty() {
            all["denied"] = json!(self.denied);
        }
        files::replace(&self.file, |out| writeln!(out, "{all:#}"))
    }
}

/// The key of a kind of call: the exact sizes of the stack, and its steps and rows rounded up to powers of two.
pub(in crate::gpu) fn key(problem: &Problem) -> String {
    let Problem { cells, input, hidden, layers, merged, weight_type, time, batch } = problem;
    let cell = cells.first().map_or("none", Cell::name);
    let stages = cells.first().map_or(0, |cell| cell.stages().len());
    let (time, batch) = (time.next_power_of_two(), batch.next_power_of_two());
    let directions = cells.len();
    format!(
        "{cell} stages={stages} {weight_type} I={input} H={hidden} layers={layers} directions={directions} merged={merged} T<={time} B<={batch}"
    )
}

fn written(choice: &Choice) -> Value {
    let tile = |tile: &Tile| {
        let method = match tile.method {
            Method::Rows => "rows",
            Method::Lanes => "lanes",
        };
        json!({ "method": method, "rows": tile.rows, "units": tile.units, "slices": tile.slices })
    };
    json!({ "kind": choice.kind.name(), "project": tile(&choice.project), "step": choice.step.as_ref().map(tile) })
}

fn choice(value: &Value) -> Option<Choice> {
    let tile = |value: &Value| {
        let method = match value["method"].as_str()? {
            "rows" => Method::Rows,
            "lanes" => Method::Lanes,
            _ => return None,
        };
        // A file may hold anything, but no device has a larger tile.
        let size =
            |name: &str| value[name].as_u64().and_then(|n| usize::try_from(n).ok()).filter(|n| (1..=1024).contains(n));
        Some(Tile { method, rows: size("rows")?, units: size("units")?, slices: size("slices")? })
    };
    let kind = value["kind"].as_str()?.parse().ok()?;
    let step = if value["step"].is_null() { None } else { Some(tile(&value["step"])?) };
    Some(Choice { kind, project: tile(&value["project"])?, step })
}

impl DeviceResources {
    pub(in crate::gpu) fn is_denied(&self, scan: &str) -> bool {
        lock(&self.denied).contains(scan)
    }

    /// Notes, on this device and in the file, that a scan's workgroups did not run concurrently. Plans then do without the scan.
    pub(in crate::gpu) fn deny(&self, scan: String) {
        if let Some(tuning) = &self.tuning {
            let mut tuning = lock(tuning);
            tuning.denied.insert(scan.clone());
            // If the folder cannot be written to, another process makes the same discovery; no call fails.
            let _ = tuning.save();
        }
        lock(&self.denied).insert(scan);
    }
}
