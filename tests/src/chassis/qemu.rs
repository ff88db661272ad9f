//! The command line of one node's QEMU.

use std::process::Command;

use super::config::NodeConfig;
use crate::hardware::{DiskModel, Firmware, NicModel};

/// QEMU for `node`. A reset by the guest or by us ends it, so that the next start chooses its boot
/// device anew; the firmware tries the NIC or the first disk first.
pub(super) fn command(node: &NodeConfig, network_first: bool) -> Command {
    let (nic_index, disk_index) = if network_first { (1, 2) } else { (9, 1) };
    let mut qemu = Command::new("qemu-system-x86_64");
    // graphics=off puts the firmware's text on the serial line. The default translation cache grows to
    // more than a gigabyte per node; 128 MiB cost no speed that we could measure.
    qemu.args(["-name", &node.name]);
    qemu.args(["-machine", "q35,graphics=off", "-accel", "tcg,tb-size=128"]);
    qemu.args(["-cpu", "qemu64,+rdrand", "-smp", "1", "-m", &node.memory_mib.to_string()]);
    qemu.args(["-nodefaults", "-display", "none", "-vga", "none", "-monitor", "none"]);
    qemu.args(["-action", "reboot=shutdown"]);

    if node.firmware != Firmware::Bios {
        let code = "if=pflash,format=raw,unit=0,readonly=on,file=/usr/share/OVMF/OVMF_CODE_4M.fd";
        let variables = node.uefi_variables().display().to_string().replace(',', ",,");
        let variables = format!("if=pflash,format=raw,unit=1,file={variables}");
        qemu.args(["-drive", code, "-drive", &variables]);
    }
    if node.firmware == Firmware::UefiHttp {
        // OVMF tries PXE before HTTP, for which it takes its time.
        for version in ["IPv4", "IPv6"] {
            let name = format!("name=opt/org.tianocore/{version}PXESupport,string=no");
            qemu.args(["-fw_cfg", &name]);
        }
    }

    qemu.args(["-netdev", &format!("tap,id=n0,ifname={},script=no,downscript=no", node.tap)]);
    let nic = match node.nic {
        NicModel::VirtioNet => "virtio-net-pci",
        NicModel::E1000 => "e1000",
    };
    let mut nic = format!("{nic},netdev=n0,mac={},bootindex={nic_index}", node.mac);
    if matches!(node.firmware, Firmware::UefiPxe | Firmware::UefiHttp) {
        nic += ",romfile=";
    }
    qemu.args(["-device", &nic]);

    for (i, disk) in node.disks.iter().enumerate() {
        let drive = format!(
            "if=none,id=d{i},file={},format=raw,discard=unmap,cache=unsafe,read-only={}",
            // QEMU reads a doubled comma as one.
            disk.file.display().to_string().replace(',', ",,"),
            if disk.read_only { "on" } else { "off" },
        );
        let mut device = match disk.model {
            DiskModel::VirtioBlk => format!("virtio-blk-pci,drive=d{i}"),
            DiskModel::Ahci => format!("ide-hd,drive=d{i},bus=ide.{i}"),
        };
        device += &format!(",bootindex={}", disk_index + i);
        if let Some(serial) = &disk.serial {
            device += &format!(",serial={serial}");
        }
        qemu.args(["-drive", &drive, "-device", &device]);
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
    if let Some(clock) = &node.clock {
        qemu.args(["-rtc", &format!("base={clock}")]);
    }
    qemu
}
