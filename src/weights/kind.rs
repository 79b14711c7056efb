//! Kinds of files, recognized by their first bytes.

/// The kind of a safetensors file.
pub(super) const SAFETENSORS: &str = "a safetensors file";

const ZIP: &[u8] = b"PK\x03\x04";
/// The pickled number that a PyTorch checkpoint of the format before 1.6 begins with.
const LEGACY: &[u8] = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.";

/// The kind of a PyTorch checkpoint that is a zip archive.
pub(super) const TORCH: &str = "a zip archive of PyTorch";

/// The first bytes of kinds of files that are often given by mistake.
const KNOWN: [(&[u8], &str); 15] = [
    (ZIP, "a zip archive, as of Keras or PyTorch"),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file"),
    (LEGACY, "a PyTorch checkpoint of the format before 1.6"),
    (b"\x80\x02", "a pickle, as of PyTorch"),
    (b"\x80\x04", "a pickle, as of PyTorch"),
    (b"\x80\x05", "a pickle, as of PyTorch"),
    (b"\x93NUMPY", "a NumPy array"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"GGUF", "a GGUF file"),
    (b"RIFF", "a RIFF file, as WAV is one"),
    (b"version https://git-lfs", "a pointer of Git LFS in place of the file"),
    (b"<!DOCTYPE", "an HTML page"),
    (b"<!doctype", "an HTML page"),
    (b"<html", "an HTML page"),
    (b"{", "JSON"),
];

/// The kind of a file as messages call it; `None` if its first bytes are not known.
pub(crate) fn known(bytes: &[u8]) -> Option<&'static str> {
    if bytes.is_empty() {
        return Some("an empty file");
    }
    if bytes.get(8) == Some(&b'{') && bytes[..8].ends_with(&[0, 0, 0, 0]) {
        return Some(SAFETENSORS);
    }
    // An ONNX model begins with `ir_version`, then come the producer, the operator sets or the graph.
    if let [0x08, 1..=32, 0x12 | 0x1a | 0x3a | 0x42, ..] = bytes {
        return Some("an ONNX model");
    }
    if is_torch(bytes) {
        return Some(TORCH);
    }
    KNOWN.iter().find(|(beginning, _)| bytes.starts_with(beginning)).map(|(_, kind)| *kind)
}

/// Whether the first member of a zip archive has a name as in PyTorch's checkpoints.
pub(super) fn is_torch(bytes: &[u8]) -> bool {
    /// Where a member's header has the length of its name, and where the name begins.
    const LENGTH: usize = 26;
    const NAME: usize = 30;
    let length =
        bytes.get(LENGTH..).and_then(|rest| rest.first_chunk()).map_or(0, |&length| u16::from_le_bytes(length));
    let name = bytes.get(NAME..).and_then(|rest| rest.get(..usize::from(length))).unwrap_or_default();
    bytes.starts_with(ZIP) && (name.ends_with(b"/data.pkl") || name.windows(6).any(|part| part == b"/data/"))
}

/// The next step for a file that is read as another kind.
pub(super) fn advice(expected: &str, bytes: &[u8]) -> Option<&'static str> {
    const LOAD: &str = "gatewise::weights::Weights reads it, if gatewise is built with the feature `torch`";
    const SAVE_AGAIN: &str = "save it again in Python: import torch; torch.save(torch.load(\"model.pt\", map_location=\"cpu\"), \
                              \"weights.pt\")";
    const EXPORT: &str = "weights without a graph: export the model in Python with torch.onnx.export(model, inputs, \
                          \"model.onnx\"), or build its layers with gatewise::weights::Weights";
    let kind = known(bytes)?;
    let of_torch = kind == TORCH || bytes.starts_with(b"\x80");
    match expected {
        "an ONNX model" if of_torch || kind == SAFETENSORS => Some(EXPORT),
        _ if kind == TORCH => Some(LOAD),
        _ if of_torch => Some(SAVE_AGAIN),
        _ => None,
    }
}

/// The kind of a file as [`known`] returns it, or else its first bytes.
pub(crate) fn describe(bytes: &[u8]) -> String {
    known(bytes).map_or_else(
        || {
            let first: Vec<String> = bytes.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
            format!("a file that begins with {}", first.join(" "))
        },
        str::to_owned,
    )
}
