-- Jobs, their attempts, what a fit saved, its history and what it made.

create table jobs (
    job_id uuid primary key,
    run_id uuid not null references runs,
    candidate_set_id uuid not null references candidate_sets,
    state text not null check (state in ('queued', 'running', 'succeeded', 'failed', 'cancelled')),
    cancel_requested boolean not null default false,
    -- The spec with every default filled in, so that a later change of a default never changes an old job.
    spec jsonb not null,
    estimate jsonb not null,
    progress jsonb,
    report jsonb,
    error_code text,
    error_message text,
    attempt_count integer not null default 0 check (attempt_count >= 0),
    -- The lease of the attempt that speaks for the job; null unless running. It is the fencing token: every write of a
    -- worker names it, so a worker whose job was taken over changes nothing.
    lease_id uuid unique,
    lease_expires_at timestamptz,
    created_at timestamptz not null,
    started_at timestamptz,
    finished_at timestamptz,
    constraint jobs_lease_while_running check (
        (state = 'running') = (lease_id is not null) and (lease_id is null) = (lease_expires_at is null)
    ),
    constraint jobs_finished_when_terminal check (
        (state in ('succeeded', 'failed', 'cancelled')) = (finished_at is not null)
    ),
    constraint jobs_error_when_failed check ((state = 'failed') = (error_code is not null))
);

-- The queue: a claim walks it from the oldest job and passes over the few that hold a live lease. `lease_expires_at`
-- is left out so that a heartbeat, by far the most frequent write, touches no index.
create index jobs_claimable on jobs (created_at, job_id) where state in ('queued', 'running');
-- Pages of jobs, newest first: ids are UUIDv7.
create index jobs_of_run on jobs (run_id, job_id desc);
create index jobs_in_state on jobs (state, job_id desc);
create index jobs_of_candidate_set on jobs (candidate_set_id);

-- The datasets that a spec names, pinned at submission: a name means the same bytes in every attempt.
create table job_datasets (
    job_id uuid not null references jobs on delete cascade,
    named text not null,
    dataset_id uuid not null references datasets,
    primary key (job_id, named)
);
create index job_datasets_of_dataset on job_datasets (dataset_id);

create table attempts (
    job_id uuid not null references jobs on delete cascade,
    attempt integer not null check (attempt >= 1),
    lease_id uuid not null unique,
    worker_name text not null,
    worker_version text not null,
    worker_device text not null,
    state text not null check (state in ('running', 'succeeded', 'failed', 'cancelled', 'expired')),
    error_code text,
    error_message text,
    started_at timestamptz not null,
    finished_at timestamptz,
    primary key (job_id, attempt),
    constraint attempts_finished_when_ended check ((state = 'running') = (finished_at is null))
);
-- At most one attempt of a job runs, whatever the program does.
create unique index attempts_running on attempts (job_id) where state = 'running';

-- The last state a fit saved: a few kilobytes, replaced at every heartbeat that carries one.
create table fit_states (
    job_id uuid primary key references jobs on delete cascade,
    attempt integer not null,
    state bytea not null,
    saved_at timestamptz not null
);

-- Names of the blocks of a job's coefficients, the columns of every table of it.
create table job_blocks (
    job_id uuid primary key references jobs on delete cascade,
    names text[] not null
);

-- Coefficient vectors of the snapshots of one heartbeat: one object of f64 values, little-endian.
create table history_chunks (
    chunk_id uuid primary key,
    job_id uuid not null references jobs on delete cascade,
    lease_id uuid not null,
    digest_blake3 text not null references blobs,
    created_at timestamptz not null
);
create index history_chunks_of_job on history_chunks (job_id);

-- The scalars of a fit, one row a snapshot; the vector lies in the chunk from `offset_bytes` on.
create table history_snapshots (
    job_id uuid not null references jobs on delete cascade,
    step bigint not null check (step >= 0),
    epoch double precision not null,
    learning_rate double precision not null,
    fit_loss double precision,
    select_loss double precision,
    chunk_id uuid not null references history_chunks on delete cascade,
    offset_bytes bigint not null check (offset_bytes >= 0),
    length_bytes bigint not null check (length_bytes >= 0),
    primary key (job_id, step)
);
create index history_snapshots_of_chunk on history_snapshots (chunk_id);

-- The coefficients a job ended with: n x L f64 values, little-endian, candidate by candidate.
create table coefficients (
    job_id uuid primary key references jobs on delete cascade,
    candidate_count integer not null check (candidate_count > 0),
    block_count integer not null check (block_count > 0),
    values_f64 bytea not null,
    constraint coefficients_size check (
        octet_length(values_f64) = 8::bigint * candidate_count * block_count
    )
);

-- The file that a lease has uploaded and not yet published. It stays a pending upload, seen by nobody, until `finish`
-- makes it a blob; heartbeats keep it alive, and the reaper removes it when its worker has died.
create table artifact_uploads (
    lease_id uuid primary key references attempts (lease_id) on delete cascade,
    upload_id uuid not null unique references uploads on delete cascade,
    digest_blake3 text not null,
    size_bytes bigint not null check (size_bytes > 0),
    stored_at timestamptz not null
);

create table artifacts (
    artifact_id uuid primary key,
    job_id uuid not null unique references jobs,
    run_id uuid not null references runs,
    lease_id uuid not null unique,
    digest_blake3 text not null references blobs,
    size_bytes bigint not null check (size_bytes > 0),
    worker_version text not null,
    created_at timestamptz not null
);
create index artifacts_of_blob on artifacts (digest_blake3);

-- Whoever waits for a job to end, or for one to claim, is woken by its change of state; a trigger, so that no statement
-- can forget it. A heartbeat changes no state and stays silent. Waiters also look once a second, so a lost
-- notification costs a second and nothing else.
create function notify_job_changed() returns trigger language plpgsql as $$
begin
    perform pg_notify('barycenter_jobs', new.state || ' ' || new.job_id);
    return null;
end
$$;

create trigger jobs_notify_on_insert after insert on jobs
    for each row execute function notify_job_changed();

create trigger jobs_notify_on_change after update of state on jobs
    for each row when (old.state is distinct from new.state) execute function notify_job_changed();
