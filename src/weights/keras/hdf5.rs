//! The groups of an HDF5 file with their attributes, and its arrays.

use std::collections::BTreeMap;
use std::fmt;

use hdf5_reader::group::Group;
use hdf5_reader::messages::datatype::Datatype;
use hdf5_reader::{Dataset, Hdf5File, OpenOptions};
use ndarray::{ArrayD, IxDyn};

use super::{FileName, MOST_ARRAYS, memory_limit};
use crate::error::{Error, Result};
use crate::text::listed;

/// The deepest level of groups. Keras writes fewer levels.
const DEEPEST: usize = 64;
/// Groups that are not read: the state of an optimizer is no part of a model.
const SKIPPED: [&str; 2] = ["optimizer", "optimizer_weights"];

/// The groups and arrays of a file by their paths. The elements of an array are read on demand.
pub(super) struct Tree {
    file: String,
    /// The size of the file in bytes.
    size: u64,
    /// The most bytes that the arrays of one model may take.
    limit: u64,
    groups: BTreeMap<String, Group>,
    arrays: BTreeMap<String, Dataset>,
}

impl fmt::Debug for Tree {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.arrays.keys()).finish()
    }
}

impl Tree {
    pub(super) fn read(file: FileName<'_>, bytes: Vec<u8>) -> Result<Self> {
        let limit = memory_limit(bytes.len());
        let most = usize::try_from(limit).unwrap_or(usize::MAX);
        let options = OpenOptions::default()
            .with_max_read_bytes(most)
            .with_max_chunk_bytes(most)
            .with_chunk_cache_bytes(0)
            .with_max_object_header_bytes(bytes.len());
        let size = bytes.len() as u64;
        let mut tree = Self { file: file.0.to_owned(), size, limit, groups: BTreeMap::new(), arrays: BTreeMap::new() };
        let file = Hdf5File::from_vec_with_options(bytes, options).map_err(|error| tree.broken("/", &error))?;
        let end = file.superblock().base_address.saturating_add(file.superblock().eof_address);
        if end > size {
            return Err(tree.truncated("/", end));
        }
        let root = file.root_group().map_err(|error| tree.broken("/", &error))?;
        tree.collect(root, String::new(), 0)?;
        Ok(tree)
    }

