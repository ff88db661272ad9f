//! All BMCs, so that they are not all logged in to at the same moment, and none twice.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Instant,
};

use tokio::{sync::Semaphore, task::JoinSet};

use crate::{
    account::Account,
    bmc::Bmc,
    figures::{Figures, Sums},
    options::Options,
};

/// BMCs by address. Each is there once, with one session, whoever asks for it.
#[derive(Debug)]
pub struct Fleet {
    options: Options,
    handshakes: Arc<Semaphore>,
    sums: Arc<Sums>,
    bmcs: Mutex<HashMap<SocketAddr, (Account, Bmc)>>,
}

impl Fleet {
    /// A fleet without BMCs.
    pub fn new(options: Options) -> Self {
        let handshakes = Arc::new(Semaphore::new(options.handshakes));
        Self { options, handshakes, sums: Arc::default(), bmcs: Mutex::default() }
    }

    /// The BMC at this address. With another account than before it gets a new session. Must be
    /// called within a Tokio runtime, whose task it becomes.
    pub fn bmc(&self, address: SocketAddr, account: &Account) -> Bmc {
        let mut bmcs = self.bmcs.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Some((known, bmc)) = bmcs.get(&address)
            && known == account
            && !bmc.is_closed()
        {
            return bmc.clone();
        }
        let handshakes = Arc::clone(&self.handshakes);
        let sums = Arc::clone(&self.sums);
        let bmc = Bmc::start(address, account.clone(), self.options, handshakes, sums);
        bmcs.insert(address, (account.clone(), bmc.clone()));
        bmc
    }

    /// What it does and did, in numbers.
    pub fn figures(&self) -> Figures {
        let mut figures = self.sums.figures();
        let now = Instant::now();
        let bmcs = self.bmcs.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        bmcs.values().for_each(|(_, bmc)| bmc.count(&mut figures, now));
        figures
    }

    /// Closes all sessions, each when no call is under way, and waits until that is sent. BMCs that
    /// are asked for afterwards begin anew.
    pub async fn close(&self) {
        let bmcs = {
            let mut bmcs = self.bmcs.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            std::mem::take(&mut *bmcs)
        };
        let mut closing = JoinSet::new();
        for (_, bmc) in bmcs.into_values() {
            closing.spawn(async move { bmc.close().await });
        }
        closing.join_all().await;
    }
}
