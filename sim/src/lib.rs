//! Simulated nodes: what haasd sees of a bare machine, on real sockets, in milliseconds.
//!
//! A node is a process in a network namespace of its own, with a NIC `eth0` that has the node's MAC.
//! It boots as iPXE and our agent do (DHCP, HTTP, TLS WebSocket, iSCSI login), misbehaves on demand
//! ([`Behaviour`]), and keeps its fake disk, its power and a log of every power command in a folder.
//!
//! Nothing here may depend on the controller: a simulator that shares its code shares its bugs. Only
//! the wire types of `haas-api` are common ground.

mod agent;
mod boot;
mod dhcp;
mod disk;
mod folder;
mod http;
mod iscsi;
mod link;
pub mod power;

pub use boot::run;
pub use folder::{Behaviour, Bmc, Folder, Lie, NodeConfig, PowerLine};
