//! The agents that are connected at this moment: a way to speak to each.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use haas_api::agent::ToAgent;
use tokio::sync::{Semaphore, SemaphorePermit, mpsc};

/// Agents that are greeted at the same time. Each has its plan in memory meanwhile, which of a fleet is long.
const GREETED_AT_ONCE: usize = 16;

/// The agents that are connected, by attempt.
#[derive(Debug, Clone)]
pub struct Agents {
    links: Arc<Mutex<Links>>,
    greeting: Arc<Semaphore>,
}

impl Default for Agents {
    fn default() -> Self {
        Self { links: Arc::default(), greeting: Arc::new(Semaphore::new(GREETED_AT_ONCE)) }
    }
}

/// The newest connection of each attempt.
type Links = HashMap<String, Way>;

/// The way to an agent.
#[derive(Debug)]
struct Way {
    /// The connection's number.
    number: u64,
    sender: mpsc::Sender<ToAgent>,
    /// Whether it knows [`ToAgent::Notice`].
    takes_notices: bool,
}

/// One connection of an agent; it is forgotten when this is dropped.
#[derive(Debug)]
pub struct Link {
    agents: Agents,
    attempt: String,
    number: u64,
}

impl Agents {
    /// Notes a connection. A newer one of the same attempt takes the place of the older, whose
    /// receiver then ends.
    pub fn connect(&self, attempt: &str, takes_notices: bool) -> (Link, mpsc::Receiver<ToAgent>) {
        let (sender, receiver) = mpsc::channel(32);
        let mut links = self.lock();
        let number = links.get(attempt).map_or(1, |way| way.number + 1);
        links.insert(attempt.to_owned(), Way { number, sender, takes_notices });
        (Link { agents: self.clone(), attempt: attempt.to_owned(), number }, receiver)
    }

    /// Waits until one more may be greeted, for as long as the answer is kept.
    pub async fn greeting(&self) -> Option<SemaphorePermit<'_>> {
        // Nobody closes it.
        self.greeting.acquire().await.ok()
    }

    /// Says something to an attempt's agent; false when it is not connected.
    pub fn tell(&self, attempt: &str, message: ToAgent) -> bool {
        let sender = self.lock().get(attempt).map(|way| way.sender.clone());
        sender.is_some_and(|sender| sender.try_send(message).is_ok())
    }

    /// Has an attempt's agent tell something to who is logged in; nobody is told if it is not connected
    /// or of an earlier version.
    pub fn notify(&self, attempt: &str, text: &str) {
        let takes = self.lock().get(attempt).is_some_and(|way| way.takes_notices);
        if takes {
            self.tell(attempt, ToAgent::Notice { text: text.to_owned() });
        }
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.lock().len()
    }

    fn lock(&self) -> MutexGuard<'_, Links> {
        self.links.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        let mut links = self.agents.lock();
        if links.get(&self.attempt).is_some_and(|way| way.number == self.number) {
            links.remove(&self.attempt);
        }
    }
}