    fn collect(&mut self, group: Group, path: String, depth: usize) -> Result<()> {
        let (groups, arrays) = group.members().map_err(|error| self.broken(&path, &error))?;
        let below = |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}/{name}") };
        self.arrays.extend(arrays.into_iter().map(|array| (below(array.name()), array)));
        for inner in groups.into_iter().filter(|inner| !SKIPPED.contains(&inner.name())) {
            let inside = below(inner.name());
            // A link may lead back to a group above, and the descent would never end.
            if depth == DEEPEST || self.groups.len() + self.arrays.len() > MOST_ARRAYS {
                let limit = format!("{MOST_ARRAYS} groups and arrays, {DEEPEST} deep");
                return Err(FileName(&self.file).too_large(&inside, &limit, "more"));
            }
            self.collect(inner, inside, depth + 1)?;
        }
        self.groups.insert(path, group);
        Ok(())
    }

    fn refuse(&self, path: &str, expected: &str, found: &str) -> Error {
        FileName(&self.file).refuse(if path.is_empty() { "/" } else { path }, expected, found)
    }

    fn broken(&self, path: &str, error: &hdf5_reader::error::Error) -> Error {
        use hdf5_reader::error::Error as Hdf5;
        let mut reason = error;
        while let Hdf5::Context { source, .. } = reason {
            reason = source;
        }
        let field = if path.is_empty() { "/" } else { path };
        match reason {
            Hdf5::UnexpectedEof { offset, needed, .. } if offset.saturating_add(*needed) > self.size => {
                self.truncated(field, offset.saturating_add(*needed))
            }
            Hdf5::OffsetOutOfBounds(offset) if *offset >= self.size => self.truncated(field, offset.saturating_add(1)),
            Hdf5::ResourceLimit(what) => {
                let limit = format!("{} bytes of arrays in a file of {}", self.limit, self.size);
                FileName(&self.file).too_large(field, &limit, what)
            }
            other => self.refuse(path, "a whole HDF5 object", &other.to_string()),
        }
    }

    fn truncated(&self, field: &str, needed: u64) -> Error {
        FileName(&self.file).truncated(field, needed, self.size)
    }

    /// The most bytes that the arrays of one model may take.
    pub(super) fn limit(&self) -> u64 {
        self.limit
    }

    /// All arrays with their shapes.
    pub(super) fn arrays(&self) -> impl Iterator<Item = (&str, &[u64])> {
        self.arrays.iter().map(|(path, array)| (path.as_str(), array.shape()))
    }

    pub(super) fn has(&self, path: &str) -> bool {
        self.arrays.contains_key(path)
    }

    /// The names and paths of the groups directly below a group.
    pub(super) fn groups<'a>(&'a self, path: &'a str) -> impl Iterator<Item = (&'a str, &'a str)> {
        self.groups.keys().filter_map(move |group| {
            let name = group.strip_prefix(path)?.strip_prefix('/')?;
            (!name.contains('/')).then_some((name, group.as_str()))
        })
    }

    /// An attribute of a group as texts; `None` if there is no such group or attribute.
    fn attribute(&self, group: &str, name: &str) -> Result<Option<Vec<String>>> {
        let Some(owner) = self.groups.get(group) else {
            return Ok(None);
        };
        let attributes = owner.attributes().map_err(|error| self.broken(group, &error))?;
        let Some(attribute) = attributes.into_iter().find(|attribute| attribute.name == name) else {
            return Ok(None);
        };
        // Keras writes an empty list as an empty array of floats.
        if attribute.num_elements().is_ok_and(|count| count == 0) {
            return Ok(Some(Vec::new()));
        }
        let site = format!("{group}@{name}");
        attribute.read_strings().map(Some).map_err(|error| self.refuse(&site, "text", &error.to_string()))
    }

    /// An attribute that is a single text.
    pub(super) fn text(&self, group: &str, name: &str) -> Result<Option<String>> {
        match self.attribute(group, name)?.as_deref() {
            None => Ok(None),
            Some([text]) => Ok(Some(text.clone())),
            Some(other) => Err(self.refuse(&format!("{group}@{name}"), "one text", &format!("{} texts", other.len()))),
        }
    }

    /// An attribute that is a list of texts. Keras splits a long list into `name0`, `name1` and so on.
    pub(super) fn list(&self, group: &str, name: &str) -> Result<Option<Vec<String>>> {
        if let Some(whole) = self.attribute(group, name)? {
            return Ok(Some(whole));
        }
        let (mut parts, mut at) = (None::<Vec<String>>, 0);
        while let Some(part) = self.attribute(group, &format!("{name}{at}"))? {
            parts.get_or_insert_default().extend(part);
            at += 1;
        }
        Ok(parts)
    }

    /// The elements of an array of floats.
    pub(super) fn array(&self, path: &str) -> Result<ArrayD<f32>> {
        let Some(array) = self.arrays.get(path) else {
            let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
            let others: Vec<&str> = self.arrays.keys().map(String::as_str).filter(|p| p.starts_with(folder)).collect();
            let found =
                if others.is_empty() { "nothing there".to_owned() } else { format!("only {}", listed(&others, ", ")) };
            return Err(self.refuse(path, "an array of this name", &found));
        };
        let broken = |error: hdf5_reader::error::Error| self.broken(path, &error);
        let (shape, values): (_, Vec<f32>) = match array.dtype() {
            Datatype::FloatingPoint { size: 4, .. } => {
                let values = array.read_array::<f32>().map_err(broken)?;
                (values.shape().to_vec(), values.into_iter().collect())
            }
            #[expect(clippy::cast_possible_truncation, reason = "narrowed to the precision that layers compute in")]
            Datatype::FloatingPoint { size: 8, .. } => {
                let values = array.read_array::<f64>().map_err(broken)?;
                (values.shape().to_vec(), values.into_iter().map(|x| x as f32).collect())
            }
            other => {
                return Err(FileName(&self.file).dtype(path, "32-bit or 64-bit float", format!("{other:?}")));
            }
        };
        let count = values.len();
        ArrayD::from_shape_vec(IxDyn(&shape), values)
            .map_err(|_| self.refuse(path, &format!("shape {shape:?}"), &format!("{count} elements")))
    }

    /// The number of bytes of an array once it is read.
    pub(super) fn bytes(&self, path: &str) -> u64 {
        let Some(array) = self.arrays.get(path) else {
            return 0;
        };
        array.shape().iter().fold(4, |bytes: u64, &extent| bytes.saturating_mul(extent))
    }
}
