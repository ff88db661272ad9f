-- What grows as long as haasd lives is found by what is looked for, and never read whole.
create index desired_by_overlay on desired (overlay_id) where overlay_id is not null;
create index desired_by_image on desired (image_digest) where image_digest is not null;
create index attempts_by_generation on attempts (node_id, generation);
create index running_operations on operations (created_at, id)
  where state in ('running', 'paused', 'rolling-back');
create index operations_by_time on operations (created_at, id);
create index operation_nodes_by_node on operation_nodes (node_id, generation);
create index shards_by_node on shards (node_id);
