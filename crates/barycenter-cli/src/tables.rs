//! What a job found, as tables: the report, the coefficients, the history.

use barycenter_api::{CoefficientTable, Evaluated, HistoryQuery, HistorySnapshot, Report, client::Client};
use uuid::Uuid;

use crate::{job::Encoding, output::Output};

/// Blocks that fit beside each other on a screen.
const WIDEST: usize = 8;
/// Headings of a report.
pub const REPORT_COLUMNS: &[&str] =
    &["method", "select loss", "select acc", "test loss", "test acc", "select loss - uniform (95 %)", "chosen"];

/// A line for each method.
pub fn report_rows(report: &Report) -> Vec<Vec<String>> {
    let row = |evaluation: &barycenter_api::Evaluation| {
        let [select_loss, select_accuracy] = figures(Some(&evaluation.select));
        let [test_loss, test_accuracy] = figures(evaluation.test.as_ref());
        let [low, high] = evaluation.select_difference_from_uniform;
        let chosen = if evaluation.method == report.chosen { "*" } else { "" };
        vec![
            evaluation.method.clone(),
            select_loss,
            select_accuracy,
            test_loss,
            test_accuracy,
            format!("{low:+.4} to {high:+.4}"),
            chosen.to_owned(),
        ]
    };
    report.evaluations.iter().map(row).collect()
}

fn figures(evaluated: Option<&Evaluated>) -> [String; 2] {
    evaluated.map_or_else(Default::default, |e| [format!("{:.4}", e.loss), format!("{:.2} %", 100.0 * e.accuracy)])
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
        Some(_) => output.json(&whole),
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
