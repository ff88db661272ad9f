-- Changes of users, tokens, groups, projects and grants are counted, so that who remembers what somebody
-- may do knows when to forget it.
insert into counters (name, value) values ('powers', 0);

-- A user that was removed and whose overlays are kept until then, wall clock; none: it is a user.
alter table users add column destroy_at bigint;
create index users_by_destroy_at on users (destroy_at);
create index tokens_by_expires_at on tokens (expires_at);

-- For whom a node is set up: in whose network it is, and who may have written on its scratch disks.
create table tenancies (
    node_id     text primary key references nodes (id) on delete cascade,
    network_of  text,
    scratch_of  text
);
insert into tenancies (node_id, scratch_of)
select nodes.id, desired.tenant from nodes
join desired on desired.node_id = nodes.id and desired.generation = nodes.generation;
