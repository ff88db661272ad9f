-- What machines draw, and what those spares had drawn that were switched off.

-- As the BMC told it when it was asked last, in watts; none: it did not say, or could not be asked.
alter table hardware add column watts bigint;

-- What a node drew while it was idle, just before the desired state of this generation switched it off.
create table idle_watts (
    node_id     text not null references nodes (id),
    generation  bigint not null,
    watts       bigint not null,
    primary key (node_id, generation)
);

-- They are summed up for the metrics.
create index desired_idle on desired (node_id, generation) where cause = 'idle';
