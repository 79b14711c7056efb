//! A plan in words.

use std::fmt;

use super::{Method, Plan, Problem, Tile};
use crate::cell::Cell;

/// A count with its noun.
struct Count(usize, &'static str);

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}{}", self.0, self.1, if self.0 == 1 { "" } else { "s" })
    }
}

impl fmt::Display for Tile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let by = match self.method {
            Method::Rows => "rows",
            Method::Lanes => "lanes",
        };
        let [rows, units] = [Count(self.rows, "row"), Count(self.units, "unit")];
        write!(f, "{rows} x {units} x {} by {by}", Count(self.slices, "slice"))
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
        writeln!(f, "projection  {}", self.project)?;
        writeln!(f, "step        {}", self.step)?;
        writeln!(f, "dispatches  {} in {}", self.dispatches(), Count(self.submits(), "submit"))?;
        writeln!(f, "memory      {} bytes moved", self.bytes())?;
        write!(f, "workgroup   {} bytes", self.workgroup_bytes())
    }
}
