//! Fits that start where an earlier job ended.

use std::collections::HashMap;

use barycenter_api::{CoefficientTable, Floats};
use sqlx::PgConnection;
use uuid::Uuid;

use super::{AppError, AppResult, candidate_sets::find_candidate_set_with, history::read_coefficients};
use crate::{
    db,
    domain::{candidate_set::Candidate, ids::JobId, problem_code::ProblemCode},
};

/// A sum of the shared candidates' coefficients below this says nothing about the others.
const LEAST_SUM: f64 = 1e-3;

/// The coefficients of an earlier job, candidate by candidate of this set: in the blocks of that job, one or as many as the
/// new one's `blocks`. A candidate that the earlier job had not gets 0, and each block is divided by its sum.
///
/// # Errors
/// In words, why the job cannot be started from.
pub(super) async fn coefficients(
    conn: &mut PgConnection,
    job_id: JobId,
    candidates: &[Candidate],
    blocks: Option<&[String]>,
) -> AppResult<Result<Floats, String>> {
    let Some(job) = db::jobs::find(conn, job_id).await? else {
        return Ok(Err(format!("there is no job {job_id}")));
    };
    let members = find_candidate_set_with(conn, job.candidate_set_id).await?.members;
    let table = match read_coefficients(conn, job_id, &members).await {
        Ok(table) => table,
        Err(AppError::Refused { code: ProblemCode::NoCoefficients, detail, .. }) => return Ok(Err(detail)),
        Err(error) => return Err(error),
    };
    if let Some(blocks) = blocks.filter(|blocks| table.blocks.len() > 1 && *blocks != table.blocks) {
        let (held, wanted) = (table.blocks.len(), blocks.len());
        return Ok(Err(format!("job {job_id} has {held} blocks, which are not the {wanted} of this one")));
    }
    let ids: Vec<Uuid> = candidates.iter().map(|candidate| candidate.checkpoint_id.0).collect();
    Ok(shared(&table, &ids).ok_or_else(|| format!("job {job_id} gave the candidates of this set no weight")))
}

/// The rows of these checkpoints, each block divided by its sum; none where a block sums to nothing.
fn shared(table: &CoefficientTable, checkpoints: &[Uuid]) -> Option<Floats> {
    let rows: HashMap<Uuid, &Vec<f64>> =
        table.candidates.iter().map(|candidate| candidate.checkpoint_id).zip(&table.values).collect();
    let blocks = table.blocks.len();
    let at = |checkpoint: &Uuid, block: usize| rows.get(checkpoint).map_or(0.0, |row| row[block]);
    let sums: Vec<f64> =
        (0..blocks).map(|block| checkpoints.iter().map(|checkpoint| at(checkpoint, block)).sum()).collect();
    if sums.iter().any(|sum| *sum < LEAST_SUM) {
        return None;
    }
    let entries = checkpoints.iter().flat_map(|checkpoint| (0..blocks).map(move |block| (checkpoint, block)));
    Some(Floats(entries.map(|(checkpoint, block)| at(checkpoint, block) / sums[block]).collect()))
}

#[cfg(test)]
mod tests {
    use barycenter_api::CandidateRef;

    use super::*;

    fn id(number: u128) -> Uuid {
        Uuid::from_u128(number)
    }

    fn table() -> CoefficientTable {
        let candidates =
            (1..=3).map(|number| CandidateRef { checkpoint_id: id(number), step: number as i64 }).collect();
        let values = vec![vec![0.25, 0.5], vec![0.25, 0.7], vec![0.5, -0.2]];
        CoefficientTable { candidates, blocks: vec!["a".into(), "b".into()], values }
    }

    #[test]
    fn candidates_keep_their_coefficients_in_another_order_and_beside_new_ones() {
        let Floats(values) = shared(&table(), &[id(3), id(9), id(2), id(1)]).unwrap();
        assert_eq!(values, [0.5, -0.2, 0.0, 0.0, 0.25, 0.7, 0.25, 0.5]);
    }

    #[test]
    fn what_is_left_of_a_smaller_set_sums_to_one() {
        let Floats(values) = shared(&table(), &[id(1), id(2)]).unwrap();
        for (value, wanted) in values.iter().zip([0.5, 0.5 / 1.2, 0.5, 0.7 / 1.2]) {
            assert!((value - wanted).abs() < 1e-12, "{values:?}");
        }
        assert!(shared(&table(), &[id(3)]).is_none(), "block b would be divided by a negative sum");
        assert!(shared(&table(), &[id(9)]).is_none());
    }
}
