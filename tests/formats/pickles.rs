//! Pickles written operation by operation: forms that PyTorch does not write today, and hostile ones.

use gatewise::weights::Weights;
use gatewise::{Error, Result};
use ndarray::IxDyn;

use crate::archive::zipped;

/// The operations of a pickle of protocol 2.
#[derive(Clone)]
struct Pickle(Vec<u8>);

impl Pickle {
    fn new() -> Self {
        Self(vec![0x80, 2])
    }

    fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend(bytes);
        self
    }

    fn text(self, text: &str) -> Self {
        let length = u32::try_from(text.len()).expect("a short text");
        self.raw(b"X").raw(&length.to_le_bytes()).raw(text.as_bytes())
    }

    fn int(self, number: i64) -> Self {
        self.raw(&[0x8a, 8]).raw(&number.to_le_bytes())
    }

    fn global(self, module: &str, name: &str) -> Self {
        self.raw(format!("c{module}\n{name}\n").as_bytes())
    }

    fn ints(self, numbers: &[i64]) -> Self {
        numbers.iter().fold(self.raw(b"("), |pickle, &number| pickle.int(number)).raw(b"t")
    }

    /// The reference to a storage of float32.
    fn storage(self, key: &str, count: i64) -> Self {
        let pickle = self.raw(b"(").text("storage").global("torch", "FloatStorage");
        pickle.text(key).text("cpu").int(count).raw(b"tQ")
    }

    fn tensor(self, key: &str, count: i64, offset: i64, size: &[i64], strides: &[i64]) -> Self {
        let pickle = self.global("torch._utils", "_rebuild_tensor_v2").raw(b"(").storage(key, count).int(offset);
        pickle.ints(size).ints(strides).raw(b"\x89}tR")
    }

    /// Reads the pickle in a checkpoint with the storages `0`, which holds 0 to 5, and `1`, which holds 4 KiB.
    fn read(&self) -> Result<Weights> {
        let small: Vec<u8> = (0_u8..6).flat_map(|x| f32::from(x).to_le_bytes()).collect();
        let large = vec![0; 4096];
        Weights::from_bytes("x.pt", &zipped(&[("x/data.pkl", &self.0), ("x/data/0", &small), ("x/data/1", &large)]))
    }

    fn refused(&self, words: &[&str]) -> Error {
        let error = self.read().expect_err(words[0]);
        let text = error.to_string();
        assert!(words.iter().all(|word| text.contains(word)) && text.lines().count() == 1, "{words:?}: {text}");
        error
    }
}

/// A state dict with one tensor, `x`.
fn one(offset: i64, size: &[i64], strides: &[i64]) -> Pickle {
    Pickle::new().raw(b"}").text("x").tensor("0", 6, offset, size, strides).raw(b"s.")
}

