//! The BMC itself: IPMI 2.0 chapter 20.

use ipmi_rs_core::connection::{IpmiCommand, Message, NetFn, NotEnoughData};

/// Section 20.2: the BMC starts anew, and all its sessions are gone. The system that it switches is not
/// touched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ColdReset;

impl From<ColdReset> for Message {
    fn from(_: ColdReset) -> Self {
        Self::new_request(NetFn::App, 0x02, Vec::new())
    }
}

impl IpmiCommand for ColdReset {
    type Output = ();
    type Error = NotEnoughData;

    fn parse_success_response(_: &[u8]) -> Result<(), NotEnoughData> {
        Ok(())
    }
}
