//! Whose turn it is: the connections of one I/O thread, by deficit round robin over the classes and
//! round robin within each (Shreedhar and Varghese, "Efficient Fair Queuing Using Deficit Round
//! Robin", 1995).
//!
//! [`Turns`] is a future that polls other futures. It decides at the one place where it is known
//! both who is ready and what the last turn cost: a class with 256 busy sessions gets no more of the
//! thread than one with a single session.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::future::{Future, poll_fn};
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Instant;

use crate::spin::Spin;

/// The class of connections that have not logged in yet.
const NEWCOMERS: u64 = u64::MAX;

/// Bytes that a class may send before the next class has its turn.
const QUANTUM: i64 = 64 << 10;

/// What a turn costs beside its bytes, so that small requests are counted too: about the bytes that
/// could be sent in the time.
const TURN_COST: i64 = 4 << 10;

/// Cost of the turns in one poll. There are two of them between two looks at the sockets (see
/// `threads.rs`).
const LOOK_AFTER: i64 = 512 << 10;

/// Classes that are kept for another time while nobody is ready.
const MAX_IDLE_CLASSES: usize = 16;

/// A connection's life, from its first byte to its end.
pub(crate) type Life = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A connection's ticket for turns.
#[derive(Clone)]
pub(crate) struct Ticket(Arc<Task>);

struct Task {
    key: u64,
    /// None once it is over.
    life: Mutex<Option<Life>>,
    class: AtomicU64,
    spent: AtomicU64,
    /// It has sent a small answer, to which the next request may come soon.
    expects: AtomicBool,
    /// It is among the ready, or about to be.
    queued: AtomicBool,
    stopping: AtomicBool,
    ended: AtomicBool,
    ready: Arc<Ready>,
}

/// Who was woken, from whatever thread.
#[derive(Default)]
struct Ready(Mutex<Woken>);

#[derive(Default)]
struct Woken {
    tasks: Vec<Arc<Task>>,
    /// Wakes [`Turns`] itself, while it sleeps.
    sleeper: Option<Waker>,
}

impl Ticket {
    /// From now on the connection's turns are those of this class.
    pub(crate) fn join(&self, class: u64) {
        self.0.class.store(class, Ordering::Relaxed);
    }

    /// Counts bytes that the turn under way has moved.
    pub(crate) fn spend(&self, bytes: u64) {
        self.0.spent.fetch_add(bytes, Ordering::Relaxed);
    }

    /// A small answer went out in the turn under way.
    pub(crate) fn expect(&self) {
        self.0.expects.store(true, Ordering::Relaxed);
    }

    /// Whether the connection is to end at the next good moment.
    pub(crate) fn is_stopping(&self) -> bool {
        self.0.stopping.load(Ordering::Relaxed)
    }

    /// Ends the connection at once, wherever it is.
    pub(crate) fn end(&self) {
        self.0.ended.store(true, Ordering::Release);
        self.0.wake_by_ref();
    }

    fn stop(&self) {
        self.0.stopping.store(true, Ordering::Relaxed);
        self.0.wake_by_ref();
    }
}

impl fmt::Debug for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ticket").field("class", &self.0.class).finish_non_exhaustive()
    }
}

