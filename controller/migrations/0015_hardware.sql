-- What nodes are made of, and how well they are: one row per node, with what was told last.
create table hardware (
    node_id       text primary key references nodes (id),
    -- What the agent has found in the last boot that came so far, and when (wall clock).
    inventory     text,
    inventory_at  bigint,
    -- The same in a few numbers, for lists.
    summary       text,
    -- What the BMC has told: of itself, its sensors, its log; and when (wall clock).
    bmc           text,
    sensors       text,
    sel           text,
    bmc_at        bigint,
    -- When it was last asked, whatever came of it (wall clock); why it could not be asked then.
    asked_at      bigint,
    bmc_error     text,
    -- Who wants its log cleared, which is not done yet.
    clear_by      text,
    -- How well the node is by all of that.
    health        text not null
);
