-- What is believed of a boot's agent, and from where.

-- The address that the attempt's token was exchanged from: its credential opens nothing from another one.
-- None: it was exchanged before this was noted.
alter table attempts add column agent_address text;

-- The attempt whose agent has told the inventory; none: it was told before this was noted.
alter table hardware add column inventory_boot text;
