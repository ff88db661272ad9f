-- The ready checks of each boot attempt: their reports, as JSON.
alter table attempts add column checks text;