/// Leaves the rest of the turn to others.
pub(crate) async fn pass() {
    let mut passed = false;
    poll_fn(|cx| {
        if passed {
            return Poll::Ready(());
        }
        passed = true;
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

impl Task {
    fn life(&self) -> MutexGuard<'_, Option<Life>> {
        self.life.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has one turn. False when there is no more to come.
    fn run(self: &Arc<Self>) -> bool {
        // Before the turn, so that a wake in the middle of it leads to another one.
        self.queued.store(false, Ordering::Release);
        let mut life = self.life();
        if self.ended.load(Ordering::Acquire) {
            *life = None;
        }
        let Some(future) = life.as_mut() else { return false };
        let waker = Waker::from(Arc::clone(self));
        let turn = || future.as_mut().poll(&mut Context::from_waker(&waker));
        let over = match std::panic::catch_unwind(AssertUnwindSafe(turn)) {
            Ok(poll) => poll.is_ready(),
            Err(_) => {
                tracing::error!("a connection's task panicked");
                true
            }
        };
        if over {
            *life = None;
        }
        !over
    }
}

impl Ready {
    fn lock(&self) -> MutexGuard<'_, Woken> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, task: Arc<Task>) {
        let mut woken = self.lock();
        woken.tasks.push(task);
        let sleeper = woken.sleeper.take();
        drop(woken);
        if let Some(sleeper) = sleeper {
            sleeper.wake();
        }
    }
}

impl Wake for Task {
    fn wake(self: Arc<Self>) {
        if !self.queued.swap(true, Ordering::AcqRel) {
            let ready = Arc::clone(&self.ready);
            ready.add(self);
        }
    }

    fn wake_by_ref(self: &Arc<Self>) {
        Arc::clone(self).wake();
    }
}

#[derive(Default)]
struct Class {
    ready: VecDeque<Arc<Task>>,
    /// What it may still spend in this round; below zero after a turn that cost more.
    credit: i64,
}

/// The connections of one I/O thread. As a future it runs whoever is ready, and never ends.
#[derive(Default)]
pub(crate) struct Turns {
    ready: Arc<Ready>,
    classes: HashMap<u64, Class>,
    /// Classes in which somebody is ready, the next one first.
    order: VecDeque<u64>,
    live: HashMap<u64, Ticket>,
    last_key: u64,
    /// Reused, so that no look at the woken allocates.
    woken: Vec<Arc<Task>>,
    spin: Spin,
}

impl Turns {
    /// No connections yet; `spin` says what to do when none has anything to do.
    pub(crate) fn new(spin: Spin) -> Self {
        let mut turns = Self::default();
        turns.spin = spin;
        turns
    }

    /// Takes in a connection.
    pub(crate) fn admit(&mut self, life: impl FnOnce(Ticket) -> Life) {
        self.last_key += 1;
        let task = Arc::new(Task {
            key: self.last_key,
            life: Mutex::new(None),
            class: AtomicU64::new(NEWCOMERS),
            spent: AtomicU64::new(0),
            expects: AtomicBool::new(false),
            queued: AtomicBool::new(false),
            stopping: AtomicBool::new(false),
            ended: AtomicBool::new(false),
            ready: Arc::clone(&self.ready),
        });
        let ticket = Ticket(Arc::clone(&task));
        *task.life() = Some(life(ticket.clone()));
        self.live.insert(self.last_key, ticket);
        task.wake();
    }

    /// Tells all connections to end at the next good moment.
    pub(crate) fn stop(&self) {
        self.live.values().for_each(Ticket::stop);
    }

    /// Runs until no connection is left.
    pub(crate) async fn finish(&mut self) {
        poll_fn(|cx| {
            let _ = Pin::new(&mut *self).poll(cx);
            if self.live.is_empty() { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }

    /// Sorts those that were woken into their classes.
    fn collect(&mut self) {
        std::mem::swap(&mut self.ready.lock().tasks, &mut self.woken);
        for task in self.woken.drain(..) {
            let id = task.class.load(Ordering::Relaxed);
            let class = self.classes.entry(id).or_default();
            if class.ready.is_empty() {
                self.order.push_back(id);
            }
            class.ready.push_back(task);
        }
    }

    /// Takes the next one, with its class; none when nobody is ready.
    fn next(&mut self) -> Option<(u64, Arc<Task>)> {
        loop {
            let id = *self.order.front()?;
            let class = self.classes.entry(id).or_default();
            if class.credit <= 0 {
                class.credit += QUANTUM;
                self.order.rotate_left(1);
                continue;
            }
            let task = class.ready.pop_front();
            if class.ready.is_empty() {
                self.order.pop_front();
            }
            if let Some(task) = task {
                return Some((id, task));
            }
        }
    }

    /// Gives one ready connection its turn; its cost, or none when nobody is ready.
    fn turn(&mut self) -> Option<i64> {
        self.collect();
        let Some((id, task)) = self.next() else {
            // Nobody waits, so nobody owes anybody anything.
            if self.classes.len() > MAX_IDLE_CLASSES {
                self.classes.clear();
            }
            self.classes.values_mut().for_each(|class| class.credit = 0);
            return None;
        };
        self.spin.is_busy(Instant::now);
        if !task.run() {
            self.live.remove(&task.key);
        }
        if task.expects.swap(false, Ordering::Relaxed) {
            self.spin.expect();
        }
        let bytes = task.spent.swap(0, Ordering::Relaxed);
        let cost = i64::try_from(bytes).unwrap_or(i64::MAX / 2) + TURN_COST;
        if let Some(class) = self.classes.get_mut(&id) {
            class.credit -= cost;
            if class.ready.is_empty() {
                // Credit is not saved up; debt stays while others are busy.
                class.credit = class.credit.min(0);
            }
        }
        Some(cost)
    }
}

impl Future for Turns {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let mut cost = 0;
        while cost < LOOK_AFTER {
            match self.turn() {
                Some(more) => cost += more,
                None if self.spin.is_idle(Instant::now) => break,
                None => {
                    let mut woken = self.ready.lock();
                    if woken.tasks.is_empty() {
                        woken.sleeper = Some(cx.waker().clone());
                        return Poll::Pending;
                    }
                }
            }
        }
        // Sockets that became ready meanwhile are seen before the next turn.
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

impl Drop for Turns {
    fn drop(&mut self) {
        // A life holds the ticket that holds it.
        for ticket in self.live.values() {
            *ticket.0.life() = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    /// A connection of a class that has always more to send, `bytes` in each turn.
    fn busy(turns: &mut Turns, class: u64, bytes: u64) -> Arc<AtomicUsize> {
        let count = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&count);
        turns.admit(|ticket| {
            Box::pin(async move {
                ticket.join(class);
                loop {
                    pass().await;
                    counted.fetch_add(1, Ordering::Relaxed);
                    ticket.spend(bytes);
                }
            })
        });
        count
    }

    fn run(turns: &mut Turns, count: usize) {
        for _ in 0..count {
            assert!(turns.turn().is_some());
        }
    }

    #[test]
    fn classes_share_fairly_whatever_their_sessions_and_requests() {
        let mut turns = Turns::default();
        let many: Vec<_> = (0..256).map(|_| busy(&mut turns, 1, 4 << 10)).collect();
        let large = busy(&mut turns, 2, 1 << 20);
        run(&mut turns, 20_000);
        let many_bytes: usize = many.iter().map(|c| c.load(Ordering::Relaxed) * (4 << 10)).sum();
        // What small requests cost beside their bytes is counted.
        let many_cost = many_bytes * 2;
        let large_cost = large.load(Ordering::Relaxed) * ((1 << 20) + (4 << 10));
        let ratio = many_cost as f64 / large_cost as f64;
        assert!((0.9..1.1).contains(&ratio), "{ratio}");
        // And within a class each session has its share, but for the first turns as newcomers.
        let counts: Vec<_> = many.iter().map(|c| c.load(Ordering::Relaxed)).collect();
        let (least, most) = (counts.iter().min().unwrap(), counts.iter().max().unwrap());
        assert!(most - least <= 4, "{least} to {most}");
    }

    #[test]
    fn the_one_that_comes_late_waits_for_no_more_than_a_quantum_of_each_class() {
        let mut turns = Turns::default();
        for _ in 0..256 {
            busy(&mut turns, 1, 64 << 10);
        }
        run(&mut turns, 1000);
        let late = busy(&mut turns, 2, 4 << 10);
        run(&mut turns, 10);
        assert!(late.load(Ordering::Relaxed) > 0);
    }

    #[test]
    fn an_ended_one_is_dropped_and_a_panic_harms_nobody_else() {
        struct Dropped(Arc<AtomicBool>);
        impl Drop for Dropped {
            fn drop(&mut self) {
                self.0.store(true, Ordering::Relaxed);
            }
        }
        let mut turns = Turns::default();
        let (gone, mut ticket) = (Arc::new(AtomicBool::new(false)), None);
        let held = Dropped(Arc::clone(&gone));
        turns.admit(|own| {
            ticket = Some(own);
            Box::pin(async move {
                let _held = held;
                std::future::pending::<()>().await;
            })
        });
        turns.admit(|_| Box::pin(async { panic!("as a test") }));
        while turns.turn().is_some() {}
        assert_eq!((turns.live.len(), gone.load(Ordering::Relaxed)), (1, false));
        ticket.unwrap().end();
        while turns.turn().is_some() {}
        assert_eq!((turns.live.len(), gone.load(Ordering::Relaxed)), (0, true));
    }
}
