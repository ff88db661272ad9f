-- What is wanted of nodes. A shard's rank goes with its store; the rank in a desired state is of a
-- set in RAM.
create view desired_states as
select desired.node_id, desired.generation, desired.power_on, desired.image_digest,
  desired.image_name, desired.overlay_id,
  coalesce(
    (select shards.rank from shards
     where shards.overlay_id = desired.overlay_id and shards.node_id = desired.node_id),
    desired.rank) as rank,
  desired.rescue, desired.forced, desired.reboot, desired.boot_once, desired.cause, desired.actor,
  desired.actor_id, desired.operation_id, desired.created_at
from desired;
