-- Artifacts whose bytes were dropped, and what it takes to make them again.

-- How a merge of the candidates makes the file again, as its worker told it; null where none does, or where it did not say.
alter table artifacts add column merge_plan jsonb;
-- Drops its bytes then, unless an alias names it.
alter table artifacts add column drops_at timestamptz;
alter table artifacts add column dropped_at timestamptz;
-- The tensors that no merge brings back, as a file; null where there are none.
alter table artifacts add column kept_blake3 text references blobs;
alter table artifacts add constraint artifacts_kept_when_dropped check (dropped_at is not null or kept_blake3 is null);
-- The bytes that it has: `digest_blake3` says what they are or were, also while they are dropped.
alter table artifacts add column blob_blake3 text
    generated always as (case when dropped_at is null then digest_blake3 end) stored
    constraint artifacts_blob_blake3_fkey references blobs;
alter table artifacts drop constraint artifacts_digest_blake3_fkey;

-- Whether a blob is still needed.
create index artifacts_blob_blake3_idx on artifacts (blob_blake3);
create index artifacts_kept_blake3_idx on artifacts (kept_blake3) where kept_blake3 is not null;
create index artifacts_drops_at_idx on artifacts (drops_at)
    where drops_at is not null and dropped_at is null and deleted_at is null;
-- Pages, newest first.
create index artifacts_run_id_idx on artifacts (run_id, artifact_id desc);
