//! A DHCP request parsed once, for the rest of netboot to trust (RFC 2131, 2132, 3004, 3046, 4578).
//!
//! The option codec is dhcproto's. This module guards it, since it panics on `hlen` above 16 and on
//! an option 80 that is not empty: it is given only the options that we read. Here is also read what
//! it leaves raw (60, 77, 97, 175), and option 82 is kept byte for byte, since a relay wants back
//! exactly what it sent.
#![warn(clippy::cast_possible_truncation, clippy::indexing_slicing)]

use std::net::Ipv4Addr;

use dhcproto::{
    Decodable as _, Decoder,
    v4::{DhcpOption, HType, Message, MessageType, OptionCode},
};
use haas_api::names::Mac;

use crate::netboot::firmware::Client;

/// The length of the fixed header with the magic cookie.
const HEADER: usize = 240;

/// The options that we read or send back; no other reaches the decoder.
const READ: [u8; 10] = [12, 50, 53, 54, 60, 61, 77, 93, 97, 175];

/// A DHCP request that a server may have to answer.
#[derive(Debug, Clone)]
pub struct Request {
    /// The whole message.
    pub message: Message,
    /// Option 53.
    pub kind: MessageType,
    /// `chaddr`.
    pub mac: Mac,
    /// The program that asks.
    pub client: Client,
    /// Option 60, where it is printable text.
    pub vendor_class: Option<String>,
    /// Option 12, where it is printable text.
    pub hostname: Option<String>,
    /// Option 97 exactly as it came: PXE clients want it back.
    pub guid: Option<Vec<u8>>,
    /// Option 50.
    pub requested: Option<Ipv4Addr>,
    /// Option 54.
    pub server_id: Option<Ipv4Addr>,
    /// `ciaddr`, where it is set.
    pub ciaddr: Option<Ipv4Addr>,
    /// `giaddr`, where it is set.
    pub giaddr: Option<Ipv4Addr>,
    /// Option 82 with its code and length bytes; empty where there is none.
    pub option_82: Vec<u8>,
}

impl Request {
    /// Parses a datagram; none for whatever is not a well-formed request from an Ethernet client.
    pub fn parse(datagram: &[u8]) -> Option<Self> {
        let (header, rest) = datagram.split_first_chunk::<HEADER>()?;
        let (op, htype, hlen) = (header[0], header[1], header[2]);
        if op != 1
            || htype != u8::from(HType::Eth)
            || hlen != 6
            || header[236..] != [99, 130, 83, 99]
        {
            return None;
        }
        let mut filtered = header.to_vec();
        let mut option_82 = Vec::new();
        for option in options(rest) {
            match *option.first()? {
                82 if option_82.is_empty() => option_82 = option.to_vec(),
                code if READ.contains(&code) => filtered.extend(option),
                _ => {}
            }
        }
        filtered.push(255);
        let message = Message::decode(&mut Decoder::new(&filtered)).ok()?;
        let kind = message.opts().msg_type()?;
        let mac = Mac(message.chaddr().try_into().ok()?);
        if mac.0[0] & 1 == 1 || mac.0 == [0; 6] {
            return None;
        }
        let set = |a: Ipv4Addr| (!a.is_unspecified()).then_some(a);
        let opts = message.opts();
        Some(Self {
            kind,
            mac,
            client: client(&message),
            vendor_class: raw(&message, OptionCode::ClassIdentifier).and_then(printable),
            hostname: match opts.get(OptionCode::Hostname) {
                Some(DhcpOption::Hostname(name)) => printable(name.as_bytes()),
                _ => None,
            },
            guid: raw(&message, OptionCode::ClientMachineIdentifier).map(<[u8]>::to_vec),
            requested: match opts.get(OptionCode::RequestedIpAddress) {
                Some(DhcpOption::RequestedIpAddress(address)) => set(*address),
                _ => None,
            },
            server_id: match opts.get(OptionCode::ServerIdentifier) {
                Some(DhcpOption::ServerIdentifier(address)) => set(*address),
                _ => None,
            },
            ciaddr: set(message.ciaddr()),
            giaddr: set(message.giaddr()),
            option_82,
            message,
        })
    }

