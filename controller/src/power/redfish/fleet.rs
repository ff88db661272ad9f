//! All BMCs that speak Redfish: each once, with one session and one call at a time, whoever asks.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use tokio::{
    sync::{OwnedMutexGuard, Semaphore},
    task::{AbortHandle, JoinSet},
    time::timeout_at,
};

use super::{
    Options,
    breaker::Breaker,
    fault::RedfishFault,
    health::Parts,
    session::{Link, Login},
};

/// BMCs by address.
#[derive(Debug)]
pub(super) struct Fleet {
    pub(super) options: Options,
    /// What is known of the machines' parts, which is not read each time.
    pub(super) parts: Parts,
    logins: Arc<Semaphore>,
    places: Mutex<HashMap<SocketAddr, Arc<tokio::sync::Mutex<Place>>>>,
}

/// One BMC.
#[derive(Debug, Default)]
struct Place {
    link: Option<Link>,
    breaker: Breaker,
    /// Logs out when nobody has asked for a while.
    idle: Option<AbortHandle>,
}

/// A call that is under way: nobody else speaks to the BMC.
#[derive(Debug)]
pub(super) struct Call {
    place: OwnedMutexGuard<Place>,
    itself: Arc<tokio::sync::Mutex<Place>>,
    options: Options,
}

impl Fleet {
    pub(super) fn new(options: Options) -> Self {
        let logins = Arc::new(Semaphore::new(options.logins));
        Self { options, parts: Parts::default(), logins, places: Mutex::default() }
    }

    /// Waits for the turn, unless the BMC is left alone. Another account than before, or another trust,
    /// begins anew.
    pub(super) async fn call(&self, login: Login, deadline: Instant) -> Result<Call, RedfishFault> {
        let began = Instant::now();
        let itself = {
            let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(places.entry(login.bmc).or_default())
        };
        let turn = timeout_at(deadline.into(), Arc::clone(&itself).lock_owned()).await;
        let mut place = turn.map_err(|_| RedfishFault::Busy(began.elapsed()))?;
        if let Some(idle) = place.idle.take() {
            idle.abort();
        }
        if place.link.as_ref().is_some_and(|link| *link.login() != login)
            && let Some(mut old) = place.link.take()
        {
            place.breaker = Breaker::default();
            old.log_out().await;
        }
        place.breaker.check(Instant::now())?;
        match &mut place.link {
            Some(link) => link.deadline = deadline,
            empty => {
                let logins = Arc::clone(&self.logins);
                *empty = Some(Link::new(login, self.options, logins, deadline)?);
            }
        }
        Ok(Call { place, itself, options: self.options })
    }

    /// Closes all sessions, each when no call is under way.
    pub(super) async fn close(&self) {
        let places = {
            let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::take(&mut *places)
        };
        let mut closing = JoinSet::new();
        for place in places.into_values() {
            closing.spawn(async move {
                let mut place = place.lock().await;
                if let Some(idle) = place.idle.take() {
                    idle.abort();
                }
                if let Some(mut link) = place.link.take() {
                    link.log_out().await;
                }
            });
        }
        closing.join_all().await;
    }
}

impl Call {
    pub(super) fn link(&mut self) -> &mut Link {
        self.place.link.as_mut().expect("a call begins with a link, and only its end takes it")
    }

    /// Notes how it ended, and lets others have their turn.
    pub(super) fn end<T>(mut self, outcome: Result<T, RedfishFault>) -> Result<T, RedfishFault> {
        self.place.breaker.note(outcome.as_ref().map(|_| ()), &self.options, Instant::now());
        let (place, idle) = (Arc::clone(&self.itself), self.options.idle);
        let task = tokio::spawn(async move {
            tokio::time::sleep(idle).await;
            let mut place = place.lock().await;
            if let Some(mut link) = place.link.take() {
                link.log_out().await;
            }
        });
        self.place.idle = Some(task.abort_handle());
        outcome
    }
}
