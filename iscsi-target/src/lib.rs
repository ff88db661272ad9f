//! A read-only iSCSI target on tokio: it serves immutable block images to any number of initiators.
//!
//! It knows blocks, IQNs and initiators. It must not know nodes, images or a database: who may log
//! in to what is asked through [`Exports`], once per login, and answered from memory.
//!
//! The way of one read, file by file:
//! [`serve`] (`server.rs`) accepts a connection and gives it to an I/O thread (`threads.rs`), where
//! `turns.rs` decides when it runs; `connection.rs` is its life. `login.rs` negotiates (with `chap.rs`
//! and `negotiate.rs`) and asks [`Exports`]; from then on `session.rs` takes one PDU after the other
//! from `wire.rs`, `scsi/` decides what the command means, and `read.rs` sends the blocks. Nothing is
//! buffered per command.
//!
//! The protocol is RFC 7143 with one connection per session and error recovery level 0; the
//! commands are those of SPC-4 and SBC-3 that a disk which is never written needs.

mod census;
mod chap;
mod classes;
mod connection;
mod control;
mod disk_waits;
mod exports;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;
mod inbox;
mod inherited;
mod login;
mod lun;
mod meter;
mod negotiate;
mod newcomers;
mod one_target;
mod outbox;
mod pdu;
mod read;
mod scsi;
mod server;
mod session;
mod sessions;
mod sparse;
mod spin;
mod sys;
mod text;
mod thin;
mod threads;
mod turns;
mod verify;
mod warm;
mod wire;

pub use census::{Census, Counted};
pub use exports::{
    Admission, Authentication, Chap, ClassLimits, Exports, Grant, Limits, LoginRequest, Refusal,
    Secret, SessionObserver,
};
pub use inherited::Inherited;
pub use lun::{BLOCK, Lun, LunIdentity};
pub use meter::{BUCKETS, Counts, Meter, Recorded, Recorder};
pub use one_target::OneTarget;
pub use server::{Options, listen, serve};
pub use sparse::Sparse;

/// The README's example is compiled as this one.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