    /// Option 97 in the usual form of an UUID: SMBIOS stores the first three fields little-endian.
    pub fn guid_text(&self) -> Option<String> {
        let [0, guid @ ..] = self.guid.as_deref()? else { return None };
        let g: &[u8; 16] = guid.try_into().ok()?;
        let hex = |bytes: &[u8]| hex::encode(bytes);
        let mixed = [g[3], g[2], g[1], g[0], g[5], g[4], g[7], g[6]];
        Some(format!(
            "{}-{}-{}-{}-{}",
            hex(&mixed[..4]),
            hex(&mixed[4..6]),
            hex(&mixed[6..]),
            hex(&g[8..10]),
            hex(&g[10..])
        ))
    }
}

/// The identifier of a server whose datagram offers the client of `xid` an address.
pub(super) fn offering_server(datagram: &[u8], xid: u32) -> Option<Ipv4Addr> {
    let (header, rest) = datagram.split_first_chunk::<HEADER>()?;
    let is_reply = header[0] == 2
        && header[4..8] == xid.to_be_bytes()
        && header[16..20] != [0; 4]
        && header[236..] == [99, 130, 83, 99];
    let find = |wanted: u8| {
        let mut options = options(rest);
        options.find_map(|o| o.strip_prefix(&[wanted]).and_then(|o| o.get(1..)))
    };
    if !is_reply || find(53)? != [2] {
        return None;
    }
    let server: [u8; 4] = find(54)?.try_into().ok()?;
    Some(server.into())
}

/// iPXE is known by its own option or its user class, whatever its vendor class says.
fn client(message: &Message) -> Client {
    let user_class = raw(message, OptionCode::UserClass).unwrap_or_default();
    // RFC 3004 puts a length before each class; iPXE sends the bare text.
    let is_ipxe = user_class == b"iPXE" || user_class == b"\x04iPXE";
    if is_ipxe || message.opts().contains(OptionCode::Unknown(175)) {
        return Client::Ipxe;
    }
    let arch = match message.opts().get(OptionCode::ClientSystemArchitecture) {
        Some(DhcpOption::ClientSystemArchitecture(arch)) => arch.0,
        // Some early PXE cards leave it out; all of them are PCs with BIOS.
        _ => 0,
    };
    let class = raw(message, OptionCode::ClassIdentifier).unwrap_or_default();
    if class.starts_with(b"PXEClient") {
        Client::Pxe(arch)
    } else if class.starts_with(b"HTTPClient") {
        Client::Http(arch)
    } else {
        Client::Other
    }
}

/// The bytes of an option that dhcproto leaves as bytes.
fn raw(message: &Message, code: OptionCode) -> Option<&[u8]> {
    match message.opts().get(code)? {
        DhcpOption::ClassIdentifier(bytes)
        | DhcpOption::UserClass(bytes)
        | DhcpOption::ClientMachineIdentifier(bytes) => Some(bytes),
        _ => None,
    }
}

/// Text for logs and tables: without the closing NUL, short, and nothing that moves a cursor.
fn printable(bytes: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(bytes).ok()?.trim_end_matches('\0');
    let fine = !text.is_empty() && text.len() <= 128 && text.chars().all(|c| !c.is_control());
    fine.then(|| text.to_owned())
}

/// The options as they stand on the wire, each with its code and length bytes, up to the end or to
/// the first that is cut short.
fn options(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        while let [0, tail @ ..] = rest {
            rest = tail;
        }
        let [code, length, ..] = rest else { return None };
        let option = rest.get(..usize::from(*length) + 2).filter(|_| *code != 255)?;
        rest = rest.get(option.len()..).unwrap_or_default();
        Some(option)
    })
}

#[cfg(test)]
#[expect(clippy::indexing_slicing, reason = "a test may panic")]
pub(super) mod tests {
    use super::*;

    /// The wire form of a request: header fields by `edit`, options by `(code, data)`.
    pub(in crate::netboot) fn datagram(
        options: &[(u8, &[u8])],
        edit: impl FnOnce(&mut [u8]),
    ) -> Vec<u8> {
        let mut bytes = vec![0; HEADER];
        bytes[..3].copy_from_slice(&[1, 1, 6]);
        bytes[4..8].copy_from_slice(b"xid0");
        bytes[28..34].copy_from_slice(&[0x52, 0x54, 0, 0x77, 0, 1]);
        bytes[236..240].copy_from_slice(&[99, 130, 83, 99]);
        edit(&mut bytes);
        for (code, data) in options {
            bytes.extend([*code, u8::try_from(data.len()).unwrap()]);
            bytes.extend(*data);
        }
        bytes.push(255);
        bytes
    }

