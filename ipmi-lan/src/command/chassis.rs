//! Power and boot device: IPMI 2.0 chapter 28.

use ipmi_rs_core::connection::{IpmiCommand, Message, NetFn, NotEnoughData};

/// Section 28.2.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GetChassisStatus;

/// What the chassis says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChassisStatus {
    /// The system is on (S0 or S1 to S3), or off.
    pub power_on: bool,
    /// It was switched off because it draws too much.
    pub overload: bool,
    /// A fault of the main power was found.
    pub power_fault: bool,
}

impl From<GetChassisStatus> for Message {
    fn from(_: GetChassisStatus) -> Self {
        Self::new_request(NetFn::Chassis, 0x01, Vec::new())
    }
}

impl IpmiCommand for GetChassisStatus {
    type Output = ChassisStatus;
    type Error = NotEnoughData;

    fn parse_success_response(data: &[u8]) -> Result<ChassisStatus, NotEnoughData> {
        // Power state, last power event, other state; a fourth byte is optional.
        let [power, ..] = data.first_chunk::<3>().ok_or(NotEnoughData)?;
        let bit = |bit: u8| power & (1 << bit) != 0;
        Ok(ChassisStatus { power_on: bit(0), overload: bit(1), power_fault: bit(3) || bit(4) })
    }
}

/// Section 28.3.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChassisControl {
    /// Cut the power.
    PowerDown,
    /// Switch on.
    PowerUp,
    /// Off, and on again after a second or more.
    PowerCycle,
    /// Reset the processors.
    HardReset,
    /// Press ACPI's button.
    SoftShutdown,
}

impl From<ChassisControl> for Message {
    fn from(control: ChassisControl) -> Self {
        let order = match control {
            ChassisControl::PowerDown => 0,
            ChassisControl::PowerUp => 1,
            ChassisControl::PowerCycle => 2,
            ChassisControl::HardReset => 3,
            ChassisControl::SoftShutdown => 5,
        };
        Self::new_request(NetFn::Chassis, 0x02, vec![order])
    }
}

impl IpmiCommand for ChassisControl {
    type Output = ();
    type Error = NotEnoughData;

    fn parse_success_response(_: &[u8]) -> Result<(), NotEnoughData> {
        Ok(())
    }
}

/// What a system starts from (table 28-14, boot device selector).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BootDevice {
    /// The network.
    Pxe,
    /// Its first disk.
    Disk,
    /// The setup of its firmware.
    Setup,
}

impl BootDevice {
    fn selector(self) -> u8 {
        match self {
            Self::Pxe => 1,
            Self::Disk => 2,
            Self::Setup => 6,
        }
    }
}

/// Section 28.12, parameter 3: keep the boot flags though no power command follows within a
/// minute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeepBootFlags;

/// Section 28.12, parameter 4: the firmware is the one that has not yet taken notice of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MarkBootFlagsNew;

/// Section 28.12, parameter 5: valid, for the next boot only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SetBootFlags {
    /// From what to start.
    pub device: BootDevice,
    /// Whether the firmware is UEFI and not a BIOS.
    pub efi: bool,
}

fn set_boot_option(data: &[u8]) -> Message {
    Message::new_request(NetFn::Chassis, 0x08, data.to_vec())
}

impl From<KeepBootFlags> for Message {
    fn from(_: KeepBootFlags) -> Self {
        set_boot_option(&[3, 0x08])
    }
}

impl From<MarkBootFlagsNew> for Message {
    fn from(_: MarkBootFlagsNew) -> Self {
        set_boot_option(&[4, 0x01, 0x01])
    }
}

impl From<SetBootFlags> for Message {
    fn from(flags: SetBootFlags) -> Self {
        let valid = if flags.efi { 0x80 | 0x20 } else { 0x80 };
        set_boot_option(&[5, valid, flags.device.selector() << 2, 0, 0, 0])
    }
}

macro_rules! sets_an_option {
    ($($command:ty),*) => {$(
        impl IpmiCommand for $command {
            type Output = ();
            type Error = NotEnoughData;

            fn parse_success_response(_: &[u8]) -> Result<(), NotEnoughData> {
                Ok(())
            }
        }
    )*};
}

sets_an_option!(KeepBootFlags, MarkBootFlagsNew, SetBootFlags);

/// Section 28.13, parameter 5.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GetBootFlags;

/// The boot flags as they are read back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BootFlags {
    /// Whether the firmware is to obey them.
    pub valid: bool,
    selector: u8,
}

impl BootFlags {
    /// Whether they name this device.
    pub fn name(&self, device: BootDevice) -> bool {
        self.selector == device.selector()
    }
}

impl From<GetBootFlags> for Message {
    fn from(_: GetBootFlags) -> Self {
        Self::new_request(NetFn::Chassis, 0x09, vec![5, 0, 0])
    }
}

impl IpmiCommand for GetBootFlags {
    type Output = BootFlags;
    type Error = NotEnoughData;

    fn parse_success_response(data: &[u8]) -> Result<BootFlags, NotEnoughData> {
        let [_version, _parameter, valid, device] = data.first_chunk().ok_or(NotEnoughData)?;
        Ok(BootFlags { valid: valid & 0x80 != 0, selector: (device >> 2) & 0x0F })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // ipmi_sim drops the flags, so they are checked on their way out.
    #[test]
    fn boot_flags_name_the_firmware_and_hold_for_one_boot() {
        let data = |device, efi| Message::from(SetBootFlags { device, efi }).data().to_vec();
        assert_eq!(data(BootDevice::Pxe, false), [5, 0x80, 0x04, 0, 0, 0]);
        assert_eq!(data(BootDevice::Pxe, true), [5, 0xA0, 0x04, 0, 0, 0]);
        assert_eq!(data(BootDevice::Disk, true), [5, 0xA0, 0x08, 0, 0, 0]);
        assert_eq!(data(BootDevice::Setup, false), [5, 0x80, 0x18, 0, 0, 0]);
    }

    #[test]
    fn flags_are_read_back_and_short_answers_are_refused() {
        let read = GetBootFlags::parse_success_response;
        let flags = read(&[1, 5, 0x80, 0x04, 0, 0, 0]).unwrap();
        assert!(flags.valid && flags.name(BootDevice::Pxe) && !flags.name(BootDevice::Disk));
        assert!(read(&[1, 5, 0x80]).is_err());
        let status = GetChassisStatus::parse_success_response;
        assert!(status(&[0x21, 0, 0]).unwrap().power_on);
        assert!(!status(&[0x20, 0, 0, 0]).unwrap().power_on);
        assert!(status(&[0x21]).is_err());
    }
}
