//! What a rack is built of: plain data, given by a test.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::rack::Lifetime;

/// A rack to be built.
#[derive(Clone, Debug)]
pub struct RackSpec {
    /// Short, of letters, digits and hyphens: it names the namespace `haas-NAME` and the work directory.
    pub name: String,
    /// The nodes, numbered from 1.
    pub nodes: Vec<NodeHw>,
    pub lifetime: Lifetime,
    pub switch: SwitchHw,
}

/// The switch that all hang on.
#[derive(Clone, Copy, Debug, Default)]
pub struct SwitchHw {
    /// Seconds of spanning tree's forward delay: a port passes nothing for twice as long after its
    /// link has come up. None: no spanning tree.
    pub forward_delay: Option<u32>,
    /// The longest frame that it and the controller pass; none: 1500.
    pub mtu: Option<u32>,
}

impl RackSpec {
    /// A rack that ends with the process that starts it.
    pub fn new(name: &str, nodes: Vec<NodeHw>) -> RackSpec {
        let switch = SwitchHw::default();
        RackSpec { name: name.to_owned(), nodes, lifetime: Lifetime::OfThisProcess, switch }
    }
}

/// One node's hardware.
#[derive(Clone, Debug)]
pub struct NodeHw {
    pub firmware: Firmware,
    pub memory_mib: u32,
    /// The cards, in the order in which the kernel finds them.
    pub nics: Vec<NicModel>,
    /// The card that nodes.toml names to boot, from 0.
    pub boot_nic: usize,
    /// The card that the firmware tries first, from 0.
    pub first_nic: usize,
    /// The first is what the node starts when its BMC does not say "network".
    pub disks: Vec<DiskHw>,
    /// At each start the kernel finds the disks in another order, as on machines whose controllers
    /// race. What the firmware starts stays the first.
    pub shuffled_disks: bool,
    /// Seconds of testing memory and cards before the firmware begins, as servers take minutes for.
    pub self_test: u32,
    /// What its clock says at power-on, `2001-02-03T04:05:06`; none: the right time.
    pub clock: Option<String>,
}

impl Default for NodeHw {
    /// BIOS, 512 MiB, virtio, one blank disk of 2 GiB.
    fn default() -> NodeHw {
        NodeHw {
            firmware: Firmware::Bios,
            memory_mib: 512,
            nics: vec![NicModel::VirtioNet],
            boot_nic: 0,
            first_nic: 0,
            disks: vec![DiskHw::default()],
            shuffled_disks: false,
            self_test: 0,
            clock: None,
        }
    }
}

/// A disk and what is on it at first.
#[derive(Clone, Debug)]
pub struct DiskHw {
    pub bytes: u64,
    pub serial: Option<String>,
    pub model: DiskModel,
    /// Writes fail. Only virtio-blk can say so to its guest.
    pub read_only: bool,
    pub content: Content,
}

impl Default for DiskHw {
    fn default() -> DiskHw {
        DiskHw {
            bytes: 2 << 30,
            serial: None,
            model: DiskModel::VirtioBlk,
            read_only: false,
            content: Content::Blank,
        }
    }
}

/// What starts the node, and how it boots from the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Firmware {
    /// SeaBIOS; the card's boot code is iPXE.
    Bios,
    /// OVMF; the card's boot code is iPXE.
    UefiCard,
    /// OVMF with a card that has no boot code: the firmware's own PXE, which loads a file by TFTP.
    UefiPxe,
    /// The same, booting by HTTP (UEFI specification 2.10 section 24.7).
    UefiHttp,
    /// OVMF's own PXE with Secure Boot on and Microsoft's keys, as servers are shipped.
    UefiSecure,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NicModel {
    VirtioNet,
    E1000,
    E1000e,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DiskModel {
    VirtioBlk,
    Ahci,
    Nvme,
    /// A stick; the initramfs has no driver for it.
    Usb,
    /// A SCSI disk whose medium can be taken out, as BMCs show their virtual media.
    Removable,
}

/// What a disk holds when the rack starts, or when a test puts another one in.
#[derive(Clone, Debug)]
pub enum Content {
    /// All zero.
    Blank,
    /// Bytes at offsets, zero elsewhere.
    Bytes(Vec<(u64, Vec<u8>)>),
    /// A copy of this file, zero behind it.
    File(PathBuf),
    /// A boot sector that prints the marker on the serial line.
    OldOs { marker: String, then: OldOs },
}

/// What the old operating system on a disk does once it has printed its marker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OldOs {
    /// Stays up and is deaf to the power button, as a hung one.
    Hangs,
    /// Stays up until somebody presses the power button, then powers off.
    ObeysThePowerButton,
    PowersOff,
    Reboots,
}