    fn parse(options: &[(u8, &[u8])]) -> Request {
        Request::parse(&datagram(options, |_| ())).unwrap()
    }

    #[test]
    fn clients_are_told_apart_by_their_options() {
        let pxe = b"PXEClient:Arch:00007:UNDI:003016";
        assert_eq!(parse(&[(53, &[1]), (60, pxe), (93, &[0, 7])]).client, Client::Pxe(7));
        assert_eq!(parse(&[(53, &[1]), (60, b"PXEClient")]).client, Client::Pxe(0));
        assert_eq!(
            parse(&[(53, &[1]), (60, b"HTTPClient"), (93, &[0, 16])]).client,
            Client::Http(16)
        );
        assert_eq!(parse(&[(53, &[1]), (60, pxe), (175, &[177, 1, 1])]).client, Client::Ipxe);
        assert_eq!(parse(&[(53, &[1]), (77, b"iPXE")]).client, Client::Ipxe);
        assert_eq!(parse(&[(53, &[1]), (77, b"\x04iPXE")]).client, Client::Ipxe);
        assert_eq!(parse(&[(53, &[1]), (60, b"udhcp 1.35.0")]).client, Client::Other);
    }

    #[test]
    fn the_guid_reads_as_the_uuid_that_dmidecode_shows() {
        let mut guid = vec![0];
        guid.extend([0x22, 0x22, 0x11, 0x11, 0x44, 0x33, 0x66, 0x55]);
        guid.extend([0x77, 0x88, 1, 2, 3, 4, 5, 6]);
        let request = parse(&[(53, &[1]), (97, &guid)]);
        assert_eq!(request.guid_text().as_deref(), Some("11112222-3344-5566-7788-010203040506"));
        assert_eq!(parse(&[(53, &[1]), (97, &guid[..9])]).guid_text(), None);
    }

    #[test]
    fn option_82_is_kept_byte_for_byte_also_with_repeated_parts() {
        let data = [2, 1, 9, 1, 2, 7, 7, 1, 1, 5, 200, 0];
        let request = parse(&[(53, &[1]), (82, &data)]);
        assert_eq!(request.option_82[..2], [82, 12]);
        assert_eq!(request.option_82[2..], data);
    }

    #[test]
    fn what_is_no_request_is_ignored() {
        let discover: &[(u8, &[u8])] = &[(53, &[1])];
        let edits: [fn(&mut [u8]); 6] = [
            |b| b[0] = 2,
            |b| b[1] = 6,
            |b| b[2] = 255,
            |b| b[236] = 0,
            |b| b[28] = 1,
            |b| b[28..34].fill(0),
        ];
        for edit in edits {
            assert!(Request::parse(&datagram(discover, edit)).is_none());
        }
        let whole = datagram(discover, |_| ());
        for end in 0..HEADER + 3 {
            assert!(Request::parse(&whole[..end]).is_none(), "{end}");
        }
        assert_eq!(parse(&[(53, &[1]), (12, b"a\nb"), (60, b"\xff")]).hostname, None);
    }

    #[test]
    fn hostile_bytes_never_panic() {
        use rand::{Rng as _, SeedableRng as _};
        let mut rng = rand::rngs::StdRng::seed_from_u64(67);
        let good = datagram(
            &[(53, &[1]), (60, b"PXEClient"), (82, &[1, 1, 1]), (93, &[0, 0]), (97, &[0; 17])],
            |_| (),
        );
        let mut parsed = 0;
        for _ in 0..100_000 {
            let mut bytes = good.clone();
            bytes.resize(rng.random_range(0..600), 7);
            for _ in 0..rng.random_range(0..20) {
                if !bytes.is_empty() {
                    let at = rng.random_range(0..bytes.len());
                    bytes[at] = rng.random();
                }
            }
            if let Some(request) = Request::parse(&bytes) {
                parsed += 1;
                let _ = request.guid_text();
            }
        }
        assert!(parsed > 1000, "the mutations never got past the header: {parsed}");
    }
}
