//! Candidate sets.

use chrono::{DateTime, Utc};
use sqlx::{PgConnection, types::Json};
use uuid::Uuid;

use super::{DbError, DbResult};
use crate::domain::{
    candidate_set::{Candidate, CandidateSet, Rule},
    ids::{CandidateSetId, RunId},
    page::PageRequest,
};

struct SetRow {
    candidate_set_id: Uuid,
    run_id: Uuid,
    other_run_ids: Vec<Uuid>,
    name: Option<String>,
    version: i32,
    rule: Json<Rule>,
    layout_blake3: String,
    created_at: DateTime<Utc>,
}

impl SetRow {
    fn with(self, members: Vec<Candidate>) -> CandidateSet {
        CandidateSet {
            candidate_set_id: self.candidate_set_id.into(),
            run_id: self.run_id.into(),
            other_run_ids: self.other_run_ids.into_iter().map(RunId).collect(),
            name: self.name,
            version: self.version.unsigned_abs(),
            rule: self.rule.0,
            layout_blake3: self.layout_blake3,
            members,
            created_at: self.created_at,
        }
    }
}

struct MemberRow {
    candidate_set_id: Uuid,
    checkpoint_id: Uuid,
    run_id: Uuid,
    step: i64,
    size_bytes: i64,
    digest_blake3: String,
    layout_blake3: String,
}

impl TryFrom<MemberRow> for Candidate {
    type Error = DbError;

    fn try_from(row: MemberRow) -> DbResult<Self> {
        let size_bytes = u64::try_from(row.size_bytes)
            .map_err(|_| DbError::inconsistent("checkpoints", "size_bytes", row.checkpoint_id))?;
        Ok(Self {
            checkpoint_id: row.checkpoint_id.into(),
            run_id: row.run_id.into(),
            step: row.step,
            size_bytes,
            digest_blake3: row.digest_blake3,
            layout_blake3: row.layout_blake3,
        })
    }
}

/// Inserts a set and its members.
pub async fn insert_candidate_set(conn: &mut PgConnection, set: &CandidateSet) -> DbResult<()> {
    let others: Vec<Uuid> = set.other_run_ids.iter().map(|id| id.0).collect();
    sqlx::query!(
        "insert into candidate_sets
             (candidate_set_id, run_id, other_run_ids, name, version, rule, layout_blake3, created_at)
         values ($1, $2, $3, $4, $5, $6, $7, $8)",
        set.candidate_set_id.0,
        set.run_id.0,
        &others,
        set.name,
        i32::try_from(set.version).unwrap_or(i32::MAX),
        Json(&set.rule) as _,
        set.layout_blake3,
        set.created_at,
    )
    .execute(&mut *conn)
    .await?;
    let members: Vec<Uuid> = set.members.iter().map(|member| member.checkpoint_id.0).collect();
    sqlx::query!(
        "insert into candidate_set_members (candidate_set_id, position, checkpoint_id)
         select $1, position - 1, checkpoint_id
         from unnest($2::uuid[]) with ordinality as members (checkpoint_id, position)",
        set.candidate_set_id.0,
        &members,
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// The set of this id, with its members in order.
pub async fn find_candidate_set(conn: &mut PgConnection, id: CandidateSetId) -> DbResult<Option<CandidateSet>> {
    let row = sqlx::query_as!(
        SetRow,
        r#"select candidate_set_id, run_id, other_run_ids, name, version, rule as "rule: _", layout_blake3, created_at
           from candidate_sets where candidate_set_id = $1 and deleted_at is null"#,
        id.0,
    )
    .fetch_optional(&mut *conn)
    .await?;
    match row {
        Some(row) => Ok(with_members(conn, vec![row]).await?.pop()),
        None => Ok(None),
    }
}

/// Those of these sets that are there, with their members in order.
pub async fn list_by_id(conn: &mut PgConnection, ids: &[CandidateSetId]) -> DbResult<Vec<CandidateSet>> {
    let ids: Vec<Uuid> = ids.iter().map(|id| id.0).collect();
    let rows = sqlx::query_as!(
        SetRow,
        r#"select candidate_set_id, run_id, other_run_ids, name, version, rule as "rule: _", layout_blake3, created_at
           from candidate_sets where candidate_set_id = any($1) and deleted_at is null"#,
        &ids,
    )
    .fetch_all(&mut *conn)
    .await?;
    with_members(conn, rows).await
}

/// The highest version that a name has had in a run, those of deleted sets included; 0 for a new name.
pub async fn find_last_version(conn: &mut PgConnection, run_id: RunId, name: &str) -> DbResult<u32> {
    let last = sqlx::query_scalar!(
        r#"select coalesce(max(version), 0) as "version!" from candidate_sets where run_id = $1 and name = $2"#,
        run_id.0,
        name,
    )
    .fetch_one(conn)
    .await?;
    Ok(last.unsigned_abs())
}

/// Rows of a page of a run's sets, newest first; with a name, those of that name.
pub async fn list_candidate_sets(
    conn: &mut PgConnection,
    run_id: RunId,
    name: Option<&str>,
    page: PageRequest,
) -> DbResult<Vec<CandidateSet>> {
    let rows = sqlx::query_as!(
        SetRow,
        r#"select candidate_set_id, run_id, other_run_ids, name, version, rule as "rule: _", layout_blake3, created_at
           from candidate_sets
           where run_id = $1 and candidate_set_id < $2 and deleted_at is null and ($4::text is null or name = $4)
           order by candidate_set_id desc limit $3"#,
        run_id.0,
        page.before.unwrap_or(Uuid::max()),
        page.limit(),
        name,
    )
    .fetch_all(&mut *conn)
    .await?;
    with_members(conn, rows).await
}

async fn with_members(conn: &mut PgConnection, sets: Vec<SetRow>) -> DbResult<Vec<CandidateSet>> {
    let ids: Vec<Uuid> = sets.iter().map(|set| set.candidate_set_id).collect();
    let rows = sqlx::query_as!(
        MemberRow,
        r#"select candidate_set_id, checkpoint_id, run_id, step, coalesce(files_bytes, size_bytes) as "size_bytes!",
             digest_blake3, layout_blake3
         from candidate_set_members join checkpoints using (checkpoint_id) join blobs using (digest_blake3)
         where candidate_set_id = any($1) order by candidate_set_id, position"#,
        &ids,
    )
    .fetch_all(conn)
    .await?;
    let mut members = std::collections::HashMap::<Uuid, Vec<Candidate>>::new();
    for row in rows {
        members.entry(row.candidate_set_id).or_default().push(row.try_into()?);
    }
    Ok(sets
        .into_iter()
        .map(|set| {
            let own = members.remove(&set.candidate_set_id).unwrap_or_default();
            set.with(own)
        })
        .collect())
}
