//! The event stream: server-sent events (HTML Living Standard, section 9.2), one [`Event`] each.

use std::{collections::VecDeque, fmt, pin::Pin};

use futures_util::{Stream, StreamExt};
use reqwest::Method;

use super::{Client, ClientError};
use crate::event::Event;

/// A longer event is refused: no event of ours comes near.
const FRAME_MAX: usize = 1 << 20;

type Chunks = Pin<Box<dyn Stream<Item = Result<Vec<u8>, reqwest::Error>> + Send>>;

/// Events in their order, none twice. After an error the next call of [`Events::next`] connects
/// again and goes on behind the last event that was given out; how long to wait before is the
/// caller's affair.
pub struct Events {
    client: Client,
    operation: Option<String>,
    last: Option<i64>,
    body: Option<Chunks>,
    parser: Parser,
    ready: VecDeque<String>,
}

impl fmt::Debug for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Events")
            .field("operation", &self.operation)
            .field("last", &self.last)
            .finish_non_exhaustive()
    }
}

impl Client {
    /// The events from number `from` on (those of now where none is given), of one operation if it
    /// is named. Connects at the first [`Events::next`].
    pub fn events(&self, from: Option<i64>, operation: Option<&str>) -> Events {
        Events {
            client: self.clone(),
            operation: operation.map(str::to_owned),
            // The first event wanted is `from` itself.
            last: from.map(|seq| seq - 1),
            body: None,
            parser: Parser::default(),
            ready: VecDeque::new(),
        }
    }
}

impl Events {
    /// The next event. Waits for it; an error says that the stream broke off or was refused.
    pub async fn next(&mut self) -> Result<Event, ClientError> {
        loop {
            while let Some(data) = self.ready.pop_front() {
                let event: Event = serde_json::from_str(&data)
                    .map_err(|e| self.client.protocol(format!("an event cannot be read: {e}")))?;
                if self.last.is_none_or(|last| event.seq > last) {
                    self.last = Some(event.seq);
                    return Ok(event);
                }
            }
            if self.body.is_none() {
                let opened = connect(&self.client, self.last, self.operation.as_deref()).await?;
                self.body = Some(opened);
                self.parser = Parser::default();
            }
            let body = self.body.as_mut().expect("it was just opened");
            match body.next().await {
                Some(Ok(bytes)) => match self.parser.feed(&bytes) {
                    Ok(frames) => self.ready.extend(frames),
                    Err(TooLong) => {
                        self.body = None;
                        return Err(self.client.protocol("an event is too long".to_owned()));
                    }
                },
                Some(Err(source)) => {
                    self.body = None;
                    return Err(self.client.failed(source));
                }
                // haasd ended the stream in order: it restarts, or we were too slow.
                None => {
                    self.body = None;
                    return Err(ClientError::Ended { url: self.client.url().to_owned() });
                }
            }
        }
    }
}

async fn connect(
    client: &Client,
    last: Option<i64>,
    operation: Option<&str>,
) -> Result<Chunks, ClientError> {
    // The last one again: whether `from` is included or not, none is missed, and `next` drops what
    // was given out already.
    let from = last.map(|seq| seq.max(0).to_string());
    let mut query = Vec::new();
    query.extend(from.as_deref().map(|from| ("from", from)));
    query.extend(operation.map(|id| ("operation", id)));
    let url = client.at(&["v1", "events"], &query);
    let request = client.request(&client.inner.quiet, Method::GET, url);
    let response =
        client.send(request.header(reqwest::header::ACCEPT, "text/event-stream")).await?;
    Ok(Box::pin(response.bytes_stream().map(|chunk| chunk.map(|bytes| bytes.to_vec()))))
}

#[derive(Debug, PartialEq, Eq)]
struct TooLong;

/// Takes the stream apart. Only `data` matters to us: the number stands in the event too.
#[derive(Default)]
struct Parser {
    line: Vec<u8>,
    data: String,
    after_cr: bool,
}

impl Parser {
    /// The data of each event that these bytes complete.
    fn feed(&mut self, bytes: &[u8]) -> Result<Vec<String>, TooLong> {
        let mut done = Vec::new();
        for &byte in bytes {
            let after_cr = std::mem::replace(&mut self.after_cr, byte == b'\r');
            match byte {
                b'\n' if after_cr => {}
                b'\r' | b'\n' => self.end_line(&mut done),
                _ => self.line.push(byte),
            }
            if self.line.len() + self.data.len() > FRAME_MAX {
                return Err(TooLong);
            }
        }
        Ok(done)
    }

    fn end_line(&mut self, done: &mut Vec<String>) {
        let line = String::from_utf8_lossy(&std::mem::take(&mut self.line)).into_owned();
        if line.is_empty() {
            if !self.data.is_empty() {
                done.push(std::mem::take(&mut self.data));
            }
        } else if let Some(data) = line.strip_prefix("data:") {
            if !self.data.is_empty() {
                self.data.push('\n');
            }
            self.data.push_str(data.strip_prefix(' ').unwrap_or(data));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_out_whole_however_they_were_cut() {
        let stream = b": hello\n\nid: 1\ndata: {\"a\":1}\n\nid:2\r\ndata:{\"b\":\r\ndata: 2}\r\n\r\nevent: x\n\ndata: cut";
        let whole = vec!["{\"a\":1}".to_owned(), "{\"b\":\n2}".to_owned()];
        for size in 1..stream.len() {
            let mut parser = Parser::default();
            let got: Vec<String> =
                stream.chunks(size).flat_map(|chunk| parser.feed(chunk).unwrap()).collect();
            assert_eq!(got, whole, "cut into pieces of {size}");
        }
    }

    #[test]
    fn an_event_without_end_is_refused() {
        let mut parser = Parser::default();
        assert_eq!(parser.feed(&vec![b'x'; FRAME_MAX + 1]), Err(TooLong));
        let mut parser = Parser::default();
        let many = "data: 0123456789\n".repeat(FRAME_MAX / 10);
        assert_eq!(parser.feed(many.as_bytes()), Err(TooLong));
    }
}
