//! haasd: one controller that boots, switches and lends bare-metal nodes.
//!
//! ARCHITECTURE.md at the root says which file does what. `daemon` puts the parts together; only
//! `store` contains SQL; only `reconcile::act` powers a node or changes an export; `lifecycle`
//! decides and is pure.

pub mod agents;
pub mod api;
pub mod auth;
mod baseline;
pub mod boots;
mod busy;
pub mod calendar;
pub mod clock;
pub mod condition;
pub mod config;
pub mod console;
pub mod context;
pub mod daemon;
pub mod doctor;
pub mod enroll;
pub mod errors;
pub mod exports;
pub mod hardware;
pub mod health;
pub mod heartbeats;
pub mod housekeeping;
pub mod images;
pub mod inventory;
mod lend;
pub mod lifecycle;
pub mod looks;
pub mod metrics;
pub mod model;
pub mod netboot;
pub mod nodeset;
pub mod power;
pub mod program;
pub mod rates;
pub mod reconcile;
pub mod requests;
pub mod retention;
pub mod secret;
pub mod ssh_ca;
pub mod store;
pub mod tls;
pub mod tokens;
pub mod webhooks;

#[cfg(test)]
mod testing;
