//! The attributes of a node. Its operator takes each attribute that it knows; any other is refused.

use std::collections::BTreeMap;

use super::proto::{AttributeProto, AttributeType, NodeProto, TensorProto};
use crate::error::{Error, Result};
use crate::weights::FileName;

/// The file and the node that errors name.
#[derive(Clone, Debug)]
pub(super) struct Site {
    file: String,
    /// The name and type of the node.
    pub(super) node: String,
}

impl Site {
    /// The site of a node. If the node has no name, its index stands for it.
    pub(super) fn new(file: FileName<'_>, index: usize, node: &NodeProto) -> Self {
        let name = if node.name.is_empty() { format!("#{index}") } else { format!("{:?}", node.name) };
        Self { file: file.0.to_owned(), node: format!("node {name} ({})", node.op_type) }
    }

    pub(super) fn refuse(&self, field: &str, expected: impl Into<String>, found: impl Into<String>) -> Error {
        FileName(&self.file).refuse(&format!("{}: {field}", self.node), expected, found)
    }

    /// Adds the file and the node to an error.
    pub(super) fn wrap(&self, error: Error) -> Error {
        error.at_node(&self.file, &self.node)
    }
}

/// The attributes that have not been taken yet.
pub(super) struct Attributes<'a> {
    site: Site,
    left: BTreeMap<&'a str, &'a AttributeProto>,
}

impl<'a> Attributes<'a> {
    pub(super) fn new(site: &Site, node: &'a NodeProto) -> Result<Self> {
        let mut left = BTreeMap::new();
        for attribute in &node.attribute {
            let name = attribute.name.as_str();
            if !attribute.ref_attr_name.is_empty() {
                return Err(site.refuse(name, "a value", "a reference to a function's attribute"));
            }
            if left.insert(name, attribute).is_some() {
                return Err(site.refuse(name, "one attribute of this name", "two"));
            }
        }
        Ok(Self { site: site.clone(), left })
    }

    /// Refuses attributes that were not taken.
    pub(super) fn finish(self) -> Result<()> {
        match self.left.keys().next() {
            None => Ok(()),
            Some(name) => Err(self.site.refuse(name, "no such attribute in this operator set", "one")),
        }
    }

    fn take(&mut self, name: &str, kind: AttributeType) -> Result<Option<&'a AttributeProto>> {
        let Some(attribute) = self.left.remove(name) else {
            return Ok(None);
        };
        // Files with an IR version below 3 have no types.
        if attribute.r#type != kind as i32 && attribute.r#type != AttributeType::Undefined as i32 {
            let found = match AttributeType::try_from(attribute.r#type) {
                Ok(found) => format!("{found:?}"),
                Err(_) => format!("type {}", attribute.r#type),
            };
            return Err(self.site.refuse(name, format!("an attribute of type {kind:?}"), found));
        }
        Ok(Some(attribute))
    }

    pub(super) fn int(&mut self, name: &str) -> Result<Option<i64>> {
        Ok(self.take(name, AttributeType::Int)?.map(|a| a.i))
    }

    /// Takes an attribute that is 0 or 1.
    pub(super) fn flag(&mut self, name: &str, default: bool) -> Result<bool> {
        match self.int(name)? {
            None => Ok(default),
            Some(0) => Ok(false),
            Some(1) => Ok(true),
            Some(other) => Err(self.site.refuse(name, "0 or 1", other.to_string())),
        }
    }

    pub(super) fn float(&mut self, name: &str) -> Result<Option<f32>> {
        Ok(self.take(name, AttributeType::Float)?.map(|a| a.f))
    }

    pub(super) fn ints(&mut self, name: &str) -> Result<Option<Vec<i64>>> {
        Ok(self.take(name, AttributeType::Ints)?.map(|a| a.ints.clone()))
    }

    pub(super) fn floats(&mut self, name: &str) -> Result<Option<Vec<f32>>> {
        Ok(self.take(name, AttributeType::Floats)?.map(|a| a.floats.clone()))
    }

    pub(super) fn tensor(&mut self, name: &str) -> Result<Option<&'a TensorProto>> {
        match self.take(name, AttributeType::Tensor)? {
            None => Ok(None),
            Some(AttributeProto { t: Some(tensor), .. }) => Ok(Some(tensor)),
            Some(_) => Err(self.site.refuse(name, "a tensor", "none")),
        }
    }

    pub(super) fn string(&mut self, name: &str) -> Result<Option<String>> {
        self.take(name, AttributeType::String)?.map(|a| self.utf8(name, &a.s)).transpose()
    }

    pub(super) fn strings(&mut self, name: &str) -> Result<Option<Vec<String>>> {
        let Some(attribute) = self.take(name, AttributeType::Strings)? else {
            return Ok(None);
        };
        attribute.strings.iter().map(|bytes| self.utf8(name, bytes)).collect::<Result<_>>().map(Some)
    }

    fn utf8(&self, name: &str, bytes: &[u8]) -> Result<String> {
        String::from_utf8(bytes.to_vec()).map_err(|_| self.site.refuse(name, "UTF-8", format!("{bytes:?}")))
    }
}
