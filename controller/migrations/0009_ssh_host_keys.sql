-- The public keys of the ssh server that each boot brought up.
create table host_keys (
    attempt_id       text not null references attempts (id),
    position         bigint not null,
    key              text not null,
    -- The names and addresses of the node, as JSON.
    names            text not null,
    -- Until when a certificate holds, wall clock; none where the server cannot show one.
    certified_until  bigint,
    primary key (attempt_id, position)
);
