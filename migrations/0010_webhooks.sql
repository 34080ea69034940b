-- Webhooks: events that are sent to receivers, each tried until it is accepted or given up.

create table webhooks (
    webhook_id uuid primary key,
    url text not null,
    -- Signs what is sent, so it is kept as it is.
    secret text not null,
    -- Kinds of events; empty for all.
    kinds text[] not null,
    -- Whose events: a run's, a project's, or with neither those of every project.
    run_id uuid references runs on delete cascade,
    project text references projects,
    enabled boolean not null,
    -- Why it was disabled, where nobody asked for it.
    disabled_reason text,
    -- Events up to this one have become deliveries or do not concern the webhook.
    last_event_id bigint not null,
    -- Since when no try was accepted.
    failing_since timestamptz,
    -- The server that sends now; one request at a time. A lease that has lapsed is anyone's.
    lease_id uuid,
    lease_expires_at timestamptz,
    -- When a delivery was last taken: webhooks take turns.
    taken_at timestamptz,
    created_at timestamptz not null,
    constraint webhooks_scope check (run_id is null or project is null)
);
create index webhooks_run_id_idx on webhooks (run_id) where run_id is not null;

-- An event on its way to a webhook; its id is the `webhook-id` of every try.
create table webhook_deliveries (
    delivery_id uuid primary key,
    webhook_id uuid not null references webhooks on delete cascade,
    event_id bigint not null,
    kind text not null,
    -- The bytes that are signed and sent: every try sends the same, also when the event is no longer kept.
    body text not null,
    state text not null check (state in ('pending', 'delivered', 'failed')),
    -- Counted when a try begins, so that one whose server died counts.
    tries integer not null default 0,
    next_try_at timestamptz,
    -- What the last try that ended came to.
    tried_at timestamptz,
    status_code smallint,
    duration_ms bigint,
    error text,
    created_at timestamptz not null,
    constraint webhook_deliveries_once unique (webhook_id, event_id),
    constraint webhook_deliveries_next check ((state = 'pending') = (next_try_at is not null))
);
create index webhook_deliveries_due on webhook_deliveries (webhook_id, next_try_at, event_id) where state = 'pending';
create index webhook_deliveries_page on webhook_deliveries (webhook_id, delivery_id);
create index webhook_deliveries_created_at_idx on webhook_deliveries (created_at);
