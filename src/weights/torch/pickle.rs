//! A pickle as values. Nothing is imported and nothing is called: a class is a name, and a call is the name of its function with
//! its arguments.
//!
//! The values lie in a list and refer to each other by index, so a value that the pickle uses many times exists once, and values
//! inside each other need no recursion. A byte of the pickle makes at most one value.
//!
//! Source: Python's `Lib/pickletools.py`.

use std::collections::HashMap;

use super::opcode as op;
use super::reader::Reader;
use crate::error::{Error, Result};
use crate::weights::FileName;

/// The newest protocol.
const NEWEST: u8 = 5;

/// The index of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Id(u32);

/// Values that need no entry of their own.
const NONE: Id = Id(0);
const FALSE: Id = Id(1);
const TRUE: Id = Id(2);
const EMPTY: Id = Id(3);

/// A value of a pickle.
#[derive(Debug)]
pub(super) enum Value<'a> {
    None,
    Bool,
    Int(i64),
    Text(&'a str),
    Tuple(Vec<Id>),
    List(Vec<Id>),
    /// A dict, also an ordered one, in the order in which its entries were set.
    Dict(Vec<(Id, Id)>),
    /// A class or a function.
    Global {
        module: &'a str,
        name: &'a str,
    },
    /// The identifier of something that lies outside the pickle.
    Persistent(Id),
    /// The result of a function, or an instance of a class.
    Call {
        function: Id,
        arguments: Id,
        /// Whether `function` is a class whose instance was made without a call of its constructor.
        instance: bool,
    },
    /// A number, bytes or a set that no tensor is made of.
    Other,
}

/// A whole pickle.
pub(super) struct Pickle<'a> {
    values: Vec<Value<'a>>,
    root: Id,
}

impl<'a> Pickle<'a> {
    /// Reads a pickle; `field` is its name in messages.
    pub(super) fn read(file: FileName<'a>, field: &'a str, bytes: &'a [u8]) -> Result<Self> {
        let mut machine = Machine {
            reader: Reader::new(file, field, bytes),
            values: vec![Value::None, Value::Bool, Value::Bool, Value::Tuple(Vec::new())],
            stack: Vec::new(),
            marks: Vec::new(),
            memo: HashMap::new(),
        };
        while machine.step()? {}
        let root = machine.pop()?;
        machine.reader.finish()?;
        Ok(Self { values: machine.values, root })
    }

    pub(super) fn root(&self) -> Id {
        self.root
    }

    pub(super) fn get(&self, id: Id) -> &Value<'a> {
        &self.values[id.0 as usize]
    }

    /// The number of values.
    pub(super) fn len(&self) -> usize {
        self.values.len()
    }

    /// The place of a value among all of them.
    pub(super) fn index(&self, id: Id) -> usize {
        id.0 as usize
    }

    /// The items of a tuple or list.
    pub(super) fn items(&self, id: Id) -> Option<&[Id]> {
        match self.get(id) {
            Value::Tuple(items) | Value::List(items) => Some(items),
            _ => None,
        }
    }

    pub(super) fn text(&self, id: Id) -> Option<&'a str> {
        match self.get(id) {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    /// A number that is not negative.
    pub(super) fn size(&self, id: Id) -> Option<u64> {
        match self.get(id) {
            Value::Int(number) => u64::try_from(*number).ok(),
            _ => None,
        }
    }

    /// Module and name of a class or function.
    pub(super) fn global(&self, id: Id) -> Option<(&'a str, &'a str)> {
        match self.get(id) {
            Value::Global { module, name } => Some((module, name)),
            _ => None,
        }
    }
}

/// The state of reading: a stack, marks in it, and values that were stored for later.
struct Machine<'a> {
    reader: Reader<'a>,
    values: Vec<Value<'a>>,
    stack: Vec<Id>,
    /// Heights of the stack at which a mark was set.
    marks: Vec<usize>,
    memo: HashMap<u32, Id>,
}

