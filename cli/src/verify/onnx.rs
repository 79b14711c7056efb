//! Cases of the kinds `onnxrt` and `onnxnode`: one RNN, LSTM or GRU node. It runs as a model with this single node, so that the
//! ONNX import is verified, too.

use gatewise::Result;
use gatewise::cell::WeightType;
use gatewise::onnx::proto::{
    AttributeProto, AttributeType, DataType, DimensionValue, GraphProto, ModelProto, NodeProto, OperatorSetIdProto,
    TensorProto, TensorShapeProto, TensorType, TypeProto, ValueInfoProto,
};
use gatewise::onnx::{Input, OnnxModel, OnnxOptions};
use ndarray::{ArrayD, IxDyn};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::case::Case;
use super::outputs::{CasePath, Outputs, Supported};

/// The operators' inputs in their order.
const INPUTS: [&str; 8] = ["X", "W", "R", "B", "sequence_lens", "initial_h", "initial_c", "P"];
const OUTPUTS: [&str; 3] = ["Y", "Y_h", "Y_c"];
/// Inputs that a file holds as constants.
const CONSTANTS: [&str; 4] = ["W", "R", "B", "P"];
const LENGTHS: &str = "sequence_lens";
/// The first operator set whose recurrent operators know `layout`.
const OPSET: i64 = 14;

#[derive(Deserialize)]
struct Fields {
    cell: String,
    attributes: Map<String, Value>,
}

pub(super) fn outputs(case: &Case, path: &CasePath) -> Result<Supported<Outputs>> {
    if path.weight_type != WeightType::F32 {
        return Ok(Err(format!("{} weights in an ONNX model", path.weight_type)));
    }
    let fields: Fields = case.fields()?;
    let mut attributes = Vec::new();
    for (name, value) in &fields.attributes {
        match attribute(name, value) {
            Some(attribute) => attributes.push(attribute),
            None => return Ok(Err(format!("attribute {name} = {value}"))),
        }
    }
    let inputs: Vec<&str> = INPUTS.into_iter().map(|name| if case.has(name) { name } else { "" }).collect();
    let count = inputs.iter().rposition(|name| !name.is_empty()).map_or(0, |last| last + 1);
    let wanted: Vec<&str> = OUTPUTS.into_iter().map(|name| if case.has(&expected(name)) { name } else { "" }).collect();
    let model = model(case, &fields.cell, attributes, &inputs[..count], &wanted)?;
    let model = OnnxModel::from_proto(&case.name, &model, &OnnxOptions::default())?.to(&path.device)?;
    let mut given: Vec<(&str, Input)> = Vec::new();
    for name in inputs.into_iter().filter(|name| !name.is_empty() && !CONSTANTS.contains(name)) {
        let value =
            if name == LENGTHS { case.integers::<IxDyn>(name)?.into() } else { case.floats::<IxDyn>(name)?.into() };
        given.push((name, value));
    }
    let got = model.run(&given)?;

    let mut outputs = Outputs::new(1.0);
    for name in wanted.into_iter().filter(|name| !name.is_empty()) {
        outputs.add(&expected(name), got.get(name)?.to_array::<IxDyn>()?);
    }
    Ok(Ok(outputs))
}

fn expected(output: &str) -> String {
    format!("expect.{output}")
}

/// A model of one node.
fn model(
    case: &Case,
    cell: &str,
    attribute: Vec<AttributeProto>,
    inputs: &[&str],
    outputs: &[&str],
) -> Result<ModelProto> {
    let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    let node = NodeProto {
        name: case.name.clone(),
        op_type: cell.to_uppercase(),
        input: owned(inputs),
        output: owned(outputs),
        attribute,
        ..Default::default()
    };
    let constants = inputs.iter().filter(|name| CONSTANTS.contains(name));
    let initializer = constants.map(|name| Ok(constant(name, &case.floats::<IxDyn>(name)?)));
    let given = inputs.iter().filter(|name| !name.is_empty() && !CONSTANTS.contains(name));
    let input = given.map(|name| {
        let (data_type, rank) = match *name {
            LENGTHS => (DataType::Int32, 1),
            _ => (DataType::Float, 3),
        };
        value_info(name, data_type, rank)
    });
    let wanted = outputs.iter().filter(|name| !name.is_empty());
    let output = wanted.map(|name| value_info(name, DataType::Float, if *name == "Y" { 4 } else { 3 }));
    let graph = GraphProto {
        name: case.name.clone(),
        node: vec![node],
        initializer: initializer.collect::<Result<_>>()?,
        input: input.collect(),
        output: output.collect(),
        ..Default::default()
    };
    Ok(ModelProto {
        ir_version: 9,
        graph: Some(graph),
        opset_import: vec![OperatorSetIdProto { domain: String::new(), version: OPSET }],
        ..Default::default()
    })
}

fn constant(name: &str, array: &ArrayD<f32>) -> TensorProto {
    TensorProto {
        name: name.to_owned(),
        dims: array.shape().iter().map(|&extent| extent as i64).collect(),
        data_type: DataType::Float.into(),
        float_data: array.iter().copied().collect(),
        ..Default::default()
    }
}

/// A value with free extents.
fn value_info(name: &str, data_type: DataType, rank: usize) -> ValueInfoProto {
    let free = |axis: usize| gatewise::onnx::proto::Dimension {
        value: Some(DimensionValue::DimParam(format!("{name}{axis}"))),
    };
    let shape = TensorShapeProto { dim: (0..rank).map(free).collect() };
    let tensor_type = TensorType { elem_type: data_type.into(), shape: Some(shape) };
    ValueInfoProto { name: name.to_owned(), r#type: Some(TypeProto { tensor_type: Some(tensor_type) }) }
}

/// Converts an attribute from the manifest's JSON; the operator determines its type.
fn attribute(name: &str, value: &Value) -> Option<AttributeProto> {
    let mut attribute = AttributeProto { name: name.to_owned(), ..Default::default() };
    let kind = match name {
        "hidden_size" | "linear_before_reset" | "input_forget" | "layout" | "output_sequence" => {
            attribute.i = value.as_i64()?;
            AttributeType::Int
        }
        "clip" => {
            attribute.f = single(value)?;
            AttributeType::Float
        }
        "direction" => {
            attribute.s = value.as_str()?.to_owned().into_bytes().into();
            AttributeType::String
        }
        "activations" => {
            let strings = value.as_array()?.iter().map(|name| Some(name.as_str()?.to_owned().into_bytes().into()));
            attribute.strings = strings.collect::<Option<_>>()?;
            AttributeType::Strings
        }
        "activation_alpha" | "activation_beta" => {
            attribute.floats = value.as_array()?.iter().map(single).collect::<Option<_>>()?;
            AttributeType::Floats
        }
        _ => return None,
    };
    attribute.r#type = kind.into();
    Some(attribute)
}

#[expect(clippy::cast_possible_truncation, reason = "an attribute is a 32-bit float")]
fn single(value: &Value) -> Option<f32> {
    value.as_f64().map(|x| x as f32)
}
