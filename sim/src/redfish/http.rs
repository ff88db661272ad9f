//! As much of HTTP/1.1 as a Redfish client needs.

use std::io::{self, Read, Write};

use serde_json::Value;

/// More than a client has to say.
const LONGEST: usize = 64 * 1024;

/// What a client asks.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) method: String,
    pub(super) path: String,
    pub(super) headers: Vec<(String, String)>,
    pub(super) body: Value,
}

impl Request {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.as_str())
    }

    /// The next one; none when the client has gone.
    pub(super) fn read(from: &mut impl Read) -> io::Result<Option<Self>> {
        let mut bytes = Vec::new();
        let end = loop {
            if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
                break end;
            }
            if !more(from, &mut bytes)? {
                return Ok(None);
            }
        };
        let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
        let mut lines = head.lines();
        let mut first = lines.next().unwrap_or_default().split(' ');
        let (method, path) = (first.next().unwrap_or_default(), first.next().unwrap_or_default());
        let headers: Vec<_> = lines
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
            .collect();
        let mut request =
            Self { method: method.to_owned(), path: path.to_owned(), headers, body: Value::Null };
        let length = request.header("content-length").and_then(|n| n.parse().ok()).unwrap_or(0);
        while bytes.len() < end + 4 + length {
            if !more(from, &mut bytes)? {
                return Ok(None);
            }
        }
        request.body = serde_json::from_slice(&bytes[end + 4..]).unwrap_or(Value::Null);
        Ok(Some(request))
    }
}

fn more(from: &mut impl Read, bytes: &mut Vec<u8>) -> io::Result<bool> {
    let mut piece = [0; 4096];
    let length = match from.read(&mut piece) {
        Ok(length) => length,
        // A client that ends without TLS's goodbye has gone too.
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => 0,
        Err(error) => return Err(error),
    };
    bytes.extend_from_slice(&piece[..length]);
    Ok(length > 0 && bytes.len() < LONGEST)
}

/// What it is answered.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) status: u16,
    pub(super) headers: Vec<(&'static str, String)>,
    pub(super) body: Vec<u8>,
}

impl Reply {
    pub(super) fn empty(status: u16) -> Self {
        Self { status, headers: Vec::new(), body: Vec::new() }
    }

    pub(super) fn json(status: u16, body: &Value) -> Self {
        Self { body: body.to_string().into_bytes(), ..Self::empty(status) }
    }

    pub(super) fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    pub(super) fn write(&self, to: &mut impl Write) -> io::Result<()> {
        let mut head =
            format!("HTTP/1.1 {} x\r\nContent-Length: {}\r\n", self.status, self.body.len());
        for (name, value) in &self.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str("Content-Type: application/json\r\nOData-Version: 4.0\r\n\r\n");
        to.write_all(&[head.as_bytes(), &self.body].concat())?;
        to.flush()
    }
}
