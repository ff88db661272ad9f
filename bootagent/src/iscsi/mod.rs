//! The iSCSI session of the root, kept by the agent itself.
//!
//! The kernel (modules `iscsi_tcp`, `libiscsi`) moves the data; user space must connect, log in
//! and, when the connection is lost, do so again. This is what `iscsid` does elsewhere. The agent
//! does it in its own process, with nothing that could be paged in from the root that it serves,
//! and never gives up: commands wait in the kernel (no recovery time-out) until the target is back.
//!
//! [`netlink`] speaks to the kernel, [`pdu`] and [`login`] know RFC 7143 (the login phase), [`chap`] how
//! the two sides prove themselves, [`keeper`] is the thread that keeps the session.

mod chap;
mod keeper;
mod login;
mod netlink;
mod pdu;

pub(crate) use keeper::Keeper;
