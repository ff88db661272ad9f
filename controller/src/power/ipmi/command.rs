//! The few commands that power needs, as IPMI 2.0 numbers them.

use ipmi_rs::connection::{IpmiCommand, Message, NetFn};

use super::super::{BootDevice, PowerAction};

/// A request; its answer is the bytes behind the completion code.
#[derive(Debug, Clone)]
pub(super) struct Command {
    netfn: NetFn,
    number: u8,
    data: Vec<u8>,
}

impl From<Command> for Message {
    fn from(command: Command) -> Self {
        Self::new_request(command.netfn, command.number, command.data)
    }
}

impl IpmiCommand for Command {
    type Output = Vec<u8>;
    type Error = std::convert::Infallible;

    fn parse_success_response(data: &[u8]) -> Result<Vec<u8>, Self::Error> {
        Ok(data.to_vec())
    }
}

/// Section 22.18. A session begins as USER, who may look but not touch; 4 is ADMINISTRATOR.
pub(super) fn set_session_privilege() -> Command {
    Command { netfn: NetFn::App, number: 0x3B, data: vec![4] }
}

/// Section 22.19.
pub(super) fn close_session(id: u32) -> Command {
    Command { netfn: NetFn::App, number: 0x3C, data: id.to_le_bytes().to_vec() }
}

/// Section 28.2.
pub(super) fn get_chassis_status() -> Command {
    Command { netfn: NetFn::Chassis, number: 0x01, data: Vec::new() }
}

/// Section 28.3.
pub(super) fn chassis_control(action: PowerAction) -> Command {
    let order = match action {
        PowerAction::Off => 0,
        PowerAction::On => 1,
        PowerAction::Soft => 5,
    };
    Command { netfn: NetFn::Chassis, number: 0x02, data: vec![order] }
}

/// Section 28.13, parameters 3 and 4: keep the flags though no power command follows within a
/// minute, and let the firmware be the one that has not yet taken notice of them.
pub(super) fn prepare_boot_flags() -> [Command; 2] {
    [set_boot_option(&[3, 0x08]), set_boot_option(&[4, 0x01, 0x01])]
}

/// Section 28.13, parameter 5: valid, for the next boot only, by this firmware, from this device.
pub(super) fn set_boot_flags(device: BootDevice, efi: bool) -> Command {
    let flags = if efi { 0x80 | 0x20 } else { 0x80 };
    set_boot_option(&[5, flags, selector(device) << 2, 0, 0, 0])
}

/// Section 28.14, parameter 5.
pub(super) fn get_boot_flags() -> Command {
    Command { netfn: NetFn::Chassis, number: 0x09, data: vec![5, 0, 0] }
}

/// Whether the answer to [`get_boot_flags`] names this device.
pub(super) fn boot_flags_say(answer: &[u8], device: BootDevice) -> bool {
    answer.get(3).is_some_and(|byte| (byte >> 2) & 0x0F == selector(device))
}

fn selector(device: BootDevice) -> u8 {
    match device {
        BootDevice::Pxe => 1,
        BootDevice::Disk => 2,
        BootDevice::Bios => 6,
    }
}

fn set_boot_option(data: &[u8]) -> Command {
    Command { netfn: NetFn::Chassis, number: 0x08, data: data.to_vec() }
}

#[cfg(test)]
mod tests {
    use super::*;

    // ipmi_sim drops the flags, so they are checked on their way out.
    #[test]
    fn boot_flags_name_the_firmware_and_hold_for_one_boot() {
        let data = |device, efi| set_boot_flags(device, efi).data;
        assert_eq!(data(BootDevice::Pxe, false), [5, 0x80, 0x04, 0, 0, 0]);
        assert_eq!(data(BootDevice::Pxe, true), [5, 0xA0, 0x04, 0, 0, 0]);
        assert_eq!(data(BootDevice::Disk, true), [5, 0xA0, 0x08, 0, 0, 0]);
        assert_eq!(data(BootDevice::Bios, false), [5, 0x80, 0x18, 0, 0, 0]);
        assert!(boot_flags_say(&[1, 5, 0x80, 0x04, 0, 0, 0], BootDevice::Pxe));
        assert!(!boot_flags_say(&[1, 5, 0x80, 0x04], BootDevice::Disk));
        assert!(!boot_flags_say(&[1, 5], BootDevice::Pxe));
    }
}
