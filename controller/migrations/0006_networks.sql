-- When haasd was last known to be the only DHCP server of a network, steady clock: a haasd that was
-- away for a moment need not look first.
create table networks (
    name      text primary key,
    alone_at  bigint not null
);
