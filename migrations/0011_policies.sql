-- Policies: standing rules of runs that average again and again, and every time that one did.

create table policies (
    run_id uuid primary key references runs on delete cascade,
    -- What was set, with every default filled in: a document of `app`.
    spec jsonb not null,
    -- Out of the document: the engine finds what is due by them.
    every bigint not null check (every >= 1),
    enabled boolean not null,
    -- What `If-Match` compares: a new one with every change of what was set.
    revision_id uuid not null,
    -- Counted by a trigger in the transaction that makes a checkpoint visible, set to 0 by the one that begins a refresh: both hold
    -- the lock of the run, so each checkpoint counts for exactly one refresh.
    new_checkpoints bigint not null default 0,
    without_improvement integer not null default 0,
    target_reached_at timestamptz,
    -- Number of the refresh that later ones are compared with.
    best_number integer,
    created_at timestamptz not null
);

-- No reference to set, job and artifact: the history outlives them, as events do.
create table policy_refreshes (
    refresh_id uuid primary key,
    run_id uuid not null references runs on delete cascade,
    number integer not null check (number >= 1),
    state text not null check (state in ('running', 'improved', 'not_improved', 'failed', 'abandoned')),
    new_checkpoints bigint not null,
    candidate_set_id uuid,
    job_id uuid constraint policy_refreshes_job_id_key unique,
    started_from uuid,
    artifact_id uuid,
    chosen text,
    select_loss double precision,
    test_loss double precision,
    compared_with integer,
    difference double precision,
    interval_low double precision,
    interval_high double precision,
    moved_alias text,
    -- Whether this one reached the target, or was the one after which averaging counts as stalled.
    target_reached boolean not null default false,
    stalled boolean not null default false,
    error_code text,
    error_message text,
    started_at timestamptz not null,
    finished_at timestamptz,
    constraint policy_refreshes_run_id_number_key unique (run_id, number),
    constraint policy_refreshes_end check ((state = 'running') = (finished_at is null))
);
-- At most one of a run at a time.
create unique index policy_refreshes_running on policy_refreshes (run_id) where state = 'running';
create index policy_refreshes_of_run on policy_refreshes (run_id, refresh_id);

-- Loss of each sample of the select part under the model that a job of a policy returned, f32, little-endian: what the
-- paired interval of a difference between two refreshes is drawn from. Kept for the best refresh of a run and for what has not
-- been compared yet.
create table select_losses (
    job_id uuid primary key references jobs on delete cascade,
    losses_f32 bytea not null,
    -- What each sample weighs in the mean, u32, little-endian; null where all weigh the same.
    weights_u32 bytea
);

create function policies_count_checkpoints() returns trigger language plpgsql as $$
begin
    update policies set new_checkpoints = new_checkpoints + added.n
    from (select run_id, count(*) as n from inserted group by run_id) as added
    where policies.run_id = added.run_id;
    if found then
        -- A hint for the servers; they also look by themselves.
        perform pg_notify('barycenter_policies', '');
    end if;
    return null;
end
$$;
create trigger policies_count_checkpoints after insert on checkpoints
    referencing new table as inserted for each statement execute function policies_count_checkpoints();

create function policy_refreshes_record_events() returns trigger language plpgsql as $$
declare
    kinds text[];
begin
    kinds := case
        when new.state = 'failed' then array['policy.refresh_failed']
        when new.state in ('improved', 'not_improved') then array['policy.refreshed']
        else array[]::text[]
    end;
    if new.state = 'improved' then
        kinds := kinds || 'policy.improved'::text;
    end if;
    if new.target_reached then
        kinds := kinds || 'policy.target_reached'::text;
    end if;
    if new.stalled then
        kinds := kinds || 'policy.stalled'::text;
    end if;
    insert into events (kind, project, run_id, job_id, detail, occurred_at)
    select kind, project, new.run_id, new.job_id,
        jsonb_strip_nulls(jsonb_build_object(
            'refresh', new.number,
            'candidate_set_id', new.candidate_set_id,
            'artifact_id', new.artifact_id,
            'chosen', new.chosen,
            'select_loss', new.select_loss,
            'test_loss', new.test_loss,
            'compared_with', new.compared_with,
            'difference', new.difference,
            'interval', case when new.interval_low is not null then
                jsonb_build_array(new.interval_low, new.interval_high) end,
            'moved_alias', new.moved_alias,
            'without_improvement', (select without_improvement from policies where run_id = new.run_id),
            'error_code', new.error_code,
            'error_message', new.error_message
        )),
        new.finished_at
    from unnest(kinds) with ordinality as written (kind, place)
    cross join runs
    where runs.run_id = new.run_id
    order by place;
    return null;
end
$$;
create trigger policy_refreshes_record_failure after insert on policy_refreshes
    for each row when (new.state <> 'running') execute function policy_refreshes_record_events();
-- The end comes once: an ended refresh is never written again.
create trigger policy_refreshes_record_end after update of state on policy_refreshes
    for each row when (old.state = 'running' and new.state <> 'running') execute function policy_refreshes_record_events();
