-- What a dataset's samples are judged by: `labels`, `targets` (so many numbers a sample) or `tokens`.
-- The datasets of earlier releases have labels.

alter table datasets add column kind text not null default 'labels';
alter table datasets add column target_count bigint;
alter table datasets add constraint datasets_kind_check check (
    kind in ('labels', 'tokens') and target_count is null
    or kind = 'targets' and target_count is not null and target_count > 0
);
