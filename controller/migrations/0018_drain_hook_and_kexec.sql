-- What the site's drain hook has said of the end of what a node runs, for the generation that wants it.
create table hook_calls (
    node_id     text primary key references nodes (id) on delete cascade,
    generation  bigint not null,
    -- When it was called first and last for this generation, steady clock.
    since       bigint not null,
    asked_at    bigint not null,
    -- Whether it let haasd go on; and what it said where it did not yet.
    goes_on     boolean not null,
    said        text not null
);

-- The boot whose system starts the next kernel itself, where that was asked for and may be; none: the firmware does.
alter table desired add column kexec_from text;
drop view desired_states;
create view desired_states as
select desired.node_id, desired.generation, desired.power_on, desired.image_digest,
  desired.image_name, desired.overlay_id,
  coalesce(
    (select shards.rank from shards
     where shards.overlay_id = desired.overlay_id and shards.node_id = desired.node_id),
    desired.rank) as rank,
  desired.rescue, desired.forced, desired.reboot, desired.boot_once, desired.cause, desired.actor,
  desired.actor_id, desired.tenant, desired.operation_id, desired.created_at, desired.kexec_from
from desired;

-- The boot whose system starts this one's kernel.
alter table attempts add column kexec_of text;
-- Whether it has not, or never did: this one stands beside what the node runs, and is none of its boots yet.
alter table attempts add column beside boolean not null default false;
drop index one_live_attempt;
create unique index one_live_attempt on attempts (node_id)
  where state in ('open', 'ready') and not beside;
create unique index one_next_attempt on attempts (node_id)
  where state in ('open', 'ready') and beside;
-- What the agent has said of its node's kexec, as JSON.
alter table attempts add column can_kexec text;
