//! A serial console as its user has it.

use tokio::sync::mpsc;

use crate::error::Error;

/// Pieces that wait for their reader, or for their packet. What does not fit the BMC keeps.
const PIECES: usize = 64;

/// A serial console over LAN. It ends when it is dropped.
#[derive(Debug)]
pub struct Console {
    characters: mpsc::Receiver<Result<Vec<u8>, Error>>,
    input: mpsc::Sender<Vec<u8>>,
}

impl Console {
    pub(crate) fn new() -> (Self, Ends) {
        // One more than is filled: the reason of the end always fits.
        let (give, characters) = mpsc::channel(PIECES + 1);
        let (input, take) = mpsc::channel(PIECES);
        (Self { characters, input }, Ends { give, take })
    }

    /// The next characters; none once it is over and the reason was told.
    ///
    /// # Errors
    /// Why it is over, once.
    pub async fn read(&mut self) -> Option<Result<Vec<u8>, Error>> {
        self.characters.recv().await
    }

    /// Gives characters to the other side, in order. Waits while there are too many on their way.
    ///
    /// # Errors
    /// When the console is over.
    pub async fn write(&self, characters: &[u8]) -> Result<(), Error> {
        self.input.send(characters.to_vec()).await.map_err(|_| Error::Closed)
    }
}

/// The other ends of a console's pipes.
#[derive(Debug)]
pub(crate) struct Ends {
    give: mpsc::Sender<Result<Vec<u8>, Error>>,
    take: mpsc::Receiver<Vec<u8>>,
}

impl Ends {
    /// Whether a packet's characters can be given to the reader.
    pub(crate) fn has_room(&self) -> bool {
        self.give.capacity() > 1
    }

    /// There was room, or it is the end; a reader that has gone is told by [`Ends::written`].
    pub(crate) fn give(&self, what: Result<Vec<u8>, Error>) {
        let _ = self.give.try_send(what);
    }

    /// The next characters to send; none when the console was dropped.
    pub(crate) async fn written(&mut self) -> Option<Vec<u8>> {
        self.take.recv().await
    }
}
