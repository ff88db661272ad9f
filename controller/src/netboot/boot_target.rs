//! The seam between network boot and the rest of haasd: what netboot asks, and what it is told.
//!
//! Netboot knows packets, files and templates. It does not know the store, generations or
//! reservations: everything that it must know of a node comes through [`BootTargets`], which the
//! daemon implements over the store and the tests over a map. Nothing here does I/O.

use std::{
    collections::HashSet,
    fmt,
    future::Future,
    net::{IpAddr, Ipv4Addr},
    path::PathBuf,
    sync::Arc,
};

use haas_api::names::{Mac, NodeName};
use ipnet::Ipv4Net;

use super::{firmware::Client, leases::LeaseEvent};
use crate::{config::Network, secret::Secret};

/// What netboot asks of the rest of haasd. Answers are expected within milliseconds: firmware asks
/// again after a second or two. Every method is called from many tasks at once.
pub trait BootTargets: Send + Sync + 'static {
    /// A DHCP client asks. Called for DISCOVER, REQUEST and INFORM, in `own` and `proxy` networks,
    /// also for strangers (who are recorded as discovered). A boot client ([`Client::boots`]) joins
    /// or opens an attempt; a mere operating system asking for its address never does.
    fn dhcp(&self, seen: DhcpSeen) -> impl Future<Output = DhcpVerdict> + Send;

    /// The MACs by which managed nodes boot; none: that cannot be told at the moment.
    fn boot_macs(&self) -> impl Future<Output = Option<HashSet<Mac>>> + Send;

    /// An address was bound, given back or found in use by somebody else. Only `own` networks.
    fn lease(&self, event: LeaseEvent) -> impl Future<Output = ()> + Send;

    /// Another DHCP server was seen in an `own` network. `refused`: haasd answers nobody there as
    /// long as it is.
    fn other_server(
        &self,
        network: &Network,
        server: Ipv4Addr,
        refused: bool,
    ) -> impl Future<Output = ()> + Send;

    /// No other DHCP server answers in an `own` network. Called now and again, as long as it holds.
    fn alone(&self, network: &Network) -> impl Future<Output = ()> + Send;

    /// Whether that was so just now, before haasd was started: then nodes need not wait until it has
    /// looked again.
    fn was_alone(&self, network: &Network) -> impl Future<Output = bool> + Send;

    /// The node of this MAC is not answered, for a reason that a person must know. Says whether it
    /// is one: a machine with the node's address may be the node itself, by another NIC.
    fn hindered(&self, mac: Mac, why: Hindrance) -> impl Future<Output = bool> + Send;

    /// Whether this MAC is the boot NIC of a managed node with an open attempt; asked before
    /// anything is sent that the client did not address to us (a router advertisement).
    fn is_booting(&self, mac: Mac) -> impl Future<Output = bool> + Send;

    /// What the bearer of `token`, who comes from `peer`, may fetch. Must refuse when the token is
    /// unknown, when `peer` is not the node's address, and when a later stage has been reported.
    fn boot_by_token(
        &self,
        token: &str,
        peer: IpAddr,
        resource: BootResource,
    ) -> impl Future<Output = Result<Arc<BootTarget>, Refusal>> + Send;

    /// The same for a program that was given no token: a GRUB at the address of a node whose firmware
    /// insists on signed programs. Must refuse for every other node, and as above.
    fn boot_by_address(
        &self,
        peer: IpAddr,
    ) -> impl Future<Output = Result<Arc<BootTarget>, Refusal>> + Send;

    /// Something was served to the end.
    fn served(&self, served: Served) -> impl Future<Output = ()> + Send;
}

/// A DHCP request as it was seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DhcpSeen {
    /// [`crate::config::Network::name`] of the network that the client is in.
    pub network: Arc<str>,
    /// The client's address, `chaddr`.
    pub mac: Mac,
    /// What kind of message this is.
    pub kind: DhcpKind,
    /// Which program asks: firmware, iPXE, or an operating system.
    pub client: Client,
    /// Option 60, where it is text: for people, and to tell BMCs apart.
    pub vendor_class: Option<String>,
    /// The maker whose BMC this is, judging by its vendor class.
    pub bmc: Option<&'static str>,
    /// Option 97: the SMBIOS UUID in its usual form.
    pub guid: Option<String>,
    /// Option 12: the name that the client claims.
    pub hostname: Option<String>,
    /// The relay through which the request came.
    pub relay: Option<RelaySeen>,
    /// Option 50: the address that it would like.
    pub requested: Option<Ipv4Addr>,
    /// The address that it has.
    pub ciaddr: Option<Ipv4Addr>,
    /// Option 54: the server whose offer it takes.
    pub server: Option<Ipv4Addr>,
}

/// Why a node that should be answered is not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hindrance {
    /// Another DHCP server answers in its network.
    OtherServer(Ipv4Addr),
    /// A machine with this MAC answers for its address.
    AddressTaken(Ipv4Addr, Mac),
}

