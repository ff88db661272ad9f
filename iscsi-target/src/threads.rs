//! The I/O threads. Each has a poller of its own and its share of the connections; a connection
//! stays on the thread that it was given to.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::runtime::{Builder, Runtime};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio_util::sync::CancellationToken;

use crate::census::Counted;
use crate::connection::{self, Shared};
use crate::disk_waits::DISK_THREADS;
use crate::newcomers::Newcomer;
use crate::spin::Spin;
use crate::turns::Turns;

/// How long sessions may take, when the server stops, to finish what they are sending.
const STOP_WITHIN: Duration = Duration::from_secs(2);

/// A connection that was accepted, and that counts until it ends.
pub(crate) struct Accepted {
    pub(crate) stream: TcpStream,
    pub(crate) peer: SocketAddr,
    pub(crate) counted: Counted,
}

/// All I/O threads.
pub(crate) struct Threads(Vec<Thread>);

struct Thread {
    accepted: UnboundedSender<Accepted>,
    connections: Arc<AtomicUsize>,
    /// Connections that it was given and has not taken in yet.
    waiting: Arc<AtomicUsize>,
    handle: JoinHandle<()>,
}

impl Threads {
    /// Starts `count` threads.
    pub(crate) fn start(
        count: usize,
        shared: &Arc<Shared>,
        stop: &CancellationToken,
    ) -> io::Result<Self> {
        let start = |number| {
            let runtime = Builder::new_current_thread()
                .enable_all()
                // A look at the sockets after two polls of the turns, which are one task. Behind a single
                // one tokio looks first without and then with waiting, which costs a system call.
                .event_interval(2)
                .max_blocking_threads(DISK_THREADS)
                .build()?;
            let (accepted, incoming) = unbounded_channel();
            let (connections, waiting): (Arc<AtomicUsize>, Arc<AtomicUsize>) = Default::default();
            let counts = (Arc::clone(&connections), Arc::clone(&waiting));
            let run = run(incoming, Arc::clone(shared), counts, stop.clone());
            let handle = std::thread::Builder::new()
                .name(format!("iscsi-{number}"))
                .spawn(move || drive(runtime, run))?;
            Ok(Thread { accepted, connections, waiting, handle })
        };
        (0..count.max(1)).map(start).collect::<io::Result<_>>().map(Self)
    }

    /// Connections in all.
    pub(crate) fn connections(&self) -> usize {
        self.0.iter().map(|thread| thread.connections.load(Ordering::Relaxed)).sum()
    }

    /// Connections that were given and not taken in yet.
    pub(crate) fn waiting(&self) -> usize {
        self.0.iter().map(|thread| thread.waiting.load(Ordering::Relaxed)).sum()
    }

    /// Gives a connection to the thread that has the fewest.
    pub(crate) fn give(&self, accepted: Accepted) {
        let fewest = self.0.iter().min_by_key(|t| t.connections.load(Ordering::Relaxed));
        let Some(thread) = fewest else { return };
        thread.connections.fetch_add(1, Ordering::Relaxed);
        thread.waiting.fetch_add(1, Ordering::Relaxed);
        // A thread that is gone has stopped, and so will the server.
        let _ = thread.accepted.send(accepted);
    }

    /// Waits until all threads have ended, which they do when told to stop. Blocks.
    pub(crate) fn join(self) {
        for thread in self.0 {
            drop(thread.accepted);
            if thread.handle.join().is_err() {
                tracing::error!("an I/O thread panicked");
            }
        }
    }
}

fn drive(runtime: Runtime, run: impl Future<Output = ()> + Send + 'static) {
    // As a task, since waking the main future costs a system call each time.
    let task = runtime.spawn(tokio::task::unconstrained(run));
    let _ = runtime.block_on(task);
    // A disk that does not answer holds up nobody.
    runtime.shutdown_timeout(Duration::from_secs(1));
}

/// One thread's work: take in connections and give them turns, until told to stop.
async fn run(
    mut incoming: UnboundedReceiver<Accepted>,
    shared: Arc<Shared>,
    (connections, waiting): (Arc<AtomicUsize>, Arc<AtomicUsize>),
    stop: CancellationToken,
) {
    let mut turns = Turns::new(Spin::new(shared.options.spin));
    let mut stopped = pin!(stop.cancelled());
    loop {
        let accepted = tokio::select! {
            biased;
            () = &mut stopped => break,
            accepted = incoming.recv() => accepted,
            () = &mut turns => continue,
        };
        let Some(Accepted { stream, peer, counted }) = accepted else { break };
        let (shared, connections) = (Arc::clone(&shared), Arc::clone(&connections));
        turns.admit(|ticket| {
            let newcomer = Some(shared.newcomers.enter(ticket.clone()));
            // Here, since it may end before it begins.
            let held = Held { _count: Count(connections), _counted: counted, newcomer };
            Box::pin(async move {
                let mut held = held;
                connection::serve(stream, peer, shared, ticket, &mut held.newcomer).await;
            })
        });
        waiting.fetch_sub(1, Ordering::Relaxed);
    }
    turns.stop();
    // Never ready, but for all connections to have ended.
    let _ = tokio::time::timeout(STOP_WITHIN, turns.finish()).await;
}

/// Where a connection counts. Dropped in this order, so that one that ends is known as such for as long
/// as it counts.
struct Held {
    _count: Count,
    _counted: Counted,
    newcomer: Option<Newcomer>,
}

/// One connection less when it is dropped.
struct Count(Arc<AtomicUsize>);

impl Drop for Count {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
