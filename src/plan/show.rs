//! Plans as text.

use std::fmt;

use super::{CooperativeScan, Method, Plan, Problem, ProductTiles, Scan, Schedule, Tile};
use crate::cell::Cell;

/// A count with its noun.
struct Count(usize, &'static str);

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}{}", self.0, self.1, if self.0 == 1 { "" } else { "s" })
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Rows => "rows",
            Self::Lanes => "lanes",
        })
    }
}

impl fmt::Display for Tile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [rows, units] = [Count(self.rows, "row"), Count(self.units, "unit")];
        write!(f, "{rows} x {units} x {} by {}", Count(self.slices, "slice"), self.method)
    }
}

impl fmt::Display for ProductTiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.matrices {
            Some(matrices) => fmt::Display::fmt(matrices, f),
            None => fmt::Display::fmt(&self.tile, f),
        }
    }
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Steps(tiles) | Self::Wave(tiles) => fmt::Display::fmt(tiles, f),
            Self::Scan(scan) => fmt::Display::fmt(scan, f),
            Self::CooperativeScan(scan) => fmt::Display::fmt(scan, f),
        }
    }
}

impl fmt::Display for Scan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [rows, units] = [Count(self.rows, "row"), Count(self.units, "unit")];
        let [slices, layers] = [Count(self.slices, "slice"), Count(self.layers, "layer")];
        let weights = if self.kept > 0 { "kept in registers" } else { "read at every step" };
        write!(f, "{rows} x {units} x {slices} x {layers} by {}, weights {weights}", self.method)
    }
}

impl fmt::Display for CooperativeScan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [workgroups, rows] = [Count(self.workgroups, "workgroup"), Count(self.rows, "row")];
        let [units, slices] = [Count(self.units, "unit"), Count(self.slices, "slice")];
        let weights = if self.kept > 0 { "kept in registers" } else { "read at every step" };
        write!(f, "{workgroups} x {rows} x {units} x {slices}, weights {weights}")
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Problem { cells, input, hidden, layers, time, batch, weight_type, .. } = self.problem();
        let cell = cells.first().map_or("none", Cell::name);
        let (layers, directions) = (Count(*layers, "layer"), Count(cells.len(), "direction"));
        writeln!(
            f,
            "{cell} {weight_type}, I = {input}, H = {hidden}, {layers}, {directions}, T = {time}, B = {batch}"
        )?;
        writeln!(f, "plan        {}: {}", self.kind(), self.why())?;
        let longest = self.chunks.first().map_or(0, |chunk| chunk.steps);
        writeln!(f, "chunks      {} of up to {}", self.chunks.len(), Count(longest, "step"))?;
        writeln!(f, "projection  {}", self.project)?;
        let divided = match self.schedule {
            Schedule::Steps(_) | Schedule::Wave(_) => "step",
            Schedule::Scan(_) => "workgroup",
            Schedule::CooperativeScan(_) => "workgroups",
        };
        writeln!(f, "{divided:<12}{}", self.schedule)?;
        writeln!(f, "dispatches  {} in {}", self.dispatches(), Count(self.submits(), "submit"))?;
        writeln!(f, "memory      {} bytes moved", self.bytes())?;
        write!(f, "            {} bytes of workgroup memory", self.workgroup_bytes())
    }
}
