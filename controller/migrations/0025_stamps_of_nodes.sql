-- Whatever changes a node gives it the next stamp, so that who knows nodes from before reads only those that have
-- changed since. There is one writer at a time.
alter table nodes add column stamp bigint not null default 1;
create index nodes_by_stamp on nodes (stamp);
