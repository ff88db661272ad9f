//! The virtual rack: real firmware, real BMC protocol and real disks, emulated on one machine.
//!
//! A [`Rack`] is a network namespace with a bridge, one QEMU per node (TCG, no KVM needed) and one
//! `ipmi_sim` per BMC. The suites in `e2e/` start a [`Haasd`] in it and look at what the nodes do.
//! Nothing here may share code with the controller: what tests it must not repeat its mistakes.
//!
//! A rack needs root. It touches nothing outside its own namespace and its own work directory, ends
//! only processes that are its own, and leaves nothing behind when its test is killed.

pub mod chassis;
pub mod checks;
pub mod files;
pub mod fleet;
pub mod hardware;
pub mod impostor;
pub mod initiator;
pub mod pages;
pub mod postgres;
pub mod ssh;
pub mod storm;
pub mod story;

mod bmc;
mod console;
mod detour;
mod disk;
mod foreign;
mod haasd;
mod loss;
mod netns;
mod node;
mod process;
mod rack;
mod sys;
mod target;
mod uefi;
mod wait;

pub use bmc::{Bmc, CIPHER_SUITE, PASSWORD, PowerCommands, USER};
pub use console::{Console, Mark};
pub use detour::Detour;
pub use disk::Disk;
pub use foreign::{DhcpServer, ForeignDhcp, Lease};
pub use haasd::{Haasd, Memory, Output};
pub use hardware::{
    Content, DiskHw, DiskModel, Firmware, NicModel, NodeHw, OldOs, RackSpec, SwitchHw,
};
pub use loss::Lost;
pub use netns::Traffic;
pub use node::Node;
pub use rack::{CONTROLLER, Lifetime, Rack, built, target_dir};
pub use sys::spawn;
pub use target::Target;
pub use wait::{wait_for, wait_some};
