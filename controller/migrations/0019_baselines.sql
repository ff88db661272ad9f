-- What stays on a machine when its tenant goes, though no disk holds it: how it was when that was recorded,
-- and how it was seen last. Both are JSON, by part and name.
create table baselines (
    node_id      text primary key references nodes (id) on delete cascade,
    recorded     text,
    -- When something of it was recorded last (wall clock), and by whom.
    recorded_at  bigint,
    recorded_by  text,
    seen         text,
    -- When the BMC was last asked, whatever came of it (wall clock); why it told nothing then.
    asked_at     bigint,
    asked_error  text
);

-- For whom a node was last found to be as its baseline says.
alter table tenancies add column checked_for text;

-- What the node reached that it must not, and which boot has told that.
alter table hardware add column reaches text;
alter table hardware add column reaches_boot text;

-- Whether whose it is lets others be root on the nodes whose disks hold it.
alter table overlays add column shares_disk boolean not null default false;
drop view owned_overlays;
create view owned_overlays as
select overlays.id, overlays.owner_id, users.name as owner, overlays.name, overlays.created_at,
    overlays.shares_disk
from overlays join users on users.id = overlays.owner_id;
