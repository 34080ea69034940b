//! What changed between two candidate sets, for people.

use barycenter_api::{CandidateSetDiff, PlacedMember};

use crate::output::{self, Format, Output};

const COLUMNS: &[&str] = &["change", "step", "from", "to", "checkpoint"];

/// Prints a line for each member that was added, removed or moved; those in common are counted.
pub fn print(output: &Output, diff: &CandidateSetDiff) -> anyhow::Result<()> {
    if output.format() == Format::Json {
        return output::write_json(diff);
    }
    let lines = rows(diff);
    if !lines.is_empty() {
        output.table(COLUMNS, lines)?;
    }
    output.say(&format!("{} in common", diff.common.len()));
    Ok(())
}

fn rows(diff: &CandidateSetDiff) -> Vec<Vec<String>> {
    let kinds = [("+", &diff.added), ("-", &diff.removed), ("moved", &diff.moved)];
    kinds.iter().flat_map(|(kind, members)| members.iter().map(move |member| row(kind, member))).collect()
}

fn row(kind: &str, member: &PlacedMember) -> Vec<String> {
    let place = |place: Option<usize>| place.map(|place| place.to_string()).unwrap_or_default();
    vec![
        kind.to_owned(),
        member.step.to_string(),
        place(member.from_position),
        place(member.to_position),
        member.checkpoint_id.to_string(),
    ]
}
