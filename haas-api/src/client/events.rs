//! The event stream: server-sent events (HTML Living Standard, section 9.2), one [`Event`] each.

use std::{collections::VecDeque, fmt, pin::Pin};

use futures_util::{Stream, StreamExt};
use reqwest::Method;

use super::{Client, ClientError};
use crate::event::Event;

/// A longer event is refused: no event of ours comes near.
const FRAME_MAX: usize = 1 << 20;

type Chunks = Pin<Box<dyn Stream<Item = Result<Vec<u8>, reqwest::Error>> + Send>>;

/// Which events.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    /// From this number on, 0 for all that are kept; from now on where none is given.
    pub from: Option<i64>,
    /// Only of this operation.
    pub operation: Option<String>,
    /// Only of these nodes, a node set.
    pub nodeset: Option<String>,
    /// Only of these kinds; none is all.
    pub kinds: Vec<String>,
    /// Only those that there are already, and then [`ClientError::Ended`].
    pub so_far: bool,
}

/// Events in their order, none twice. After an error the next call of [`Events::next`] connects
/// again and goes on behind the last event that was given out; how long to wait before is the
/// caller's affair.
pub struct Events {
    client: Client,
    wanted: Wanted,
    last: Option<i64>,
    body: Option<Chunks>,
    parser: Parser,
    ready: VecDeque<Frame>,
    is_over: bool,
}

impl fmt::Debug for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Events")
            .field("wanted", &self.wanted)
            .field("last", &self.last)
            .finish_non_exhaustive()
    }
}

impl Client {
    /// The events from number `from` on (those of now where none is given), of one operation if it
    /// is named. Connects at the first [`Events::next`].
    pub fn events(&self, from: Option<i64>, operation: Option<&str>) -> Events {
        let operation = operation.map(str::to_owned);
        self.events_of(Wanted { from, operation, ..Wanted::default() })
    }

    /// Events of some sort. Connects at the first [`Events::next`].
    pub fn events_of(&self, wanted: Wanted) -> Events {
        Events {
            client: self.clone(),
            // The first event wanted is `from` itself.
            last: wanted.from.map(|seq| seq - 1),
            wanted,
            body: None,
            parser: Parser::default(),
            ready: VecDeque::new(),
            is_over: false,
        }
    }
}

impl Events {
    /// Whether all that there were [`Wanted::so_far`] were given out.
    pub fn is_over(&self) -> bool {
        self.is_over
    }

    /// The next event. Waits for it; an error says that the stream broke off or was refused.
    pub async fn next(&mut self) -> Result<Event, ClientError> {
        loop {
            while let Some(frame) = self.ready.pop_front() {
                let data = match frame {
                    Frame::Event(data) => data,
                    Frame::At(seq) => {
                        // Should the stream break off before its first event, nothing is missed.
                        self.last.get_or_insert(seq);
                        continue;
                    }
                    Frame::End => {
                        self.is_over = true;
                        return Err(ClientError::Ended { url: self.client.url().to_owned() });
                    }
                };
                let event: Event = serde_json::from_str(&data)
                    .map_err(|e| self.client.protocol(format!("an event cannot be read: {e}")))?;
                if self.last.is_none_or(|last| event.seq > last) {
                    self.last = Some(event.seq);
                    return Ok(event);
                }
            }
            if self.body.is_none() {
                let opened = connect(&self.client, self.last, &self.wanted).await?;
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
    wanted: &Wanted,
) -> Result<Chunks, ClientError> {
    // What is behind the last one; `next` drops what an older haasd gives again.
    let from = last.map(|seq| seq.max(0).to_string());
    let kinds = wanted.kinds.join(",");
    let mut query = Vec::new();
    query.extend(from.as_deref().map(|from| ("from", from)));
    query.extend(wanted.operation.as_deref().map(|id| ("operation", id)));
    query.extend(wanted.nodeset.as_deref().map(|set| ("nodeset", set)));
    query.extend((!kinds.is_empty()).then_some(("kind", kinds.as_str())));
    query.extend(wanted.so_far.then_some(("follow", "false")));
    let url = client.at(&["v1", "events"], &query);
    let request = client.request(&client.inner.quiet, Method::GET, url);
    let response =
        client.send(request.header(reqwest::header::ACCEPT, "text/event-stream")).await?;
    Ok(Box::pin(response.bytes_stream().map(|chunk| chunk.map(|bytes| bytes.to_vec()))))
}

#[derive(Debug, PartialEq, Eq)]
struct TooLong;

/// One server-sent event.
#[derive(Debug, PartialEq, Eq)]
enum Frame {
    /// The data of one of ours.
    Event(String),
    /// The number that the stream begins behind.
    At(i64),
    /// The stream is at its end, as was asked for.
    End,
}

/// Takes the stream apart.
#[derive(Default)]
struct Parser {
    line: Vec<u8>,
    data: String,
    id: Option<i64>,
    is_end: bool,
    after_cr: bool,
}

impl Parser {
    /// Each event that these bytes complete.
    fn feed(&mut self, bytes: &[u8]) -> Result<Vec<Frame>, TooLong> {
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

    fn end_line(&mut self, done: &mut Vec<Frame>) {
        let line = String::from_utf8_lossy(&std::mem::take(&mut self.line)).into_owned();
        if line.is_empty() {
            let (data, id) = (std::mem::take(&mut self.data), self.id.take());
            let is_end = std::mem::take(&mut self.is_end);
            match id {
                _ if is_end => done.push(Frame::End),
                Some(id) if data.is_empty() => done.push(Frame::At(id)),
                _ if data.is_empty() => {}
                _ => done.push(Frame::Event(data)),
            }
        } else if let Some(kind) = line.strip_prefix("event:") {
            self.is_end = kind.trim() == "end";
        } else if let Some(id) = line.strip_prefix("id:") {
            self.id = id.trim().parse().ok();
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
        let stream = b": hello\n\nid: 0\n\nid: 1\ndata: {\"a\":1}\n\nid:2\r\ndata:{\"b\":\r\ndata: 2}\r\n\r\nevent: x\n\nevent: end\ndata: 2\n\ndata: cut";
        let event = |data: &str| Frame::Event(data.to_owned());
        let whole = vec![Frame::At(0), event("{\"a\":1}"), event("{\"b\":\n2}"), Frame::End];
        for size in 1..stream.len() {
            let mut parser = Parser::default();
            let got: Vec<Frame> =
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
