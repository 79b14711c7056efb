//! Kinds of files, recognized by their first bytes.

/// The first bytes of kinds of files that are often given by mistake.
const KNOWN: [(&[u8], &str); 14] = [
    (b"PK\x03\x04", "a zip archive, as of Keras or PyTorch"),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file"),
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
        return Some("a safetensors file");
    }
    // An ONNX model begins with `ir_version`, then come the producer, the operator sets or the graph.
    if let [0x08, 1..=32, 0x12 | 0x1a | 0x3a | 0x42, ..] = bytes {
        return Some("an ONNX model");
    }
    KNOWN.iter().find(|(beginning, _)| bytes.starts_with(beginning)).map(|(_, kind)| *kind)
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
