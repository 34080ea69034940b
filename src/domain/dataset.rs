//! Datasets.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::{blob::Blob, ids::DatasetId, name::shown};

/// A stored dataset.
#[derive(Clone, Debug)]
pub struct Dataset {
    /// Identifier.
    pub dataset_id: DatasetId,
    /// Unique name.
    pub name: String,
    /// What its file holds.
    pub shape: DatasetShape,
    /// How stored inputs become what the network sees.
    pub normalisation: Normalisation,
    /// Its file.
    pub blob: Blob,
    /// When it was stored.
    pub created_at: DateTime<Utc>,
}

/// What a dataset's file holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DatasetShape {
    /// What its samples are judged by.
    pub kind: DatasetKind,
    /// Number of samples.
    pub sample_count: u64,
    /// Shape of one input: features, or channels, height and width, or the positions of a row of tokens.
    pub input_shape: Vec<u64>,
    /// Element type of the inputs or the tokens, as safetensors spells it.
    pub input_dtype: String,
}

/// What the samples of a dataset are judged by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DatasetKind {
    /// A class each.
    Labels,
    /// So many numbers each.
    Targets {
        /// Numbers a sample.
        count: u64,
    },
    /// The tokens that follow.
    Tokens,
}

impl DatasetKind {
    /// The word for it, which is the name of a tensor of the file.
    pub fn name(self) -> &'static str {
        match self {
            Self::Labels => "labels",
            Self::Targets { .. } => "targets",
            Self::Tokens => "tokens",
        }
    }

    /// Numbers a sample is judged by, where it is judged by numbers.
    pub fn target_count(self) -> Option<u64> {
        match self {
            Self::Targets { count } => Some(count),
            Self::Labels | Self::Tokens => None,
        }
    }

    /// The kind of this word and number of targets; `None` where they do not belong together.
    pub fn from_parts(name: &str, target_count: Option<u64>) -> Option<Self> {
        match (name, target_count) {
            ("labels", None) => Some(Self::Labels),
            ("targets", Some(count)) => Some(Self::Targets { count }),
            ("tokens", None) => Some(Self::Tokens),
            _ => None,
        }
    }
}

/// `x = (scale * stored - mean) / std`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Normalisation {
    /// Factor.
    pub scale: f64,
    /// Mean of each channel, or one for all.
    pub mean: Vec<f64>,
    /// Standard deviation of each channel, or one for all.
    pub std: Vec<f64>,
}

/// A normalisation that makes no sense.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidNormalisation {
    /// `scale`, `mean` or `std`.
    pub field: &'static str,
    /// What is wrong with it.
    pub detail: String,
}

impl Normalisation {
    /// The one that changes nothing.
    pub fn none() -> Self {
        Self { scale: 1.0, mean: vec![0.0], std: vec![1.0] }
    }

    /// Reads `scale` (`1/255` or a number), `mean` and `std` (comma-separated); what is absent changes nothing.
    ///
    /// `channels` is the first extent of an input: how many means and deviations there may be, other than one.
    pub fn parse(
        scale: Option<&str>,
        mean: Option<&str>,
        std: Option<&str>,
        channels: u64,
    ) -> Result<Self, InvalidNormalisation> {
        let scale = scale.map_or(Ok(1.0), parse_scale)?;
        let mean = mean.map_or_else(|| Ok(vec![0.0]), |text| parse_list("mean", text, channels))?;
        let std = std.map_or_else(|| Ok(vec![1.0]), |text| parse_list("std", text, channels))?;
        if let Some(wrong) = std.iter().find(|value| **value <= 0.0) {
            return Err(InvalidNormalisation { field: "std", detail: format!("must be above 0, not {wrong}") });
        }
        Ok(Self { scale, mean, std })
    }
}

fn parse_scale(text: &str) -> Result<f64, InvalidNormalisation> {
    let (numerator, denominator) = text.split_once('/').unwrap_or((text, "1"));
    let scale = parse_number("scale", numerator)? / parse_number("scale", denominator)?;
    if scale.is_finite() && scale != 0.0 {
        return Ok(scale);
    }
    Err(InvalidNormalisation { field: "scale", detail: format!("`{}` is no finite factor other than 0", shown(text)) })
}

fn parse_list(field: &'static str, text: &str, channels: u64) -> Result<Vec<f64>, InvalidNormalisation> {
    let values = text.split(',').map(|value| parse_number(field, value)).collect::<Result<Vec<f64>, _>>()?;
    if values.len() == 1 || values.len() as u64 == channels {
        return Ok(values);
    }
    let detail = format!("has {} values; an input has {channels} channels, so give 1 or {channels}", values.len());
    Err(InvalidNormalisation { field, detail })
}

fn parse_number(field: &'static str, text: &str) -> Result<f64, InvalidNormalisation> {
    match text.trim().parse::<f64>() {
        Ok(value) if value.is_finite() => Ok(value),
        _ => Err(InvalidNormalisation { field, detail: format!("`{}` is not a finite number", shown(text)) }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_is_kept_as_its_parts() {
        for kind in [DatasetKind::Labels, DatasetKind::Targets { count: 3 }, DatasetKind::Tokens] {
            assert_eq!(DatasetKind::from_parts(kind.name(), kind.target_count()), Some(kind));
        }
        assert_eq!(DatasetKind::from_parts("targets", None), None);
        assert_eq!(DatasetKind::from_parts("images", None), None);
    }

    #[test]
    fn a_normalisation_is_read() {
        let read = Normalisation::parse(Some("1/255"), Some("0.5, 0.4,0.3"), Some("0.25"), 3).unwrap();
        assert_eq!(read, Normalisation { scale: 1.0 / 255.0, mean: vec![0.5, 0.4, 0.3], std: vec![0.25] });
        let nothing = Normalisation::parse(None, None, None, 3).unwrap();
        assert_eq!(nothing, Normalisation::none());
    }

    #[test]
    fn a_bad_normalisation_is_refused_by_its_field() {
        let field = |scale, mean, std| Normalisation::parse(Some(scale), Some(mean), Some(std), 3).unwrap_err().field;
        assert_eq!(field("1/0", "0", "1"), "scale");
        assert_eq!(field("0", "0", "1"), "scale");
        assert_eq!(field("inf", "0", "1"), "scale");
        assert_eq!(field("1", "0,0", "1"), "mean");
        assert_eq!(field("1", "", "1"), "mean");
        assert_eq!(field("1", "0", "1,0,1"), "std");
        assert_eq!(field("1", "0", "nan"), "std");
    }
}
