//! Small models from Rust, devices, and comparison.

use gatewise::gpu::GpuOptions;
use gatewise::onnx::proto::{
    AttributeProto, AttributeType, DataType, Dimension, DimensionValue, GraphProto, ModelProto, NodeProto,
    OperatorSetIdProto, TensorProto, TensorShapeProto, TensorType, TypeProto, ValueInfoProto,
};
use gatewise::onnx::{Input, OnnxModel, OnnxOptions, Outputs};
use gatewise::{Device, Error};
use ndarray::ArrayD;

/// Every device; a machine without a Vulkan driver fails here.
pub(crate) fn devices() -> Vec<Device> {
    let gpu = Device::gpu(&GpuOptions { software: true, ..Default::default() })
        .expect("install mesa-vulkan-drivers and libvulkan1: the GPU path is tested on every machine");
    vec![Device::Reference, Device::Cpu, gpu]
}

/// Floats that are close: 2e-5 of the larger of 1 and the right value. A NaN is close to a NaN alone.
pub(crate) fn assert_close(context: &str, found: &ArrayD<f32>, right: &ArrayD<f32>) {
    assert_eq!(found.shape(), right.shape(), "{context}: shapes");
    for ((at, &found), &right) in found.indexed_iter().zip(right) {
        let close = (found - right).abs() <= 2e-5 * right.abs().max(1.0);
        let same = found == right || (found.is_nan() && right.is_nan());
        assert!(close || same, "{context}: {found} at {at:?}, not {right}");
    }
}

/// A value's name, element type and shape; a negative extent is free.
pub(crate) fn value(name: &str, kind: DataType, shape: &[i64]) -> ValueInfoProto {
    let dim = |&extent: &i64| Dimension { value: (extent >= 0).then_some(DimensionValue::DimValue(extent)) };
    let shape = TensorShapeProto { dim: shape.iter().map(dim).collect() };
    let tensor_type = TensorType { elem_type: kind as i32, shape: Some(shape) };
    ValueInfoProto { name: name.to_owned(), r#type: Some(TypeProto { tensor_type: Some(tensor_type) }) }
}

/// A float value of which nothing but the name is declared.
pub(crate) fn untyped(name: &str) -> ValueInfoProto {
    let tensor_type = TensorType { elem_type: DataType::Float as i32, shape: None };
    ValueInfoProto { name: name.to_owned(), r#type: Some(TypeProto { tensor_type: Some(tensor_type) }) }
}

pub(crate) fn floats(name: &str, shape: &[i64], data: &[f32]) -> TensorProto {
    TensorProto {
        name: name.to_owned(),
        dims: shape.to_vec(),
        data_type: DataType::Float as i32,
        raw_data: data.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>().into(),
        ..Default::default()
    }
}

pub(crate) fn ints(name: &str, shape: &[i64], data: &[i64]) -> TensorProto {
    TensorProto {
        name: name.to_owned(),
        dims: shape.to_vec(),
        data_type: DataType::Int64 as i32,
        int64_data: data.to_vec(),
        ..Default::default()
    }
}

pub(crate) fn node(op: &str, inputs: &[&str], outputs: &[&str], attributes: Vec<AttributeProto>) -> NodeProto {
    NodeProto {
        name: format!("the {op}"),
        op_type: op.to_owned(),
        input: inputs.iter().map(|&name| name.to_owned()).collect(),
        output: outputs.iter().map(|&name| name.to_owned()).collect(),
        attribute: attributes,
        ..Default::default()
    }
}

/// An attribute's value.
pub(crate) enum Attribute<'a> {
    Int(i64),
    Ints(&'a [i64]),
    Float(f32),
    Floats(&'a [f32]),
    Text(&'a str),
    Texts(&'a [&'a str]),
    Tensor(TensorProto),
}

pub(crate) fn attribute(name: &str, value: Attribute<'_>) -> AttributeProto {
    let plain = AttributeProto { name: name.to_owned(), ..Default::default() };
    let bytes = |text: &str| text.as_bytes().to_vec().into();
    match value {
        Attribute::Int(i) => AttributeProto { i, r#type: AttributeType::Int as i32, ..plain },
        Attribute::Ints(x) => AttributeProto { ints: x.to_vec(), r#type: AttributeType::Ints as i32, ..plain },
        Attribute::Float(f) => AttributeProto { f, r#type: AttributeType::Float as i32, ..plain },
        Attribute::Floats(x) => AttributeProto { floats: x.to_vec(), r#type: AttributeType::Floats as i32, ..plain },
        Attribute::Text(text) => AttributeProto { s: bytes(text), r#type: AttributeType::String as i32, ..plain },
        Attribute::Texts(list) => {
            let strings = list.iter().map(|text| bytes(text)).collect();
            AttributeProto { strings, r#type: AttributeType::Strings as i32, ..plain }
        }
        Attribute::Tensor(t) => AttributeProto { t: Some(Box::new(t)), r#type: AttributeType::Tensor as i32, ..plain },
    }
}

/// A model of one graph.
pub(crate) fn model(
    opset: i64,
    nodes: Vec<NodeProto>,
    inputs: Vec<ValueInfoProto>,
    outputs: &[&str],
    initializers: Vec<TensorProto>,
) -> ModelProto {
    ModelProto {
        ir_version: 8,
        opset_import: vec![OperatorSetIdProto { domain: String::new(), version: opset }],
        graph: Some(GraphProto {
            node: nodes,
            name: "graph".to_owned(),
            input: inputs,
            output: outputs.iter().map(|name| untyped(name)).collect(),
            initializer: initializers,
            ..Default::default()
        }),
        ..Default::default()
    }
}

pub(crate) fn load(model: &ModelProto) -> Result<OnnxModel, Error> {
    OnnxModel::from_proto("test.onnx", model, &OnnxOptions::default())
}

/// What a model says on every device.
pub(crate) fn on_all(model: &ModelProto, inputs: &[(&str, Input)]) -> Vec<(Device, Outputs)> {
    let model = load(model).expect("a sound model");
    let run = |device: Device| {
        let outputs = model.to(&device).and_then(|model| model.run(inputs));
        let outputs = outputs.unwrap_or_else(|error| panic!("{device}: {error}"));
        (device, outputs)
    };
    devices().into_iter().map(run).collect()
}
