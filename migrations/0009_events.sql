-- Events: what happened to jobs, checkpoints, candidate sets and aliases, in one order that readers can resume from; and the
-- log lines of jobs.

-- Written by triggers, so that no statement can forget one and each is there if and only if what it tells of is. Kinds are
-- those of `src/domain/event.rs`. No reference to what it tells of: an event outlives that.
create table events (
    entry bigint generated always as identity primary key,
    -- Given after the commit, by one transaction at a time: ids become visible in their order, so a reader that has seen one
    -- has missed none before it. Null until then.
    event_id bigint constraint events_event_id_key unique,
    kind text not null,
    project text not null,
    run_id uuid not null,
    job_id uuid,
    detail jsonb not null,
    occurred_at timestamptz not null
);
-- Not `max(event_id) + 1`: the last event may have been removed.
create sequence event_ids;
create index events_without_id on events (entry) where event_id is null;
create index events_of_project on events (project, event_id);
create index events_of_run on events (run_id, event_id);
create index events_of_job on events (job_id, event_id) where job_id is not null;
create index events_occurred_at_idx on events (occurred_at);

create function jobs_record_event() returns trigger language plpgsql as $$
declare
    kind text;
begin
    if tg_op = 'INSERT' then
        kind := 'job.queued';
    elsif new.state is distinct from old.state or new.lease_id is distinct from old.lease_id then
        kind := case new.state
            when 'running' then 'job.started'
            when 'queued' then 'job.requeued'
            else 'job.' || new.state
        end;
    elsif new.cancel_requested and not old.cancel_requested then
        kind := 'job.cancel_requested';
    else
        kind := 'job.phase';
    end if;
    insert into events (kind, project, run_id, job_id, detail, occurred_at)
    values (
        kind, new.project, new.run_id, new.job_id,
        jsonb_strip_nulls(jsonb_build_object(
            'state', new.state,
            'candidate_set_id', new.candidate_set_id,
            'attempt', nullif(new.attempt_count, 0),
            'phase', case when kind = 'job.phase' then new.progress -> 'phase' end,
            'not_before', new.not_before,
            'error_code', coalesce(new.error_code, (
                select error_code from attempts
                where kind = 'job.requeued' and attempts.job_id = new.job_id and attempts.attempt = new.attempt_count
            )),
            'error_message', new.error_message,
            'artifact_id', (
                select artifact_id from artifacts where kind = 'job.succeeded' and artifacts.job_id = new.job_id
            )
        )),
        coalesce(new.changed_at, new.created_at)
    );
    return null;
end
$$;
create trigger jobs_record_insert after insert on jobs for each row execute function jobs_record_event();
-- A heartbeat within a phase stays silent.
create trigger jobs_record_change after update on jobs for each row
    when (
        old.state is distinct from new.state
        or old.lease_id is distinct from new.lease_id
        or new.cancel_requested and not old.cancel_requested
        or new.progress is not null and old.progress ->> 'phase' is distinct from new.progress ->> 'phase'
    )
    execute function jobs_record_event();

create function checkpoints_record_events() returns trigger language plpgsql as $$
begin
    insert into events (kind, project, run_id, detail, occurred_at)
    select 'checkpoint.pushed', runs.project, run_id,
        jsonb_build_object('checkpoint_id', checkpoint_id, 'step', step, 'metrics', inserted.metrics), inserted.created_at
    from inserted
    join runs using (run_id);
    return null;
end
$$;
create trigger checkpoints_record_events after insert on checkpoints
    referencing new table as inserted for each statement execute function checkpoints_record_events();

create function candidate_sets_record_event() returns trigger language plpgsql as $$
begin
    insert into events (kind, project, run_id, detail, occurred_at)
    select 'candidate_set.created', project, run_id,
        jsonb_strip_nulls(jsonb_build_object('candidate_set_id', new.candidate_set_id, 'name', new.name)), new.created_at
    from runs
    where run_id = new.run_id;
    return null;
end
$$;
create trigger candidate_sets_record_event after insert on candidate_sets
    for each row execute function candidate_sets_record_event();

create function run_aliases_record_event() returns trigger language plpgsql as $$
begin
    insert into events (kind, project, run_id, detail, occurred_at)
    select 'alias.moved', project, run_id,
        jsonb_strip_nulls(jsonb_build_object(
            'alias', new.alias, 'checkpoint_id', new.checkpoint_id, 'artifact_id', new.artifact_id
        )),
        new.moved_at
    from runs
    where run_id = new.run_id;
    return null;
end
$$;
create trigger run_aliases_record_event after insert or update of checkpoint_id, artifact_id on run_aliases
    for each row execute function run_aliases_record_event();

-- What the workers of a job said, the newest few thousand lines.
create table job_log_lines (
    job_id uuid not null references jobs on delete cascade,
    attempt integer not null,
    -- The worker's own count within its attempt, from 1: a heartbeat that is sent again stores nothing twice.
    number bigint not null check (number >= 1),
    -- By the server's clock.
    logged_at timestamptz not null,
    level text not null check (level in ('info', 'warn', 'error')),
    message text not null,
    primary key (job_id, attempt, number)
);
