-- Uploads in parts, which outlive connections, clients and servers.

-- The store's own name for an upload in parts; null where the bytes come in one stream. It stands here so that the
-- reaper needs no other row to give the parts back.
alter table uploads add column store_upload_id text;

create table multipart_uploads (
    -- No reference to `uploads`: that row goes when the bytes become a blob, this one stays to answer again.
    upload_id uuid primary key,
    kind text not null check (kind in ('checkpoint', 'dataset')),
    run_id uuid references runs on delete cascade,
    step bigint check (step >= 0),
    dataset_name text,
    -- What is told beside the file: epoch, metrics and tags, or the normalisation.
    beside jsonb not null,
    size_bytes bigint not null check (size_bytes > 0),
    part_size_bytes bigint not null check (part_size_bytes > 0),
    digest_blake3 text,
    -- Whether clients may have sent parts to the store by themselves: then the store is asked what it has.
    direct boolean not null default false,
    -- The header of the file, where it has arrived in one part: later parts are checked by it.
    header bytea,
    header_blake3 text,
    created_at timestamptz not null,
    -- From here on parts are not replaced: the store puts them together.
    sealed_at timestamptz,
    completed_at timestamptz,
    -- The checkpoint or dataset that it became. No reference: what was deleted since is simply not found.
    outcome_id uuid,
    constraint multipart_uploads_target check (
        kind = 'checkpoint' and run_id is not null and step is not null and dataset_name is null
        or kind = 'dataset' and run_id is null and step is null and dataset_name is not null
    ),
    constraint multipart_uploads_header check ((header is null) = (header_blake3 is null)),
    constraint multipart_uploads_outcome check ((completed_at is null) = (outcome_id is null))
);

-- One open upload for the same bytes at the same place: a client that knows nothing any more finds it by asking again.
create unique index multipart_uploads_open_checkpoint on multipart_uploads (run_id, step, digest_blake3)
    where completed_at is null and kind = 'checkpoint';
create unique index multipart_uploads_open_dataset on multipart_uploads (dataset_name, digest_blake3)
    where completed_at is null and kind = 'dataset';
-- Pages, newest first, and the reaper's search for outcomes that nobody asks for any more.
create index multipart_uploads_of_run on multipart_uploads (run_id, upload_id desc);
create index multipart_uploads_completed_at on multipart_uploads (completed_at) where completed_at is not null;

create table upload_parts (
    upload_id uuid not null references multipart_uploads on delete cascade,
    number bigint not null check (number >= 1),
    size_bytes bigint not null check (size_bytes > 0),
    -- Of the part's subtree in the BLAKE3 tree of the file; the digest itself where the file has one part. Null where the
    -- part has reached the store past the server.
    chaining_value bytea check (octet_length(chaining_value) = 32),
    -- What the store calls the part.
    store_part_id text not null,
    -- The header by which the part's numbers were looked at; null where they were not.
    scanned_header_blake3 text,
    -- First and last bytes, of which elements that the end of a part cuts are put together.
    head bytea not null,
    tail bytea not null,
    stored_at timestamptz not null,
    primary key (upload_id, number)
);
