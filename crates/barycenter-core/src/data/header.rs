//! What the header of a dataset's file says, checked before a number of it is read.

use std::fmt;

use crate::Error;
use crate::checkpoint::{Dtype, Layout, TensorLayout};

/// Key of the metadata that names the token which fills up short samples.
const PADDING_TOKEN: &str = "padding_token";

/// What the samples of a dataset are judged by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DatasetKind {
    /// `labels`: a class for each of the `inputs`.
    Labels,
    /// `targets`: so many numbers for each of the `inputs`.
    Targets {
        /// Numbers a sample.
        count: usize,
    },
    /// `tokens`: each is judged by the one that follows it.
    Tokens,
}

impl fmt::Display for DatasetKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Labels => f.write_str("`labels`"),
            Self::Targets { count } => write!(f, "`targets`, {count} a sample"),
            Self::Tokens => f.write_str("`tokens`"),
        }
    }
}

/// A dataset as its header describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DatasetHeader {
    /// What the samples are judged by.
    pub kind: DatasetKind,
    /// N.
    pub sample_count: usize,
    /// Shape of one input: `[channels, height, width]`, `[features]` or `[positions]`.
    pub sample_shape: Vec<usize>,
    /// Element type of `inputs` or `tokens`.
    pub input_dtype: Dtype,
    /// The token that fills up short samples and is never predicted.
    pub padding_token: Option<u32>,
}

/// Why a file is no dataset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DatasetFault {
    /// The tensor, or the key of the metadata, at fault.
    pub named: String,
    /// What is wrong with it.
    pub detail: String,
}

impl From<DatasetFault> for Error {
    fn from(fault: DatasetFault) -> Self {
        Self::input(format!("`{}` {}", fault.named, fault.detail))
    }
}

impl DatasetHeader {
    /// Reads what a file with this header holds:
    ///
    /// | kind | tensors |
    /// |---|---|
    /// | labels | `inputs` (`U8` or `F32`, `[N, C, H, W]` or `[N, F]`) and `labels` (`I64`, `[N]`) |
    /// | targets | `inputs` and `targets` (`F32`, `[N, k]`) |
    /// | tokens | `tokens` (`I64`, `I32` or `U16`, `[N, T + 1]`); `padding_token` in the metadata, where there is one |
    ///
    /// Errors name the first tensor that is missing, foreign, or of another type or shape.
    pub fn read(layout: &Layout) -> Result<Self, DatasetFault> {
        match layout.find("tokens") {
            Some(tokens) => Self::of_tokens(layout, tokens),
            None => Self::of_inputs(layout),
        }
    }

    fn of_tokens(layout: &Layout, tokens: &TensorLayout) -> Result<Self, DatasetFault> {
        check_members(layout, &["tokens"])?;
        let is_dataset = matches!(tokens.dtype, Dtype::I64 | Dtype::I32 | Dtype::U16);
        let ([count @ (1..), length @ (2..)], true) = (&tokens.shape[..], is_dataset) else {
            let (dtype, shape) = (tokens.dtype, &tokens.shape);
            let detail = format!("is {dtype} of shape {shape:?}; must be I64, I32 or U16 of shape [N, T + 1]");
            return Err(fault("tokens", detail));
        };
        let padding_token = layout.metadata.get(PADDING_TOKEN).map(|text| parse_token(text)).transpose()?;
        Ok(Self {
            kind: DatasetKind::Tokens,
            sample_count: *count,
            sample_shape: vec![length - 1],
            input_dtype: tokens.dtype,
            padding_token,
        })
    }

    fn of_inputs(layout: &Layout) -> Result<Self, DatasetFault> {
        let Some(inputs) = layout.find("inputs") else {
            return Err(fault("inputs", "is missing: a dataset has `inputs` with `labels` or `targets`, or `tokens`"));
        };
        if !matches!(inputs.dtype, Dtype::U8 | Dtype::F32) {
            return Err(fault("inputs", format!("is {}; must be U8 or F32", inputs.dtype)));
        }
        if !matches!(inputs.shape.len(), 2 | 4) || inputs.shape.contains(&0) {
            let expected = "must be samples x features or samples x channels x height x width, none of them 0";
            return Err(fault("inputs", format!("has shape {:?}; {expected}", inputs.shape)));
        }
        let sample_count = inputs.shape[0];
        let kind = match (layout.find("labels"), layout.find("targets")) {
            (Some(labels), None) => labels_kind(labels, sample_count)?,
            (None, Some(targets)) => targets_kind(targets, sample_count)?,
            (Some(_), Some(_)) => return Err(fault("targets", "stands beside `labels`; a dataset has one of the two")),
            (None, None) => {
                return Err(fault("labels", "is missing, and so is `targets`; a dataset has one of the two"));
            }
        };
        check_members(layout, &["inputs", "labels", "targets"])?;
        Ok(Self {
            kind,
            sample_count,
            sample_shape: inputs.shape[1..].to_vec(),
            input_dtype: inputs.dtype,
            padding_token: None,
        })
    }
}

fn labels_kind(labels: &TensorLayout, samples: usize) -> Result<DatasetKind, DatasetFault> {
    if labels.dtype == Dtype::I64 && labels.shape == [samples] {
        return Ok(DatasetKind::Labels);
    }
    let (dtype, shape) = (labels.dtype, &labels.shape);
    let detail = format!("is {dtype} of shape {shape:?}; must be I64 of shape [{samples}], one for each input");
    Err(fault("labels", detail))
}

fn targets_kind(targets: &TensorLayout, samples: usize) -> Result<DatasetKind, DatasetFault> {
    match targets.shape[..] {
        [rows, count @ (1..)] if targets.dtype == Dtype::F32 && rows == samples => Ok(DatasetKind::Targets { count }),
        _ => {
            let (dtype, shape) = (targets.dtype, &targets.shape);
            let detail =
                format!("is {dtype} of shape {shape:?}; must be F32 of shape [{samples}, k], a row for each input");
            Err(fault("targets", detail))
        }
    }
}

/// Errors where the file holds a tensor that would be read by nobody.
fn check_members(layout: &Layout, members: &[&str]) -> Result<(), DatasetFault> {
    match layout.tensors.iter().find(|tensor| !members.contains(&tensor.name.as_str())) {
        None => Ok(()),
        Some(foreign) => Err(fault(&foreign.name, "has no place in a dataset of this kind")),
    }
}

fn parse_token(text: &str) -> Result<u32, DatasetFault> {
    match text.trim().parse() {
        Ok(token) if token < u32::MAX => Ok(token),
        _ => Err(fault(PADDING_TOKEN, "is no token: it must be a whole number from 0 on")),
    }
}

fn fault(named: &str, detail: impl Into<String>) -> DatasetFault {
    DatasetFault { named: named.to_owned(), detail: detail.into() }
}
