-- The ready checks of each boot attempt: their reports, as JSON.
alter table attempts add column checks text;

-- What the node starts from once, out of haasd's hands: 'bios' or 'disk'.
alter table desired add column boot_once text;
