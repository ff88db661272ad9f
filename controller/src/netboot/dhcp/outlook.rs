//! Whether haasd may give addresses on a wire: not before it has looked for other DHCP servers (but
//! for a restart, which nodes must not notice), and not while there is one. Two servers on one wire
//! give nodes no boot file, or one machine's address to another, and nobody sees why.

use std::{
    io,
    net::Ipv4Addr,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::wire::Wire;
use crate::{config::Network, netboot::boot_target::BootTargets};

/// A switch port with spanning tree holds everything back for 30 s after its link has come up, so a
/// controller that has just started looks twice.
const SECOND_LOOK: Duration = Duration::from_secs(45);
/// How often it is noted that there is none.
const NOTE_EACH: Duration = Duration::from_secs(60);
/// How often it is looked whether the other server has gone.
const LOOK_AGAIN: Duration = Duration::from_secs(10);

/// What was seen so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    /// Nobody has looked yet: nobody is answered.
    Nothing,
    /// No other server, or it was not to be looked for.
    Clear,
    /// This one: nobody is answered.
    Other(Ipv4Addr),
}

/// What is known of other servers on the wire of one listener.
#[derive(Debug)]
pub struct Outlook {
    wire: Option<Wire>,
    seen: Mutex<Seen>,
}

impl Outlook {
    /// Looks on `wire`; without one everything is taken for clear.
    pub fn new(wire: Option<Wire>) -> Self {
        let seen = if wire.is_some() { Seen::Nothing } else { Seen::Clear };
        Self { wire, seen: Mutex::new(seen) }
    }

    /// What was seen last.
    pub fn seen(&self) -> Seen {
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The wire, where it is to be asked at all.
    pub fn wire(&self) -> Option<&Wire> {
        self.wire.as_ref()
    }

    /// Looks for other servers until there is none, and then notes so as long as it runs.
    pub(super) async fn watch<T: BootTargets>(
        &self,
        network: &Network,
        port: u16,
        targets: &T,
        stop: &CancellationToken,
    ) {
        let Some(wire) = &self.wire else { return };
        if targets.was_alone(network).await {
            // A node that boots while haasd is restarted must not wait for the look.
            self.see(&Ok(None));
        }
        let mut is_second = false;
        loop {
            let found = tokio::select! {
                () = stop.cancelled() => return,
                found = wire.other_server(port) => found,
            };
            let before = self.see(&found);
            let pause = match found {
                Ok(Some(server)) => {
                    if before != Seen::Other(server) {
                        refused(network, server);
                        targets.other_server(network, server, true).await;
                    }
                    is_second = false;
                    LOOK_AGAIN
                }
                Ok(None) => {
                    if matches!(before, Seen::Other(_)) {
                        info!(
                            network = network.name,
                            "the other DHCP server has gone; haasd answers"
                        );
                    }
                    targets.alone(network).await;
                    if is_second {
                        break;
                    }
                    is_second = true;
                    SECOND_LOOK
                }
                Err(error) => {
                    warn!(network = network.name, interface = wire.interface(), %error,
                        "cannot look for other DHCP servers");
                    if is_second {
                        return;
                    }
                    is_second = true;
                    SECOND_LOOK
                }
            };
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
        }
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(NOTE_EACH) => targets.alone(network).await,
            }
        }
    }

    /// Notes what was found and answers what was known before.
    fn see(&self, found: &io::Result<Option<Ipv4Addr>>) -> Seen {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let now = match found {
            Ok(Some(server)) => Seen::Other(*server),
            Ok(None) => Seen::Clear,
            // Who cannot look must not keep the nodes from booting, nor forget what was seen.
            Err(_) if matches!(*seen, Seen::Other(_)) => *seen,
            Err(_) => Seen::Clear,
        };
        std::mem::replace(&mut *seen, now)
    }
}

fn refused(network: &Network, server: Ipv4Addr) {
    error!(
        network = network.name,
        interface = network.interface,
        %server,
        "another DHCP server, {server}, answers on interface {}: haasd gives no addresses in network {} as long \
         as it does. Switch that server off there, or let it go on giving addresses and set dhcp = \"proxy\" for \
         this network, or set probe = false to answer beside it",
        network.interface, network.name
    );
}
