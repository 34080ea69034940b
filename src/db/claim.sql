-- Parameters: $1 now; $2 attempts that may fail; $3 lease; $4 its expiry; $5 pauses after a lapse, in seconds, by the failures
-- before; $6 to $8, $20 the worker: id, name, version, device; $9 to $12 what it can do: kind of device, memory, networks,
-- projections (of a job's own, or of the one that it extends); $13 projects left out; $14 places looked at for projections; $15 projections that idle workers hold; $16 jobs
-- submitted later are left to these; $17 jobs submitted earlier are not passed over; $18, $19 cause of a lost attempt.
with lapsed as (
    select job_id, lease_id as dead_lease_id
    from jobs
    where state = 'running'
      and lease_expires_at + make_interval(secs => ($5::float8[])[failure_count + 1]) <= $1
      and not cancel_requested
      and failure_count + 1 < $2
      and (deadline_at is null or deadline_at > $1)
      and (device_kind is null or device_kind = $9)
      and ($10::bigint is null or memory_bytes <= $10)
      and (cardinality($11::text[]) = 0 or network = any($11))
    order by created_at, job_id
    limit 1
    for update skip locked
), nearest as (
    -- Looked at, not locked: other claims go on with all but the one that is taken.
    select job_id, projection_key, extended_projection_key, priority, turn, created_at
    from jobs
    where state = 'queued'
      and cardinality($12::text[]) > 0
      and (not_before is null or not_before <= $1)
      and (deadline_at is null or deadline_at > $1)
      and (device_kind is null or device_kind = $9)
      and ($10::bigint is null or memory_bytes <= $10)
      and (cardinality($11::text[]) = 0 or network = any($11))
      and project <> all($13::text[])
    order by priority desc, turn, job_id
    limit $14
), at_hand as (
    select job_id, null::uuid as dead_lease_id
    from jobs
    where state = 'queued'
      and not exists (select from lapsed)
      and job_id = (
          select job_id
          from nearest
          where (projection_key = any($12) or extended_projection_key = any($12))
            and priority = (select max(priority) from nearest)
            and (select min(created_at) from nearest) > $17
          order by turn, job_id
          limit 1
      )
    for update skip locked
), front as (
    select job_id, null::uuid as dead_lease_id
    from jobs
    where state = 'queued'
      and not exists (select from lapsed)
      and not exists (select from at_hand)
      and (not_before is null or not_before <= $1)
      and (deadline_at is null or deadline_at > $1)
      and (device_kind is null or device_kind = $9)
      and ($10::bigint is null or memory_bytes <= $10)
      and (cardinality($11::text[]) = 0 or network = any($11))
      and project <> all($13::text[])
      -- A worker that is idle and holds the projection is about to ask, too.
      and (
          created_at <= $16
          or (
              (projection_key is null or projection_key <> all($15::text[]))
              and (extended_projection_key is null or extended_projection_key <> all($15::text[]))
          )
      )
    order by priority desc, turn, job_id
    limit 1
    for update skip locked
), candidate as (
    select * from lapsed union all select * from at_hand union all select * from front
), closed as (
    -- Runs before `opened` sees the table: both write disjoint rows of one snapshot.
    update attempts
    set state = 'expired', error_code = $18, error_message = $19, finished_at = $1
    from candidate
    where attempts.lease_id = candidate.dead_lease_id and attempts.state = 'running'
    returning attempts.lease_id
), leased as (
    update jobs
    set state = 'running',
        lease_id = $3,
        lease_expires_at = $4,
        attempt_count = jobs.attempt_count + 1,
        failure_count = jobs.failure_count + (candidate.dead_lease_id is not null)::integer,
        not_before = null,
        started_at = coalesce(jobs.started_at, $1),
        changed_at = $1,
        progress = null
    from candidate
    where jobs.job_id = candidate.job_id
    returning jobs.job_id, jobs.attempt_count, jobs.project, jobs.projection_key
), opened as (
    insert into attempts
        (job_id, attempt, lease_id, worker_id, worker_name, worker_version, worker_device, state, started_at)
    select job_id, attempt_count, $3, $6, $7, $8, $20, 'running', $1
    from leased
    -- Reading `closed` makes it run first, so that `attempts_running` never sees two.
    where (select count(*) from closed) >= 0
)
select
    leased.job_id as "job_id!",
    leased.attempt_count as "attempt!",
    leased.project as "project!",
    leased.projection_key,
    exists (select 1 from closed) as "took_over!"
from leased
