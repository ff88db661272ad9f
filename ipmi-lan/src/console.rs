//! A serial console as its user has it.

use tokio::sync::mpsc;

use crate::error::Error;

/// Pieces that wait for their reader, or for their packet. What does not fit the BMC keeps.
const PIECES: usize = 64;

/// A serial console over LAN. It ends when it is dropped.
#[derive(Debug)]
pub struct Console {
    characters: mpsc::Receiver<Result<Vec<u8>, Error>>,
    input: ConsoleInput,
}

/// The way to a console; its clones are the same one. It alone does not keep a console that was
/// dropped.
#[derive(Debug, Clone)]
pub struct ConsoleInput(mpsc::Sender<Input>);

/// What is given to the other side.
#[derive(Debug)]
pub(crate) enum Input {
    Characters(Vec<u8>),
    Break,
}

impl Console {
    pub(crate) fn new() -> (Self, Ends) {
        // One more than is filled: the reason of the end always fits.
        let (give, characters) = mpsc::channel(PIECES + 1);
        let (input, take) = mpsc::channel(PIECES);
        (Self { characters, input: ConsoleInput(input) }, Ends { give, take })
    }

    /// The next characters; none once it is over and the reason was told.
    ///
    /// # Errors
    /// Why it is over, once.
    pub async fn read(&mut self) -> Option<Result<Vec<u8>, Error>> {
        self.characters.recv().await
    }

    /// The way to the other side.
    pub fn input(&self) -> &ConsoleInput {
        &self.input
    }
}

impl ConsoleInput {
    /// Gives characters to the other side, in order. Waits while there are too many on their way.
    ///
    /// # Errors
    /// When the console is over.
    pub async fn write(&self, characters: &[u8]) -> Result<(), Error> {
        self.give(Input::Characters(characters.to_vec())).await
    }

    /// Gives a BREAK, which Linux takes for its SysRq key, behind the characters before it.
    ///
    /// # Errors
    /// When the console is over.
    pub async fn send_break(&self) -> Result<(), Error> {
        self.give(Input::Break).await
    }

    async fn give(&self, input: Input) -> Result<(), Error> {
        self.0.send(input).await.map_err(|_| Error::Closed)
    }
}

/// The other ends of a console's pipes.
#[derive(Debug)]
pub(crate) struct Ends {
    give: mpsc::Sender<Result<Vec<u8>, Error>>,
    take: mpsc::Receiver<Input>,
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

    /// What is to be sent next; none when the console was dropped.
    pub(crate) async fn written(&mut self) -> Option<Input> {
        // Whoever only has its input does not keep it.
        tokio::select! {
            biased;
            () = self.give.closed() => None,
            input = self.take.recv() => input,
        }
    }
}
