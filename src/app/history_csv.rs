//! Histories and coefficients as CSV, written page by page: memory does not grow with the fit.

use barycenter_api::{CoefficientTable, History, HistorySnapshot};
use bytes::Bytes;
use futures::{StreamExt, stream, stream::BoxStream};

use super::{
    AppError, AppResult,
    history::{HistoryPage, list_history},
};
use crate::{domain::ids::JobId, state::AppState};

/// Snapshots that are read at a time.
const PAGE: u32 = 256;

/// Which part of a history.
#[derive(Clone, Copy, Debug)]
pub struct HistoryPart {
    /// Only snapshots after this step.
    pub after_step: Option<u64>,
    /// At most this many snapshots; all unless told.
    pub limit: Option<u32>,
    /// Whether to write the coefficients, one line for each candidate and block; without them it is one line a snapshot.
    pub coefficients: bool,
}

/// A text as it is written.
pub type TextStream = BoxStream<'static, AppResult<Bytes>>;

/// A history as CSV. The first page is read before this returns, so a job that does not exist is refused properly.
pub async fn write_history(state: &AppState, job_id: JobId, part: HistoryPart) -> AppResult<TextStream> {
    let first = list_history(state, job_id, page_of(part)).await?;
    let head = lines(&first, part.coefficients, true)?;
    let rest = remainder(part, &first);
    let state = state.clone();
    let pages = stream::try_unfold(rest, move |part| {
        let state = state.clone();
        async move {
            let Some(part) = part else {
                return Ok(None);
            };
            let history = list_history(&state, job_id, page_of(part)).await?;
            Ok(Some((lines(&history, part.coefficients, false)?, remainder(part, &history))))
        }
    });
    Ok(stream::once(std::future::ready(Ok(head))).chain(pages).boxed())
}

fn page_of(part: HistoryPart) -> HistoryPage {
    let limit = part.limit.unwrap_or(PAGE).min(PAGE);
    HistoryPage { after_step: part.after_step, limit, coefficients: part.coefficients }
}

/// What is left after a page; `None` where nothing is.
fn remainder(part: HistoryPart, page: &History) -> Option<HistoryPart> {
    let after_step = page.next_after_step?;
    let limit = part.limit.map(|limit| limit.saturating_sub(page.snapshots.len() as u32));
    (limit != Some(0)).then_some(HistoryPart { after_step: Some(after_step), limit, ..part })
}

fn lines(history: &History, coefficients: bool, with_header: bool) -> AppResult<Bytes> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    if with_header {
        let columns = ["step", "epoch", "learning_rate", "fit_loss", "select_loss"];
        let of_coefficients = ["checkpoint_id", "candidate_step", "block", "coefficient"];
        let shown = if coefficients { of_coefficients.as_slice() } else { &[] };
        writer.write_record(columns.iter().chain(shown)).map_err(AppError::internal)?;
    }
    for snapshot in &history.snapshots {
        write_snapshot(&mut writer, history, snapshot).map_err(AppError::internal)?;
    }
    Ok(writer.into_inner().map_err(|error| AppError::internal(error.to_string()))?.into())
}

fn write_snapshot(
    writer: &mut csv::Writer<Vec<u8>>,
    history: &History,
    snapshot: &HistorySnapshot,
) -> Result<(), csv::Error> {
    let HistorySnapshot { step, epoch, learning_rate, fit_loss, select_loss, coefficients } = snapshot;
    let scalars = (step, epoch, learning_rate, fit_loss, select_loss);
    let Some(rows) = coefficients else {
        return writer.serialize(scalars);
    };
    for (candidate, row) in history.candidates.iter().zip(rows) {
        for (block, coefficient) in history.blocks.iter().zip(row) {
            writer.serialize((scalars, candidate.checkpoint_id, candidate.step, block, coefficient))?;
        }
    }
    Ok(())
}

/// A table of coefficients as CSV: one line for each candidate and block.
pub fn write_coefficients(table: &CoefficientTable) -> AppResult<String> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    writer.write_record(["checkpoint_id", "candidate_step", "block", "coefficient"]).map_err(AppError::internal)?;
    for (candidate, row) in table.candidates.iter().zip(&table.values) {
        for (block, coefficient) in table.blocks.iter().zip(row) {
            let line = (candidate.checkpoint_id, candidate.step, block, coefficient);
            writer.serialize(line).map_err(AppError::internal)?;
        }
    }
    let bytes = writer.into_inner().map_err(|error| AppError::internal(error.to_string()))?;
    String::from_utf8(bytes).map_err(AppError::internal)
}
