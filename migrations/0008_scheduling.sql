-- Scheduling: projects that share the workers, workers that say what they can do, back-off, priorities, deadlines.

-- A group of runs among which workers are shared fairly. One is there as soon as a run names it.
create table projects (
    project text primary key,
    -- Jobs of it that may run at a time; null for as many as there are workers.
    max_running_jobs integer check (max_running_jobs >= 0),
    created_at timestamptz not null
);
insert into projects (project, created_at) values ('default', '2026-01-01T00:00:00Z');

alter table runs add column project text not null default 'default' references projects;

-- A worker is known by its name: the same name again is the same worker, started anew.
create table workers (
    worker_id uuid primary key,
    name text not null constraint workers_name_key unique,
    version text not null,
    device_kind text not null,
    device_name text not null,
    -- Memory that a job may take; null where the worker does not know.
    memory_bytes bigint check (memory_bytes > 0),
    -- Kinds of networks it computes; empty for all.
    networks text[] not null,
    -- Keys of the projections in its cache.
    projections text[] not null,
    state text not null check (state in ('active', 'paused', 'draining')),
    registered_at timestamptz not null,
    seen_at timestamptz not null
);
create index workers_seen_at_idx on workers (seen_at);

alter table attempts add column worker_id uuid references workers on delete set null;
-- What a worker computes now.
create index attempts_running_of_worker on attempts (worker_id) where state = 'running';
create index attempts_of_worker on attempts (worker_id) where worker_id is not null;

-- That of the run when the job was submitted.
alter table jobs add column project text not null default 'default' references projects;
-- Higher goes first.
alter table jobs add column priority integer not null default 0;
-- Place among the jobs of one priority. Each project numbers its own, beginning where the queue stands, so that projects
-- take turns however many jobs each of them submits.
alter table jobs add column turn bigint not null default 0;
-- Attempts that failed or whose worker was lost; one that was handed back does not count.
alter table jobs add column failure_count integer not null default 0 check (failure_count >= 0);
-- Back-off: nobody takes the job before.
alter table jobs add column not_before timestamptz;
alter table jobs add column deadline_at timestamptz;
-- What its projection is named in the caches of workers; null where the method needs none.
alter table jobs add column projection_key text;
-- When a state, or what is asked of the job, last changed.
alter table jobs add column changed_at timestamptz;
-- What a worker must be able to do.
alter table jobs add column memory_bytes bigint generated always as ((estimate ->> 'total_bytes')::bigint) stored;
alter table jobs add column network text generated always as (spec #>> '{network,kind}') stored;
alter table jobs add column device_kind text generated always as (spec #>> '{scheduling,device}') stored;

update jobs set failure_count = (
    select count(*) from attempts where attempts.job_id = jobs.job_id and attempts.state in ('failed', 'expired')
);

-- The queue: a claim walks it from the front and stops at the first job that the worker may take.
drop index jobs_claimable;
create index jobs_queue on jobs (priority desc, turn, job_id) where state = 'queued';
-- The last turn that a project has taken.
create index jobs_queued_of_project on jobs (project, priority, turn) where state = 'queued';
-- Few rows, however many jobs there are. `lease_expires_at` is left out so that a heartbeat, by far the most frequent
-- write, touches no index.
create index jobs_running_of_project on jobs (project) where state = 'running';
-- The next deadlines.
create index jobs_deadline on jobs (deadline_at) where state in ('queued', 'running') and deadline_at is not null;
