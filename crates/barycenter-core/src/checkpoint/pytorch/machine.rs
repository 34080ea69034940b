//! The pickle machine: opcodes of protocols 2 to 5, as far as `torch.save` emits them.
//!
//! Every opcode makes at most one value and takes at least one byte, and a copy is a number: work and memory are linear in the
//! pickle's length.

use std::collections::HashMap;

use super::{
    rebuild::{self, Made},
    value::{Name, Node, Nodes, Value},
};
use crate::{Error, Result};

/// Most values of a pickle. A model of a thousand layers has some ten thousand.
const MOST_VALUES: usize = 1 << 22;
/// Longest text: names of tensors, modules and keys.
const LONGEST_TEXT: usize = 1 << 20;
const HIGHEST_PROTOCOL: u8 = 5;

/// The state of a run.
pub(super) struct Machine<'a> {
    bytes: &'a [u8],
    at: usize,
    stack: Vec<Value>,
    /// Heights of the stack at the open marks.
    marks: Vec<usize>,
    memo: HashMap<u32, Value>,
    nodes: Nodes<'a>,
}

/// What is wrong with a pickle; the place is added on the way out.
type Step<T = ()> = Result<T, String>;

impl<'a> Machine<'a> {
    /// Follows a pickle to its end and returns the value it leaves.
    pub(super) fn run(bytes: &'a [u8]) -> Result<(Value, Nodes<'a>)> {
        let (stack, marks, memo, nodes) = (Vec::new(), Vec::new(), HashMap::new(), Nodes::default());
        let mut machine = Self { bytes, at: 0, stack, marks, memo, nodes };
        loop {
            let at = machine.at;
            match machine.step() {
                Ok(None) => {}
                Ok(Some(root)) => return Ok((root, machine.nodes)),
                Err(what) => return Err(Error::corrupt(format!("pickle, byte {at}: {what}"))),
            }
        }
    }

    /// One opcode; the result where it is the last.
    fn step(&mut self) -> Step<Option<Value>> {
        match self.byte()? {
            0x80 => match self.byte()? {
                2..=HIGHEST_PROTOCOL => {}
                protocol => return Err(format!("protocol {protocol} is not known")),
            },
            // A frame announces what follows; only its length has to be skipped.
            0x95 => drop(self.take(8)?),
            b'.' => return self.pop().map(Some),
            b'(' => self.marks.push(self.stack.len()),
            b'0' => drop(self.pop()?),
            b'1' => drop(self.pop_mark()?),
            opcode @ (b'N' | 0x88 | 0x89 | b'G' | b'K' | b'M' | b'J' | 0x8a | 0x8b) => self.number(opcode)?,
            opcode @ (b'X' | 0x8c | 0x8d | b'U' | b'T' | b'B' | b'C' | 0x8e | 0x96) => self.text_or_bytes(opcode)?,
            opcode @ (b']' | b')' | b'}' | 0x8f | b't' | 0x85..=0x87 | b'l' | b'd' | 0x91) => self.container(opcode)?,
            opcode @ (b'a' | b'e' | 0x90 | b's' | b'u') => self.fill(opcode)?,
            opcode @ (b'q' | b'r' | 0x94 | b'h' | b'j') => self.remember(opcode)?,
            opcode @ (b'c' | 0x93 | b'R' | 0x81 | 0x92 | b'b' | b'Q') => self.object(opcode)?,
            opcode => return Err(format!("opcode {opcode:#04x} is not one that `torch.save` writes")),
        }
        Ok(None)
    }

    fn number(&mut self, opcode: u8) -> Step {
        let value = match opcode {
            b'K' => Value::Int(self.byte()?.into()),
            b'M' => Value::Int(u16::from_le_bytes(self.array()?).into()),
            b'J' => Value::Int(i32::from_le_bytes(self.array()?).into()),
            b'G' => {
                self.take(8)?;
                Value::Plain
            }
            0x8a | 0x8b => {
                let length = if opcode == 0x8a { self.byte()?.into() } else { self.length_32()? };
                long(self.take(length)?)
            }
            _ => Value::Plain,
        };
        self.push(value)
    }

