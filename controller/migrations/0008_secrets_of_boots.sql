-- Who may read an image, and which boots get secrets.

-- False for attempts that an older haasd has opened: their nodes know no secret, and go on without.
alter table attempts add column chap boolean not null default false;
-- The node started by itself: nobody switched it on for this attempt.
alter table attempts add column by_itself boolean not null default false;

-- Nodes that boot the image may read it without proving themselves.
alter table images add column is_open boolean not null default false;
