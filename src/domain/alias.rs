//! Names of a run for one of its checkpoints or artifacts.

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::{
    ids::{ArtifactId, CheckpointId, RunId},
    name::{check_name, shown},
};

/// The alias that nobody moves: always the checkpoint of the highest step.
pub const LATEST: &str = "latest";

/// What an alias names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// A checkpoint of the run.
    Checkpoint(CheckpointId),
    /// An artifact of the run.
    Artifact(ArtifactId),
}

/// A name for one thing of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alias {
    /// The run.
    pub run_id: RunId,
    /// The name, unique in the run.
    pub alias: String,
    /// What it names now.
    pub target: Target,
    /// Version; another with every move.
    pub revision_id: Uuid,
    /// When it came to name this.
    pub moved_at: DateTime<Utc>,
}

/// Checks the name of an alias that is to be set: as a run's name, neither `latest` nor a number, which would be a step.
pub fn check_alias(text: &str) -> Result<(), String> {
    check_name(text)?;
    if text == LATEST {
        return Err("moves by itself with the highest step".to_owned());
    }
    if text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(format!("`{text}` would be read as a step"));
    }
    Ok(())
}

/// How a checkpoint of a run is named: by step, id or alias.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CheckpointName {
    /// Its step.
    Step(i64),
    /// Its id.
    Id(CheckpointId),
    /// The checkpoint of the highest step.
    Latest,
    /// An alias of the run.
    Alias(String),
}

impl CheckpointName {
    /// Reads a name; the error says what it could have been.
    pub fn parse(text: &str) -> Result<Self, String> {
        if let Ok(id) = Uuid::try_parse(text) {
            return Ok(Self::Id(CheckpointId(id)));
        }
        if let Ok(step) = text.parse::<i64>() {
            return if step >= 0 { Ok(Self::Step(step)) } else { Err(format!("step {step} is below 0")) };
        }
        match text {
            LATEST => Ok(Self::Latest),
            _ if check_alias(text).is_ok() => Ok(Self::Alias(text.to_owned())),
            _ => Err(format!("`{}` is neither a step nor an id nor an alias", shown(text))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checkpoint_is_named_by_step_id_or_alias() {
        let id = "0190f3a8-0000-7000-8000-000000000001";
        assert_eq!(CheckpointName::parse("12"), Ok(CheckpointName::Step(12)));
        assert_eq!(CheckpointName::parse(id), Ok(CheckpointName::Id(CheckpointId(id.parse().unwrap()))));
        assert_eq!(CheckpointName::parse("latest"), Ok(CheckpointName::Latest));
        assert_eq!(CheckpointName::parse("best"), Ok(CheckpointName::Alias("best".into())));
        for bad in ["", "-1", "a b", "99999999999999999999"] {
            CheckpointName::parse(bad).unwrap_err();
        }
    }

    #[test]
    fn an_alias_is_neither_latest_nor_a_number_nor_an_id() {
        for good in ["best", "prod-2", "2024-01"] {
            assert_eq!(check_alias(good), Ok(()), "{good}");
        }
        for bad in ["latest", "12", "a/b", "", "0190f3a8-0000-7000-8000-000000000001"] {
            check_alias(bad).unwrap_err();
        }
    }
}
