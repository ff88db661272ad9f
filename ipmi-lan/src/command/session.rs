//! What a session itself needs: IPMI 2.0 sections 22.15, 22.18 and 22.19.

use ipmi_rs_core::connection::{IpmiCommand, Message, NetFn, NotEnoughData};

use crate::account::Privilege;

/// Section 22.18. A session begins as USER, whatever its login asked for.
#[derive(Debug)]
pub(crate) struct SetSessionPrivilege(pub(crate) Privilege);

impl From<SetSessionPrivilege> for Message {
    fn from(SetSessionPrivilege(privilege): SetSessionPrivilege) -> Self {
        Self::new_request(NetFn::App, 0x3B, vec![privilege.code()])
    }
}

/// Section 22.19.
#[derive(Debug)]
pub(crate) struct CloseSession(pub(crate) u32);

impl From<CloseSession> for Message {
    fn from(CloseSession(session): CloseSession) -> Self {
        Self::new_request(NetFn::App, 0x3C, session.to_le_bytes().to_vec())
    }
}

/// Section 22.15, one piece of the list. (That of `ipmi_rs_core` asks for algorithms, not for
/// suites, and stops at a vendor's.)
#[derive(Debug)]
pub(crate) struct GetCipherSuites {
    pub(crate) piece: u8,
}

/// Bytes of a piece that is not the last, and pieces that a list may have.
pub(crate) const PIECE: usize = 16;
pub(crate) const PIECES: u8 = 0x40;

impl From<GetCipherSuites> for Message {
    fn from(GetCipherSuites { piece }: GetCipherSuites) -> Self {
        // This channel; for IPMI payloads; listed by suite.
        Self::new_request(NetFn::App, 0x54, vec![0x0E, 0x00, 0x80 | (piece & 0x3F)])
    }
}

impl IpmiCommand for GetCipherSuites {
    type Output = Vec<u8>;
    type Error = NotEnoughData;

    fn parse_success_response(data: &[u8]) -> Result<Vec<u8>, NotEnoughData> {
        let (_channel, records) = data.split_first().ok_or(NotEnoughData)?;
        Ok(records.to_vec())
    }
}
