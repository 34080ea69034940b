//! Which tensors of a checkpoint are factors of adapters, by the names that PEFT gives them.

use std::collections::BTreeMap;

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

    /// The weight of the base model that the product is added to.
    pub fn weight_name(&self) -> String {
        format!("{}.weight", self.base_name())
    }
}

/// Parts of names that tell adapters whose product is more than `B A`.
const OTHERS: [&str; 3] = ["lora_embedding_A", "lora_embedding_B", "lora_magnitude_vector"];

/// The adapted modules of a checkpoint, in the order of their `A`.
///
/// # Errors
/// [`Error::Input`] where one factor of a module is missing, or where there is no adapter.
pub fn adapted_modules(file: &CheckpointFile) -> Result<Vec<AdaptedModule>> {
    modules_of(file.layout().tensors.iter().map(|tensor| tensor.name.as_str()))
}

fn modules_of<'a>(names: impl Iterator<Item = &'a str> + Clone) -> Result<Vec<AdaptedModule>> {
    let held: std::collections::HashSet<&str> = names.clone().collect();
    let require = |name: String| {
        if held.contains(name.as_str()) {
            Ok(name)
        } else {
            Err(Error::input(format!("the adapter lacks `{name}`, whose other factor it has")))
        }
    };
    let mut modules = Vec::new();
    for name in names {
        if let Some(other) = OTHERS.iter().find(|other| name.contains(*other)) {
            return Err(Error::input(format!("tensor `{name}`: adapters with `{other}` are not averaged")));
        }
        if let Some((module, rest)) = name.split_once(".lora_A") {
            let b = require(format!("{module}.lora_B{rest}"))?;
            modules.push(AdaptedModule { module: module.to_owned(), a: name.to_owned(), b });
        } else if let Some((module, rest)) = name.split_once(".lora_B") {
            require(format!("{module}.lora_A{rest}"))?;
        }
    }
    if modules.is_empty() {
        return Err(Error::input("no tensor is the factor of an adapter: none has `.lora_A` in its name"));
    }
    Ok(modules)
}

/// Checks that an adapter, of factors alone, belongs to a base model; both as names and shapes. `transposed` says that the base
/// model's weights have their inputs along the rows. Returns the adapted modules, by name.
///
/// # Errors
/// [`Error::Input`] naming the first tensor that does not fit.
pub fn check_adapter<'a>(
    base: impl Iterator<Item = (&'a str, &'a [usize])>,
    adapter: impl Iterator<Item = (&'a str, &'a [usize])>,
    transposed: bool,
) -> Result<Vec<AdaptedModule>> {
    let (base, adapter): (BTreeMap<_, _>, BTreeMap<_, _>) = (base.collect(), adapter.collect());
    let modules = modules_of(adapter.keys().copied())?;
    if let Some(other) = adapter.keys().find(|name| !modules.iter().any(|m| m.a == **name || m.b == **name)) {
        return Err(Error::input(format!("tensor `{other}` of the adapter is no factor")));
    }
    for module in &modules {
        let (a, b) = (adapter[module.a.as_str()], adapter[module.b.as_str()]);
        let ([rank, inputs], [outputs, of_b]) = (a, b) else {
            return Err(Error::input(format!("factors of `{}` are no matrices: {a:?}, {b:?}", module.module)));
        };
        let product = if transposed { [*inputs, *outputs] } else { [*outputs, *inputs] };
        let weight = module.weight_name();
        match base.get(weight.as_str()) {
            None => return Err(Error::input(format!("the base model has no `{weight}`, which the adapter adapts"))),
            Some(shape) if *shape != product || rank != of_b => {
                let (name, shape) = (&module.module, *shape);
                return Err(Error::input(format!(
                    "factors {b:?} and {a:?} of `{name}` do not fit `{weight}`, {shape:?}"
                )));
            }
            Some(_) => {}
        }
    }
    Ok(modules)
}
