//! A gradient flow as text, JSON and CSV.

use std::fmt;

use serde_json::{Value, json};

use super::{GradientFlow, LayerFlow};
use crate::cell::Direction;

/// The most steps of a layer that the text shows.
const TEXT_STEPS: usize = 21;

impl GradientFlow {
    /// The whole flow as JSON. NaN and infinity become `null`, because JSON has no such numbers.
    pub fn to_json(&self) -> Value {
        let layer = |flow: &LayerFlow| {
            let openings = flow.openings.as_ref();
            let openings = openings.map(|o| json!({ "written": o.written, "kept": o.kept, "read": o.read }));
            let norms: serde_json::Map<_, _> =
                flow.recurrent_norms.iter().map(|(gate, norm)| ((*gate).to_owned(), json!(norm))).collect();
            json!({
                "layer": flow.layer,
                "direction": direction(flow),
                "cell": flow.cell,
                "dh": flow.h,
                "ds": flow.s,
                "path": flow.path,
                "openings": openings,
                "recurrent_norms": norms,
                "bound_log10": flow.bound_log10,
            })
        };
        json!({ "layers": self.layers.iter().map(layer).collect::<Vec<_>>() })
    }

    /// The whole flow as CSV: a line with the names of the columns, then one line per layer and step. If a cell does not have a
    /// number, its field is empty.
    pub fn to_csv(&self) -> String {
        let mut csv = String::from("layer,direction,cell,t,dh,ds,path,written,kept,read,bound_log10\n");
        for flow in &self.layers {
            for t in 0..flow.h.len() {
                let ds = flow.s.as_ref().map(|s| s[t]);
                let [written, kept, read] = flow.opening(t);
                let numbers = [Some(flow.h[t]), ds, Some(flow.path[t]), written, kept, read, Some(flow.bound_log10[t])];
                let numbers = numbers.map(|number| number.map(|number| format!("{number:e}")).unwrap_or_default());
                csv += &format!("{},{},{},{t},{}\n", flow.layer, direction(flow), flow.cell, numbers.join(","));
            }
        }
        csv
    }
}

impl LayerFlow {
    /// The openings `written`, `kept` and `read` at a step; `None` if the cell has no gates or no row takes the step.
    fn opening(&self, t: usize) -> [Option<f64>; 3] {
        let at = |of: &[f64]| of.get(t).copied().filter(|opening| !opening.is_nan());
        self.openings.as_ref().map_or([None; 3], |o| [at(&o.written), at(&o.kept), at(&o.read)])
    }
}

fn direction(flow: &LayerFlow) -> &'static str {
    match flow.direction {
        Direction::Forward => "forward",
        Direction::Reverse => "reverse",
    }
}

impl fmt::Display for GradientFlow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for flow in &self.layers {
            write!(f, "layer {}, {}, {}; norms of recurrent matrices:", flow.layer, direction(flow), flow.cell)?;
            for (gate, norm) in &flow.recurrent_norms {
                write!(f, " {gate} {norm:.3}")?;
            }
            writeln!(f)?;
            writeln!(
                f,
                "{:>6} {:>10} {:>10} {:>10} {:>8} {:>8} {:>8} {:>12}",
                "t", "|dL/dh|", "|dL/ds|", "path", "written", "kept", "read", "log10 bound"
            )?;
            let time = flow.h.len();
            let shown = time.min(TEXT_STEPS);
            for at in 0..shown {
                let t = at * time.saturating_sub(1) / shown.saturating_sub(1).max(1);
                let number = |number: Option<f64>| number.map_or("-".to_owned(), |number| format!("{number:.2e}"));
                let [written, kept, read] =
                    flow.opening(t).map(|gate| gate.map_or("-".to_owned(), |gate| format!("{gate:.3}")));
                writeln!(
                    f,
                    "{t:>6} {:>10} {:>10} {:>10} {written:>8} {kept:>8} {read:>8} {:>12.1}",
                    number(Some(flow.h[t])),
                    number(flow.s.as_ref().map(|s| s[t])),
                    number(Some(flow.path[t])),
                    flow.bound_log10[t],
                )?;
            }
        }
        Ok(())
    }
}
