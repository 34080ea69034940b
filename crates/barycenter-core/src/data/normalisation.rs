//! How stored inputs become what the network sees.

use std::collections::BTreeMap;

use crate::{Error, Result};

/// `x = (scale * stored - mean) / std`, with one mean and one deviation a channel, or one for all.
#[derive(Clone, Debug, PartialEq)]
pub struct Normalisation {
    /// Factor applied first.
    pub scale: f64,
    /// Mean of each channel (or feature), or one for all.
    pub mean: Vec<f64>,
    /// Standard deviation of each channel (or feature), or one for all.
    pub std: Vec<f64>,
}

impl Default for Normalisation {
    fn default() -> Self {
        Self { scale: 1.0, mean: vec![0.0], std: vec![1.0] }
    }
}

impl Normalisation {
    /// From the metadata of a safetensors file: `scale`, `mean`, `std`.
    pub fn of_metadata(metadata: &BTreeMap<String, String>) -> Result<Self> {
        let text = |name: &str| metadata.get(name).map(String::as_str);
        Self::parse(text("scale"), text("mean"), text("std"))
    }

    /// From the texts of a file's metadata: `scale` a number or a quotient (`1/255`), `mean` and `std` comma-separated.
    /// What is absent leaves the values as they are.
    pub fn parse(scale: Option<&str>, mean: Option<&str>, std: Option<&str>) -> Result<Self> {
        let unchanged = Self::default();
        let parsed = Self {
            scale: scale.map_or(Ok(unchanged.scale), |text| quotient("scale", text))?,
            mean: mean.map_or(Ok(unchanged.mean), |text| list("mean", text))?,
            std: std.map_or(Ok(unchanged.std), |text| list("std", text))?,
        };
        parsed.check()?;
        Ok(parsed)
    }

    /// Errors where a number is not finite, or where the scale or a deviation cannot be divided by.
    pub fn check(&self) -> Result<()> {
        if !self.scale.is_finite() || self.scale == 0.0 {
            return Err(Error::input(format!("scale is {}, it must be a finite number other than 0", self.scale)));
        }
        if self.mean.is_empty() || self.mean.iter().any(|mean| !mean.is_finite()) {
            return Err(Error::input(format!("mean is {:?}, it must hold finite numbers", self.mean)));
        }
        if self.std.is_empty() || self.std.iter().any(|std| !std.is_finite() || *std <= 0.0) {
            return Err(Error::input(format!("std is {:?}, it must hold finite numbers above 0", self.std)));
        }
        Ok(())
    }

    /// Errors where there are neither `channels` values nor one for all.
    pub(super) fn check_channels(&self, channels: usize) -> Result<()> {
        for (name, values) in [("mean", &self.mean), ("std", &self.std)] {
            if values.len() != 1 && values.len() != channels {
                let message = format!("{name} has {} values, the inputs have {channels} channels", values.len());
                return Err(Error::input(message));
            }
        }
        Ok(())
    }

    /// Number of channels that differ: 1 where one mean and one deviation stand for all.
    pub(super) fn distinct(&self) -> usize {
        self.mean.len().max(self.std.len())
    }

    /// What the network sees of a stored value.
    pub(super) fn apply(&self, stored: f64, channel: usize) -> f32 {
        let of = |values: &[f64]| if values.len() == 1 { values[0] } else { values[channel] };
        ((stored * self.scale - of(&self.mean)) / of(&self.std)) as f32
    }
}

fn number(name: &str, text: &str) -> Result<f64> {
    text.trim().parse().map_err(|_| Error::input(format!("{name}: `{text}` is not a number")))
}

fn quotient(name: &str, text: &str) -> Result<f64> {
    match text.split_once('/') {
        Some((above, below)) => Ok(number(name, above)? / number(name, below)?),
        None => number(name, text),
    }
}

fn list(name: &str, text: &str) -> Result<Vec<f64>> {
    text.split(',').map(|part| number(name, part)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_texts_are_understood() {
        let parsed = Normalisation::parse(Some("1/255"), Some("0.5, 0.25"), Some("2")).unwrap();
        assert_eq!(parsed, Normalisation { scale: 1.0 / 255.0, mean: vec![0.5, 0.25], std: vec![2.0] });
        assert_eq!(Normalisation::parse(None, None, None).unwrap(), Normalisation::default());
    }

    #[test]
    fn nonsense_is_refused_by_name() {
        let message = |scale, mean, std| Normalisation::parse(scale, mean, std).unwrap_err().to_string();
        assert!(message(Some("1/0"), None, None).contains("scale"));
        assert!(message(Some("a"), None, None).contains("scale: `a`"));
        assert!(message(None, Some("1,,2"), None).contains("mean"));
        assert!(message(None, None, Some("1,0")).contains("std"));
        assert!(message(None, None, Some("inf")).contains("std"));
    }
}
