//! Bytes as they travel: nothing here remembers anything, and no bytes make it panic.

pub(crate) mod message;
pub(crate) mod packet;
pub(crate) mod rakp;
