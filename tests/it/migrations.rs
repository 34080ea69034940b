//! A server and the state of its database.

use barycenter::db::migrations::{MIGRATOR, list_pending, run};
use sqlx::PgPool;

#[sqlx::test(migrations = false)]
async fn pending_migrations_are_named_until_they_are_applied(pool: PgPool) {
    let mut conn = pool.acquire().await.unwrap();
    let pending = list_pending(&mut conn).await.unwrap();
    assert_eq!(pending.len(), MIGRATOR.iter().count());
    assert_eq!(pending[0], "0001 runs and uploads");
    run(&pool).await.unwrap();
    assert_eq!(list_pending(&mut conn).await.unwrap(), Vec::<String>::new());
}

#[sqlx::test]
async fn a_database_that_lacks_one_migration_says_which(pool: PgPool) {
    sqlx::query("delete from _sqlx_migrations where version = 1").execute(&pool).await.unwrap();
    let pending = list_pending(&mut *pool.acquire().await.unwrap()).await.unwrap();
    assert_eq!(pending, ["0001 runs and uploads"]);
}
