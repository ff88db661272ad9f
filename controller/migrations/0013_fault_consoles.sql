-- The last lines of a node's console when it came to be in fault, for its newest fault.
create table fault_consoles (
    node_id     text primary key references nodes (id),
    generation  bigint not null,
    -- Whose the node was when they were printed, by the id of a user or project; empty: nobody's.
    tenant      text not null,
    -- As JSON.
    lines       text not null
);
