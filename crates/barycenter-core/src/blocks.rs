//! Blocks: how the averaged tensors are cut, each block with its own coefficients.

use std::{collections::HashMap, fmt, str::FromStr};

/// How the averaged tensors are cut into blocks; written `model`, `layer`, `tensor` or `elements:K`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Granularity {
    /// One block.
    Model,
    /// Tensors that share a module, the name up to its last `.`.
    Layer,
    /// One block a tensor.
    Tensor,
    /// Tensors packed in order until a block holds more than so many elements; 0 is the same as [`Self::Tensor`].
    Elements(u64),
}

impl fmt::Display for Granularity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Model => f.write_str("model"),
            Self::Layer => f.write_str("layer"),
            Self::Tensor => f.write_str("tensor"),
            Self::Elements(k) => write!(f, "elements:{k}"),
        }
    }
}

impl FromStr for Granularity {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match (text, text.strip_prefix("elements:").map(str::parse)) {
            ("model", _) => Ok(Self::Model),
            ("layer", _) => Ok(Self::Layer),
            ("tensor", _) => Ok(Self::Tensor),
            (_, Some(Ok(k))) => Ok(Self::Elements(k)),
            _ => Err(format!("`{text}` is not one of `model`, `layer`, `tensor`, `elements:K`")),
        }
    }
}

/// Which block each averaged tensor belongs to. Blocks are numbered in the order in which they first appear.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blocks {
    names: Vec<String>,
    block_of: Vec<usize>,
}

impl Blocks {
    /// Cuts the averaged tensors, given in order as (name, number of elements).
    pub fn new(tensors: &[(String, usize)], granularity: Granularity) -> Self {
        match granularity {
            Granularity::Model => Self::keyed(tensors, |_| "model"),
            Granularity::Layer => Self::keyed(tensors, module),
            Granularity::Tensor | Granularity::Elements(0) => Self::keyed(tensors, |name| name),
            Granularity::Elements(k) => Self::packed(tensors, k),
        }
    }

    /// Number of blocks, `L`.
    pub fn len(&self) -> usize {
        self.names.len()
    }

    /// Whether there is no block, because nothing is averaged.
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// Names of the blocks: `model`, the module, the tensor, or the first and last tensor of a pack.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// Block of the averaged tensor at this place in the order.
    ///
    /// # Panics
    /// Where there is no such tensor.
    pub fn block_of(&self, tensor: usize) -> usize {
        self.block_of[tensor]
    }

    /// Number of averaged tensors.
    pub fn tensor_count(&self) -> usize {
        self.block_of.len()
    }

    fn keyed<'a>(tensors: &'a [(String, usize)], key: impl Fn(&'a str) -> &'a str) -> Self {
        let mut blocks = Self { names: Vec::new(), block_of: Vec::with_capacity(tensors.len()) };
        let mut numbers = HashMap::new();
        for (name, _) in tensors {
            let block = *numbers.entry(key(name)).or_insert_with(|| {
                blocks.names.push(key(name).to_owned());
                blocks.names.len() - 1
            });
            blocks.block_of.push(block);
        }
        blocks
    }

    fn packed(tensors: &[(String, usize)], k: u64) -> Self {
        let mut blocks = Self { names: Vec::new(), block_of: Vec::with_capacity(tensors.len()) };
        let (mut first, mut held) = (0, 0);
        for (i, (name, elements)) in tensors.iter().enumerate() {
            blocks.block_of.push(blocks.names.len());
            held += *elements as u64;
            if held > k || i + 1 == tensors.len() {
                let start = &tensors[first].0;
                blocks.names.push(if first == i { name.clone() } else { format!("{start}..{name}") });
                (first, held) = (i + 1, 0);
            }
        }
        blocks
    }
}

/// Module of a parameter; a parameter of the outermost module has the module `(root)`.
fn module(name: &str) -> &str {
    name.rsplit_once('.').map_or("(root)", |(module, _)| module)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensors() -> Vec<(String, usize)> {
        [("conv.weight", 400), ("bn.weight", 8), ("bn.bias", 8), ("conv.bias", 8), ("scale", 1)]
            .map(|(name, elements)| (name.to_owned(), elements))
            .to_vec()
    }

    fn cut(granularity: &str) -> (Vec<String>, Vec<usize>) {
        let blocks = Blocks::new(&tensors(), granularity.parse().unwrap());
        let of = (0..blocks.tensor_count()).map(|i| blocks.block_of(i)).collect();
        (blocks.names().to_vec(), of)
    }

    #[test]
    fn a_layer_is_a_module_wherever_its_tensors_lie() {
        assert_eq!(cut("layer"), (vec!["conv".into(), "bn".into(), "(root)".into()], vec![0, 1, 1, 0, 2]));
    }

    #[test]
    fn tensors_are_packed_until_a_block_holds_more_than_k() {
        assert_eq!(cut("elements:8").1, [0, 1, 1, 2, 2]);
        assert_eq!(cut("elements:8").0, ["conv.weight", "bn.weight..bn.bias", "conv.bias..scale"]);
        assert_eq!(cut("elements:1000000").1, [0; 5]);
    }

    #[test]
    fn packing_by_zero_elements_is_one_block_a_tensor() {
        assert_eq!(cut("elements:0"), cut("tensor"));
        assert_eq!(cut("tensor").1, [0, 1, 2, 3, 4]);
    }

    #[test]
    fn the_model_is_one_block() {
        assert_eq!(cut("model"), (vec!["model".into()], vec![0; 5]));
    }

    #[test]
    fn granularity_is_written_as_it_is_read() {
        for text in ["model", "layer", "tensor", "elements:4096"] {
            assert_eq!(text.parse::<Granularity>().unwrap().to_string(), text);
        }
        assert!("elements:-1".parse::<Granularity>().is_err());
    }
}
