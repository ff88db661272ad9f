//! IPMI 2.0 over LAN (RMCP+) for a fleet of BMCs, on networks that lose, delay, repeat and reorder
//! packets, with BMCs that hang, restart and run out of sessions.
//!
//! A [`Fleet`] has a [`Bmc`] for each address. A call on it (`ask`, `order`, `console`) opens a
//! session if there is none, keeps it, and ends at its deadline at the latest:
//!
//! | What | Where | IPMI 2.0 |
//! |---|---|---|
//! | packets and messages | `wire` | 13.1, 13.6, 13.8, 13.17 to 13.24 |
//! | keys, signatures, encryption | `crypto` | 13.28 to 13.33 |
//! | which cipher suite: 17 or 3, none below | [`suite`](CipherSuite) | 22.15 |
//! | one login; whatever is odd ends it for another | `handshake` | 13.15, 13.31 |
//! | which packets and answers count | `session` | 6.12 |
//! | one command at a time, sent again until answered; signs of life; the end | `link` | 6.12.15, 22.18, 22.19 |
//! | the console | `sol` | 15, 24.1, 24.2 |
//! | leaving a BMC alone that does not work | `breaker` | |
//! | how many sessions, retries and open breakers there are | [`Figures`] | |
//!
//! All of these are pure: bytes and the time go in, bytes come out. `bmc` gives them sockets and
//! clocks. The codecs of commands are those of the crate `ipmi-rs-core`, and in [`command`] what it
//! lacks.
//!
//! Not spoken, on purpose: IPMI 1.5, cipher suites without encryption or with MD5 or RC4, and two
//! commands at a time, of which many BMCs lose one.

#![warn(clippy::indexing_slicing, clippy::cast_possible_truncation, missing_docs)]
#![cfg_attr(test, allow(clippy::indexing_slicing, clippy::cast_possible_truncation))]

mod account;
mod bmc;
mod breaker;
pub mod command;
mod console;
mod crypto;
mod error;
mod figures;
mod fleet;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;
mod handshake;
mod link;
mod options;
mod ping;
#[cfg(test)]
mod schedules;
mod session;
mod sol;
mod suite;
mod wire;

pub use ipmi_rs_core;

pub use self::{
    account::{Account, AccountError, Privilege},
    bmc::Bmc,
    console::{Console, ConsoleInput},
    error::{Error, SuiteRefusal},
    figures::Figures,
    fleet::Fleet,
    options::Options,
    ping::answers,
    suite::{CipherSuite, Suites},
};
