//! The suites that need many boots in little time: the real haasd, and simulated nodes (package
//! `sim`) on real sockets in network namespaces. They need root and the workspace's binaries, not
//! QEMU; `cargo xtask e2e` builds what they start and runs them.

mod api;
mod attacks;
mod backup;
mod baseline;
mod bmcs;
mod canaries;
mod clock;
mod console;
mod crash;
mod faults;
mod fleet;
mod hardware;
mod heal;
mod inventory;
mod kexec;
mod many;
mod pages;
mod rack;
mod redfish;
mod requests;
mod reservations;
mod sockets;
mod tenants;
mod transactions;
mod watch;