    fn text_or_bytes(&mut self, opcode: u8) -> Step {
        let length = match opcode {
            0x8c | b'U' | b'C' => self.byte()?.into(),
            b'X' | b'T' | b'B' => self.length_32()?,
            _ => usize::try_from(u64::from_le_bytes(self.array()?)).map_err(|_| "a length beyond all memory")?,
        };
        let bytes = self.take(length)?;
        if matches!(opcode, b'B' | b'C' | 0x8e | 0x96) {
            return self.make(Node::Blob);
        }
        if length > LONGEST_TEXT {
            return Err(format!("a text of {length} bytes"));
        }
        let text = std::str::from_utf8(bytes).map_err(|_| "a text is not UTF-8")?;
        self.make(Node::Text(text))
    }

    fn container(&mut self, opcode: u8) -> Step {
        let node = match opcode {
            b']' | 0x8f => Node::List(Vec::new()),
            b')' => Node::Tuple(Vec::new()),
            b'}' => Node::Dict(Vec::new()),
            b't' | 0x91 => Node::Tuple(self.pop_mark()?),
            b'l' => Node::List(self.pop_mark()?),
            b'd' => Node::Dict(pairs(&self.pop_mark()?)?),
            _ => {
                let mut values = Vec::new();
                for _ in 0x85..=opcode {
                    values.push(self.pop()?);
                }
                values.reverse();
                Node::Tuple(values)
            }
        };
        self.make(node)
    }

    /// Adds to the list, set or dict below.
    fn fill(&mut self, opcode: u8) -> Step {
        let values = match opcode {
            b'a' => vec![self.pop()?],
            b's' => {
                let (value, key) = (self.pop()?, self.pop()?);
                vec![key, value]
            }
            _ => self.pop_mark()?,
        };
        let target = self.top()?;
        let is_dict = matches!(opcode, b's' | b'u');
        match (self.node_mut(target), is_dict) {
            (Some(Node::List(list)), false) => list.extend(values),
            (Some(Node::Dict(dict)), true) => dict.extend(pairs(&values)?),
            // What an unknown object is filled with is as unknown as the object.
            (Some(Node::Opaque(_)), _) => {}
            _ => return Err(format!("{} cannot be filled", self.nodes.kind(target))),
        }
        Ok(())
    }

    fn remember(&mut self, opcode: u8) -> Step {
        let place = match opcode {
            0x94 => u32::try_from(self.memo.len()).map_err(|_| "the memo is full")?,
            b'q' | b'h' => self.byte()?.into(),
            _ => u32::from_le_bytes(self.array()?),
        };
        if matches!(opcode, b'h' | b'j') {
            let value = self.memo.get(&place).copied();
            return self.push(value.ok_or_else(|| format!("nothing was remembered under {place}"))?);
        }
        let value = self.top()?;
        self.memo.insert(place, value);
        if self.memo.len() > MOST_VALUES { Err("too many values are remembered".into()) } else { Ok(()) }
    }

    fn object(&mut self, opcode: u8) -> Step {
        match opcode {
            b'c' => {
                let (module, name) = (self.line()?, self.line()?);
                self.make(Node::Global(Name { module, name }))
            }
            0x93 => {
                let (name, module) = (self.pop()?, self.pop()?);
                match (self.nodes.text(module), self.nodes.text(name)) {
                    (Some(module), Some(name)) => self.make(Node::Global(Name { module, name })),
                    _ => Err("a class has no name".into()),
                }
            }
            b'Q' => {
                let id = self.pop()?;
                let storage = rebuild::storage(&self.nodes, id)?;
                self.make(Node::Storage(storage))
            }
            b'b' => {
                self.pop()?;
                let target = self.top()?;
                match self.nodes.node(target) {
                    // Attributes beside the items of a dict, such as `_metadata`, and the inside of unknown objects.
                    Some(Node::Dict(_) | Node::Opaque(_)) => Ok(()),
                    _ => Err(format!("{} is given a state", self.nodes.kind(target))),
                }
            }
            _ => self.call(opcode),
        }
    }

