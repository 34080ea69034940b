//! Values of a pickle, in one arena.

use crate::checkpoint::layout::shown;

/// A value; small, so that copying it from the memo costs nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Value {
    /// `None`, a bool, a float, a number beyond 64 bits: nothing that a state dict is made of.
    Plain,
    /// A whole number.
    Int(i64),
    /// A node of the arena.
    Node(usize),
}

/// What a [`Value::Node`] is. Text lies in the pickle.
#[derive(Debug)]
pub(super) enum Node<'a> {
    Text(&'a str),
    /// Bytes, which nothing asks for.
    Blob,
    Tuple(Vec<Value>),
    List(Vec<Value>),
    Dict(Vec<(Value, Value)>),
    /// The name of a class or function.
    Global(Name<'a>),
    Storage(Storage<'a>),
    Tensor(TensorNode<'a>),
    /// What a class or function that is not known here would have made.
    Opaque(Name<'a>),
}

/// Module and name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Name<'a> {
    pub(super) module: &'a str,
    pub(super) name: &'a str,
}

/// A storage of the archive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Storage<'a> {
    /// Class, which tells the element type unless it is untyped.
    pub(super) class: Name<'a>,
    /// Name of its entry.
    pub(super) key: &'a str,
    /// Elements that it is said to have; bytes where it is untyped.
    pub(super) count: u64,
}

/// A view of a storage.
#[derive(Clone, Debug)]
pub(super) struct TensorNode<'a> {
    pub(super) storage: Storage<'a>,
    /// Name of the element type, where the storage does not tell it.
    pub(super) dtype: Option<Name<'a>>,
    /// In elements, as the strides.
    pub(super) offset: u64,
    pub(super) shape: Vec<u64>,
    pub(super) strides: Vec<u64>,
}

impl std::fmt::Display for Name<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", shown(self.module), shown(self.name))
    }
}

/// All values of a pickle.
#[derive(Debug, Default)]
pub(super) struct Nodes<'a>(pub(super) Vec<Node<'a>>);

impl<'a> Nodes<'a> {
    pub(super) fn node(&self, value: Value) -> Option<&Node<'a>> {
        match value {
            Value::Node(index) => self.0.get(index),
            _ => None,
        }
    }

    pub(super) fn text(&self, value: Value) -> Option<&'a str> {
        match self.node(value)? {
            Node::Text(text) => Some(text),
            _ => None,
        }
    }

    /// What a value is, for messages.
    pub(super) fn kind(&self, value: Value) -> String {
        match self.node(value) {
            None => "a plain value".into(),
            Some(Node::Text(_)) => "a text".into(),
            Some(Node::Blob) => "bytes".into(),
            Some(Node::Tuple(_) | Node::List(_)) => "a list".into(),
            Some(Node::Dict(_)) => "a dict".into(),
            Some(Node::Global(name)) => format!("the class or function `{name}`"),
            Some(Node::Storage(_)) => "a storage".into(),
            Some(Node::Tensor(_)) => "a tensor".into(),
            Some(Node::Opaque(name)) => format!("a pickled object of `{name}`"),
        }
    }
}
