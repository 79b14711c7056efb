//! Checkpoints of PyTorch, as `torch.save` writes them (`.pt`, `.pth`, `.ckpt`): a zip archive with a pickle and storages.
//!
//! The pickle is read as data. Classes and functions are names, and nothing of them is imported or called. Tensors are taken from the
//! dicts that the pickle holds:
//!
//! | checkpoint | names of the tensors |
//! | --- | --- |
//! | a state dict, also inside other dicts: `{"epoch": 3, "model": {..}}` | those of the state dict |
//! | several state dicts: `{"generator": {..}, "discriminator": {..}}` | the path of keys before them: `generator.weight_ih_l0` |
//! | of PyTorch Lightning | those of its `state_dict` |
//!
//! State dicts are searched in dicts under keys that are texts, up to 16 levels deep. A dict in a list (an optimiser's state) is none.
//! Numbers, texts and lists beside the tensors are left out. Tensors of integers, sparse and quantised ones, and objects keep
//! their names, but reading them is an error.
//!
//! Refused, each with a line of Python that converts the file: whole modules, TorchScript, the format before PyTorch 1.6.

mod advice;
mod dicts;
mod opcode;
mod pickle;
mod reader;
mod tensor;

use std::collections::BTreeMap;

use ndarray::{ArrayD, IxDyn};

use self::dicts::{Dicts, Found};
use self::pickle::Pickle;
use self::tensor::{Described, StoredTensor};
use super::archive::{Archive, memory_limit};
use super::floats::ByteOrder;
use super::{FileName, Stored, kind};
use crate::error::Result;
use crate::text::listed;

/// The kinds of files that are read as weights, in messages.
const EXPECTED: &str = "a safetensors file or a PyTorch checkpoint";

/// The most bytes that the pickle of a small checkpoint may have after it is inflated.
const SMALL_PICKLE: u64 = 1 << 20;

