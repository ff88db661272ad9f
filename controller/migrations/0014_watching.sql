-- Webhooks, and the events that they gave up.

create table webhooks (
    id             text primary key,
    name           text not null unique,
    url            text not null,
    -- Kinds of events, a JSON list; an empty one means all.
    kinds          text not null,
    actor          text not null,
    created_at     bigint not null,
    -- The last event that was delivered, given up or not wanted.
    position       bigint not null,
    delivered_at   bigint,
    -- How often the next event was tried, since when tries fail, and how the last one did.
    failures       bigint not null,
    failing_since  bigint,
    last_error     text
);

create table dead_events (
    webhook_id  text not null references webhooks (id) on delete cascade,
    seq         bigint not null,
    given_up_at bigint not null,
    error       text not null,
    primary key (webhook_id, seq)
);

-- Events are forgotten by their age.
create index events_by_time on events (at);
