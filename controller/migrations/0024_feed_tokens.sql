-- Tokens that are good for the calendar's feed only.
alter table tokens add column feed_only boolean not null default false;
