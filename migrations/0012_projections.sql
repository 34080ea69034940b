-- Projections that workers share, what each job's projection extends, and where workers got theirs.

-- A cache: any row may go at any time, and a worker builds what it does not find.
create table projections (
    projection_id uuid primary key,
    projection_key text not null constraint projections_projection_key_key unique,
    digest_blake3 text not null references blobs,
    size_bytes bigint not null check (size_bytes > 0),
    candidate_count integer not null check (candidate_count > 0),
    -- How often candidates came or went since it was built.
    revision_count integer not null check (revision_count >= 0),
    -- Jobs whose worker fetched it.
    hit_count bigint not null default 0,
    created_at timestamptz not null,
    -- What was used longest ago is evicted first.
    used_at timestamptz not null
);
-- Whether a blob is still needed.
create index projections_digest_blake3_idx on projections (digest_blake3);
create index projections_used_at_idx on projections (used_at);

-- The projections that a job's extends, oldest first, pinned at submission: its result depends on them and not on what a worker has at
-- hand. No reference to the set: one that is deleted ends what can be followed, and the projection is built anew.
create table projection_links (
    job_id uuid not null references jobs on delete cascade,
    position integer not null check (position >= 0),
    candidate_set_id uuid not null,
    projection_key text not null,
    primary key (job_id, position)
);

-- The projection that this job's is a revision of; a worker that holds it has the least to do.
alter table jobs add column extended_projection_key text;
-- What the projection of the candidates alone is called, where this job's extends another.
alter table jobs add column fresh_projection_key text;

-- Jobs by where the worker's projection came from.
alter table workers add column projections_built bigint not null default 0;
alter table workers add column projections_extended bigint not null default 0;
alter table workers add column projections_cached bigint not null default 0;
alter table workers add column projections_fetched bigint not null default 0;
