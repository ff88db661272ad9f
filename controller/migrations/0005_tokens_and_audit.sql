-- Passwords, what a token may and until when, and who did what.

-- An argon2id hash (PHC string), none for a user who does not log in by password.
alter table users add column password text;

alter table tokens add column name text not null default '';
alter table tokens add column read_only boolean not null default false;
alter table tokens add column expires_at bigint;
create index tokens_by_user on tokens (user_id);

-- Only ever added to.
create table audit (
    seq       bigint primary key,
    at        bigint not null,
    actor     text not null,
    actor_id  text not null,
    token_id  text not null,
    peer      text not null,
    action    text not null,
    outcome   bigint not null,
    detail    text not null
);

insert into counters (name, value) values ('audit', 0);