    fn call(&mut self, opcode: u8) -> Step {
        if opcode == 0x92 {
            self.pop()?;
        }
        let (arguments, callee) = (self.pop()?, self.pop()?);
        let Some(Node::Tuple(arguments)) = self.nodes.node(arguments) else {
            return Err("a call has no tuple of arguments".into());
        };
        let made = match self.nodes.node(callee) {
            Some(Node::Global(name)) => rebuild::call(&self.nodes, *name, arguments)?,
            Some(Node::Opaque(name)) => Made::New(Node::Opaque(*name)),
            _ => return Err(format!("{} is called", self.nodes.kind(callee))),
        };
        match made {
            Made::New(node) => self.make(node),
            Made::Same(value) => self.push(value),
        }
    }

    fn push(&mut self, value: Value) -> Step {
        if self.stack.len() == MOST_VALUES {
            return Err(format!("more than {MOST_VALUES} values"));
        }
        self.stack.push(value);
        Ok(())
    }

    fn make(&mut self, node: Node<'a>) -> Step {
        if self.nodes.0.len() == MOST_VALUES {
            return Err(format!("more than {MOST_VALUES} values"));
        }
        self.nodes.0.push(node);
        self.push(Value::Node(self.nodes.0.len() - 1))
    }

    /// Takes the uppermost value; what lies below an open mark belongs to someone else.
    fn pop(&mut self) -> Step<Value> {
        let value = self.top()?;
        self.stack.pop();
        Ok(value)
    }

    fn top(&self) -> Step<Value> {
        let floor = self.marks.last().copied().unwrap_or(0);
        self.stack[floor..].last().copied().ok_or_else(|| "a value is missing".to_owned())
    }

    fn pop_mark(&mut self) -> Step<Vec<Value>> {
        let mark = self.marks.pop().ok_or("a mark is missing")?;
        Ok(self.stack.split_off(mark))
    }

    fn node_mut(&mut self, value: Value) -> Option<&mut Node<'a>> {
        match value {
            Value::Node(index) => self.nodes.0.get_mut(index),
            _ => None,
        }
    }

    fn take(&mut self, count: usize) -> Step<&'a [u8]> {
        let rest = &self.bytes[self.at..];
        let taken = rest.get(..count).ok_or_else(|| format!("{count} bytes are asked for, {} are left", rest.len()))?;
        self.at += count;
        Ok(taken)
    }

    fn byte(&mut self) -> Step<u8> {
        self.array().map(|[byte]| byte)
    }

    fn array<const N: usize>(&mut self) -> Step<[u8; N]> {
        self.take(N).map(|bytes| bytes.try_into().expect("N bytes were taken"))
    }

    fn length_32(&mut self) -> Step<usize> {
        let length = i32::from_le_bytes(self.array()?);
        usize::try_from(length).map_err(|_| format!("a length of {length}"))
    }

    /// Text up to the end of the line.
    fn line(&mut self) -> Step<&'a str> {
        let rest = &self.bytes[self.at..];
        let end = rest.iter().take(LONGEST_TEXT).position(|byte| *byte == b'\n').ok_or("a name does not end")?;
        self.at += end + 1;
        let text = std::str::from_utf8(&rest[..end]).map_err(|_| "a name is not UTF-8")?;
        if text.is_empty() { Err("a name is empty".into()) } else { Ok(text) }
    }
}

fn pairs(values: &[Value]) -> Step<Vec<(Value, Value)>> {
    match values.as_chunks::<2>() {
        (pairs, []) => Ok(pairs.iter().map(|[key, value]| (*key, *value)).collect()),
        _ => Err("a key has no value".into()),
    }
}

/// A little-endian whole number in two's complement, of any length.
fn long(bytes: &[u8]) -> Value {
    let Some(last) = bytes.last() else { return Value::Int(0) };
    if bytes.len() > 8 {
        return Value::Plain;
    }
    let mut whole = [if last & 0x80 == 0 { 0 } else { 0xff }; 8];
    whole[..bytes.len()].copy_from_slice(bytes);
    Value::Int(i64::from_le_bytes(whole))
}
