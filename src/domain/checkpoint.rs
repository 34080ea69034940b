//! Checkpoints.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::{
    blob::Blob,
    checkpoint_files::Several,
    ids::{CheckpointId, RunId},
    name::{check_word, shown},
};

const MAX_METRICS: usize = 64;
const MAX_TAGS: usize = 64;

/// A stored checkpoint.
#[derive(Clone, Debug)]
pub struct Checkpoint {
    /// Identifier.
    pub checkpoint_id: CheckpointId,
    /// The run it belongs to.
    pub run_id: RunId,
    /// Training step, unique in the run.
    pub step: i64,
    /// What training reported beside it.
    pub reported: Reported,
    /// Its file; the list of its files where it has several.
    pub blob: Blob,
    /// Its files, where it has several.
    pub files: Option<Several>,
    /// Digest of its layout.
    pub layout_blake3: String,
    /// Number of tensors.
    pub tensor_count: u64,
    /// Whether it is kept whatever the retention rules say.
    pub pinned: bool,
    /// When it was stored.
    pub created_at: DateTime<Utc>,
}

impl Checkpoint {
    /// Bytes of all its files.
    pub fn size_bytes(&self) -> u64 {
        self.files.map_or(self.blob.size_bytes, |files| files.size_bytes)
    }
}

/// What training reports beside a checkpoint.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Reported {
    /// Epoch, where it was told.
    pub epoch: Option<f64>,
    /// Metrics; finite.
    pub metrics: BTreeMap<String, f64>,
    /// Tags.
    pub tags: Vec<String>,
}

/// A report that makes no sense.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidReport {
    /// The field, e.g. `metrics.val_loss`.
    pub field: String,
    /// What is wrong with it.
    pub detail: String,
}

impl Reported {
    /// Reads `metrics` (`name:value,…`) and `tags` (`word,…`).
    pub fn parse(epoch: Option<f64>, metrics: Option<&str>, tags: Option<&str>) -> Result<Self, InvalidReport> {
        let metrics = parse_metrics(metrics.unwrap_or_default())?;
        Self::new(epoch, metrics, parse_tags(tags.unwrap_or_default())?)
    }

    /// Checks what is reported.
    pub fn new(epoch: Option<f64>, metrics: BTreeMap<String, f64>, tags: Vec<String>) -> Result<Self, InvalidReport> {
        if let Some(epoch) = epoch.filter(|epoch| !epoch.is_finite() || *epoch < 0.0) {
            return Err(invalid("epoch", format!("must be a finite number not below 0, not {epoch}")));
        }
        for (name, value) in &metrics {
            check_word(name).map_err(|detail| invalid("metrics", detail))?;
            check_finite(name, *value)?;
        }
        check_metric_count(&metrics)?;
        check_tags(tags.iter().map(String::as_str))?;
        Ok(Self { epoch, metrics, tags })
    }

    /// Applies an edit; on an error nothing has changed.
    pub fn edit(&mut self, edit: ReportEdit) -> Result<(), InvalidReport> {
        let mut metrics = self.metrics.clone();
        for (name, value) in edit.metrics {
            check_word(&name).map_err(|detail| invalid("metrics", detail))?;
            match value {
                None => {
                    metrics.remove(&name);
                }
                Some(value) => {
                    check_finite(&name, value)?;
                    metrics.insert(name, value);
                }
            }
        }
        check_metric_count(&metrics)?;
        if let Some(tags) = edit.tags {
            self.tags = check_tags(tags.iter().map(String::as_str))?;
        }
        self.metrics = metrics;
        Ok(())
    }
}

/// What is reported about a checkpoint after it was pushed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ReportEdit {
    /// Metrics to set or, without a value, to remove; the others stay.
    pub metrics: BTreeMap<String, Option<f64>>,
    /// All tags, in place of those before.
    pub tags: Option<Vec<String>>,
}

fn check_finite(name: &str, value: f64) -> Result<(), InvalidReport> {
    if value.is_finite() {
        return Ok(());
    }
    Err(invalid(&format!("metrics.{name}"), format!("must be finite, not {value}")))
}

fn check_metric_count(metrics: &BTreeMap<String, f64>) -> Result<(), InvalidReport> {
    if metrics.len() <= MAX_METRICS {
        return Ok(());
    }
    Err(invalid("metrics", format!("holds more than {MAX_METRICS} metrics")))
}

