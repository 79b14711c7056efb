//! Broken files: every kind has its own error, with the node or tensor.

use gatewise::onnx::proto::{
    AttributeProto, AttributeType, DataType, GraphProto, Message, ModelProto, NodeProto, OperatorSetIdProto, Segment,
    StringStringEntryProto, TensorProto, TensorShapeProto, TensorType, TypeProto, ValueInfoProto,
};
use gatewise::onnx::{OnnxModel, OnnxOptions};
use gatewise::{Device, Error};

use crate::stored::path;

fn read(bytes: &[u8]) -> Result<OnnxModel, Error> {
    OnnxModel::from_bytes("m.onnx", bytes, &OnnxOptions::default())
}

fn value(name: &str) -> ValueInfoProto {
    let tensor = TensorType { elem_type: DataType::Float as i32, shape: None };
    ValueInfoProto { name: name.to_owned(), r#type: Some(TypeProto { tensor_type: Some(tensor) }) }
}

fn node(op: &str, name: &str, inputs: &[&str], outputs: &[&str]) -> NodeProto {
    let owned = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
    NodeProto {
        input: owned(inputs),
        output: owned(outputs),
        name: name.to_owned(),
        op_type: op.to_owned(),
        ..Default::default()
    }
}

/// `w`, two floats.
fn weight() -> TensorProto {
    TensorProto {
        name: "w".to_owned(),
        dims: vec![2],
        data_type: DataType::Float as i32,
        float_data: vec![1.0, 2.0],
        ..Default::default()
    }
}

/// The sound model `y = relu(x + w)`.
fn model() -> ModelProto {
    let graph = GraphProto {
        node: vec![node("Add", "a", &["x", "w"], &["s"]), node("Relu", "b", &["s"], &["y"])],
        initializer: vec![weight()],
        input: vec![value("x")],
        output: vec![value("y")],
        ..Default::default()
    };
    let opset = OperatorSetIdProto { domain: String::new(), version: 14 };
    ModelProto { ir_version: 8, graph: Some(graph), opset_import: vec![opset], ..Default::default() }
}

/// The error of the sound model after a change.
fn refused(change: impl FnOnce(&mut GraphProto)) -> Error {
    let mut model = model();
    change(model.graph.as_mut().expect("a graph"));
    read(&model.encode_to_vec()).expect_err("the change breaks it")
}

fn refused_weight(change: impl FnOnce(&mut TensorProto)) -> Error {
    refused(|graph| change(&mut graph.initializer[0]))
}

#[test]
fn the_sound_model_is_read() {
    read(&model().encode_to_vec()).expect("every case below differs from it");
}

#[test]
fn a_file_of_another_kind_is_named() {
    let safetensors = std::fs::read(path("gru_after").replace(".onnx", ".safetensors")).expect("a file");
    for (bytes, found) in [
        (&b""[..], "an empty file"),
        (b"PK\x03\x04 and so on", "a zip archive, as of Keras or PyTorch"),
        (b"{\"graph\": {}}", "JSON"),
        (b"<html><body>404</body></html>", "an HTML page"),
        (b"not a model at all", "a file that begins with 6e 6f 74 20 61 20 6d 6f"),
        (b"\x00\x00\x00\x00\x00\x00\x00\x00\x00", "a file that begins with 00 00 00 00 00 00 00 00"),
        (
            &safetensors,
            "a safetensors file; weights without a graph: export the model in Python with \
            torch.onnx.export(model, inputs, \"model.onnx\"), or build its layers with gatewise::weights::Weights",
        ),
    ] {
        let error = read(bytes).expect_err(found);
        assert!(matches!(error, Error::Unrecognized { .. }), "{error}");
        assert_eq!(error.to_string(), format!("m.onnx: expected an ONNX model, found {found}"));
    }
}

/// A file that is cut inside a field tells the missing length. A file that is cut between two fields lacks the later ones.
#[test]
fn every_truncation_is_refused() {
    for fixture in ["gru_after", "embedding_lstm"] {
        let whole = std::fs::read(path(fixture)).expect("a file");
        read(&whole).expect("sound");
        let mut between = 0;
        for length in 1..whole.len() {
            match read(&whole[..length]).expect_err("cut short") {
                Error::Truncated { needed, found, .. } => {
                    assert!(found == length as u64 && found < needed && needed <= whole.len() as u64, "{length}");
                }
                error => {
                    between += 1;
                    let text = error.to_string();
                    assert!(text.contains("graph") || text.contains("opset_import"), "{fixture}, {length}: {text}");
                }
            }
        }
        assert!(between <= 8, "{fixture}: {between} cuts are not named as such");
    }
}

#[test]
fn a_changed_byte_is_refused_or_read_but_never_a_panic() {
    for fixture in ["gru_after", "lstm_peephole_clip", "rnn_lengths", "operators_reduction"] {
        let whole = std::fs::read(path(fixture)).expect("a file");
        for at in 0..whole.len() {
            for change in [0x01, 0x08, 0xff] {
                let mut changed = whole.clone();
                changed[at] ^= change;
                drop(read(&changed));
            }
        }
    }
}

#[test]
fn messages_within_messages_have_an_end() {
    let mut graph = GraphProto::default();
    for _ in 0..200 {
        let attribute = AttributeProto {
            name: "body".to_owned(),
            r#type: AttributeType::Graph as i32,
            g: Some(Box::new(graph)),
            ..Default::default()
        };
        let inner = NodeProto { attribute: vec![attribute], ..node("If", "deep", &["x"], &["y"]) };
        graph = GraphProto { node: vec![inner], ..Default::default() };
    }
    let mut model = model();
    model.graph = Some(graph);
    let error = read(&model.encode_to_vec()).expect_err("too deep");
    assert!(matches!(&error, Error::TooLarge { field, .. } if field == "nesting"), "{error}");
}

#[test]
fn a_message_that_contradicts_itself_is_no_truncation() {
    // The graph is as long as the file says, but a string in it is longer than the graph.
    let bytes = [0x08, 0x08, 0x3a, 0x03, 0x12, 0x7f, b'g'];
    let error = read(&bytes).expect_err("broken");
    assert!(matches!(&error, Error::Format { field, .. } if field == "message"), "{error}");
}

#[test]
fn element_types_that_are_not_read_are_named() {
    for (number, found) in
        [(DataType::String as i32, "String"), (DataType::Uint4 as i32, "Uint4"), (99, "the unknown type 99")]
    {
        let error = refused_weight(|w| w.data_type = number);
        assert!(matches!(&error, Error::Dtype { field, .. } if field == "tensor \"w\""), "{error}");
        assert!(error.to_string().ends_with(found), "{error}");
        let error = refused(|graph| {
            let tensor = TensorType { elem_type: number, shape: Some(TensorShapeProto::default()) };
            graph.input[0].r#type = Some(TypeProto { tensor_type: Some(tensor) });
        });
        assert!(matches!(&error, Error::Dtype { field, .. } if field == "value \"x\""), "{error}");
    }
}

#[test]
fn sizes_that_no_memory_holds_are_refused() {
    for dims in [vec![1 << 40, 1 << 40], vec![i64::MAX], vec![0, i64::MAX, i64::MAX], vec![1; 33]] {
        let error = refused_weight(|w| w.dims = dims);
        assert!(matches!(&error, Error::TooLarge { field, .. } if field == "tensor \"w\""), "{error}");
    }
    let error = refused_weight(|w| w.dims = vec![-2]);
    assert!(matches!(error, Error::Format { .. }), "{error}");
}

#[test]
fn data_that_does_not_fill_its_shape_is_refused() {
    let raw = |bytes: usize| {
        move |w: &mut TensorProto| {
            w.float_data.clear();
            w.raw_data = vec![0; bytes].into();
        }
    };
    for (error, words) in [
        (refused_weight(raw(7)), "expected 2 elements of 4 bytes for shape [2], found 7 bytes"),
        (refused_weight(raw(12)), "found 12 bytes"),
        (refused_weight(|w| w.dims = vec![1_000_000_000]), "expected 1000000000 elements"),
        (refused_weight(|w| w.float_data.truncate(1)), "expected 2 elements of Float for shape [2], found 1"),
        (refused_weight(|w| w.int32_data.push(7)), "3 of any"),
        (refused_weight(|w| w.raw_data = vec![0; 8].into()), "its data in one place"),
        (refused_weight(|w| w.segment = Some(Segment { begin: 0, end: 1 })), "a segment"),
        (refused_weight(|w| w.data_location = 7), "data_location 0 or 1"),
    ] {
        assert!(matches!(error, Error::Format { .. }) && error.to_string().contains(words), "{error}");
        assert!(error.to_string().starts_with("m.onnx: tensor \"w\": "), "{error}");
    }
}

#[test]
fn external_data_lies_below_the_models_folder_and_is_whole() {
    let external = |entries: &[(&str, &str)]| {
        let entries: Vec<_> = entries
            .iter()
            .map(|(key, value)| StringStringEntryProto { key: (*key).to_owned(), value: (*value).to_owned() })
            .collect();
        let mut model = model();
        let w = &mut model.graph.as_mut().expect("a graph").initializer[0];
        w.float_data.clear();
        (w.data_location, w.external_data) = (1, entries);
        model.encode_to_vec()
    };
    let folder = tempfile::tempdir().expect("a folder");
    let below = folder.path().join("below");
    std::fs::create_dir(&below).expect("a folder");
    std::fs::write(below.join("w.bin"), [1.5_f32, 2.5].map(f32::to_le_bytes).concat()).expect("a file");
    std::fs::write(folder.path().join("secret.bin"), [0; 8]).expect("a file");
    let try_file = |entries: &[(&str, &str)]| {
        let file = below.join("m.onnx");
        std::fs::write(&file, external(entries)).expect("a file");
        OnnxModel::from_file(file, &OnnxOptions::default())
    };
    try_file(&[("location", "w.bin")]).expect("sound");
    try_file(&[("location", "./w.bin"), ("offset", "0"), ("length", "8")]).expect("sound");
    for (entries, words) in [
        (&[("offset", "0")][..], "external data with a location, found none"),
        (&[("location", "../secret.bin")], "external data below the model's folder"),
        (&[("location", "/etc/passwd")], "external data below the model's folder"),
        (&[("location", ".")], "external data in a file"),
        (&[("location", "w.bin"), ("offset", "4")], "expected 8 bytes of external data, found 4 bytes at 4"),
        (&[("location", "w.bin"), ("length", "18446744073709551615")], "expected 8 bytes of external data"),
        (&[("location", "w.bin"), ("offset", "-1")], "a number as offset"),
    ] {
        let error = try_file(entries).map(drop).expect_err(words);
        assert!(matches!(error, Error::Format { .. }) && error.to_string().contains(words), "{error}");
    }
    let error = try_file(&[("location", "absent.bin")]).map(drop).expect_err("absent");
    assert!(matches!(&error, Error::Io { path, .. } if path.ends_with("absent.bin")), "{error}");
    let words =
        "absent.bin: no such file, which holds the model's external data of tensor \"w\"; copy it to this place";
    assert!(error.to_string().ends_with(words), "{error}");
    // A model from bytes has no folder.
    let error = read(&external(&[("location", "w.bin")])).expect_err("no folder");
    assert!(error.to_string().contains("its data in the model itself"), "{error}");
    #[cfg(unix)]
    {
        std::os::unix::fs::symlink(folder.path().join("secret.bin"), below.join("link.bin")).expect("a link");
        let error = try_file(&[("location", "link.bin")]).map(drop).expect_err("leads out");
        assert!(error.to_string().contains("external data below the model's folder"), "{error}");
    }
}

#[test]
fn parts_of_other_ranks_do_not_join() {
    let whole = |name: &str, dims: &[i64]| TensorProto {
        name: name.to_owned(),
        dims: dims.to_vec(),
        data_type: DataType::Int64 as i32,
        int64_data: vec![1; dims.iter().product::<i64>() as usize],
        ..Default::default()
    };
    for other in [&[2_i64][..], &[], &[1, 2, 1], &[2, 1]] {
        let mut model = model();
        let graph = model.graph.as_mut().expect("a graph");
        graph.initializer.extend([whole("p", &[1, 2]), whole("q", other)]);
        let mut join = node("Concat", "c", &["p", "q"], &["shape"]);
        join.attribute = vec![AttributeProto {
            name: "axis".to_owned(),
            r#type: AttributeType::Int as i32,
            i: 1,
            ..Default::default()
        }];
        graph.node = vec![join, node("Reshape", "r", &["w", "shape"], &["y"])];
        graph.input.clear();
        let error = read(&model.encode_to_vec())
            .and_then(|model| model.to(&Device::Cpu)?.run(&[]))
            .expect_err("shapes that do not agree");
        assert!(error.to_string().contains("equal shapes apart from the axis"), "{error}");
    }
}

#[test]
fn a_cycle_is_named_with_its_nodes() {
    let error = refused(|graph| graph.node[0].input[1] = "y".to_owned());
    assert!(matches!(error, Error::Cycle { .. }), "{error}");
    assert_eq!(error.to_string(), "m.onnx: a cycle among node \"a\" (Add), node \"b\" (Relu)");
    let error = refused(|graph| graph.node[1].input[0] = "y".to_owned());
    assert!(matches!(&error, Error::Cycle { nodes, .. } if nodes == &["node \"b\" (Relu)"]), "{error}");
    // No output needs them; the file is refused all the same.
    let error = refused(|graph| {
        graph.node.extend([node("Relu", "p", &["q0"], &["p0"]), node("Relu", "q", &["p0"], &["q0"])]);
    });
    assert!(matches!(error, Error::Cycle { .. }), "{error}");
}

#[test]
fn what_leads_nowhere_is_named() {
    for (error, text) in [
        (
            refused(|graph| graph.node[0].input[0] = "nowhere".to_owned()),
            "m.onnx: node \"a\" (Add) reads \"nowhere\", which nothing defines",
        ),
        (refused(|graph| graph.initializer.clear()), "m.onnx: node \"a\" (Add) reads \"w\", which nothing defines"),
        (refused(|graph| graph.input.clear()), "m.onnx: node \"a\" (Add) reads \"x\", which nothing defines"),
        (
            refused(|graph| graph.output[0].name = "z".to_owned()),
            "m.onnx: the list of outputs reads \"z\", which nothing defines",
        ),
    ] {
        assert!(matches!(error, Error::Dangling { .. }), "{error}");
        assert_eq!(error.to_string(), text);
    }
}

#[test]
fn a_name_that_is_given_twice_is_refused() {
    for (error, text) in [
        (
            refused(|graph| graph.node[1].output[0] = "s".to_owned()),
            "node \"b\" (Relu) defines \"s\", which node \"a\" (Add) has defined",
        ),
        (refused(|graph| graph.node[0].output.push("s".to_owned())), "node \"a\" (Add) defines \"s\", which"),
        (
            refused(|graph| graph.node[1].output[0] = "x".to_owned()),
            "node \"b\" (Relu) defines \"x\", which an input of the graph has defined",
        ),
        (refused(|graph| graph.node[1].output[0] = "w".to_owned()), "which an initializer has defined"),
        (refused(|graph| graph.initializer.push(weight())), "an initializer defines \"w\", which another has defined"),
        (refused(|graph| graph.input.push(value("x"))), "an input of the graph defines \"x\", which another"),
        (refused(|graph| graph.output.push(value("y"))), "the list of outputs defines \"y\", which"),
    ] {
        assert!(matches!(error, Error::Duplicate { .. }) && error.to_string().contains(text), "{error}");
    }
}

#[test]
fn what_a_graph_lacks_is_named() {
    for (error, words) in [
        (
            refused(|graph| graph.node[1].output.clear()),
            "node \"b\" (Relu): outputs: expected at least one, found none",
        ),
        (refused(|graph| graph.node[1].output[0].clear()), "outputs: expected at least one"),
        (refused(|graph| graph.node[1].input.clear()), "node \"b\" (Relu): inputs: expected 1 to 1"),
        (refused(|graph| graph.output.clear()), "output: expected at least one, found none"),
        (refused(|graph| graph.initializer[0].name.clear()), "initializer: expected a name, found none"),
        (refused(|graph| graph.input[0].name.clear()), "input: expected a name, found none"),
        (refused(|graph| graph.input[0].r#type = None), "value \"x\": expected a tensor's type, found none"),
    ] {
        assert!(matches!(error, Error::Format { .. }) && error.to_string().contains(words), "{error}");
    }
    let error = refused(|graph| {
        graph.node[0].op_type = "Einsum".to_owned();
        (graph.node[1].op_type, graph.node[1].domain) = ("Own".to_owned(), "org.example".to_owned());
    });
    assert!(matches!(&error, Error::Operators { operators, .. } if operators.len() == 2), "{error}");
    assert_eq!(
        error.to_string(),
        "m.onnx: operators that are not supported: Einsum of ai.onnx 14 (node \"a\"); \
         Own of org.example ? (node \"b\")"
    );
}

#[test]
fn a_file_without_version_or_graph_is_refused() {
    let encoded = |change: fn(&mut ModelProto)| {
        let mut model = model();
        change(&mut model);
        read(&model.encode_to_vec()).expect_err("broken").to_string()
    };
    for (text, words) in [
        (encoded(|model| model.graph = None), "graph"),
        (encoded(|model| model.ir_version = 0), "ir_version"),
        (encoded(|model| model.ir_version = 99), "ir_version: expected 1 to"),
        (encoded(|model| model.opset_import.clear()), "opset_import: expected one operator set"),
        (encoded(|model| model.opset_import[0].version = 6), "opset_import: expected an operator set from 7"),
        (encoded(|model| model.opset_import[0].version = 99), "opset_import"),
    ] {
        assert!(text.contains(words), "{text}");
    }
}

#[test]
fn weights_that_are_no_numbers_are_reported() {
    let mut odd = model();
    odd.graph.as_mut().expect("a graph").initializer[0].float_data = vec![f32::NAN, f32::INFINITY];
    let found: Vec<String> =
        read(&odd.encode_to_vec()).expect("sound").check().iter().map(ToString::to_string).collect();
    assert_eq!(found, ["w: 1 NaN, 1 infinite, first at 0"]);
    assert!(read(&model().encode_to_vec()).expect("sound").check().is_empty());
}

#[test]
fn weights_without_a_graph_are_refused_with_the_way_to_a_graph() {
    let fixtures = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/torch");
    for (name, kind) in [
        ("lstm.pt", "a zip archive of PyTorch"),
        ("legacy.pt", "a PyTorch checkpoint of the format before 1.6"),
        ("lstm.safetensors", "a safetensors file"),
    ] {
        let error = OnnxModel::from_file(format!("{fixtures}/{name}"), &OnnxOptions::default()).expect_err(name);
        let error = error.to_string();
        let words = ["expected an ONNX model", kind, "torch.onnx.export(model, inputs, \"model.onnx\")"];
        assert!(words.iter().all(|word| error.contains(word)) && error.lines().count() == 1, "{error}");
    }
}
