-- What the site's drain hook has said of the end of what a node runs, for the generation that wants it.
create table hook_calls (
    node_id     text primary key references nodes (id) on delete cascade,
    generation  bigint not null,
    -- When it was called first and last for this generation, steady clock.
    since       bigint not null,
    asked_at    bigint not null,
    -- Whether it let haasd go on; and what it said where it did not yet.
    goes_on     boolean not null,
    said        text not null
);
