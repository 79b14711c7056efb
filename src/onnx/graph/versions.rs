//! The versions of the file format and of the operators.

use crate::error::{Error, Result};
use crate::onnx::operators::{NEWEST, OLDEST, find};
use crate::onnx::proto::{GraphProto, ModelProto};
use crate::weights::FileName;

/// The newest supported version of the file format: ONNX 1.23 writes it.
const NEWEST_IR: i64 = 14;

/// Whether a domain holds ONNX's own operators.
fn own(domain: &str) -> bool {
    domain.is_empty() || domain == "ai.onnx"
}

/// Checks the versions of a model; returns the version of ONNX's own operator set.
pub(super) fn check(model: &ModelProto, file: FileName<'_>) -> Result<i64> {
    if model.ir_version < 1 || model.graph.is_none() {
        let found =
            format!("ir_version {} and {} graph", model.ir_version, if model.graph.is_some() { "a" } else { "no" });
        return Err(file.refuse("model", "an ONNX model", found));
    }
    if model.ir_version > NEWEST_IR {
        return Err(file.refuse("ir_version", format!("1 to {NEWEST_IR}"), model.ir_version.to_string()));
    }
    let versions: Vec<i64> = model.opset_import.iter().filter(|o| own(&o.domain)).map(|o| o.version).collect();
    match versions[..] {
        [version] if (OLDEST..=NEWEST).contains(&version) => Ok(version),
        [version] => {
            let expected = format!("an operator set from {OLDEST} to {NEWEST}");
            Err(file.refuse("opset_import", expected, version.to_string()))
        }
        _ => Err(file.refuse("opset_import", "one operator set of ai.onnx", format!("{versions:?}"))),
    }
}

/// Refuses a graph with operators that are not supported. The error lists all of them.
pub(super) fn operators(
    model: &ModelProto,
    graph: &GraphProto,
    live: &[usize],
    opset: i64,
    file: FileName<'_>,
) -> Result<()> {
    let missing = live.iter().filter_map(|&index| {
        let node = &graph.node[index];
        if own(&node.domain) && find(&node.op_type, opset).is_some() {
            return None;
        }
        let domain = if own(&node.domain) { "ai.onnx" } else { &node.domain };
        let version = model.opset_import.iter().find(|o| o.domain == node.domain).map(|o| o.version.to_string());
        let version = version.unwrap_or_else(|| if own(&node.domain) { opset.to_string() } else { "?".to_owned() });
        let name = if node.name.is_empty() { format!("#{index}") } else { format!("{:?}", node.name) };
        Some(format!("{} of {domain} {version} (node {name})", node.op_type))
    });
    let operators: Vec<String> = missing.collect();
    if operators.is_empty() { Ok(()) } else { Err(Error::Operators { file: file.0.to_owned(), operators }) }
}
