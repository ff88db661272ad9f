-- Maintenance windows, and what was used.

insert into counters (name, value) values ('maintenance', 0);

-- Nodes and a time in which nothing is planned on them. Times are on the steady clock.
create table maintenance (
    id        bigint primary key,
    -- The ids of its nodes, as JSON.
    nodes     text not null,
    begin_at  bigint not null,
    end_at    bigint not null,
    reason    text not null,
    actor     text not null
);

-- Which node was given to a reservation from when until when, wall clock. Names are those of then.
create table given_nodes (
    reservation_id  bigint not null,
    node_id         text not null,
    owner_id        text not null,
    tenant          text not null,
    user_name       text not null,
    project_name    text not null,
    queue           text not null,
    from_at         bigint not null,
    -- None: it still has it.
    until_at        bigint,
    primary key (reservation_id, node_id, from_at)
);
create index given_nodes_by_end on given_nodes (until_at);
