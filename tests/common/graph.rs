//! Small ONNX models, node by node.
#![allow(dead_code)] // Not every test file uses every kind of node.

use gatewise::onnx::proto::{
    AttributeProto, AttributeType, DataType, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto,
    TensorType, TypeProto, ValueInfoProto,
};
use gatewise::onnx::{OnnxModel, OnnxOptions};

/// A graph under construction. Inputs and outputs are floats of any shape.
pub(crate) struct GraphBuilder {
    graph: GraphProto,
    next: usize,
}

fn value(name: &str) -> ValueInfoProto {
    let tensor = TensorType { elem_type: DataType::Float as i32, shape: None };
    ValueInfoProto { name: name.to_owned(), r#type: Some(TypeProto { tensor_type: Some(tensor) }) }
}

impl GraphBuilder {
    pub(crate) fn new(inputs: &[&str]) -> Self {
        let graph = GraphProto { input: inputs.iter().map(|name| value(name)).collect(), ..Default::default() };
        Self { graph, next: 0 }
    }

    /// Adds a node; returns the names of its outputs.
    pub(crate) fn node_of<const N: usize>(
        &mut self,
        op: &str,
        inputs: &[&str],
        attributes: &[(&str, i64)],
    ) -> [String; N] {
        self.next += 1;
        let outputs: [String; N] = std::array::from_fn(|at| format!("{op}_{}_{at}", self.next));
        let attribute = |&(name, i): &(&str, i64)| AttributeProto {
            name: name.to_owned(),
            r#type: AttributeType::Int as i32,
            i,
            ..Default::default()
        };
        self.graph.node.push(NodeProto {
            input: inputs.iter().map(|&name| name.to_owned()).collect(),
            output: outputs.to_vec(),
            name: format!("{op}_{}", self.next),
            op_type: op.to_owned(),
            attribute: attributes.iter().map(attribute).collect(),
            ..Default::default()
        });
        outputs
    }

    /// Adds a node with one output and no attributes.
    pub(crate) fn node(&mut self, op: &str, inputs: &[&str]) -> String {
        let [output] = self.node_of(op, inputs, &[]);
        output
    }

    /// Adds a node `Transpose`.
    pub(crate) fn transpose(&mut self, x: &str, order: &[i64]) -> String {
        let output = self.node("Transpose", &[x]);
        if let Some(node) = self.graph.node.last_mut() {
            let kind = AttributeType::Ints as i32;
            let attribute =
                AttributeProto { name: "perm".to_owned(), r#type: kind, ints: order.to_vec(), ..Default::default() };
            node.attribute.push(attribute);
        }
        output
    }

    /// Sets an attribute of the last node.
    pub(crate) fn attribute(&mut self, name: &str, i: i64) {
        if let Some(node) = self.graph.node.last_mut() {
            let kind = AttributeType::Int as i32;
            node.attribute.push(AttributeProto { name: name.to_owned(), r#type: kind, i, ..Default::default() });
        }
    }

    /// Adds constant floats that differ from each other.
    pub(crate) fn weight(&mut self, dims: &[i64], seed: u64) -> String {
        let len = dims.iter().product::<i64>();
        let data = (0..len).map(|at| 0.4 * ((at as f32) * 1.7 + seed as f32).sin() + 0.05).collect();
        self.floats(dims, data)
    }

    pub(crate) fn floats(&mut self, dims: &[i64], data: Vec<f32>) -> String {
        let tensor = TensorProto { data_type: DataType::Float as i32, float_data: data, ..Default::default() };
        self.initializer(dims, tensor)
    }

    pub(crate) fn ints(&mut self, data: Vec<i64>) -> String {
        let dims = [data.len() as i64];
        let bytes: Vec<u8> = data.iter().flat_map(|x| x.to_le_bytes()).collect();
        let tensor = TensorProto { data_type: DataType::Int64 as i32, raw_data: bytes.into(), ..Default::default() };
        self.initializer(&dims, tensor)
    }

    fn initializer(&mut self, dims: &[i64], tensor: TensorProto) -> String {
        self.next += 1;
        let name = format!("constant_{}", self.next);
        self.graph.initializer.push(TensorProto { name: name.clone(), dims: dims.to_vec(), ..tensor });
        name
    }

    pub(crate) fn model(mut self, outputs: &[&str]) -> OnnxModel {
        self.graph.output = outputs.iter().map(|name| value(name)).collect();
        let opset = OperatorSetIdProto { domain: String::new(), version: 17 };
        let model =
            ModelProto { ir_version: 8, graph: Some(self.graph), opset_import: vec![opset], ..Default::default() };
        OnnxModel::from_proto("built", &model, &OnnxOptions::default()).expect("sound")
    }
}

/// A speech model of one frame: an affine map, layer normalisation, activations, an LSTM and a softmax. Inputs are `x [1, B, 24]`,
/// `h` and `c [1, B, 16]`; outputs are the probabilities `[1, B, 5]` and the next state.
pub(crate) fn speech_model() -> OnnxModel {
    let mut graph = GraphBuilder::new(&["x", "h", "c"]);
    let (w, b) = (graph.weight(&[24, 12], 1), graph.weight(&[12], 2));
    let y = graph.node("MatMul", &["x", &w]);
    let y = graph.node("Add", &[&y, &b]);
    let mean = graph.node("ReduceMean", &[&y]);
    set_axes(&mut graph);
    let centred = graph.node("Sub", &[&y, &mean]);
    let two = graph.floats(&[], vec![2.0]);
    let square = graph.node("Pow", &[&centred, &two]);
    let variance = graph.node("ReduceMean", &[&square]);
    set_axes(&mut graph);
    let little = graph.floats(&[1], vec![1e-5]);
    let variance = graph.node("Add", &[&variance, &little]);
    let deviation = graph.node("Sqrt", &[&variance]);
    let normal = graph.node("Div", &[&centred, &deviation]);
    let (scale, shift) = (graph.weight(&[12], 3), graph.weight(&[12], 4));
    let normal = graph.node("Mul", &[&normal, &scale]);
    let normal = graph.node("Add", &[&normal, &shift]);
    let gate = graph.node("Sigmoid", &[&normal]);
    let y = graph.node("Mul", &[&normal, &gate]);
    let (w, r) = (graph.weight(&[1, 64, 12], 5), graph.weight(&[1, 64, 16], 6));
    let bias = graph.weight(&[1, 128], 7);
    let [y, h, c] = graph.node_of("LSTM", &[&y, &w, &r, &bias, "", "h", "c"], &[("hidden_size", 16)]);
    let axis = graph.ints(vec![1]);
    let y = graph.node("Squeeze", &[&y, &axis]);
    let w = graph.weight(&[16, 5], 8);
    let y = graph.node("MatMul", &[&y, &w]);
    let y = graph.node("Tanh", &[&y]);
    let y = graph.node("Softmax", &[&y]);
    graph.model(&[&y, &h, &c])
}

/// Lets the last node reduce the last axis.
pub(crate) fn set_axes(graph: &mut GraphBuilder) {
    if let Some(node) = graph.graph.node.last_mut() {
        let kind = AttributeType::Ints as i32;
        node.attribute.push(AttributeProto {
            name: "axes".to_owned(),
            r#type: kind,
            ints: vec![-1],
            ..Default::default()
        });
    }
}
