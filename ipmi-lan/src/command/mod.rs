//! Commands that `ipmi_rs_core` lacks, in its own terms ([`IpmiCommand`]), so that a [`Bmc`] is
//! asked them as it is asked those: device id, SDR, SEL, LAN parameters.
//!
//! [`IpmiCommand`]: ipmi_rs_core::connection::IpmiCommand
//! [`Bmc`]: crate::Bmc

mod chassis;
mod dcmi;
mod device;
mod event;
mod fru;
mod lan;
mod sdr;
mod sel;
mod session;
mod sol;
mod user;

pub use self::chassis::{
    BootDevice, BootFlags, ChassisControl, ChassisStatus, GetBootFlags, GetChassisStatus,
    KeepBootFlags, MarkBootFlagsNew, SetBootFlags,
};
pub use self::dcmi::GetPowerReading;
pub use self::device::ColdReset;
pub use self::{
    event::{Severity, State, kind},
    fru::{FRU_HEADER, FruArea, ReadFru, fru_area_length, fru_areas},
    lan::{GetLanParameter, LanParameter, LanValue},
    sdr::{
        GetReading, GetSdr, GetSdrInfo, Measured, Reading, ReserveSdr, SDR_HEADER, SdrInfo,
        SdrPart, SdrRecord, SensorRecord, sdr_length,
    },
    sel::{GetSelRecord, SelEvent, SelRecord},
    user::{
        ChannelAccess, GetChannelAccess, GetOwnChannel, GetUserAccess, GetUserName, UserAccess,
    },
};
pub(crate) use self::{
    session::{CloseSession, GetCipherSuites, PIECE, PIECES, SetSessionPrivilege},
    sol::{Activate, Deactivate, GetHolder, PAYLOAD_ACTIVE},
};
