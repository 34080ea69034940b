//! Which tensors of a checkpoint are factors of adapters, by the names that PEFT gives them.

use crate::{Error, Result, checkpoint::CheckpointFile};

/// The names of a module's two factors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdaptedModule {
    /// The module, as in `base_model.model.encoder.query`.
    pub module: String,
    /// Tensor of `A`, (r, inputs).
    pub a: String,
    /// Tensor of `B`, (outputs, r).
    pub b: String,
}

impl AdaptedModule {
    /// The module's name in the base model: PEFT puts `base_model.model.` before it.
    pub fn base_name(&self) -> &str {
        self.module.strip_prefix("base_model.model.").unwrap_or(&self.module)
    }
}

/// Parts of names that tell adapters whose product is more than `B A`.
const OTHERS: [&str; 3] = ["lora_embedding_A", "lora_embedding_B", "lora_magnitude_vector"];

/// The adapted modules of a checkpoint, in the order of their `A`.
///
/// # Errors
/// [`Error::Input`] where one factor of a module is missing, or where there is no adapter.
pub fn adapted_modules(file: &CheckpointFile) -> Result<Vec<AdaptedModule>> {
    let tensors = &file.layout().tensors;
    let mut modules = Vec::new();
    for tensor in tensors {
        let name = &tensor.name;
        if let Some(other) = OTHERS.iter().find(|other| name.contains(*other)) {
            return Err(Error::input(format!("tensor `{name}`: adapters with `{other}` are not averaged")));
        }
        if let Some((module, rest)) = name.split_once(".lora_A") {
            let b = format!("{module}.lora_B{rest}");
            file.tensor(&b)?;
            modules.push(AdaptedModule { module: module.to_owned(), a: name.clone(), b });
        } else if let Some((module, rest)) = name.split_once(".lora_B") {
            file.tensor(&format!("{module}.lora_A{rest}"))?;
        }
    }
    if modules.is_empty() {
        return Err(Error::input("no tensor is the factor of an adapter: none has `.lora_A` in its name"));
    }
    Ok(modules)
}
