//! A database as months of training leave it, written past the server: a million pushes would take an hour.

use anyhow::Result;
use sqlx::{AssertSqlSafe, Connection, PgConnection};

/// Runs there are.
pub const RUNS: u32 = 2_000;
/// The run that is larger than all others, as a part of all checkpoints.
const LARGEST: f64 = 0.1;

/// Name of a run; number 0 is the largest.
pub fn run_name(number: u32) -> String {
    format!("run-{number:04}")
}

/// Writes runs with so many checkpoints in all, each with three metrics and a tag.
pub async fn fill(database_url: &str, checkpoints: u32) -> Result<()> {
    let mut conn = PgConnection::connect(database_url).await?;
    let largest = (f64::from(checkpoints) * LARGEST) as u32;
    let each = (checkpoints - largest) / (RUNS - 1);
    let statements = [
        format!(
            "insert into runs (run_id, name, metadata, created_at)
             select gen_random_uuid(), 'run-' || lpad(number::text, 4, '0'), '{{}}', now() - number * interval '1 hour'
             from generate_series(0, {RUNS} - 1) as number"
        ),
        // A million events of pushes that nobody made: left out.
        "alter table checkpoints disable trigger checkpoints_record_events".to_owned(),
        "insert into layouts (layout_blake3, tensors, created_at)
         values (repeat('a', 64), '[{\"name\": \"weight\", \"dtype\": \"F32\", \"shape\": [1000]}]', now())"
            .to_owned(),
        format!(
            "create temporary table pushes as
             select name, step, md5(name || step) || md5(step || name) as digest
             from runs, lateral generate_series(1, case name when 'run-0000' then {largest} else {each} end) as step"
        ),
        "insert into blobs (digest_blake3, size_bytes, object_key, created_at)
         select digest, 4096, 'blobs/' || digest, now() from pushes"
            .to_owned(),
        "insert into checkpoints (checkpoint_id, run_id, step, epoch, metrics, tags, digest_blake3, layout_blake3, created_at)
         select gen_random_uuid(), run_id, step * 100, step,
             jsonb_build_object('val_loss', random(), 'train_loss', random(), 'accuracy', random()),
             array['part-' || step % 10], digest, repeat('a', 64), now() - (1000000 - step) * interval '1 minute'
         from pushes join runs using (name)"
            .to_owned(),
        "alter table checkpoints enable trigger checkpoints_record_events".to_owned(),
        "analyze".to_owned(),
    ];
    for statement in statements {
        sqlx::raw_sql(AssertSqlSafe(statement)).execute(&mut conn).await?;
    }
    conn.close().await?;
    Ok(())
}
