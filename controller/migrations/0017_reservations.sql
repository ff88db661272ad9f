-- Reservations: queues, who has which nodes when, and what happened to each. Times of reservations are
-- on the steady clock, those of steps are wall clock.

-- Raised by whatever a plan is made from, so that a plan is written only on what it was made from.
insert into counters (name, value) values ('calendar', 0), ('reservation', 0);

create table queues (
    name          text primary key,
    parent        text references queues (name),
    -- What it is like, as JSON: shares, limits, order.
    spec          text not null,
    -- Whether it stands in haasd.toml.
    from_file     boolean not null
);

-- Where a site says nothing, everybody may reserve all nodes in turn.
insert into queues (name, spec, from_file) values ('default', '{"name":"default","open":true}', false);

create table reservations (
    id             bigint primary key,
    version        bigint not null,
    state          text not null,
    code           text not null,
    reason         text not null,
    owner_id       text not null,
    -- The id of a project, or the owner's.
    tenant         text not null,
    queue          text not null,
    nodes          bigint not null,
    walltime       bigint not null,
    is_advance     boolean not null,
    -- The ids of the nodes that serve, as JSON; none: all of the queue.
    among          text,
    image_name     text not null,
    image_digest   text not null,
    follow_tag     boolean not null,
    overlay_id     text,
    on_node_loss   text not null,
    submitted_at   bigint not null,
    start_at       bigint,
    end_at         bigint,
    ready_at       bigint,
    -- Whether its user was told that its time is over soon.
    warned         boolean not null,
    actor          text not null,
    key            text,
    request        text not null
);
create index reservations_by_state on reservations (state);
create unique index reservations_by_key on reservations (owner_id, key);

-- Its nodes by rank: promised (generation 0), or given with that generation.
create table assignments (
    reservation_id  bigint not null references reservations (id) on delete cascade,
    node_id         text not null references nodes (id),
    rank            bigint not null,
    generation      bigint not null,
    lost            boolean not null,
    primary key (reservation_id, node_id)
);
create index assignments_by_node on assignments (node_id);

create table reservation_steps (
    reservation_id  bigint not null references reservations (id) on delete cascade,
    seq             bigint not null,
    at              bigint not null,
    what            text not null,
    code            text not null,
    detail          text not null,
    primary key (reservation_id, seq)
);

-- Grants of queues.
alter table grants add column queue text;
