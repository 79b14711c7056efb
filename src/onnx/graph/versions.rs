//! Versions: of the file's form and of the operators.

use crate::error::{Error, Result};
use crate::onnx::operators::{NEWEST, OLDEST, find};
use crate::onnx::proto::{GraphProto, ModelProto};

/// The newest form of a file, ONNX 1.23's.
const NEWEST_IR: i64 = 14;

fn own(domain: &str) -> bool {
    domain.is_empty() || domain == "ai.onnx"
}

/// The operator set of ONNX's own operators.
pub(super) fn check(model: &ModelProto, file: &str) -> Result<i64> {
    let refuse = |field: &str, expected: String, found: String| Error::Format {
        file: file.to_owned(),
        field: field.to_owned(),
        expected,
        found,
    };
    if model.ir_version < 1 || model.graph.is_none() {
        let found =
            format!("ir_version {} and {} graph", model.ir_version, if model.graph.is_some() { "a" } else { "no" });
        return Err(refuse("model", "an ONNX model".to_owned(), found));
    }
    if model.ir_version > NEWEST_IR {
        return Err(refuse("ir_version", format!("1 to {NEWEST_IR}"), model.ir_version.to_string()));
    }
    let versions: Vec<i64> = model.opset_import.iter().filter(|o| own(&o.domain)).map(|o| o.version).collect();
    match versions[..] {
        [version] if (OLDEST..=NEWEST).contains(&version) => Ok(version),
        [version] => {
            Err(refuse("opset_import", format!("an operator set from {OLDEST} to {NEWEST}"), version.to_string()))
        }
        _ => Err(refuse("opset_import", "one operator set of ai.onnx".to_owned(), format!("{versions:?}"))),
    }
}

/// Refuses a graph with operators that are not carried out; lists all of them.
pub(super) fn operators(model: &ModelProto, graph: &GraphProto, live: &[usize], opset: i64, file: &str) -> Result<()> {
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
    if operators.is_empty() { Ok(()) } else { Err(Error::Operators { file: file.to_owned(), operators }) }
}
