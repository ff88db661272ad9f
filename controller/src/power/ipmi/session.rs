//! One session with a BMC: opened, used for one call, closed.

use std::{net::SocketAddr, time::Duration};

use ipmi_rs::{
    Ipmi,
    connection::{IpmiConnection, LogicalUnit, Request, RequestTargetAddress},
    rmcp::Rmcp,
};

use super::{
    command::{Command, close_session},
    fault::{self, BmcFault},
};
use crate::secret::Secret;

pub(super) struct Session {
    bmc: SocketAddr,
    ipmi: Ipmi<Rmcp>,
    id: u32,
}

impl Session {
    /// Logs in. `answer` is how long each packet's answer may take.
    pub(super) fn open(
        bmc: SocketAddr,
        user: &str,
        password: &Secret<String>,
        answer: Duration,
    ) -> Result<Self, BmcFault> {
        let mut rmcp = Rmcp::new(bmc, answer).map_err(fault::of_socket)?;
        rmcp.activate(true, Some(user), Some(password.expose().as_bytes()))
            .map_err(fault::of_activation)?;
        let id = id_of(&rmcp).ok_or(BmcFault::OldIpmi)?;
        Ok(Self { bmc, ipmi: Ipmi::new(rmcp), id })
    }

    pub(super) fn bmc(&self) -> SocketAddr {
        self.bmc
    }

    /// Sends a command and waits for its answer.
    pub(super) fn ask(&mut self, command: Command) -> Result<Vec<u8>, BmcFault> {
        self.ipmi.send_recv(command).map_err(fault::of_command)
    }

    /// Gives the BMC its slot back; it has few. Where the BMC answered so far it is waited for, so
    /// that the next session meets a free slot; otherwise the order is sent and left to its luck.
    pub(super) fn close(mut self, answers: bool) {
        let command = close_session(self.id);
        if answers {
            if let Err(error) = self.ask(command) {
                tracing::debug!(bmc = %self.bmc, %error, "session not closed");
            }
        } else {
            let to = RequestTargetAddress::Bmc(LogicalUnit::Zero);
            let mut request = Request::new(command.into(), to);
            let _ = IpmiConnection::send(self.ipmi.inner_mut(), &mut request);
        }
    }
}

// ipmi-rs keeps the session's id to itself but for its Debug text, and the id is what Close Session
// needs. A test holds 100 sessions against a BMC that has far fewer, so a change of that text is
// seen. No id, or a session of IPMI 1.5: nothing we would go on with.
fn id_of(rmcp: &Rmcp) -> Option<u32> {
    let text = format!("{rmcp:?}");
    let (_, state) = text.split_once("V2_0(State")?;
    let (_, id) = state.split_once(" session_id: ")?;
    let digits = id.find(|c: char| !c.is_ascii_digit())?;
    id[..digits].parse().ok()
}
