//! Averages of low-rank adapters in PEFT's layout: `adapter_model.safetensors` beside `adapter_config.json`.

use std::{
    fs::{self, File},
    io::{BufWriter, Write},
    path::{Path, PathBuf},
};

use anyhow::Context;
use barycenter_core::{
    checkpoint::{self, CheckpointFile, Dtype, OpenOptions, check_finite},
    merge::lora::{AdapterGoal, MergedAdapters, merge_adapters},
};
use clap::ValueEnum;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{WrittenFile, write};
use crate::exit::usage;

const CONFIG: &str = "adapter_config.json";
const MODEL: &str = "adapter_model.safetensors";

/// What an average of adapters becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Lora {
    /// An adapter again, in a folder, of --rank.
    Adapter,
    /// The matrices to add to the base model's weights, in one file.
    Delta,
}

/// What of PEFT's configuration an average needs.
#[derive(Debug, Deserialize)]
struct AdapterConfig {
    r: usize,
    lora_alpha: f64,
    #[serde(default)]
    use_rslora: bool,
    #[serde(default)]
    use_dora: bool,
    #[serde(default)]
    fan_in_fan_out: bool,
    #[serde(default)]
    rank_pattern: Map<String, Value>,
    #[serde(default)]
    alpha_pattern: Map<String, Value>,
    #[serde(flatten)]
    others: Map<String, Value>,
}

impl AdapterConfig {
    /// Reads and checks the configuration beside an adapter.
    fn read(path: &Path) -> anyhow::Result<Self> {
        let folder = if path.is_dir() { path } else { write::parent(path) };
        let path = folder.join(CONFIG);
        let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        let config: Self = serde_json::from_str(&text).with_context(|| path.display().to_string())?;
        let shown = path.display();
        if config.use_dora {
            return Err(usage(format!("{shown}: `use_dora` adapters are no products of two matrices")));
        }
        if !config.rank_pattern.is_empty() || !config.alpha_pattern.is_empty() {
            return Err(usage(format!("{shown}: `rank_pattern` and `alpha_pattern` are not supported")));
        }
        if config.r == 0 || !config.lora_alpha.is_finite() {
            return Err(usage(format!("{shown}: `r` and `lora_alpha` are no rank and no scale")));
        }
        Ok(config)
    }

    /// What PEFT multiplies `B A` by.
    fn scale(&self) -> f64 {
        let r = self.r as f64;
        self.lora_alpha / if self.use_rslora { r.sqrt() } else { r }
    }

    /// The same for an adapter of this rank with scale 1.
    fn of_rank(&self, rank: usize) -> Value {
        let mut config = self.others.clone();
        for (name, value) in [
            ("r", json!(rank)),
            ("lora_alpha", json!(rank)),
            ("use_rslora", json!(false)),
            ("use_dora", json!(false)),
            ("fan_in_fan_out", json!(self.fan_in_fan_out)),
            ("rank_pattern", json!({})),
            ("alpha_pattern", json!({})),
        ] {
            config.insert(name.to_owned(), value);
        }
        config.into()
    }
}

/// What to do with adapters.
pub struct Adapters<'a> {
    pub files: &'a [PathBuf],
    pub weights: &'a [f64],
    pub goal: Lora,
    /// Rank of the result; where absent that of the largest adapter.
    pub rank: Option<usize>,
    pub dtype: Option<Dtype>,
}

impl Adapters<'_> {
    /// Averages the adapters and writes the result to `out`, a folder for an adapter and a file for a delta.
    pub fn write(&self, out: &Path) -> anyhow::Result<(WrittenFile, MergedAdapters)> {
        let names: Vec<_> = self.files.iter().map(|file| file.display().to_string()).collect();
        let configs = self.files.iter().map(|path| AdapterConfig::read(path)).collect::<anyhow::Result<Vec<_>>>()?;
        let open = |path: &PathBuf| checkpoint::open(path, &OpenOptions::default());
        let files = self.files.iter().map(open).collect::<Result<Vec<CheckpointFile>, _>>()?;
        check_finite(&files, &names)?;
        let last = &configs[configs.len() - 1];
        if configs.iter().any(|config| config.fan_in_fan_out != last.fan_in_fan_out) {
            return Err(usage("the adapters disagree on `fan_in_fan_out`: they are for different layers"));
        }
        let candidates: Vec<_> = files.into_iter().zip(configs.iter().map(AdapterConfig::scale)).collect();
        let largest = configs.iter().map(|config| config.r).max().unwrap_or(1);
        let rank = self.rank.unwrap_or(largest);
        let goal = match self.goal {
            Lora::Adapter => AdapterGoal::Adapter { rank },
            Lora::Delta => AdapterGoal::Delta { transposed: last.fan_in_fan_out },
        };
        let merge = |file: &File| {
            let mut buffer = BufWriter::new(file);
            let merged =
                merge_adapters(&candidates, &names, &|_| Ok(self.weights.to_vec()), goal, self.dtype, &mut buffer)?;
            buffer.flush()?;
            drop(buffer);
            file.sync_all()?;
            Ok(merged)
        };
        let (name, merged) = match self.goal {
            Lora::Delta => (out.display().to_string(), write::whole_file(out, merge)?),
            Lora::Adapter => write::whole_folder(out, |folder| {
                let config = serde_json::to_vec_pretty(&last.of_rank(rank))?;
                write::write_new(&folder.join(CONFIG), &config)?;
                Ok((MODEL.to_owned(), write::whole_file(&folder.join(MODEL), merge)?))
            })?,
        };
        Ok((write::named(name, merged.written.clone()), merged))
    }
}
