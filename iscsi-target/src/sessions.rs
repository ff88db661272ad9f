//! The table of sessions, used at login and at the end of a session only.
//!
//! Its rules are session reinstatement (RFC 7143 section 6.3.5), by which a login with the names and
//! ISID of a session that is there ends the old one at once, and that one initiator has only so many
//! sessions with a target.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::login::{Established, Kind, Port, status};
use crate::turns::Ticket;

/// How long a new session waits for the one it replaces.
const REPLACE_WITHIN: Duration = Duration::from_secs(1);

/// What RFC 7143 calls the I_T nexus, together with the ISID: one portal group, so the target's
/// name is enough.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Nexus {
    initiator: String,
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
    entries: HashMap<Nexus, HashMap<[u8; 6], Entry>>,
    last_tsih: u16,
}

/// All sessions of a server.
#[derive(Debug)]
pub(crate) struct Sessions {
    /// Sessions of one nexus.
    most: usize,
    table: Mutex<Table>,
}

/// A session's place in the table; leaving it tells whoever waits to take over.
#[derive(Debug)]
pub(crate) struct Place {
    sessions: Arc<Sessions>,
    nexus: Nexus,
    isid: [u8; 6],
    pub(crate) tsih: u16,
    gone: CancellationToken,
}

impl Sessions {
    /// A table in which an initiator may have so many sessions with a target.
    pub(crate) fn new(most: usize) -> Self {
        Self { most: most.max(1), table: Mutex::default() }
    }

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
        let nexus = Nexus { initiator: login.initiator.clone(), target };
        let gone = CancellationToken::new();
        let (tsih, old) = self.replace(&nexus, login.port, ticket, gone.clone())?;
        // Made before the wait, so that a login given up meanwhile leaves the table clean.
        let place = Place { sessions: Arc::clone(self), nexus, isid: login.port.isid, tsih, gone };
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
        let of_nexus = table.entries.get(nexus);
        let old = of_nexus.and_then(|entries| entries.get(&port.isid));
        // Anyone may have discovery sessions under anyone's name, so they use up nothing of his.
        let is_discovery = nexus.target.is_empty();
        let is_full = of_nexus.is_some_and(|entries| entries.len() >= self.most);
        if !is_discovery && old.is_none() && is_full {
            return Err(status::OUT_OF_RESOURCES);
        }
        let tsih = match (port.tsih, old) {
            (0, _) => table.fresh_tsih(),
            (tsih, Some(old)) if old.tsih == tsih && old.cid == port.cid => tsih,
            (tsih, Some(old)) if old.tsih == tsih => return Err(status::TOO_MANY_CONNECTIONS),
            _ => return Err(status::NO_SUCH_SESSION),
        };
        let entry = Entry { tsih, cid: port.cid, ticket, gone };
        let of_nexus = table.entries.entry(nexus.clone()).or_default();
        Ok((tsih, of_nexus.insert(port.isid, entry)))
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        // The table is whole after every statement, so a panic elsewhere cannot have broken it.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
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
        if let Some(of_nexus) = table.entries.get_mut(&self.nexus) {
            // A successor may already sit here.
            if of_nexus.get(&self.isid).is_some_and(|entry| entry.gone == self.gone) {
                of_nexus.remove(&self.isid);
            }
            if of_nexus.is_empty() {
                table.entries.remove(&self.nexus);
            }
        }
        drop(table);
        self.gone.cancel();
    }
}
