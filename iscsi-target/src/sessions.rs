//! The table of sessions, used at login and at the end of a session only.
//!
//! Its one rule is session reinstatement (RFC 7143 section 6.3.5): a login with the names and ISID of
//! a session that is there ends the old one at once.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::login::{Established, Kind, Port, status};
use crate::turns::Ticket;

/// How long a new session waits for the one it replaces.
const REPLACE_WITHIN: Duration = Duration::from_secs(1);

/// What RFC 7143 calls the I_T nexus: one portal group, so the target's name is enough.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Nexus {
    initiator: String,
    isid: [u8; 6],
    /// Empty for discovery.
    target: String,
}

#[derive(Debug)]
struct Entry {
    tsih: u16,
    cid: u16,
    ticket: Ticket,
    gone: CancellationToken,
}

#[derive(Debug, Default)]
struct Table {
    entries: HashMap<Nexus, Entry>,
    last_tsih: u16,
}

/// All sessions of a server.
#[derive(Debug, Default)]
pub(crate) struct Sessions(Mutex<Table>);

/// A session's place in the table; leaving it tells whoever waits to take over.
#[derive(Debug)]
pub(crate) struct Place {
    sessions: Arc<Sessions>,
    nexus: Nexus,
    pub(crate) tsih: u16,
    gone: CancellationToken,
}

impl Sessions {
    /// Enters the session of a connection. A session of the same nexus is ended first.
    pub(crate) async fn enter(
        self: &Arc<Self>,
        login: &Established,
        ticket: Ticket,
    ) -> Result<Place, u16> {
        let target = match &login.kind {
            Kind::Discovery => String::new(),
            Kind::Normal { target, .. } => target.clone(),
        };
        let nexus = Nexus { initiator: login.initiator.clone(), isid: login.port.isid, target };
        let gone = CancellationToken::new();
        let (tsih, old) = self.replace(&nexus, login.port, ticket, gone.clone())?;
        // Made before the wait, so that a login given up meanwhile leaves the table clean.
        let place = Place { sessions: Arc::clone(self), nexus, tsih, gone };
        if let Some(old) = old {
            info!(initiator = login.initiator, "a session is replaced by a new login");
            old.ticket.end();
            let _ = tokio::time::timeout(REPLACE_WITHIN, old.gone.cancelled()).await;
        }
        Ok(place)
    }

    fn replace(
        &self,
        nexus: &Nexus,
        port: Port,
        ticket: Ticket,
        gone: CancellationToken,
    ) -> Result<(u16, Option<Entry>), u16> {
        let mut table = self.lock();
        let tsih = match (port.tsih, table.entries.get(nexus)) {
            (0, _) => table.fresh_tsih(),
            (tsih, Some(old)) if old.tsih == tsih && old.cid == port.cid => tsih,
            (tsih, Some(old)) if old.tsih == tsih => return Err(status::TOO_MANY_CONNECTIONS),
            _ => return Err(status::NO_SUCH_SESSION),
        };
        let entry = Entry { tsih, cid: port.cid, ticket, gone };
        Ok((tsih, table.entries.insert(nexus.clone(), entry)))
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        // The table is whole after every statement, so a panic elsewhere cannot have broken it.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    /// A handle that no session has, unless there are 65,535 of them, and never 0. Sessions are
    /// found by their nexus, so a double would do no harm.
    fn fresh_tsih(&mut self) -> u16 {
        self.last_tsih = self.last_tsih.checked_add(1).unwrap_or(1);
        self.last_tsih
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut table = self.sessions.lock();
        // A successor may already sit here.
        if table.entries.get(&self.nexus).is_some_and(|entry| entry.gone == self.gone) {
            table.entries.remove(&self.nexus);
        }
        drop(table);
        self.gone.cancel();
    }
}
