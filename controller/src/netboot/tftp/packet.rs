//! TFTP packets: requests parsed, answers built (RFC 1350, 2347, 2348, 2349, 7440).
#![warn(clippy::cast_possible_truncation, clippy::indexing_slicing)]

/// The largest block that we send: fits in an Ethernet frame with IP, UDP and TFTP headers.
pub const MAX_BLOCK: usize = 1468;
/// The most blocks that we send before we wait. Firmware has small buffers, and a forged request
/// must not make us flood somebody.
pub const MAX_WINDOW: u16 = 16;
/// The longest timeout that we let a client choose, seconds.
const MAX_TIMEOUT: u8 = 30;

/// The error codes of RFC 1350 and 2347 that we send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorCode {
    /// The text says what.
    NotDefined = 0,
    /// No such file.
    NotFound = 1,
    /// Not allowed.
    Access = 2,
    /// The packet makes no sense here.
    Illegal = 4,
}

/// A read request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadRequest {
    /// The file's name as it was sent.
    pub file: String,
    /// The options that we grant, cut to what we can do.
    pub options: Options,
}

/// The options of a transfer; none means that the client did not ask for it (or asked nonsense).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Options {
    /// Bytes per block.
    pub blksize: Option<usize>,
    /// Whether the client wants to know the file's size.
    pub tsize: bool,
    /// Seconds before we send again.
    pub timeout: Option<u8>,
    /// Blocks before we wait for an acknowledgement.
    pub windowsize: Option<u16>,
}

/// What arrives at port 69.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Opening {
    /// A read request that can be served.
    Read(ReadRequest),
    /// A request that gets this answer.
    Refuse(ErrorCode, &'static str),
    /// Not a request: no answer.
    Ignore,
}

/// What arrives in a transfer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reply {
    /// Everything up to this block has arrived.
    Ack(u16),
    /// The client gives up.
    Error(u16),
    /// Something else.
    Other,
}

impl Opening {
    /// Parses what arrived at port 69.
    pub fn parse(packet: &[u8]) -> Self {
        let [0, opcode, body @ ..] = packet else { return Self::Ignore };
        match opcode {
            1 => {}
            2 => return Self::Refuse(ErrorCode::Access, "read only"),
            _ => return Self::Ignore,
        }
        // Texts end with a NUL each; what follows the last NUL is not a text.
        let texts = body.iter().rposition(|b| *b == 0).and_then(|end| body.get(..end));
        let Some(texts) = texts else {
            return Self::Refuse(ErrorCode::Illegal, "malformed request");
        };
        let mut texts = texts.split(|b| *b == 0).map(std::str::from_utf8);
        let (Some(Ok(file)), Some(Ok(mode))) = (texts.next(), texts.next()) else {
            return Self::Refuse(ErrorCode::Illegal, "malformed request");
        };
        if !mode.eq_ignore_ascii_case("octet") {
            return Self::Refuse(ErrorCode::NotDefined, "only mode octet is served");
        }
        let mut options = Options::default();
        while let (Some(Ok(name)), Some(Ok(value))) = (texts.next(), texts.next()) {
            options.take(name, value);
        }
        Self::Read(ReadRequest { file: file.to_owned(), options })
    }
}

impl Options {
    fn take(&mut self, name: &str, value: &str) {
        let Ok(number) = value.parse::<u64>() else { return };
        match name.to_ascii_lowercase().as_str() {
            "blksize" if number >= 8 => {
                self.blksize = Some(usize::try_from(number).unwrap_or(MAX_BLOCK).min(MAX_BLOCK));
            }
            "tsize" => self.tsize = true,
            // A timeout must be echoed as it is or not at all (RFC 2349).
            "timeout" if (1..=u64::from(MAX_TIMEOUT)).contains(&number) => {
                self.timeout = u8::try_from(number).ok();
            }
            "windowsize" if number >= 1 => {
                self.windowsize = Some(u16::try_from(number).unwrap_or(MAX_WINDOW).min(MAX_WINDOW));
            }
            _ => {}
        }
    }

