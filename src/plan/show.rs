//! A plan in words.

use std::fmt;

use super::{Method, Plan, PlanKind, Problem, Scan, Tile, Wide};
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

impl fmt::Display for Scan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [rows, units] = [Count(self.rows, "row"), Count(self.units, "unit")];
        let [slices, layers] = [Count(self.slices, "slice"), Count(self.layers, "layer")];
        let weights = if self.kept > 0 { "kept in registers" } else { "read at every step" };
        write!(f, "{rows} x {units} x {slices} x {layers} by {}, weights {weights}", self.method)
    }
}

impl fmt::Display for Wide {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [workgroups, rows] = [Count(self.workgroups, "workgroup"), Count(self.rows, "row")];
        let [units, slices] = [Count(self.units, "unit"), Count(self.slices, "slice")];
        let weights = if self.kept > 0 { "kept in registers" } else { "read at every step" };
        write!(f, "{workgroups} x {rows} x {units} x {slices}, weights {weights}")
    }
}

impl Plan {
    /// How the input projection is cut up, in words.
    pub fn projection(&self) -> String {
        self.project_matrices.map_or_else(|| self.project.to_string(), |matrices| matrices.to_string())
    }

    /// How the walk through time is cut up, in words.
    pub fn walk(&self) -> String {
        match (&self.scan, &self.wide, self.step_matrices) {
            (Some(scan), ..) => scan.to_string(),
            (_, Some(wide), _) => wide.to_string(),
            (.., Some(matrices)) => matrices.to_string(),
            _ => self.step.to_string(),
        }
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
        writeln!(f, "plan        {}: {}", self.kind, self.why())?;
        let longest = self.chunks.first().map_or(0, |chunk| chunk.steps);
        writeln!(f, "chunks      {} of up to {}", self.chunks.len(), Count(longest, "step"))?;
        writeln!(f, "projection  {}", self.projection())?;
        let walker = match self.kind {
            PlanKind::Scan => "workgroup",
            PlanKind::Wide => "together",
            PlanKind::Step | PlanKind::Wave => "step",
        };
        writeln!(f, "{walker:<12}{}", self.walk())?;
        writeln!(f, "dispatches  {} in {}", self.dispatches(), Count(self.submits(), "submit"))?;
        writeln!(f, "memory      {} bytes moved", self.bytes())?;
        write!(f, "            {} bytes of workgroup memory", self.workgroup_bytes())
    }
}
