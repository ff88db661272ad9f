-- The first schema. One text for SQLite and PostgreSQL: ids are text, times are bigint microseconds
-- passed in (no statement reads a clock), numbers are bigint, lists and records are JSON in text.

create table cluster (
    id          text primary key,
    created_at  bigint not null,
    -- The steady clock (clock.rs): its offset to this boot's CLOCK_BOOTTIME.
    boot_id     text not null,
    offset_us   bigint not null
);

create table counters (
    name   text primary key,
    value  bigint not null
);

create table users (
    id          text primary key,
    name        text not null unique,
    role        text not null,
    uid         bigint not null unique,
    ssh_keys    text not null,
    created_at  bigint not null
);

create table tokens (
    id            text primary key,
    user_id       text not null references users (id) on delete cascade,
    hash          text not null unique,
    created_at    bigint not null,
    last_used_at  bigint
);

-- Inventory files that were imported, by their hash, so that a start imports only a new one.
create table inventory_imports (
    seq          bigint primary key,
    hash         text not null,
    file         text not null,
    imported_at  bigint not null
);

create table nodes (
    id          text primary key,
    name        text not null unique,
    boot_mac    text not null unique,
    spec        text not null,
    -- Given by the inventory, or taken from the pool and kept.
    address     text unique,
    managed     boolean not null,
    -- False once the inventory no longer names it.
    present     boolean not null,
    created_at  bigint not null,
    -- Counts the node's desired states.
    generation  bigint not null,
    -- Locks the row.
    version     bigint not null,

    -- What is seen.
    power           text not null,
    power_at        bigint,
    power_error     text,
    -- Since when the BMC cannot be asked.
    power_failed_at bigint,
    -- When the BMC was last asked, whatever came of it.
    power_asked_at  bigint,
    -- The attempt whose agent spoke last, when, and its last words.
    agent_attempt   text,
    agent_at        bigint,
    goodbye         text,
    heartbeat       text,
    dirty_fell_at   bigint,
    -- How far the orderly end of what runs has come.
    ending          text,
    ending_since    bigint,
    -- A fault holds until the next desired state.
    fault           text,
    -- The overlay store, as the agent last reported it.
    store_id          text,
    store_generation  bigint not null
);

-- Desired states are only ever added; the one in force is the node's generation.
create table desired (
    node_id       text not null references nodes (id),
    generation    bigint not null,
    power_on      boolean not null,
    image_digest  text,
    image_name    text,
    overlay_id    text,
    rank          bigint not null,
    -- Whether the system runs without its overlay, which is only mounted to be mended.
    rescue        boolean not null,
    forced        boolean not null,
    -- Whether an image and overlay that already run are booted again (`power cycle`).
    reboot        boolean not null,
    cause         text not null,
    actor         text not null,
    -- Who asked, for what he may do on the node: another may have his name later.
    actor_id      text not null,
    operation_id  text,
    created_at    bigint not null,
    primary key (node_id, generation)
);

create table attempts (
    id               text primary key,
    node_id          text not null references nodes (id),
    generation       bigint not null,
    cause            text not null,
    state            text not null,
    stage            text not null,
    stage_since      bigint not null,
    -- [stage, microseconds] pairs in order.
    stages           text not null,
    -- SHA-256 of the boot token, and of the credential once the token is spent.
    token_hash       text not null unique,
    credential_hash  text unique,
    -- The last frame of this attempt's agent that was taken.
    agent_seq        bigint not null,
    initiator        text not null unique,
    opened_at        bigint not null,
    -- Where the time of the whole boot is counted from: its opening, or a person's help.
    counted_from     bigint not null,
    ended_at         bigint,
    boot_bytes       bigint not null,
    root_bytes       bigint not null,
    failure          text
);
create index attempts_by_node on attempts (node_id, opened_at);
create unique index one_live_attempt on attempts (node_id) where state in ('open', 'ready');

create table images (
    digest      text primary key,
    manifest    text not null,
    created_at  bigint not null
);

create table image_tags (
    name    text not null,
    tag     text not null,
    digest  text not null references images (digest) on delete cascade,
    primary key (name, tag)
);

create table overlays (
    id          text primary key,
    owner_id    text not null references users (id),
    name        text not null,
    created_at  bigint not null,
    unique (owner_id, name)
);

create view owned_overlays as
select overlays.id, overlays.owner_id, users.name as owner, overlays.name, overlays.created_at
from overlays join users on users.id = overlays.owner_id;

create table shards (
    overlay_id    text not null references overlays (id) on delete cascade,
    node_id       text not null references nodes (id),
    rank          bigint not null,
    -- Set once the node has made it; from then on a missing one is a fault.
    store_id      text,
    bytes         bigint,
    last_image    text,
    last_used_at  bigint,
    primary key (overlay_id, node_id),
    unique (overlay_id, rank)
);

-- Shards of overlays that were removed, until their node has deleted what they held.
create table removed_shards (
    overlay_id  text not null,
    node_id     text not null references nodes (id),
    primary key (overlay_id, node_id)
);

create table disks (
    node_id   text not null references nodes (id),
    name      text not null,
    serial    text,
    disk      text not null,
    seen_at   bigint not null,
    claimed   boolean not null,
    primary key (node_id, name)
);

create table operations (
    id          text primary key,
    kind        text not null,
    actor       text not null,
    summary     text not null,
    -- A request that is sent again with its key is answered with the operation that it started;
    -- another one with the same key is refused by the SHA-256 of what it asks for.
    key         text,
    request     text not null,
    at_most     bigint,
    state       text not null,
    created_at  bigint not null,
    ended_at    bigint,
    unique (actor, key)
);

create table operation_nodes (
    operation_id  text not null references operations (id),
    node_id       text not null references nodes (id),
    position      bigint not null,
    generation    bigint not null,
    state         text not null,
    reason        text not null,
    primary key (operation_id, node_id)
);

create table events (
    seq        bigint primary key,
    at         bigint not null,
    kind       text not null,
    node       text,
    operation  text,
    actor      text not null,
    data       text not null
);

create table discovered (
    mac          text primary key,
    kind         text not null,
    description  text not null,
    network      text not null,
    first_seen   bigint not null,
    last_seen    bigint not null
);

insert into counters (name, value) values ('event', 0), ('uid', 9999), ('inventory', 0);
