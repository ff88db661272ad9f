//! One node of a running rack: its parts, and what can happen to it.

use std::fs;
use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::Result;

use crate::bmc::Bmc;
use crate::chassis::{self, NodeConfig, PowerCut};
use crate::console::Console;
use crate::disk::Disk;
use crate::hardware::Content;
use crate::netns::{Netns, Traffic};
use crate::uefi;
use crate::wait::wait_for;

/// A node with its BMC.
#[derive(Debug)]
pub struct Node {
    /// `node1` and so on.
    pub name: String,
    /// That of the card which boots: `52:54:00:77:00:01` and so on.
    pub mac: String,
    /// The address that [`crate::files::nodes_toml`] gives it: .11 for the first.
    pub address: Ipv4Addr,
    pub bmc: Bmc,
    pub console: Console,
    pub disks: Vec<Disk>,
    pub(crate) netns: Netns,
    pub(crate) boot_nic: usize,
    pub(crate) config: NodeConfig,
}

impl Node {
    /// What the BMC says.
    pub fn is_on(&self) -> Result<bool> {
        Ok(self.bmc.ipmitool(&["chassis", "power", "status"])?.contains("is on"))
    }

    /// Powers on from the disk, or from the network if the boot device was set before.
    pub fn power_on(&self) -> Result<()> {
        self.bmc.ipmitool(&["chassis", "power", "on"]).map(drop)
    }

    pub fn power_off(&self) -> Result<()> {
        self.bmc.ipmitool(&["chassis", "power", "off"])?;
        self.wait_off(Duration::from_secs(10))
    }

    /// The next start (one) is from the network.
    pub fn boot_from_network(&self) -> Result<()> {
        self.bmc.ipmitool(&["chassis", "bootdev", "pxe"]).map(drop)
    }

    pub fn wait_off(&self, limit: Duration) -> Result<()> {
        wait_for(&format!("{} to be off", self.name), limit, || matches!(self.is_on(), Ok(false)))
    }

    /// The plug is pulled: QEMU ends at once, no command passes the BMC.
    pub fn power_cut(&self) -> Result<()> {
        PowerCut::strike(&self.config)
    }

    /// A disk is plugged in while the node runs: a file of so many zeroes, until the node ends. It must
    /// have a disk of [`crate::DiskModel::Removable`], whose controller takes it.
    pub fn plug_disk(&self, serial: &str, bytes: u64) -> Result<Disk> {
        let path = self.config.dir.join(format!("{}-{serial}.raw", self.name));
        let disk = Disk::create(path, bytes, &Content::Blank)?;
        chassis::plug(&self.config, disk.path(), serial)?;
        Ok(disk)
    }

    /// The cable is cut at the switch: neither side sees its link go down.
    pub fn cut_link(&self) -> Result<()> {
        self.netns.cut(self.tap())
    }

    pub fn mend_link(&self) -> Result<()> {
        self.netns.mend(self.tap())
    }

    /// The link of the card that boots goes down on both ends, as when a driver resets the card, and
    /// comes up again after `pause`.
    pub fn flap_link(&self, pause: Duration) -> Result<()> {
        for up in [false, true] {
            self.netns.set_port(self.tap(), up)?;
            chassis::set_link(&self.config, self.boot_nic, up)?;
            if !up {
                // The length of the outage is what is asked for.
                std::thread::sleep(pause);
            }
        }
        Ok(())
    }

    fn tap(&self) -> &str {
        &self.config.nics[self.boot_nic].tap
    }

    /// A variable that the UEFI firmware keeps, none if it has none of this name.
    pub fn uefi_variable(&self, name: &str) -> Result<Option<Vec<u8>>> {
        Ok(uefi::variable(&fs::read(self.config.uefi_variables())?, name))
    }

    /// Bytes and packets since the rack started.
    pub fn traffic(&self) -> Result<Traffic> {
        self.netns.traffic(self.tap())
    }
}
