//! What the store promises, kept by the same code on SQLite and on PostgreSQL.
//!
//! Each promise is an async function over a [`Db`], an empty database of its own. `promises!` makes
//! two tests of each. Without a PostgreSQL the second one fails: nothing is ever skipped.

#[macro_use]
mod promises;

mod attempts;
mod audit;
mod baselines;
mod desired;
mod events;
mod fault_consoles;
mod growth;
mod hardware;
mod heal;
mod host_keys;
mod images;
mod networks;
mod nodes;
mod operations;
mod overlays;
mod reservations;
mod samples;
mod schema;
mod tenants;
mod tokens;
mod users;
mod webhooks;
mod writers;