impl<'a> Machine<'a> {
    /// Carries out an operation; returns whether others follow.
    fn step(&mut self) -> Result<bool> {
        let code = self.reader.opcode()?;
        if let Some(value) = self.reader.leaf(code)? {
            return self.push_new(value).map(|()| true);
        }
        match code {
            op::STOP => return Ok(false),
            op::PROTO => {
                let protocol = self.reader.byte()?;
                if protocol > NEWEST {
                    return Err(self.refuse("a pickle of protocol 2 to 5", &format!("protocol {protocol}")));
                }
            }
            // A frame says how far to read ahead.
            op::FRAME => drop(self.reader.take(8)?),
            op::NONE => self.stack.push(NONE),
            op::NEWTRUE => self.stack.push(TRUE),
            op::NEWFALSE => self.stack.push(FALSE),
            op::EMPTY_TUPLE => self.stack.push(EMPTY),
            op::MARK => self.marks.push(self.stack.len()),
            op::POP if self.at_mark() => drop(self.marks.pop()),
            op::POP => drop(self.pop()?),
            op::POP_MARK => drop(self.pop_to_mark()?),
            op::DUP => {
                let top = self.top()?;
                self.stack.push(top);
            }
            op::BINPUT | op::LONG_BINPUT | op::MEMOIZE | op::BINGET | op::LONG_BINGET => self.remember(code)?,
            op::STACK_GLOBAL | op::BINPERSID | op::REDUCE | op::NEWOBJ | op::NEWOBJ_EX | op::BUILD => {
                self.call(code)?
            }
            _ => self.collect(code)?,
        }
        Ok(true)
    }

    /// Stores the top of the stack for later, or pushes a stored value.
    fn remember(&mut self, code: u8) -> Result<()> {
        let key = match code {
            op::BINPUT | op::BINGET => u32::from(self.reader.byte()?),
            op::MEMOIZE => u32::try_from(self.memo.len()).map_err(|_| self.too_many())?,
            _ => self.reader.u32()?,
        };
        if matches!(code, op::BINGET | op::LONG_BINGET) {
            let stored = self.memo.get(&key).copied();
            let id = stored.ok_or_else(|| self.refuse("the number of a stored value", &key.to_string()))?;
            self.stack.push(id);
        } else {
            let top = self.top()?;
            self.memo.insert(key, top);
        }
        Ok(())
    }

    /// Makes tuples, lists, dicts and sets, and fills them.
    fn collect(&mut self, code: u8) -> Result<()> {
        match code {
            op::TUPLE1 | op::TUPLE2 | op::TUPLE3 => {
                let length = usize::from(code - op::TUPLE1) + 1;
                let mut items = (0..length).map(|_| self.pop()).collect::<Result<Vec<_>>>()?;
                items.reverse();
                self.push_new(Value::Tuple(items))
            }
            op::TUPLE => {
                let items = self.pop_to_mark()?;
                self.push_new(Value::Tuple(items))
            }
            op::EMPTY_LIST => self.push_new(Value::List(Vec::new())),
            op::LIST => {
                let items = self.pop_to_mark()?;
                self.push_new(Value::List(items))
            }
            op::EMPTY_DICT => self.push_new(Value::Dict(Vec::new())),
            op::DICT => {
                let items = self.pop_to_mark()?;
                let entries = self.pairs(&items)?;
                self.push_new(Value::Dict(entries))
            }
            op::EMPTY_SET => self.push_new(Value::Other),
            op::FROZENSET => {
                self.pop_to_mark()?;
                self.push_new(Value::Other)
            }
            op::APPEND => {
                let item = self.pop()?;
                self.extend(vec![item])
            }
            op::APPENDS | op::ADDITEMS => {
                let items = self.pop_to_mark()?;
                self.extend(items)
            }
            op::SETITEM => {
                let (value, key) = (self.pop()?, self.pop()?);
                self.set(vec![(key, value)])
            }
            op::SETITEMS => {
                let items = self.pop_to_mark()?;
                let entries = self.pairs(&items)?;
                self.set(entries)
            }
            other => Err(self.refuse("an operation of pickle protocols 2 to 5", &format!("byte {other:#04x}"))),
        }
    }