/// Reads the tensors of a zip archive by their names.
pub(super) fn read(file: FileName<'_>, bytes: &[u8]) -> Result<BTreeMap<String, Stored>> {
    let archive = Archive::open(file, bytes).map_err(|error| {
        // Other bytes than an archive may begin like one.
        if kind::is_torch(bytes) { error } else { file.unrecognized(EXPECTED, bytes) }
    })?;
    let root = root(file, &archive)?;
    let field = format!("{root}data.pkl");
    let pickled = archive.member_up_to(&field, SMALL_PICKLE + bytes.len() as u64)?;
    let pickle = Pickle::read(file, &field, &pickled)?;
    let dicts = Dicts::find(&pickle);
    if dicts.is_empty() {
        return Err(dicts.refusal(file));
    }
    let mut checkpoint = Checkpoint {
        file,
        archive: &archive,
        order: order(file, &archive, &root)?,
        root: &root,
        left: memory_limit(bytes.len()),
        size: bytes.len(),
        tensors: BTreeMap::new(),
    };
    let mut stored: BTreeMap<&str, Vec<(String, StoredTensor<'_>)>> = BTreeMap::new();
    dicts.visit(|path, name, found| {
        checkpoint.charge(name, (path.len() + name.len()) as u64)?;
        let name = format!("{path}{name}");
        if checkpoint.tensors.contains_key(&name) {
            let places = format!("the state dict {}", listed(&dicts.paths(), ", "));
            return Err(file.duplicate(places, &name, "an entry before"));
        }
        let described = match found {
            Found::Tensor(tensor) => tensor.describe(file, &name, &pickle)?,
            Found::Object { module, class } => Described::Other(format!("an object of {module}.{class}")),
        };
        match described {
            Described::Other(kind) => {
                checkpoint.tensors.insert(name, Stored::Other(kind));
            }
            Described::Floats(tensor) => {
                // Keeps the name until the storage is read.
                checkpoint.tensors.insert(name.clone(), Stored::Other(String::new()));
                stored.entry(tensor.key).or_default().push((name, tensor));
            }
        }
        Ok(())
    })?;
    // Storage by storage, so that one at a time is inflated.
    stored.into_iter().try_for_each(|(key, tensors)| checkpoint.load(key, tensors))?;
    Ok(checkpoint.tensors)
}

/// The folder of the checkpoint's members.
fn root(file: FileName<'_>, archive: &Archive<'_>) -> Result<String> {
    let names: Vec<&str> = archive.names().collect();
    // The checkpoint lies in one folder, or in none if another program has packed it.
    let is_root = |folder: &&str| folder.is_empty() || folder.ends_with('/') && folder.matches('/').count() == 1;
    let with = |ending| names.iter().filter_map(|name| name.strip_suffix(ending)).filter(is_root).collect::<Vec<_>>();
    let refuse = |found: String| file.refuse("archive", EXPECTED, found);
    if let [folder, ..] = with("constants.pkl")[..] {
        let found = format!("TorchScript in {folder:?}, which holds a program as well; {}", advice::SCRIPT);
        return Err(refuse(found));
    }
    match with("data.pkl")[..] {
        [folder] => Ok(folder.to_owned()),
        [] if names.contains(&"model.weights.h5") => {
            Err(refuse("a model of Keras; gatewise::weights::keras::KerasFile reads it".to_owned()))
        }
        [] => Err(refuse(format!("a zip archive of {}", listed(&names, ", ")))),
        _ => Err(refuse("several data.pkl".to_owned())),
    }
}

/// The order of bytes in the storages. Checkpoints that do not name it were written on little-endian machines.
fn order(file: FileName<'_>, archive: &Archive<'_>, root: &str) -> Result<ByteOrder> {
    let field = format!("{root}byteorder");
    if !archive.names().any(|name| name == field) {
        return Ok(ByteOrder::Little);
    }
    match &*archive.member(&field)? {
        b"little" => Ok(ByteOrder::Little),
        b"big" => Ok(ByteOrder::Big),
        other => Err(file.refuse(&field, "little or big", String::from_utf8_lossy(other))),
    }
}

/// The tensors of a checkpoint that have been read, and what is still allowed.
struct Checkpoint<'c, 'a> {
    file: FileName<'a>,
    archive: &'c Archive<'a>,
    order: ByteOrder,
    root: &'c str,
    /// Bytes of memory that may still be taken.
    left: u64,
    /// The size of the file.
    size: usize,
    tensors: BTreeMap<String, Stored>,
}

impl Checkpoint<'_, '_> {
    /// Counts bytes against the limit of the file. Many tensors may share one storage, and a tensor may repeat its elements.
    fn charge(&mut self, field: &str, bytes: u64) -> Result<()> {
        let Some(left) = self.left.checked_sub(bytes) else {
            let limit = format!("{} bytes for a file of {}", memory_limit(self.size), self.size);
            return Err(self.file.too_large(field, limit, "more, by tensors that share storages or repeat elements"));
        };
        self.left = left;
        Ok(())
    }

    /// Reads the tensors of one storage.
    fn load(&mut self, key: &str, tensors: Vec<(String, StoredTensor<'_>)>) -> Result<()> {
        let field = format!("{}data/{key}", self.root);
        let data = self.archive.member_up_to(&field, self.left)?;
        if let std::borrow::Cow::Owned(data) = &data {
            self.charge(&field, data.len() as u64)?;
        }
        for (name, tensor) in tensors {
            let array = self.tensor(&name, &tensor, &field, &data)?;
            self.tensors.insert(name, Stored::Floats(array));
        }
        Ok(())
    }

    fn tensor(&mut self, name: &str, tensor: &StoredTensor<'_>, field: &str, data: &[u8]) -> Result<ArrayD<f32>> {
        let StoredTensor { float, bytes, ref view, .. } = *tensor;
        let (file, shape) = (self.file, &view.shape);
        if bytes != data.len() as u64 {
            let expected = format!("the {bytes} bytes that {name} declares");
            return Err(file.refuse(field, expected, format!("{} bytes", data.len())));
        }
        let width = float.width();
        let described = || format!("shape {shape:?} in a storage of {} elements", data.len() / width);
        let (Some(count), Some(span)) = (view.count(), view.span()) else {
            return Err(file.refuse(name, "a part of its storage", described()));
        };
        self.charge(name, 4_u64.saturating_mul(count.max(span.len()) as u64))?;
        let part = span.start.checked_mul(width).zip(span.end.checked_mul(width));
        let part = if count == 0 { Some(&data[..0]) } else { part.and_then(|(from, to)| data.get(from..to)) };
        let part = part.ok_or_else(|| file.refuse(name, "a part of its storage", described()))?;
        let values = float.read(part, self.order);
        let values = if view.is_contiguous() || count == 0 { values } else { view.gather(&values, count) };
        let found = values.len();
        ArrayD::from_shape_vec(IxDyn(shape), values)
            .map_err(|_| file.refuse(name, format!("shape {shape:?}"), format!("{found} elements")))
    }
}
