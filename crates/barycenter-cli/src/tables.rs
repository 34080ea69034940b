//! What a job found, as tables: the report, the coefficients, the history.

use barycenter_api::{
    CoefficientTable, Evaluated, Evaluation, Geometry, HistoryQuery, HistorySnapshot, Job, ObjectiveSpec,
    ProjectionReport, ProjectionSource, Report, client::Client,
};
use uuid::Uuid;

use crate::{
    job::Encoding,
    output::{self, Output},
};

/// Blocks that fit beside each other on a screen.
const WIDEST: usize = 8;

/// A report as headings and a line for each method; losses of tokens are told as perplexities too.
pub fn report(job: &Job, report: &Report) -> (Vec<&'static str>, Vec<Vec<String>>) {
    let of_tokens = matches!(job.spec.objective, Some(ObjectiveSpec::NextToken { .. }));
    let columns = if of_tokens {
        vec!["select loss", "select ppl", "select acc", "test loss", "test ppl", "test acc"]
    } else {
        vec!["select loss", "select acc", "test loss", "test acc"]
    };
    let row = |evaluation: &Evaluation| {
        let select = figures(Some(&evaluation.select), of_tokens);
        let test = figures(evaluation.test.as_ref(), of_tokens);
        let [low, high] = evaluation.select_difference_from_uniform;
        let chosen = if evaluation.method == report.chosen { "*" } else { "" };
        let end = [format!("{low:+.4} to {high:+.4}"), chosen.to_owned()];
        [evaluation.method.clone()].into_iter().chain(select).chain(test).chain(end).collect()
    };
    let columns = [vec!["method"], columns, vec!["select loss - uniform (95 %)", "chosen"]].concat();
    (columns, report.evaluations.iter().map(row).collect())
}

/// `candidates: effective rank 9.3 of 15, 1 pair of near-duplicates`, with the closest pair.
pub fn geometry(geometry: &Geometry) -> String {
    let most = geometry.gram.len().saturating_sub(1);
    let pairs = match geometry.near_duplicates.as_slice() {
        [] => "no near-duplicates".to_owned(),
        [pair] => format!("near-duplicates: {} and {}", pair.first, pair.second),
        [pair, ..] => {
            let count = geometry.near_duplicates.len();
            format!("{count} pairs of near-duplicates, the closest {} and {}", pair.first, pair.second)
        }
    };
    format!("candidates: effective rank {:.1} of {most}, {pairs}", geometry.effective_rank)
}

/// `time: fetch 0.4 s, projection 0.1 s, ...`
pub fn phases(report: &Report) -> String {
    let times: Vec<_> = report.phases.iter().map(|time| format!("{} {:.1} s", time.phase, time.seconds)).collect();
    format!("time: {}", times.join(", "))
}

/// `projection: extended, 3 revisions since it was built, 0.4 s`
pub fn projection(found: &ProjectionReport) -> String {
    let ProjectionReport { source, revisions, seconds, .. } = found;
    let fetched = if found.fetched && *source != ProjectionSource::Fetched { ", from what the server had" } else { "" };
    let alone = if found.unfollowed { ", of the candidates alone: what it extends is gone" } else { "" };
    let since = match revisions {
        0 => String::new(),
        1 => ", 1 revision since it was built".to_owned(),
        more => format!(", {more} revisions since it was built"),
    };
    format!("projection: {source}{fetched}{since}{alone}, {seconds:.1} s")
}

/// Loss, perplexity where it has a meaning, and accuracy; a dash for each that there is not.
fn figures(evaluated: Option<&Evaluated>, of_tokens: bool) -> Vec<String> {
    let shown = |figure: Option<String>| figure.unwrap_or_else(|| "-".to_owned());
    let loss = evaluated.map(|e| format!("{:.4}", e.loss));
    let perplexity = evaluated.map(|e| format!("{:.2}", e.loss.exp()));
    let accuracy = evaluated.and_then(|e| e.accuracy).map(|accuracy| format!("{:.2} %", 100.0 * accuracy));
    let perplexity = of_tokens.then(|| shown(perplexity));
    [Some(shown(loss)), perplexity, Some(shown(accuracy))].into_iter().flatten().collect()
}

/// Prints a line for each candidate, a column for each block as far as they fit.
pub fn print_coefficients(output: &Output, table: &CoefficientTable) -> anyhow::Result<()> {
    if table.blocks.len() > WIDEST {
        output.say(&format!("the first {WIDEST} of {} blocks; --format csv has all", table.blocks.len()));
    }
    let blocks = table.blocks.iter().take(WIDEST).map(String::as_str);
    let columns: Vec<_> = ["step", "checkpoint"].into_iter().chain(blocks).collect();
    let rows = table.candidates.iter().zip(&table.values).map(|(candidate, values)| {
        let numbers = values.iter().take(WIDEST).map(|value| format!("{value:+.5}"));
        [candidate.step.to_string(), candidate.checkpoint_id.to_string()].into_iter().chain(numbers).collect()
    });
    output.table(&columns, rows)
}

/// Prints a job's history.
pub async fn print_history(
    client: &Client,
    output: &Output,
    job: Uuid,
    encoding: Option<Encoding>,
) -> anyhow::Result<()> {
    let mut query = HistoryQuery { coefficients: encoding.is_none().then_some(false), ..HistoryQuery::default() };
    if encoding == Some(Encoding::Csv) {
        return Ok(client.history_csv(job, &query, &mut std::io::stdout()).await?);
    }
    let mut whole = client.history(job, &query).await?;
    while let Some(after) = whole.next_after_step {
        query.after_step = Some(after);
        let page = client.history(job, &query).await?;
        whole.snapshots.extend(page.snapshots);
        whole.next_after_step = page.next_after_step;
    }
    match encoding {
        Some(_) => output::write_json(&whole),
        None => output.table(HISTORY_COLUMNS, whole.snapshots.iter().map(snapshot_row)),
    }
}

const HISTORY_COLUMNS: &[&str] = &["step", "epoch", "learning rate", "fit loss", "select loss"];

fn snapshot_row(snapshot: &HistorySnapshot) -> Vec<String> {
    let loss = |loss: Option<f64>| loss.map(|loss| format!("{loss:.5}")).unwrap_or_default();
    vec![
        snapshot.step.to_string(),
        format!("{:.3}", snapshot.epoch),
        format!("{:.3e}", snapshot.learning_rate),
        loss(snapshot.fit_loss),
        loss(snapshot.select_loss),
    ]
}

#[cfg(test)]
mod tests;