    /// The option acknowledgement for a file of `size` bytes; none where nothing was asked.
    pub fn ack(&self, size: usize) -> Option<Vec<u8>> {
        let mut packet = vec![0, 6];
        let mut add = |name: &str, value: String| {
            packet.extend(name.bytes().chain([0]).chain(value.bytes()).chain([0]));
        };
        if let Some(blksize) = self.blksize {
            add("blksize", blksize.to_string());
        }
        if self.tsize {
            add("tsize", size.to_string());
        }
        if let Some(timeout) = self.timeout {
            add("timeout", timeout.to_string());
        }
        if let Some(windowsize) = self.windowsize {
            add("windowsize", windowsize.to_string());
        }
        (packet.len() > 2).then_some(packet)
    }
}

impl Reply {
    /// Parses what arrived in a transfer.
    pub fn parse(packet: &[u8]) -> Self {
        match packet {
            [0, 4, high, low, ..] => Self::Ack(u16::from_be_bytes([*high, *low])),
            [0, 5, high, low, ..] => Self::Error(u16::from_be_bytes([*high, *low])),
            [0, 5, ..] => Self::Error(0),
            _ => Self::Other,
        }
    }
}

/// A DATA packet.
pub fn data(block: u16, bytes: &[u8]) -> Vec<u8> {
    let [high, low] = block.to_be_bytes();
    [&[0, 3, high, low], bytes].concat()
}

/// An ERROR packet.
pub fn error(code: ErrorCode, text: &str) -> Vec<u8> {
    [&[0, 5, 0, code as u8], text.as_bytes(), &[0]].concat()
}

#[cfg(test)]
#[expect(clippy::indexing_slicing, reason = "a test may panic")]
mod tests {
    use super::*;

    fn read(packet: &[u8]) -> ReadRequest {
        match Opening::parse(packet) {
            Opening::Read(request) => request,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn options_are_granted_up_to_what_we_can_do() {
        let request =
            read(b"\0\x01a.efi\0OCTET\0BlkSize\x0065464\0tsize\x000\0timeout\x005\0windowsize\x0065535\0");
        assert_eq!(request.file, "a.efi");
        let ack = request.options.ack(1234).unwrap();
        assert_eq!(ack, b"\0\x06blksize\x001468\0tsize\x001234\0timeout\x005\0windowsize\x0016\0");
        let nonsense =
            read(b"\0\x01a\0octet\0blksize\x007\0timeout\x00255\0windowsize\x000\0x\0y\0tsize\0");
        assert_eq!(nonsense.options, Options::default());
        assert_eq!(nonsense.options.ack(1), None);
    }

    #[test]
    fn what_cannot_be_served_is_refused_and_garbage_is_ignored() {
        let refused = |packet| matches!(Opening::parse(packet), Opening::Refuse(..));
        assert!(refused(b"\0\x02a\0octet\0"), "write");
        assert!(refused(b"\0\x01a\0netascii\0"));
        assert!(refused(b"\0\x01a"));
        assert!(refused(b"\0\x01\xff\0octet\0"));
        assert!(refused(b"\0\x01a\0"));
        for packet in [&b""[..], b"\0", b"\0\x03\0\x01x", b"\x01\0a\0octet\0", b"\0\x05\0\0\0"] {
            assert_eq!(Opening::parse(packet), Opening::Ignore, "{packet:?}");
        }
    }

    #[test]
    fn hostile_bytes_never_panic() {
        use rand::{Rng as _, SeedableRng as _};
        let mut rng = rand::rngs::StdRng::seed_from_u64(69);
        for _ in 0..200_000 {
            let mut packet =
                b"\0\x01a.efi\0octet\0blksize\x001468\0tsize\x000\0windowsize\x004\0".to_vec();
            packet.truncate(rng.random_range(0..=packet.len()));
            for _ in 0..rng.random_range(0..6) {
                if !packet.is_empty() {
                    let at = rng.random_range(0..packet.len());
                    packet[at] = rng.random();
                }
            }
            if let Opening::Read(request) = Opening::parse(&packet) {
                let _ = request.options.ack(usize::MAX);
            }
            let _ = Reply::parse(&packet);
        }
    }
}