fn parse_metrics(text: &str) -> Result<BTreeMap<String, f64>, InvalidReport> {
    let mut metrics = BTreeMap::new();
    for pair in text.split(',').filter(|_| !text.is_empty()) {
        let Some((name, value)) = pair.split_once(':') else {
            return Err(invalid("metrics", format!("`{}` is not `name:value`", shown(pair))));
        };
        check_word(name).map_err(|detail| invalid("metrics", detail))?;
        let field = format!("metrics.{name}");
        let value: f64 = value.parse().map_err(|_| invalid(&field, format!("`{}` is not a number", shown(value))))?;
        if metrics.insert(name.to_owned(), value).is_some() {
            return Err(invalid(&field, "is given twice".to_owned()));
        }
    }
    Ok(metrics)
}

/// Reads `word,…`.
pub fn parse_tags(text: &str) -> Result<Vec<String>, InvalidReport> {
    check_tags(text.split(',').filter(|_| !text.is_empty()))
}

fn check_tags<'a>(given: impl Iterator<Item = &'a str>) -> Result<Vec<String>, InvalidReport> {
    let mut seen = BTreeSet::new();
    let mut tags = Vec::new();
    for tag in given {
        check_word(tag).map_err(|detail| invalid("tags", detail))?;
        if !seen.insert(tag) {
            return Err(invalid("tags", format!("`{tag}` is given twice")));
        }
        tags.push(tag.to_owned());
    }
    if tags.len() > MAX_TAGS {
        return Err(invalid("tags", format!("holds more than {MAX_TAGS} tags")));
    }
    Ok(tags)
}

fn invalid(field: &str, detail: String) -> InvalidReport {
    InvalidReport { field: field.to_owned(), detail }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_and_tags_are_read() {
        let reported =
            Reported::parse(Some(1.5), Some("val_loss:0.53,val_accuracy:8.1e-1"), Some("warm,a100")).unwrap();
        assert_eq!(reported.metrics, BTreeMap::from([("val_loss".into(), 0.53), ("val_accuracy".into(), 0.81)]));
        assert_eq!(reported.tags, ["warm", "a100"]);
        assert_eq!(Reported::parse(None, Some(""), Some("")).unwrap(), Reported::default());
    }

    #[test]
    fn an_edit_merges_metrics_and_replaces_tags() {
        let mut reported = Reported::parse(None, Some("a:1,b:2"), Some("x,y")).unwrap();
        let metrics = BTreeMap::from([("b".into(), Some(3.0)), ("c".into(), Some(4.0)), ("a".into(), None)]);
        reported.edit(ReportEdit { metrics, tags: None }).unwrap();
        assert_eq!(reported.metrics, BTreeMap::from([("b".into(), 3.0), ("c".into(), 4.0)]));
        assert_eq!(reported.tags, ["x", "y"]);
        reported.edit(ReportEdit { tags: Some(vec!["z".into()]), ..ReportEdit::default() }).unwrap();
        assert_eq!(reported.tags, ["z"]);
        let before = reported.clone();
        let metrics = BTreeMap::from([("a".into(), Some(1.0)), ("b".into(), Some(f64::INFINITY))]);
        let refused = reported.edit(ReportEdit { metrics, tags: None }).unwrap_err();
        assert_eq!(refused.field, "metrics.b");
        let refused = reported.edit(ReportEdit { tags: Some(vec!["z".into(), "z".into()]), ..ReportEdit::default() });
        assert_eq!(refused.unwrap_err().field, "tags");
        assert_eq!(reported, before);
    }

    #[test]
    fn a_bad_report_is_refused_by_its_field() {
        let field = |epoch, metrics, tags| Reported::parse(epoch, Some(metrics), Some(tags)).unwrap_err().field;
        assert_eq!(field(Some(f64::NAN), "", ""), "epoch");
        assert_eq!(field(Some(-1.0), "", ""), "epoch");
        assert_eq!(field(None, "val_loss", ""), "metrics");
        assert_eq!(field(None, "val_loss:nan", ""), "metrics.val_loss");
        assert_eq!(field(None, "val_loss:inf", ""), "metrics.val_loss");
        assert_eq!(field(None, "val_loss:low", ""), "metrics.val_loss");
        assert_eq!(field(None, "a:1,a:2", ""), "metrics.a");
        assert_eq!(field(None, "a:1,", ""), "metrics");
        assert_eq!(field(None, "", "a,,b"), "tags");
        assert_eq!(field(None, "", "a,a"), "tags");
    }
}
