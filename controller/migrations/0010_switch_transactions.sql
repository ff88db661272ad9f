-- A switch of many nodes as one: how many must get there, and what is done where they do not.

-- 'all' or 'rolling': in which order nodes have their turn.
alter table operations add column strategy text not null default 'all';
-- `95%` or a number of nodes; none: nobody waits for anybody, and nothing is rolled back.
alter table operations add column min_success text;
-- When users were let in on all of its nodes, wall clock; only where there is a min_success.
alter table operations add column committed_at bigint;
-- Why it goes back, or ended before its time.
alter table operations add column reason text not null default '';

-- The generation is the one that takes the node back to what it was before the operation.
alter table operation_nodes add column goes_back boolean not null default false;
-- Why a node did not get where the operation wanted it, kept while it goes back.
alter table operation_nodes add column failure text;

-- Since when a boot that is proved waits for the others of its operation, steady clock.
alter table attempts add column held_since bigint;
