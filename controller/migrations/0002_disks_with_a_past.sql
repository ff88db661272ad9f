-- Stores that move between nodes.

-- An admin has accepted the store on this node's disk, though the disk bears another mark.
alter table nodes add column store_accepted boolean not null default false;
-- An admin lets the next boot repair a damaged store, whatever that takes.
alter table nodes add column store_repair boolean not null default false;

create unique index one_node_per_store on nodes (store_id);

-- A shard's rank goes with its store; the rank in a desired state is of a set in RAM.
create view desired_states as
select desired.node_id, desired.generation, desired.power_on, desired.image_digest,
  desired.image_name, desired.overlay_id,
  coalesce(
    (select shards.rank from shards
     where shards.overlay_id = desired.overlay_id and shards.node_id = desired.node_id),
    desired.rank) as rank,
  desired.rescue, desired.forced, desired.reboot, desired.cause, desired.actor, desired.actor_id,
  desired.operation_id, desired.created_at
from desired;
