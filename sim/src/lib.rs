//! Simulated nodes: what haasd sees of a bare machine, on real sockets, in milliseconds.
//!
//! A node is a process in a network namespace of its own, with a NIC `eth0` that has the node's MAC.
//! It boots as iPXE and our agent do (DHCP, HTTP, TLS WebSocket, iSCSI login), misbehaves on demand
//! ([`Behaviour`]), and keeps its fake disk, its power and a log of every power command in a folder.
//!
//! Nothing here may depend on the controller: a simulator that shares its code shares its bugs. Only
//! the wire types of `haas-api` are common ground.
//!
//! A [`Fleet`] is thousands of nodes in one process, each at an address of its own and behind a BMC that
//! speaks IPMI over LAN; they have no disks, and misbehave less.
//!
//! Apart from the nodes there are BMCs that speak IPMI over LAN ([`bmc`]) and Redfish ([`redfish`]), and
//! [`IpmiSim`] and [`Sushy`], which start somebody else's.

mod agent;
pub mod bmc;
mod boot;
mod dhcp;
mod disk;
mod fleet;
mod folder;
mod http;
mod ipmi_sim;
mod iscsi;
mod link;
pub mod power;
pub mod redfish;
mod sushy;

pub use boot::run;
pub use dhcp::offered;
pub use fleet::{Fleet, FleetNode};
pub use folder::{Behaviour, Bmc, Folder, Kexec, Lie, NodeConfig, PowerLine};
pub use ipmi_sim::IpmiSim;
pub use link::{Called, call};
pub use sushy::Sushy;
