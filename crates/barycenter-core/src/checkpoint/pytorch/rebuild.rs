//! What the functions and classes that `torch.save` refers to make of their arguments.

use super::value::{Name, Node, Nodes, Storage, TensorNode, Value};

/// Most dimensions of a tensor, as in `PyTorch`.
const MOST_DIMENSIONS: usize = 64;

/// What a call makes: a node, or a value that is there already.
pub(super) enum Made<'a> {
    New(Node<'a>),
    Same(Value),
}

/// The result of calling `name` with these arguments, by what is known of it; nothing is run.
///
/// # Errors
/// A sentence where the arguments are not what a known function takes.
pub(super) fn call<'a>(nodes: &Nodes<'a>, name: Name<'a>, arguments: &[Value]) -> Result<Made<'a>, String> {
    let tensor =
        |arguments: &[Value], dtype| tensor(nodes, arguments, dtype).map_err(|what| format!("`{name}`: {what}"));
    match (name.module, name.name) {
        ("collections", "OrderedDict") if arguments.is_empty() => Ok(Made::New(Node::Dict(Vec::new()))),
        ("collections", "defaultdict") if arguments.len() < 2 => Ok(Made::New(Node::Dict(Vec::new()))),
        ("torch", "Size") => match arguments {
            [sizes] => Ok(Made::Same(*sizes)),
            _ => Err(format!("`{name}` takes one argument")),
        },
        ("torch._utils", "_rebuild_tensor") => match arguments {
            [_, _, _, _] => tensor(arguments, None),
            _ => Err(format!("`{name}` takes 4 arguments, not {}", arguments.len())),
        },
        ("torch._utils", "_rebuild_tensor_v2") => match arguments {
            [_, _, _, _, _, _] => tensor(arguments, None),
            [_, _, _, _, _, _, metadata] => Ok(marked(nodes, name, *metadata, tensor(arguments, None)?)),
            _ => Err(format!("`{name}` takes 6 or 7 arguments, not {}", arguments.len())),
        },
        ("torch._utils", "_rebuild_tensor_v3") => match arguments {
            [_, _, _, _, _, _, dtype] => tensor(arguments, Some(*dtype)),
            [_, _, _, _, _, _, dtype, metadata] => Ok(marked(nodes, name, *metadata, tensor(arguments, Some(*dtype))?)),
            _ => Err(format!("`{name}` takes 7 or 8 arguments, not {}", arguments.len())),
        },
        ("torch._utils", "_rebuild_parameter" | "_rebuild_parameter_with_state") => match arguments {
            [data, _, _] | [data, _, _, _] if matches!(nodes.node(*data), Some(Node::Tensor(_) | Node::Opaque(_))) => {
                Ok(Made::Same(*data))
            }
            _ => Err(format!("`{name}` takes a tensor and 2 or 3 more arguments")),
        },
        _ => Ok(Made::New(Node::Opaque(name))),
    }
}

/// A tensor whose metadata says how its bytes are to be read (conjugated, negated) is one that is not understood here.
fn marked<'a>(nodes: &Nodes<'a>, name: Name<'a>, metadata: Value, tensor: Made<'a>) -> Made<'a> {
    match nodes.node(metadata) {
        Some(Node::Dict(marks)) if marks.is_empty() => tensor,
        None if metadata == Value::Plain => tensor,
        _ => Made::New(Node::Opaque(name)),
    }
}

fn tensor<'a>(nodes: &Nodes<'a>, arguments: &[Value], dtype: Option<Value>) -> Result<Made<'a>, String> {
    let [storage, offset, shape, strides, ..] = arguments else { return Err("it takes more arguments".into()) };
    let Some(Node::Storage(storage)) = nodes.node(*storage) else {
        return Err("its first argument is no storage".into());
    };
    let dtype = match dtype.map(|dtype| nodes.node(dtype)) {
        None => None,
        Some(Some(Node::Global(name))) => Some(*name),
        Some(_) => return Err("its element type is no name".into()),
    };
    let offset = count(*offset).ok_or("its offset is no count")?;
    let (shape, strides) = (counts(nodes, *shape, "size")?, counts(nodes, *strides, "stride")?);
    if shape.len() != strides.len() {
        return Err(format!("it has {} sizes and {} strides", shape.len(), strides.len()));
    }
    Ok(Made::New(Node::Tensor(TensorNode { storage: *storage, dtype, offset, shape, strides })))
}

fn count(value: Value) -> Option<u64> {
    match value {
        Value::Int(count) => u64::try_from(count).ok(),
        _ => None,
    }
}

fn counts(nodes: &Nodes<'_>, value: Value, what: &str) -> Result<Vec<u64>, String> {
    let Some(Node::Tuple(values) | Node::List(values)) = nodes.node(value) else {
        return Err(format!("its {what} is no tuple"));
    };
    if values.len() > MOST_DIMENSIONS {
        return Err(format!("it has {} dimensions, more than {MOST_DIMENSIONS}", values.len()));
    }
    values.iter().map(|value| count(*value).ok_or_else(|| format!("a {what} is no count"))).collect()
}

/// The storage of a persistent id: `("storage", class, key, location, count)`.
///
/// # Errors
/// A sentence where it is something else.
pub(super) fn storage<'a>(nodes: &Nodes<'a>, id: Value) -> Result<Storage<'a>, String> {
    let Some(Node::Tuple(id)) = nodes.node(id) else { return Err("a persistent id is no tuple".into()) };
    let [kind, class, key, _, size] = id[..] else {
        return Err(format!("a persistent id has {} parts, not 5", id.len()));
    };
    let Some(Node::Global(class)) = nodes.node(class) else { return Err("a storage has no class".into()) };
    match (nodes.text(kind), nodes.text(key), count(size)) {
        (Some("storage"), Some(key), Some(count)) => Ok(Storage { class: *class, key, count }),
        _ => Err("a persistent id is not that of a storage".into()),
    }
}