    /// Makes what a class, a function or an outer identifier stands for.
    fn call(&mut self, code: u8) -> Result<()> {
        match code {
            op::STACK_GLOBAL => {
                let (name, module) = (self.pop()?, self.pop()?);
                match (self.value(module), self.value(name)) {
                    (&Value::Text(module), &Value::Text(name)) => self.push_new(Value::Global { module, name }),
                    _ => Err(self.refuse("a module and a name", "other values")),
                }
            }
            op::BINPERSID => {
                let id = self.pop()?;
                self.push_new(Value::Persistent(id))
            }
            // The state of an object is no part of a tensor.
            op::BUILD => {
                self.pop()?;
                self.top().map(drop)
            }
            op::NEWOBJ_EX => {
                self.pop()?;
                self.apply(true)
            }
            _ => self.apply(code == op::NEWOBJ),
        }
    }

    /// A function or class with its arguments. A dict becomes one, because entries are set later.
    fn apply(&mut self, instance: bool) -> Result<()> {
        let (arguments, function) = (self.pop()?, self.pop()?);
        let is_dict = match self.value(function) {
            Value::Global { module: "collections", name } => matches!(*name, "OrderedDict" | "defaultdict"),
            Value::Global { module: "builtins" | "__builtin__", name } => *name == "dict",
            _ => false,
        };
        if !is_dict {
            return self.push_new(Value::Call { function, arguments, instance });
        }
        // Python 2 gives an ordered dict its entries as a list of pairs.
        let pairs = self.items(arguments).first().map(|&list| self.items(list)).unwrap_or_default();
        let pair = |&pair: &Id| match self.items(pair) {
            &[key, value] => Some((key, value)),
            _ => None,
        };
        let entries = pairs.iter().filter_map(pair).collect();
        self.push_new(Value::Dict(entries))
    }

    fn items(&self, id: Id) -> &[Id] {
        match self.value(id) {
            Value::Tuple(items) | Value::List(items) => items,
            _ => &[],
        }
    }

    fn value(&self, id: Id) -> &Value<'a> {
        &self.values[id.0 as usize]
    }

    fn push_new(&mut self, value: Value<'a>) -> Result<()> {
        let id = u32::try_from(self.values.len()).map_err(|_| self.too_many())?;
        self.values.push(value);
        self.stack.push(Id(id));
        Ok(())
    }

    fn at_mark(&self) -> bool {
        self.marks.last() == Some(&self.stack.len())
    }

    fn top(&self) -> Result<Id> {
        let top = self.stack.last().filter(|_| !self.at_mark());
        top.copied().ok_or_else(|| self.refuse("a value on the stack", "none"))
    }

    fn pop(&mut self) -> Result<Id> {
        let top = self.top()?;
        self.stack.pop();
        Ok(top)
    }

    /// The values above the last mark.
    fn pop_to_mark(&mut self) -> Result<Vec<Id>> {
        let mark = self.marks.pop().ok_or_else(|| self.refuse("a mark on the stack", "none"))?;
        Ok(self.stack.split_off(mark))
    }

    fn pairs(&self, items: &[Id]) -> Result<Vec<(Id, Id)>> {
        let (pairs, rest) = items.as_chunks::<2>();
        if !rest.is_empty() {
            return Err(self.refuse("a value for every key", "a key without one"));
        }
        Ok(pairs.iter().map(|&[key, value]| (key, value)).collect())
    }

    /// Appends items to the list on the stack. Items of sets and objects are dropped: they are no part of a tensor.
    fn extend(&mut self, items: Vec<Id>) -> Result<()> {
        let list = self.top()?;
        match &mut self.values[list.0 as usize] {
            Value::List(list) => list.extend(items),
            Value::Other | Value::Call { .. } => {}
            _ => return Err(self.refuse("a list or a set on the stack", "another value")),
        }
        Ok(())
    }

    /// Sets entries of the dict on the stack. Entries of objects are dropped: they are no part of a state dict.
    fn set(&mut self, entries: Vec<(Id, Id)>) -> Result<()> {
        let dict = self.top()?;
        match &mut self.values[dict.0 as usize] {
            Value::Dict(dict) => dict.extend(entries),
            Value::Call { .. } => {}
            _ => return Err(self.refuse("a dict on the stack", "another value")),
        }
        Ok(())
    }

    fn too_many(&self) -> Error {
        self.reader.file().too_large("the pickle", format!("{} values", u32::MAX), "more")
    }

    fn refuse(&self, expected: &str, found: &str) -> Error {
        self.reader.refuse(expected, found)
    }
}