/// The kinds of DHCP message that ask for an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DhcpKind {
    /// DHCPDISCOVER.
    Discover,
    /// DHCPREQUEST in all its forms.
    Request,
    /// DHCPINFORM.
    Inform,
}

/// Where a relayed request came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RelaySeen {
    /// The relay's address in the client's network.
    pub giaddr: Ipv4Addr,
    /// Option 82 as hexadecimal digits (circuit and remote id: switch and port), empty if absent.
    pub option_82: String,
}

/// What a DHCP client gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DhcpVerdict {
    /// Not in the inventory: recorded as discovered, offered nothing, never refused aloud.
    Unknown,
    /// In the inventory but not to be answered now; the text says why, for the log.
    Silent(&'static str),
    /// A node of ours without an open attempt: an address, no boot file.
    Address(NodeAddress),
    /// A node of ours with an open attempt.
    Boot(NodeAddress, BootOffer),
}

/// A node and its address in the network that it asked from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeAddress {
    /// The node.
    pub node: NodeName,
    /// Its address: the inventory's, [`super::leases::Leases::choose`]'s, or what another server
    /// gave; none while that has given nothing.
    pub address: Option<Ipv4Addr>,
}

/// What a node with an open attempt boots.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BootOffer {
    /// The attempt's id, for logs.
    pub boot: String,
    /// The attempt's token: letters, digits, `-` and `_`.
    pub token: Secret<String>,
    /// What its firmware loads; none is the iPXE that fits it.
    pub program: Option<String>,
}

/// What a boot token opens over HTTP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum BootResource {
    /// The rendered script, iPXE's or GRUB's.
    Script,
    /// The image's kernel.
    Kernel,
    /// The initramfs.
    Initrd,
}

impl BootResource {
    /// The last part of its URL.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Script => "script",
            Self::Kernel => "kernel",
            Self::Initrd => "initrd",
        }
    }

    /// The resource behind the last part of a URL.
    pub fn from_path(text: &str) -> Option<Self> {
        [Self::Script, Self::Kernel, Self::Initrd].into_iter().find(|r| r.as_str() == text)
    }
}

impl fmt::Display for BootResource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Everything that one boot attempt serves. [`super::script`] says which values are refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BootTarget {
    /// The attempt's id, the `boot` of every log line.
    pub boot: String,
    /// The token that opened this.
    pub token: Secret<String>,
    /// The node.
    pub node: NodeName,
    /// Its boot NIC.
    pub mac: Mac,
    /// Its address with the network's prefix.
    pub address: Ipv4Net,
    /// Whether another DHCP server leases that address.
    pub leased: bool,
    /// The way out, where there is one.
    pub gateway: Option<Ipv4Addr>,
    /// The controller as this node reaches it.
    pub controller: Ipv4Addr,
    /// The port of node-facing HTTP.
    pub http_port: u16,
    /// Where the agent phones home, `https://ADDRESS:8443`.
    pub api_url: String,
    /// SHA-256 of the API's certificate, hexadecimal.
    pub api_fingerprint: String,
    /// The iSCSI portal's port.
    pub iscsi_port: u16,
    /// The image's target name.
    pub target: String,
    /// The name under which the node logs in.
    pub initiator: String,
    /// `name:tag`, for people.
    pub image: String,
    /// `owner/name`; none is RAM.
    pub overlay: Option<String>,
    /// The image's own kernel arguments.
    pub image_args: Vec<String>,
    /// The node's, from the inventory.
    pub node_args: Vec<String>,
    /// The kernel, an immutable file.
    pub kernel: PathBuf,
    /// The initramfs, an immutable file.
    pub initrd: PathBuf,
}

/// Why a boot resource is not served.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No attempt has this token.
    #[error("no boot attempt has this token")]
    Unknown,
    /// The request did not come from the node's address.
    #[error("this boot attempt belongs to another address")]
    WrongPeer,
    /// The attempt has passed this stage, is over, or has expired.
    #[error("this boot attempt is past this stage or over")]
    Over,
    /// Netboot must try again: the store or the image is not there at this moment.
    #[error("the controller cannot serve this now, try again")]
    NotNow,
}

/// What was served to the end, so that the attempt's stage can move on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Served {
    /// A program for firmware, over TFTP or HTTP; all that is known of the client is its address.
    Firmware {
        /// Who fetched it.
        peer: IpAddr,
        /// Its file name.
        file: String,
        /// Bytes sent.
        bytes: u64,
    },
    /// A resource of a boot attempt.
    Boot {
        /// [`BootTarget::boot`].
        boot: String,
        /// Which.
        resource: BootResource,
        /// Bytes of the body that were handed to the node's connection.
        bytes: u64,
        /// Whether the last byte of the file was among them. A broken download reports `false`.
        complete: bool,
    },
}
