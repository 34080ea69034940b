-- Checkpoints of several files: shards with their index, and files such as configuration and tokeniser beside them.

-- Of a checkpoint of several files `digest_blake3` is that of the list of its files, a small blob of its own with name, digest and
-- size of each; what they have in all stands here. Null where the checkpoint is one file, the blob itself.
alter table checkpoints add column file_count integer check (file_count > 0);
alter table checkpoints add column files_bytes bigint check (files_bytes >= 0);
alter table checkpoints add constraint checkpoints_files check ((file_count is null) = (files_bytes is null));

create table checkpoint_files (
    checkpoint_id uuid not null references checkpoints,
    name text not null,
    digest_blake3 text not null references blobs,
    primary key (checkpoint_id, name)
);
-- Whether a blob is still needed.
create index checkpoint_files_digest_blake3_idx on checkpoint_files (digest_blake3);

-- What was learnt of safetensors files while they came in, so that nobody has to read them again: it goes with its blob.
create table tensor_files (
    digest_blake3 text primary key references blobs on delete cascade,
    layout_blake3 text not null references layouts,
    -- BLAKE3 digests of the tensors' bytes, 32 bytes each, in the order of the layout; null until somebody has looked.
    tensor_digests bytea check (octet_length(tensor_digests) % 32 = 0)
);
insert into tensor_files (digest_blake3, layout_blake3)
select distinct on (digest_blake3) digest_blake3, layout_blake3 from checkpoints order by digest_blake3;

-- Files that have come for checkpoints of a run that are still to be created. They hold their blobs until then, or until
-- nobody has asked for them for too long.
create table staged_files (
    run_id uuid not null references runs,
    digest_blake3 text not null references blobs,
    staged_at timestamptz not null,
    primary key (run_id, digest_blake3)
);
create index staged_files_digest_blake3_idx on staged_files (digest_blake3);
create index staged_files_staged_at_idx on staged_files (staged_at);

-- An upload in parts may be for such a file. What it became is found by run and digest: its outcome is the run.
alter table multipart_uploads drop constraint multipart_uploads_kind_check;
alter table multipart_uploads add constraint multipart_uploads_kind_check check (kind in ('checkpoint', 'dataset', 'file'));
alter table multipart_uploads drop constraint multipart_uploads_target;
alter table multipart_uploads add constraint multipart_uploads_target check (
    kind = 'checkpoint' and run_id is not null and step is not null and dataset_name is null
    or kind = 'dataset' and run_id is null and step is null and dataset_name is not null
    or kind = 'file' and run_id is not null and step is null and dataset_name is null
);
create unique index multipart_uploads_open_file on multipart_uploads (run_id, digest_blake3)
    where completed_at is null and kind = 'file';
