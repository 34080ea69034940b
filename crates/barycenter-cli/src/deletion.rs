//! Words about deletion.

use barycenter_api::Deleted;

use crate::{
    output::{self, Format, Output},
    shown::time,
};

/// Tells what was deleted and until when it can be had back.
pub fn tell(output: &Output, what: &str, deleted: &Deleted) -> anyhow::Result<()> {
    if output.format() == Format::Json {
        return output::write_json(deleted);
    }
    output.say(&format!("deleted {what}; `undelete` brings it back until {}", time(deleted.kept_until)));
    Ok(())
}
