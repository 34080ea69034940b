//! The embedded migrations.

use sqlx::{PgConnection, PgPool, migrate::Migrator};

use super::DbResult;

/// Every migration, embedded in the binary.
pub static MIGRATOR: Migrator = sqlx::migrate!("./migrations");

/// Applies every pending migration.
pub async fn run(pool: &PgPool) -> Result<(), sqlx::migrate::MigrateError> {
    MIGRATOR.run(pool).await
}

/// Versions and names of the migrations that the database lacks, oldest first.
pub async fn list_pending(conn: &mut PgConnection) -> DbResult<Vec<String>> {
    // The table is the migrator's own: absent from a database that has never been migrated, so no checked macro.
    let known: bool =
        sqlx::query_scalar("select to_regclass('_sqlx_migrations') is not null").fetch_one(&mut *conn).await?;
    let applied: Vec<i64> = if known {
        sqlx::query_scalar("select version from _sqlx_migrations where success").fetch_all(&mut *conn).await?
    } else {
        Vec::new()
    };
    let pending = MIGRATOR.iter().filter(|migration| !applied.contains(&migration.version));
    Ok(pending.map(|migration| format!("{:04} {}", migration.version, migration.description)).collect())
}
