//! The command line of one node's QEMU.

use std::process::Command;

use super::config::{DiskConfig, NodeConfig};
use crate::hardware::{DiskModel, Firmware, NicModel};

/// QEMU's name of a node's card.
pub(super) fn nic_id(number: usize) -> String {
    format!("nic{number}")
}

/// QEMU for `node`, started `starts` times before. A reset by the guest or by us ends it, so that the next start chooses its boot
/// device anew; the firmware tries the NIC or the first disk first.
pub(super) fn command(node: &NodeConfig, network_first: bool, starts: usize) -> Command {
    let (nic_index, disk_index) = if network_first { (1, 1 + node.nics.len()) } else { (90, 1) };
    let mut qemu = Command::new("qemu-system-x86_64");
    // graphics=off puts the firmware's text on the serial line. The default translation cache grows to
    // more than a gigabyte per node; 128 MiB cost no speed that we could measure.
    qemu.args(["-name", &node.name]);
    let is_secure = node.firmware == Firmware::UefiSecure;
    // The variables of Secure Boot can be written from system management mode only.
    let machine = if is_secure { "q35,graphics=off,smm=on" } else { "q35,graphics=off" };
    qemu.args(["-machine", machine, "-accel", "tcg,tb-size=128"]);
    qemu.args(["-cpu", "qemu64,+rdrand", "-smp", "1", "-m", &node.memory_mib.to_string()]);
    qemu.args(["-nodefaults", "-display", "none", "-vga", "none", "-monitor", "none"]);
    qemu.args(["-action", "reboot=shutdown"]);

    if node.firmware != Firmware::Bios {
        let code = if is_secure { "OVMF_CODE_4M.secboot.fd" } else { "OVMF_CODE_4M.fd" };
        let code = format!("if=pflash,format=raw,unit=0,readonly=on,file=/usr/share/OVMF/{code}");
        let variables = node.uefi_variables().display().to_string().replace(',', ",,");
        let variables = format!("if=pflash,format=raw,unit=1,file={variables}");
        qemu.args(["-drive", &code, "-drive", &variables]);
    }
    if is_secure {
        qemu.args(["-global", "driver=cfi.pflash01,property=secure,value=on"]);
    }
    if node.firmware == Firmware::UefiHttp {
        // OVMF tries PXE before HTTP, for which it takes its time.
        for version in ["IPv4", "IPv6"] {
            let name = format!("name=opt/org.tianocore/{version}PXESupport,string=no");
            qemu.args(["-fw_cfg", &name]);
        }
    }

    for (i, nic) in node.nics.iter().enumerate() {
        let netdev = format!("tap,id=n{i},ifname={},script=no,downscript=no", nic.tap);
        let model = match nic.model {
            NicModel::VirtioNet => "virtio-net-pci",
            NicModel::E1000 => "e1000",
            NicModel::E1000e => "e1000e",
        };
        // The others follow in their order.
        let turn = (i + node.nics.len() - node.first_nic) % node.nics.len();
        let mut device = format!("{model},id={},netdev=n{i},mac={}", nic_id(i), nic.mac);
        device += &format!(",bootindex={}", nic_index + turn);
        // A card without boot code: the firmware's own.
        if !matches!(node.firmware, Firmware::Bios | Firmware::UefiCard) {
            device += ",romfile=";
        }
        qemu.args(["-netdev", &netdev, "-device", &device]);
    }

    let has = |model| node.disks.iter().any(|disk| disk.model == model);
    if has(DiskModel::Usb) {
        qemu.args(["-device", "qemu-xhci"]);
    }
    if has(DiskModel::Removable) {
        qemu.args(["-device", "virtio-scsi-pci,id=scsi"]);
    }
    let order = order(node.disks.len(), if node.shuffled_disks { starts } else { 0 });
    for (place, i) in order.into_iter().enumerate() {
        add_disk(&mut qemu, &node.disks[i], i, place, disk_index + i);
    }

    let serial = format!(
        "socket,id=s0,path={},server=off,reconnect=1,logfile={},logappend=on",
        node.tty_socket().display(),
        node.console().display(),
    );
    qemu.args(["-chardev", &serial, "-serial", "chardev:s0"]);
    for socket in [node.qmp_socket(), node.events_socket()] {
        qemu.args(["-qmp", &format!("unix:{},server=on,wait=off", socket.display())]);
    }
    qemu.args(["-device", "virtio-rng-pci"]);
    if node.self_test > 0 {
        // It stands still; the supervisor lets it go.
        qemu.arg("-S");
    }
    if let Some(clock) = &node.clock {
        qemu.args(["-rtc", &format!("base={clock}")]);
    }
    qemu
}

/// Adds disk `i` in the order of the inventory, at the bus's place `place`.
fn add_disk(qemu: &mut Command, disk: &DiskConfig, i: usize, place: usize, boot_index: usize) {
    let drive = format!(
        "if=none,id=d{i},file={},format=raw,discard=unmap,cache=unsafe,read-only={}",
        // QEMU reads a doubled comma as one.
        disk.file.display().to_string().replace(',', ",,"),
        if disk.read_only { "on" } else { "off" },
    );
    let mut device = match disk.model {
        DiskModel::VirtioBlk => format!("virtio-blk-pci,drive=d{i}"),
        DiskModel::Ahci => format!("ide-hd,drive=d{i},bus=ide.{place}"),
        DiskModel::Nvme => format!("nvme,drive=d{i}"),
        DiskModel::Usb => format!("usb-storage,drive=d{i},removable=on"),
        DiskModel::Removable => format!("scsi-hd,drive=d{i},bus=scsi.0,removable=on"),
    };
    device += &format!(",bootindex={boot_index}");
    // An NVMe drive must have one.
    let serial =
        disk.serial.clone().or((disk.model == DiskModel::Nvme).then(|| format!("NVME{i}")));
    if let Some(serial) = serial {
        device += &format!(",serial={serial}");
    }
    qemu.args(["-drive", &drive, "-device", &device]);
}

/// The n-th order of so many things: each is another one until all were had, the first is as given.
fn order(things: usize, n: usize) -> Vec<usize> {
    let mut left: Vec<_> = (0..things).collect();
    let mut rest = n;
    let mut order = Vec::new();
    while !left.is_empty() {
        order.push(left.remove(rest % left.len()));
        rest /= left.len() + 1;
    }
    order
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::order;

    #[test]
    fn every_order_comes_once() {
        let orders: BTreeSet<_> = (0..6).map(|n| order(3, n)).collect();
        assert_eq!((orders.len(), order(3, 0)), (6, vec![0, 1, 2]));
        assert_eq!(order(3, 6), order(3, 0));
        assert!(order(0, 5).is_empty());
    }
}
