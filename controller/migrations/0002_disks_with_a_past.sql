-- Stores that move between nodes.

-- An admin has accepted the store on this node's disk, though the disk bears another mark.
alter table nodes add column store_accepted boolean not null default false;
-- An admin lets the next boot repair a damaged store, whatever that takes.
alter table nodes add column store_repair boolean not null default false;

create unique index one_node_per_store on nodes (store_id);
