//! The accounts of a BMC: IPMI 2.0 sections 22.23, 22.24, 22.27 and 22.29. What is asked here tells no
//! password.

use ipmi_rs_core::connection::{IpmiCommand, Message, NetFn, NotEnoughData};

/// Section 22.24. Asks for the number of the channel that a command comes over; 0x0E stands for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GetOwnChannel;

impl From<GetOwnChannel> for Message {
    fn from(_: GetOwnChannel) -> Self {
        Self::new_request(NetFn::App, 0x42, vec![0x0E])
    }
}

impl IpmiCommand for GetOwnChannel {
    type Output = u8;
    type Error = NotEnoughData;

    fn parse_success_response(data: &[u8]) -> Result<u8, NotEnoughData> {
        data.first().map(|channel| channel & 0x0F).ok_or(NotEnoughData)
    }
}

/// Section 22.23, as it is when the BMC starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GetChannelAccess {
    /// The channel.
    pub channel: u8,
}

/// Who may come over a channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChannelAccess {
    /// Table 22-28: 0 nobody, 1 before the system runs, 2 always, 3 shared with the system's own software.
    pub mode: u8,
    /// What anybody may be at most on it.
    pub limit: u8,
}

impl From<GetChannelAccess> for Message {
    fn from(GetChannelAccess { channel }: GetChannelAccess) -> Self {
        Self::new_request(NetFn::App, 0x41, vec![channel & 0x0F, 0x40])
    }
}

impl IpmiCommand for GetChannelAccess {
    type Output = ChannelAccess;
    type Error = NotEnoughData;

    fn parse_success_response(data: &[u8]) -> Result<ChannelAccess, NotEnoughData> {
        let [mode, limit] = data.first_chunk().ok_or(NotEnoughData)?;
        Ok(ChannelAccess { mode: mode & 0x07, limit: limit & 0x0F })
    }
}

/// Section 22.27.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GetUserAccess {
    /// The channel.
    pub channel: u8,
    /// The account's number, from 1.
    pub user: u8,
}

/// What an account may do over a channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UserAccess {
    /// How many accounts the BMC has room for.
    pub room: u8,
    /// Whether the account is enabled; none where the BMC does not say.
    pub enabled: Option<bool>,
    /// Whether it may log in to send commands.
    pub messaging: bool,
    /// What it may be: 0xF is nothing.
    pub privilege: u8,
}

impl From<GetUserAccess> for Message {
    fn from(GetUserAccess { channel, user }: GetUserAccess) -> Self {
        Self::new_request(NetFn::App, 0x44, vec![channel & 0x0F, user & 0x3F])
    }
}

impl IpmiCommand for GetUserAccess {
    type Output = UserAccess;
    type Error = NotEnoughData;

    fn parse_success_response(data: &[u8]) -> Result<UserAccess, NotEnoughData> {
        let [room, status, _fixed, access] = data.first_chunk().ok_or(NotEnoughData)?;
        Ok(UserAccess {
            room: room & 0x3F,
            enabled: match status >> 6 {
                1 => Some(true),
                2 => Some(false),
                _ => None,
            },
            messaging: access & 0x10 != 0,
            privilege: access & 0x0F,
        })
    }
}

/// Section 22.29.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GetUserName {
    /// The account's number, from 1.
    pub user: u8,
}

impl From<GetUserName> for Message {
    fn from(GetUserName { user }: GetUserName) -> Self {
        Self::new_request(NetFn::App, 0x46, vec![user & 0x3F])
    }
}

impl IpmiCommand for GetUserName {
    type Output = String;
    type Error = NotEnoughData;

    fn parse_success_response(data: &[u8]) -> Result<String, NotEnoughData> {
        let name = data.split(|byte| *byte == 0).next().unwrap_or_default();
        Ok(String::from_utf8_lossy(name).into_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_is_read_as_the_standard_has_it() {
        let access = GetUserAccess::parse_success_response(&[0x0A, 0x42, 0x01, 0x34]).unwrap();
        let expected = UserAccess { room: 10, enabled: Some(true), messaging: true, privilege: 4 };
        assert_eq!(access, expected);
        let disabled = GetUserAccess::parse_success_response(&[0x0A, 0x82, 0x01, 0x0F]).unwrap();
        assert_eq!((disabled.enabled, disabled.messaging), (Some(false), false));
        let name = GetUserName::parse_success_response(b"admin\0\0\0\0\0\0\0\0\0\0\0").unwrap();
        assert_eq!(name, "admin");
        assert!(GetUserAccess::parse_success_response(&[1, 2, 3]).is_err());
    }
}