#[test]
fn strides_and_offsets_stay_inside_the_storage() {
    let read = |offset, size: &[i64], strides: &[i64]| {
        let weights = one(offset, size, strides).read().expect("a tensor");
        weights.get::<IxDyn>("x").expect("a tensor").into_iter().collect::<Vec<f32>>()
    };
    assert_eq!(read(0, &[2, 3], &[3, 1]), [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
    assert_eq!(read(0, &[3, 2], &[1, 3]), [0.0, 3.0, 1.0, 4.0, 2.0, 5.0]);
    assert_eq!(read(1, &[2, 2], &[3, 1]), [1.0, 2.0, 4.0, 5.0]);
    assert_eq!(read(5, &[2, 1], &[0, 7]), [5.0, 5.0]);
    assert!(read(6, &[0, 3], &[3, 1]).is_empty());
    let huge = i64::MAX;
    for (offset, size, strides) in [
        (1, &[2, 3][..], &[3, 1][..]),
        (0, &[2, 3], &[4, 1]),
        (6, &[1], &[1]),
        (huge, &[1], &[1]),
        (0, &[2], &[huge]),
        (0, &[huge], &[1]),
        (0, &[3, 3], &[huge, huge]),
        (0, &[huge, huge], &[0, 0]),
        (0, &[0, huge, huge], &[1, 1, 1]),
    ] {
        let error = one(offset, size, strides).read().expect_err("outside").to_string();
        assert!(error.starts_with("x.pt: x: "), "{error}");
    }
    one(-1, &[1], &[1]).refused(&["x: expected a tensor as PyTorch describes it", "no whole numbers"]);
    one(0, &[-1], &[1]).refused(&["x: expected a tensor as PyTorch describes it", "no whole numbers"]);
    one(0, &[2], &[-1]).refused(&["x: expected a tensor as PyTorch describes it", "no whole numbers"]);
    one(0, &[2, 3], &[1]).refused(&["2 axes with 1 strides"]);
    one(0, &[1; 65], &[1; 65]).refused(&["x: expected a tensor"]);
    let tensor = |key: &str, count| Pickle::new().raw(b"}").text("x").tensor(key, count, 0, &[1], &[1]).raw(b"s.");
    tensor("0", 7).refused(&["x/data/0: expected the 28 bytes that x declares", "24 bytes"]);
    tensor("0", i64::MAX).refused(&["x: expected a tensor", "a storage of"]);
    tensor("2", 1).refused(&["x/data/2: expected a member of this name"]);
    tensor("../0", 1).refused(&["x/data/../0: expected a member of this name"]);
}

#[test]
fn few_bytes_never_ask_for_much_memory() {
    let too_large = |pickle: Pickle| assert!(matches!(pickle.read().expect_err("too large"), Error::TooLarge { .. }));
    // One element, repeated.
    too_large(one(0, &[1 << 40], &[0]));
    too_large(one(0, &[1 << 20, 1 << 20], &[0, 0]));
    // One storage under many names.
    let many = (0..20_000).fold(Pickle::new().raw(b"}("), |pickle, at| {
        let pickle = pickle.text(&format!("x{at}"));
        if at == 0 { pickle.tensor("1", 1024, 0, &[1 << 12], &[0]).raw(b"q\x07") } else { pickle.raw(b"h\x07") }
    });
    too_large(many.raw(b"u."));
    // Lists that hold the list before ten times each.
    let mut laughs = Pickle::new().raw(b"]q\x00");
    for level in 1..60 {
        laughs = laughs.raw(b"](").raw(&[b'h', level - 1].repeat(10)).raw(&[b'e', b'q', level]);
    }
    laughs.raw(b".").refused(&["a state dict", "a list"]);
}

#[test]
fn values_inside_each_other_need_no_stack() {
    let depth = 1_000_000;
    let lists = Pickle::new().raw(&b"]".repeat(depth)).raw(&b"a".repeat(depth - 1)).raw(b".");
    lists.refused(&["a state dict", "a list"]);
    let tuples = Pickle::new().raw(b")").raw(&b"\x85".repeat(depth)).raw(b".");
    tuples.refused(&["a state dict", "a list"]);
    Pickle::new().raw(&b"(".repeat(depth)).refused(&["x/data.pkl: cut short"]);
    // A dict inside itself, and dicts inside each other far deeper than a checkpoint has them.
    let tensor = |pickle: Pickle| pickle.text("x").tensor("0", 6, 0, &[6], &[1]).raw(b"s");
    let ring = tensor(Pickle::new().raw(b"}q\x00").text("self").raw(b"h\x00s"));
    assert!(ring.raw(b".").read().expect("a state dict").names().eq(["x"]));
    let nested = |depth: usize| {
        let pickle = (0..depth).fold(Pickle::new().raw(b"}"), |pickle, _| pickle.text("a").raw(b"}"));
        tensor(pickle).raw(&b"s".repeat(depth)).raw(b".")
    };
    assert!(nested(15).read().expect("a state dict").names().eq(["x"]));
    nested(16).refused(&["a dict without tensors, with the keys a"]);
    nested(100_000).refused(&["a dict without tensors, with the keys a"]);
}

#[test]
fn operations_that_do_not_fit_are_refused() {
    let start = Pickle::new;
    start().raw(b".").refused(&["x/data.pkl, byte 3: expected a value on the stack, found none"]);
    start().raw(b"(.").refused(&["expected a value on the stack"]);
    start().raw(b"t.").refused(&["expected a mark on the stack"]);
    start().raw(b"}(Nu.").refused(&["expected a value for every key"]);
    start().raw(b"h\x05.").refused(&["expected the number of a stored value, found 5"]);
    start().raw(b"NNa.").refused(&["expected a list or a set on the stack"]);
    start().raw(b"NNNs.").refused(&["expected a dict on the stack"]);
    start().raw(b"NN\x93.").refused(&["expected a module and a name"]);
    start().raw(b"}.}").refused(&["expected the end of the pickle, found 1 more bytes"]);
    start().raw(b"X\xff\xff\xff\xff").refused(&["x/data.pkl: cut short"]);
    start().raw(b"cos\nsystem").refused(&["x/data.pkl: cut short"]);
    // Text numbers, registered classes and buffers outside the pickle are of no use to a checkpoint.
    for operation in [b"I1\n".as_slice(), b"\x82\x01", b"\x97", b"i"] {
        start().raw(operation).refused(&["expected an operation of pickle protocols 2 to 5"]);
    }
    Pickle(vec![0x80, 6, b'N', b'.']).refused(&["expected a pickle of protocol 2 to 5, found protocol 6"]);
    // A call is data: its function is a name in the message.
    let call = start().global("os", "system").text("true").raw(b"\x85");
    call.clone().raw(b"R.").refused(&["a state dict"]);
    call.raw(b"\x81}b.").refused(&["an object of the class os.system", "state_dict()"]);
    let twice = start().raw(b"}(").text("x").tensor("0", 6, 0, &[6], &[1]);
    let twice = twice.text("x").tensor("0", 6, 0, &[3], &[1]).raw(b"u.");
    assert!(matches!(twice.read().expect_err("twice"), Error::Duplicate { name, .. } if name == "x"));
}

#[test]
fn older_and_rarer_forms_are_read() {
    let entries = |pickle: Pickle| pickle.text("x").tensor("0", 6, 0, &[2, 3], &[3, 1]).raw(b"s");
    let ordered = Pickle::new().global("collections", "OrderedDict").raw(b")R");
    // Python 2 gives an ordered dict its entries as a list of pairs, and names as bytes.
    let python2 = Pickle::new().global("collections", "OrderedDict").raw(b"](]U\x01xa");
    let python2 = python2.tensor("0", 6, 0, &[2, 3], &[3, 1]).raw(b"ae\x85R.");
    let framed = Pickle(vec![0x80, 5, 0x95, 9, 0, 0, 0, 0, 0, 0, 0]).raw(b"}");
    let size = |pickle: Pickle| {
        let pickle =
            pickle.raw(b"}").text("x").global("torch._utils", "_rebuild_tensor").raw(b"(").storage("0", 6).int(0);
        pickle.global("torch", "Size").ints(&[2, 3]).raw(b"\x85R").ints(&[3, 1]).raw(b"tRs.")
    };
    for pickle in [entries(ordered).raw(b"}b."), python2, entries(framed).raw(b"."), size(Pickle::new())] {
        let x = pickle.read().and_then(|weights| weights.shaped("x", [2, 3])).expect("a tensor");
        assert_eq!(x.into_iter().collect::<Vec<_>>(), [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
    }
    // A flag in the metadata: the elements count as negated.
    let flagged = Pickle::new().raw(b"}").text("x").global("torch._utils", "_rebuild_tensor_v2").raw(b"(");
    let flagged = flagged.storage("0", 6).int(0).ints(&[6]).ints(&[1]).raw(b"\x89}}").text("neg").raw(b"\x88stRs.");
    let error = flagged.read().and_then(|weights| weights.get::<IxDyn>("x")).expect_err("negated");
    assert!(error.to_string().contains("Float with the metadata neg"), "{error}");
}

#[test]
fn archives_that_are_no_checkpoint_are_refused() {
    let refused = |members: &[(&str, &[u8])], words: &str| {
        let error = Weights::from_bytes("x.pt", &zipped(members)).expect_err(words).to_string();
        assert!(error.contains(words), "{words}: {error}");
    };
    let pickle = one(0, &[6], &[1]).0;
    let floats = [0_u8; 24];
    refused(&[("a.txt", b"text")], "expected a safetensors file or a PyTorch checkpoint, found a zip archive of a.txt");
    refused(&[("config.json", b"{}"), ("model.weights.h5", b"")], "gatewise::weights::keras::KerasFile reads it");
    refused(&[("a/data.pkl", &pickle), ("b/data.pkl", &pickle)], "several data.pkl");
    refused(&[("x/data.pkl", &pickle), ("x/data/0", &floats), ("x/data/0", &floats)], "defines \"x/data/0\"");
    refused(
        &[("x/data.pkl", &pickle), ("x/data/0", &floats), ("x/byteorder", b"middle")],
        "little or big, found middle",
    );
    let mut archive = zipped(&[("x/data.pkl", &pickle), ("x/data/0", &floats)]);
    Weights::from_bytes("x.pt", &archive).expect("the changes below differ from it");
    let at = archive.windows(24).rposition(|window| window == floats).expect("the storage");
    archive[at + 5] = 1;
    let error = Weights::from_bytes("x.pt", &archive).expect_err("another checksum").to_string();
    assert!(error.contains("x/data/0: expected a whole member of the archive"), "{error}");
    // Another program may pack the files without a folder.
    let bare = zipped(&[("data.pkl", &pickle), ("data/0", &floats)]);
    assert!(Weights::from_bytes("x.pt", &bare).expect("a checkpoint").contains("x"));
}
