//! The boot NIC: found by its MAC, brought up, and never renamed or reconfigured afterwards, since
//! the root hangs on it.

use std::{
    fs,
    net::IpAddr,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use haas_api::names::Mac;
use nix::ifaddrs::getifaddrs;

use crate::{
    cmdline::{Addressing, CommandLine},
    fault::{Fault, OrFault as _},
    log, rtnl,
};

const NIC_WITHIN: Duration = Duration::from_secs(60);
/// Switches with spanning tree hold a port for 30 s.
const CARRIER_WITHIN: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(100);

/// Brings the boot NIC up as the command line says.
pub(crate) fn bring_up(line: &CommandLine) -> Result<(), Fault> {
    let mac = line.nic.ok_or_else(|| {
        Fault::hold(
            "net-no-mac",
            "the command line names no boot NIC: BOOTIF= or ifname= is missing",
        )
    })?;
    let Addressing::Static { address, prefix, gateway } = line.addressing else {
        return Err(Fault::hold(
            "net-no-address",
            "the command line gives no address: ip=ADDRESS::GATEWAY:MASK:NAME:NIC:none is missing",
        ));
    };
    let nic = wait_for(NIC_WITHIN, || find(mac)).ok_or_else(|| {
        let cause = format!("no NIC with the address {mac}: is its driver in the image's kernel?");
        Fault::retry("net-no-nic", cause)
    })?;
    let index = index(&nic)?;
    // The loopback is always the first.
    rtnl::link_up(1, None).or_retry("net-link", "cannot set lo up")?;
    rtnl::link_up(index, None).or_retry("net-link", &format!("cannot set {nic} up"))?;
    wait_for(CARRIER_WITHIN, || has_carrier(&nic).then_some(())).ok_or_else(|| {
        Fault::retry("net-no-carrier", format!("{nic} ({mac}) has no carrier: check the cable"))
    })?;
    rtnl::add_address(index, IpAddr::V4(address), prefix)
        .or_retry("net-address", &format!("cannot give {nic} the address {address}/{prefix}"))?;
    if let Some(gateway) = gateway {
        rtnl::default_route(index, IpAddr::V4(gateway))
            .or_retry("net-route", &format!("cannot set the default route over {gateway}"))?;
    }
    log::info(&format!("network: {nic} ({mac}) has {address}/{prefix}"));
    Ok(())
}

/// Sets what the command line does not carry.
pub(crate) fn set_mtu(mac: Mac, mtu: u32) -> Result<(), Fault> {
    let nic = find(mac).ok_or_else(|| Fault::retry("net-no-nic", format!("no NIC {mac}")))?;
    rtnl::link_up(index(&nic)?, Some(mtu)).or_hold("net-mtu", &format!("{nic} refuses MTU {mtu}"))
}

/// The NIC's addresses, as the kernel has them.
pub(crate) fn addresses(mac: Mac) -> Vec<ipnet::IpNet> {
    let (Some(nic), Ok(all)) = (find(mac), getifaddrs()) else { return Vec::new() };
    let ip = |s: nix::sys::socket::SockaddrStorage| -> Option<IpAddr> {
        let v4 = s.as_sockaddr_in().map(|a| IpAddr::V4(a.ip()));
        v4.or_else(|| s.as_sockaddr_in6().map(|a| IpAddr::V6(a.ip())))
    };
    let found = all.filter(|a| a.interface_name == nic).filter_map(|a| {
        let (address, mask) = (ip(a.address?)?, ip(a.netmask?)?);
        // A link-local address says nothing about who the node is.
        let link_local = matches!(address, IpAddr::V6(a) if a.is_unicast_link_local());
        if link_local { None } else { ipnet::IpNet::with_netmask(address, mask).ok() }
    });
    found.collect()
}

/// The name of the NIC with this address.
pub(crate) fn find(mac: Mac) -> Option<String> {
    let mac = mac.to_string();
    for nic in fs::read_dir("/sys/class/net").ok()?.flatten() {
        let address = fs::read_to_string(nic.path().join("address")).unwrap_or_default();
        // A bridge, bond or VLAN may have its port's address: only hardware has a device.
        if address.trim().eq_ignore_ascii_case(&mac) && nic.path().join("device").exists() {
            return Some(nic.file_name().to_string_lossy().into_owned());
        }
    }
    None
}

fn index(nic: &str) -> Result<u32, Fault> {
    let path = Path::new("/sys/class/net").join(nic).join("ifindex");
    fs::read_to_string(path)
        .map_err(|e| e.to_string())
        .and_then(|text| text.trim().parse().map_err(|_| format!("ifindex is {text:?}")))
        .or_retry("net-no-nic", &format!("{nic} has gone"))
}

fn has_carrier(nic: &str) -> bool {
    let path = Path::new("/sys/class/net").join(nic).join("carrier");
    fs::read_to_string(path).is_ok_and(|text| text.trim() == "1")
}

fn wait_for<T>(within: Duration, mut condition: impl FnMut() -> Option<T>) -> Option<T> {
    let until = Instant::now() + within;
    loop {
        if let Some(found) = condition() {
            return Some(found);
        }
        if Instant::now() >= until {
            return None;
        }
        thread::sleep(POLL);
    }
}
