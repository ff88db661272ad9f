-- Nodes out of service, silent agents, what was tried, what haasd did by itself, what a boot was given.

-- 'drain', 'maintenance' or 'quarantine'; why, by whom, since when (wall clock), and the generation that
-- was in force then.
alter table nodes add column drain text;
alter table nodes add column drain_reason text;
alter table nodes add column drain_actor text;
alter table nodes add column drain_since bigint;
alter table nodes add column drain_generation bigint;
-- What the BMC said of a node whose agent is silent, as far as it was told.
alter table nodes add column silence text;
-- When somebody was last seen logged in, steady clock.
alter table nodes add column used_at bigint;
-- How long the stages of its last boots took, as JSON.
alter table nodes add column boot_times text;
-- What was tried for the present generation beyond asking in order, as JSON.
alter table nodes add column tried text;
-- Faults in a row that no image can cause.
alter table nodes add column hardware_faults bigint not null default 0;

-- Counts the starts of haasd: the one that acts has the highest.
alter table cluster add column epoch bigint not null default 0;
alter table attempts add column epoch bigint not null default 0;
-- What the node was given to boot, as JSON.
alter table attempts add column given text;

-- Power actions that nobody asked for, of the last day; times are of the steady clock.
create table auto_actions (
    id       text primary key,
    node_id  text not null references nodes (id),
    at       bigint not null,
    what     text not null,
    epoch    bigint not null
);
create index auto_actions_by_time on auto_actions (at);
