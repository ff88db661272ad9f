//! An initiator that says exactly what a test wants, on a real connection from an address of its choice.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    sync::Arc,
    time::Duration,
};

use haas_api::agent::Chap;
use md5::{Digest, Md5};
use socket2::{Domain, Socket, Type};
use tokio_util::sync::CancellationToken;

use crate::{exports::Exports, testing::Bench};

/// Login statuses (RFC 7143 section 11.13.5).
pub(super) const IN: u16 = 0;
pub(super) const WRONG_PROOF: u16 = 0x0201;
pub(super) const NOT_AUTHORIZED: u16 = 0x0202;

/// What [`Initiator::challenged`] asks the target to answer.
const OUR_CHALLENGE: &str = "0x00112233445566778899aabbccddeeff";

/// The target of a bench on a port of its own, until this is dropped.
pub(super) struct Target {
    address: SocketAddr,
    stop: CancellationToken,
}

impl Target {
    pub(super) fn start(bench: &Bench) -> Self {
        Self::serve(bench.context.exports.clone())
    }

    /// Of these exports.
    pub(super) fn serve(exports: Arc<Exports>) -> Self {
        let listener = iscsi_target::listen("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let options = iscsi_target::Options { io_threads: 1, ..Default::default() };
        tokio::spawn(iscsi_target::serve(vec![listener], exports, options, stop.clone()));
        Self { address, stop }
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Tries to log in, on a thread that may block.
    pub(super) async fn try_in(&self, login: Login) -> u16 {
        let address = self.address;
        tokio::task::spawn_blocking(move || login.run(address)).await.unwrap()
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// A login to be tried.
#[derive(Debug, Clone)]
pub(super) struct Login {
    pub(super) from: [u8; 4],
    pub(super) initiator: String,
    pub(super) target: String,
    pub(super) by: By,
}

/// How it is tried.
#[derive(Debug, Clone)]
pub(super) enum By {
    /// The security stage is left out: CSG=1.
    Skipping,
    /// The security stage is left for the full feature phase, with no word of a method.
    Leaving,
    /// `AuthMethod=None`.
    NoMethod,
    /// CHAP.
    Secret(Chap),
    /// CHAP, and the target must prove itself by the second.
    Both(Chap, Chap),
}

impl Login {
    pub(super) fn by(&self, by: By) -> Self {
        Self { by, ..self.clone() }
    }

    fn run(&self, target: SocketAddr) -> u16 {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.bind(&SocketAddr::from((self.from, 0)).into()).unwrap();
        socket.connect(&target.into()).unwrap();
        let stream = TcpStream::from(socket);
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let mut initiator = Initiator(stream);
        let names = format!("InitiatorName={}\0TargetName={}\0", self.initiator, self.target);
        match &self.by {
            By::Skipping => initiator.say(0x87, &names).0,
            By::Leaving => initiator.say(0x83, &names).0,
            By::NoMethod => initiator.say(0x83, &format!("{names}AuthMethod=None\0")).0,
            By::Secret(own) => initiator.prove(&names, own, None),
            By::Both(own, theirs) => initiator.prove(&names, own, Some(theirs)),
        }
    }
}

struct Initiator(TcpStream);

impl Initiator {
    fn prove(&mut self, names: &str, own: &Chap, theirs: Option<&Chap>) -> u16 {
        let (status, _) = self.say(0x00, &format!("{names}AuthMethod=CHAP\0"));
        if status != IN {
            return status;
        }
        let (_, asked) = self.say(0x00, "CHAP_A=5\0");
        let response =
            response(value(&asked, "CHAP_I").parse().unwrap(), own, value(&asked, "CHAP_C"));
        let mut proof = format!("CHAP_N={}\0CHAP_R={response}\0", own.user);
        if theirs.is_some() {
            proof += &format!("CHAP_I=9\0CHAP_C={OUR_CHALLENGE}\0");
        }
        let (status, answer) = self.say(0x83, &proof);
        if let (IN, Some(theirs)) = (status, theirs) {
            assert_eq!(value(&answer, "CHAP_N"), theirs.user);
            assert_eq!(value(&answer, "CHAP_R"), self::response(9, theirs, OUR_CHALLENGE));
        }
        status
    }

    /// A login request; the status and the text of its answer.
    fn say(&mut self, flags: u8, text: &str) -> (u16, String) {
        let mut header = [0; 48];
        header[0] = 0x43;
        header[1] = flags;
        header[8..14].copy_from_slice(&[0x80, 1, 2, 3, 0, 1]);
        header[5..8].copy_from_slice(&u32::try_from(text.len()).unwrap().to_be_bytes()[1..]);
        let mut bytes = header.to_vec();
        bytes.extend(text.as_bytes());
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        self.0.write_all(&bytes).unwrap();
        let mut header = [0; 48];
        self.0.read_exact(&mut header).unwrap();
        assert_eq!(header[0], 0x23, "no login response");
        let length = u32::from_be_bytes([0, header[5], header[6], header[7]]) as usize;
        let mut data = vec![0; length.next_multiple_of(4)];
        self.0.read_exact(&mut data).unwrap();
        data.truncate(length);
        (u16::from_be_bytes([header[36], header[37]]), String::from_utf8(data).unwrap())
    }
}

/// The value of a key; nothing where there is none.
fn value<'text>(text: &'text str, key: &str) -> &'text str {
    let pair = text.split('\0').find_map(|pair| pair.strip_prefix(key)?.strip_prefix('='));
    pair.unwrap_or_default()
}

fn response(id: u8, chap: &Chap, challenge: &str) -> String {
    let challenge = hex::decode(challenge.strip_prefix("0x").unwrap()).unwrap();
    let digest = Md5::new().chain_update([id]).chain_update(&chap.secret).chain_update(challenge);
    format!("0x{}", hex::encode(digest.finalize()))
}
