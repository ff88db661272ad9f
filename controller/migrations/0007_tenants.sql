-- Groups of users, projects with their members, grants; and whose a node's state, an operation and
-- an event are.

-- 'person', 'service' (a program), or 'project'. Projects own overlays as people do and share their
-- names, so that `owner/name` means one thing.
alter table users add column kind text not null default 'person';

create table user_groups (
    id          text primary key,
    name        text not null unique,
    owner_id    text references users (id) on delete set null,
    created_at  bigint not null
);

create table group_members (
    group_id  text not null references user_groups (id) on delete cascade,
    user_id   text not null references users (id) on delete cascade,
    primary key (group_id, user_id)
);
create index group_members_by_user on group_members (user_id);

create table projects (
    id            text primary key references users (id) on delete cascade,
    -- 'root' or 'user': what its members are on its nodes.
    access        text not null,
    -- None: as many as there are.
    max_nodes     bigint,
    max_overlays  bigint,
    max_images    bigint
);

-- A user or a group, never both.
create table project_members (
    project_id  text not null references projects (id) on delete cascade,
    user_id     text references users (id) on delete cascade,
    group_id    text references user_groups (id) on delete cascade,
    role        text not null,
    unique (project_id, user_id),
    unique (project_id, group_id)
);
create index project_members_by_user on project_members (user_id);
create index project_members_by_group on project_members (group_id);

-- To a user or project (user_id), or to a group; of a node group, an image name or an overlay.
create table grants (
    id          text primary key,
    user_id     text references users (id) on delete cascade,
    group_id    text references user_groups (id) on delete cascade,
    node_group  text,
    image       text,
    overlay_id  text references overlays (id) on delete cascade,
    role        text not null,
    actor       text not null,
    created_at  bigint not null
);
create index grants_by_user on grants (user_id);
create index grants_by_group on grants (group_id);

-- Image names that are a project's; all others are the cluster's.
create table image_owners (
    name        text primary key,
    project_id  text not null references projects (id)
);

-- Whose it is: the id of a user or a project.
alter table desired add column tenant text not null default '';
update desired set tenant = coalesce(
    (select overlays.owner_id from overlays where overlays.id = desired.overlay_id), actor_id);

drop view desired_states;
create view desired_states as
select desired.node_id, desired.generation, desired.power_on, desired.image_digest,
  desired.image_name, desired.overlay_id,
  coalesce(
    (select shards.rank from shards
     where shards.overlay_id = desired.overlay_id and shards.node_id = desired.node_id),
    desired.rank) as rank,
  desired.rescue, desired.forced, desired.reboot, desired.boot_once, desired.cause, desired.actor,
  desired.actor_id, desired.tenant, desired.operation_id, desired.created_at
from desired;

alter table operations add column actor_id text not null default '';
alter table operations add column tenant text not null default '';
update operations set actor_id = coalesce(
    (select users.id from users where users.name = operations.actor), '');
update operations set tenant = actor_id;

-- None: it concerns everybody. Events of earlier versions are for admins.
alter table events add column tenant text;
update events set tenant = '';
