-- Names, times and ids come from the application, so that tests can set them: no column has a clock for a default.

create table runs (
    run_id uuid primary key,
    name text not null constraint runs_name_key unique,
    description text,
    metadata jsonb not null,
    created_at timestamptz not null
);

-- Bytes in object storage, named by their digest, so that equal files are stored once.
create table blobs (
    digest_blake3 text primary key,
    size_bytes bigint not null check (size_bytes >= 0),
    object_key text not null unique,
    created_at timestamptz not null
);

-- Written before the first byte goes to the store and removed with the commit that makes the bytes visible.
-- A server that dies in between leaves this row, by which the reaper finds the object.
create table uploads (
    upload_id uuid primary key,
    object_key text not null unique,
    created_at timestamptz not null,
    -- Moves on while bytes flow; an upload that is silent for too long is removed.
    renewed_at timestamptz not null,
    -- Set by the reaper before it deletes the object, so that a slow upload cannot be committed behind its back.
    abandoned_at timestamptz
);

create index uploads_renewed_at_idx on uploads (renewed_at);

-- Names, dtypes and shapes of tensors, once for all checkpoints that share them.
create table layouts (
    layout_blake3 text primary key,
    tensors jsonb not null,
    created_at timestamptz not null
);

create table checkpoints (
    checkpoint_id uuid primary key,
    run_id uuid not null references runs,
    step bigint not null check (step >= 0),
    epoch double precision,
    metrics jsonb not null,
    tags text[] not null,
    digest_blake3 text not null references blobs,
    layout_blake3 text not null references layouts,
    created_at timestamptz not null,
    constraint checkpoints_run_id_step_key unique (run_id, step)
);

-- Pages of a run's checkpoints, newest first.
create index checkpoints_run_id_checkpoint_id_idx on checkpoints (run_id, checkpoint_id desc);

create table candidate_sets (
    candidate_set_id uuid primary key,
    run_id uuid not null references runs,
    name text,
    rule jsonb not null,
    layout_blake3 text not null references layouts,
    created_at timestamptz not null
);

create index candidate_sets_run_id_idx on candidate_sets (run_id, candidate_set_id desc);

create table candidate_set_members (
    candidate_set_id uuid not null references candidate_sets,
    -- 0 for the first; the order of the coefficients.
    position integer not null check (position >= 0),
    checkpoint_id uuid not null references checkpoints,
    primary key (candidate_set_id, position),
    unique (candidate_set_id, checkpoint_id)
);

create table datasets (
    dataset_id uuid primary key,
    name text not null constraint datasets_name_key unique,
    sample_count bigint not null check (sample_count > 0),
    input_shape bigint[] not null,
    input_dtype text not null,
    normalisation jsonb not null,
    digest_blake3 text not null references blobs,
    created_at timestamptz not null
);

-- Replies to creating requests, written with what they created: the same request again gets the same reply.
create table idempotency_keys (
    idempotency_key text not null,
    -- Method and path: one key may serve several operations.
    operation text not null,
    request_blake3 text not null,
    -- Null only inside the transaction that is at work on the request.
    response_status smallint,
    response_location text,
    -- Text rather than jsonb: the reply is repeated byte for byte.
    response_body text,
    created_at timestamptz not null,
    primary key (operation, idempotency_key)
);

create index idempotency_keys_created_at_idx on idempotency_keys (created_at);
