-- Tracking: runs and checkpoints that are edited, pinned, found by what was reported, named by aliases; versions of
-- candidate sets; deletion that can be undone.

-- What `If-Match` compares: moves on with every edit of the description or the metadata.
alter table runs add column revision bigint not null default 1;
-- Counted by triggers: a page of runs must not count a million checkpoints.
alter table runs add column checkpoint_count bigint not null default 0;
alter table runs add column deleted_at timestamptz;
-- A name is free again once its run is deleted.
alter table runs drop constraint runs_name_key;
create unique index runs_name_key on runs (name) where deleted_at is null;

alter table checkpoints add column pinned_at timestamptz;
alter table checkpoints add column deleted_at timestamptz;
-- A step is free again once its checkpoint is deleted. Walked for pages in order of step.
alter table checkpoints drop constraint checkpoints_run_id_step_key;
create unique index checkpoints_run_id_step_key on checkpoints (run_id, step) where deleted_at is null;
-- Pages in order of time, newest first unless told.
create index checkpoints_run_id_created_at_idx on checkpoints (run_id, created_at, checkpoint_id) where deleted_at is null;
-- What a collection looks at.
create index checkpoints_deleted_at_idx on checkpoints (deleted_at) where deleted_at is not null;
-- Whether a blob is still needed.
create index checkpoints_digest_blake3_idx on checkpoints (digest_blake3);
create index datasets_digest_blake3_idx on datasets (digest_blake3);
create index history_chunks_digest_blake3_idx on history_chunks (digest_blake3);

update runs set checkpoint_count = (select count(*) from checkpoints where checkpoints.run_id = runs.run_id);

-- The layout of a large model is a long text; lists show only how many tensors it has.
alter table layouts add column tensor_count integer not null generated always as (jsonb_array_length(tensors)) stored;

-- The metrics of checkpoints once more, in the order of their values: what sorting and best-k walk. Kept by triggers, so that
-- no statement can forget it; `checkpoints.metrics` is what is shown.
create table checkpoint_metrics (
    checkpoint_id uuid not null references checkpoints on delete cascade,
    name text not null,
    value double precision not null,
    run_id uuid not null,
    step bigint not null,
    primary key (checkpoint_id, name)
);
create index checkpoint_metrics_by_value on checkpoint_metrics (run_id, name, value, step) include (checkpoint_id);

insert into checkpoint_metrics (checkpoint_id, name, value, run_id, step)
select checkpoint_id, metric.key, metric.value::double precision, run_id, step
from checkpoints, jsonb_each_text(metrics) as metric;

create function checkpoints_inserted() returns trigger language plpgsql as $$
begin
    insert into checkpoint_metrics (checkpoint_id, name, value, run_id, step)
    select checkpoint_id, metric.key, metric.value::double precision, run_id, step
    from inserted, jsonb_each_text(metrics) as metric;
    update runs set checkpoint_count = checkpoint_count + added.n
    from (select run_id, count(*) as n from inserted where deleted_at is null group by run_id) as added
    where runs.run_id = added.run_id;
    return null;
end
$$;
create trigger checkpoints_inserted after insert on checkpoints
    referencing new table as inserted for each statement execute function checkpoints_inserted();

create function checkpoint_metrics_changed() returns trigger language plpgsql as $$
begin
    delete from checkpoint_metrics where checkpoint_id = new.checkpoint_id;
    insert into checkpoint_metrics (checkpoint_id, name, value, run_id, step)
    select new.checkpoint_id, metric.key, metric.value::double precision, new.run_id, new.step
    from jsonb_each_text(new.metrics) as metric;
    return null;
end
$$;
create trigger checkpoint_metrics_changed after update of metrics on checkpoints
    for each row when (old.metrics is distinct from new.metrics) execute function checkpoint_metrics_changed();

create function checkpoints_updated() returns trigger language plpgsql as $$
begin
    update runs set checkpoint_count = checkpoint_count + moved.n
    from (
        select run_id, sum((new_rows.deleted_at is null)::integer - (old_rows.deleted_at is null)::integer) as n
        from new_rows join old_rows using (checkpoint_id, run_id) group by run_id
    ) as moved
    where runs.run_id = moved.run_id and moved.n <> 0;
    return null;
end
$$;
create trigger checkpoints_updated after update on checkpoints
    referencing old table as old_rows new table as new_rows for each statement execute function checkpoints_updated();

-- Names of a run for one of its checkpoints or artifacts; `latest` is no row, it is the highest step.
create table run_aliases (
    run_id uuid not null references runs on delete cascade,
    alias text not null,
    checkpoint_id uuid references checkpoints,
    artifact_id uuid references artifacts,
    -- What `If-Match` compares: a new one with every move.
    revision_id uuid not null,
    moved_at timestamptz not null,
    primary key (run_id, alias),
    constraint run_aliases_one_target check ((checkpoint_id is null) <> (artifact_id is null))
);
create index run_aliases_checkpoint_id_idx on run_aliases (checkpoint_id) where checkpoint_id is not null;
create index run_aliases_artifact_id_idx on run_aliases (artifact_id) where artifact_id is not null;

-- A name is a line of versions: the same name again makes the next one.
alter table candidate_sets add column version integer not null default 1 check (version >= 1);
-- Further runs that the rule chose from; their checkpoints share the layout.
alter table candidate_sets add column other_run_ids uuid[] not null default '{}';
alter table candidate_sets add column deleted_at timestamptz;
update candidate_sets set version = numbered.version
from (
    select candidate_set_id, row_number() over (partition by run_id, name order by candidate_set_id) as version
    from candidate_sets where name is not null
) as numbered
where candidate_sets.candidate_set_id = numbered.candidate_set_id;
create unique index candidate_sets_run_id_name_version_key on candidate_sets (run_id, name, version);
create index candidate_sets_deleted_at_idx on candidate_sets (deleted_at) where deleted_at is not null;
create index candidate_set_members_checkpoint_id_idx on candidate_set_members (checkpoint_id);

-- Deletion comes in two steps: `deleted_at` hides a thing and can be undone; a collection later removes the row, and then the
-- bytes that nothing else needs.
alter table jobs add column deleted_at timestamptz;
create index jobs_deleted_at_idx on jobs (deleted_at) where deleted_at is not null;
create index jobs_base_checkpoint_idx on jobs (((spec #>> '{lora,base_checkpoint_id}')::uuid))
    where spec #>> '{lora,base_checkpoint_id}' is not null;
alter table artifacts add column deleted_at timestamptz;
-- Deletes itself then, unless an alias names it.
alter table artifacts add column expires_at timestamptz;
create index artifacts_deleted_at_idx on artifacts (deleted_at) where deleted_at is not null;
create index artifacts_expires_at_idx on artifacts (expires_at) where expires_at is not null and deleted_at is null;
create index runs_deleted_at_idx on runs (deleted_at) where deleted_at is not null;

-- Whether the object lies where somebody else keeps it, so that it is never deleted and no byte of it is ever freed.
alter table blobs add column registered boolean not null generated always as (object_key like '%://%') stored;

-- Objects whose blob is gone, until the store has deleted them: a collection that dies in between is taken up by the next.
create table freed_objects (
    object_key text primary key,
    size_bytes bigint not null check (size_bytes >= 0),
    freed_at timestamptz not null
);

-- Which checkpoints of a run are kept; null keeps all.
alter table runs add column retention jsonb;
create index runs_with_retention_idx on runs (run_id) where retention is not null and deleted_at is null;
