//! Whether anything at an address speaks IPMI over LAN, without an account: Get Channel Authentication
//! Capabilities is answered to everybody (section 22.13).

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use ipmi_rs_core::{
    app::auth::{GetChannelAuthenticationCapabilities, PrivilegeLevel},
    connection::Channel,
};
use tokio::{net::UdpSocket, time::timeout};

use crate::wire::{
    message,
    packet::{self, LONGEST, Packet, payload},
};

/// How often it is asked.
const TRIES: u32 = 4;

/// Whether anything there answers within `wait`.
///
/// # Errors
/// When the system would not send, or says that nobody listens there.
pub async fn answers(bmc: SocketAddr, wait: Duration) -> io::Result<bool> {
    let any = match bmc {
        SocketAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
        SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
    };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(bmc).await?;
    let question =
        GetChannelAuthenticationCapabilities::new(Channel::Current, PrivilegeLevel::Administrator);
    let question = packet::open_1_5(&message::request(0, &question.into()));
    let mut bytes = [0; LONGEST];
    for _ in 0..TRIES {
        socket.send(&question).await?;
        let Ok(length) = timeout(wait / TRIES, socket.recv(&mut bytes)).await else { continue };
        let answer = bytes.get(..length?).and_then(packet::parse);
        if matches!(answer, Some(Packet::Open { payload_type: payload::IPMI, .. })) {
            return Ok(true);
        }
    }
    Ok(false)
}
