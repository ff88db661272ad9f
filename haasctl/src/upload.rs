//! A request body that is made while it is sent: a thread writes, the connection reads. Nothing is
//! kept on disk, and no more than a few pieces in memory.

use std::{
    io::{self, BufWriter, Write},
    sync::{Arc, Mutex, PoisonError},
};

use futures_util::stream;
use haas_api::client::Body;
use tokio::sync::mpsc;

/// Bytes of one piece.
const PIECE: usize = 256 << 10;

/// Pieces that may wait for the network.
const PIECES: usize = 8;

/// The writing side, to ask afterwards how it went.
#[derive(Debug)]
pub(crate) struct Upload {
    failure: Arc<Mutex<Option<io::Error>>>,
}

impl Upload {
    /// Starts `write` on a thread of its own; what it writes is the body.
    pub(crate) fn start(
        write: impl FnOnce(&mut dyn Write) -> io::Result<()> + Send + 'static,
    ) -> (Body, Self) {
        let (sender, mut receiver) = mpsc::channel(PIECES);
        let failure = Arc::new(Mutex::new(None));
        let slot = failure.clone();
        tokio::task::spawn_blocking(move || {
            let mut pieces = BufWriter::with_capacity(PIECE, Pieces(sender.clone()));
            let result = write(&mut pieces).and_then(|()| pieces.flush());
            if let Err(error) = result {
                let kind = error.kind();
                *slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                // The body must break off, or haasd would take a part for the whole.
                let _ = sender.blocking_send(Err(io::Error::from(kind)));
                // What is still buffered must not follow the error.
                drop(pieces.into_parts());
            }
        });
        let body = Body::wrap_stream(stream::poll_fn(move |context| receiver.poll_recv(context)));
        (body, Self { failure })
    }

    /// Why the writing side failed, if it did and it was not the reader who went away.
    pub(crate) fn failure(&self) -> Option<io::Error> {
        let taken = self.failure.lock().unwrap_or_else(PoisonError::into_inner).take();
        taken.filter(|error| error.kind() != io::ErrorKind::BrokenPipe)
    }
}

struct Pieces(mpsc::Sender<io::Result<Vec<u8>>>);

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.blocking_send(Ok(bytes.to_vec())).map_err(|_| io::ErrorKind::BrokenPipe)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
