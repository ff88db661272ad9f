//! The API's sockets and those who hold on to them: slowloris, silence, one address that takes all.

use std::{
    io::{self, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    sync::Arc,
    time::{Duration, Instant},
};

use rustls::{ClientConnection, StreamOwned, pki_types::ServerName};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::{
    api::server::{Bounds, Connections},
    testing::Bench,
    tls,
};

type Tls = StreamOwned<ClientConnection, TcpStream>;

struct Served {
    address: SocketAddr,
    fingerprint: String,
    _bench: Bench,
    _stop: DropGuard,
}

impl Served {
    async fn start(bounds: Bounds) -> Arc<Self> {
        let bench = Bench::new().await;
        let (tls, fingerprint) = tls::open(&bench.context.config.state_dir).unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, app) = (CancellationToken::new(), crate::api::router(bench.context.clone()));
        let (connections, stopped) = (Connections::new(bounds), stop.clone());
        tokio::spawn(async move { connections.serve(listener, tls, app, stopped).await });
        Arc::new(Self { address, fingerprint, _bench: bench, _stop: stop.drop_guard() })
    }

    fn connect(&self, from: [u8; 4]) -> TcpStream {
        use socket2::{Domain, Socket, Type};
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.bind(&SocketAddr::from((from, 0)).into()).unwrap();
        socket.connect(&self.address.into()).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        socket.into()
    }

    fn tls(&self, stream: TcpStream) -> io::Result<Tls> {
        let config = haas_api::pin::pinned_client_config(&self.fingerprint).unwrap();
        let name = ServerName::try_from("haasd").unwrap();
        let client = ClientConnection::new(Arc::new(config), name).unwrap();
        let mut stream = StreamOwned::new(client, stream);
        stream.conn.complete_io(&mut stream.sock)?;
        Ok(stream)
    }

    /// A connection, once what was closed is counted no more.
    fn at_last(&self, from: [u8; 4]) -> Tls {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            match self.tls(self.connect(from)) {
                Ok(stream) => return stream,
                Err(error) => assert!(Instant::now() < deadline, "{error}"),
            }
        }
    }

    /// What `/healthz` answers to a caller from this address.
    fn healthz(&self, from: [u8; 4]) -> io::Result<String> {
        let mut stream = self.tls(self.connect(from))?;
        let head = "GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
        stream.write_all(head.as_bytes())?;
        let mut answer = String::new();
        match stream.read_to_string(&mut answer) {
            Err(error) if answer.is_empty() => Err(error),
            Ok(_) | Err(_) => Ok(answer),
        }
    }
}

const HERE: [u8; 4] = [127, 0, 0, 1];
const THERE: [u8; 4] = [127, 0, 0, 2];

/// As short as a busy machine allows.
const SHORT: Duration = Duration::from_secs(2);

/// In threads that may block.
async fn blocking(served: &Arc<Served>, work: impl FnOnce(&Served) + Send + 'static) {
    let served = served.clone();
    tokio::task::spawn_blocking(move || work(&served)).await.unwrap();
}

/// Whether the other side ends it; what it says before counts for nothing.
fn ends(stream: &mut impl io::Read) -> bool {
    let mut buffer = [0; 1024];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(error) => return error.kind() != io::ErrorKind::WouldBlock,
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn slowloris_on_the_api_a_head_that_comes_byte_by_byte_is_cut_off() {
    let served = Served::start(Bounds { head: SHORT, ..Bounds::default() }).await;
    blocking(&served, |served| {
        let mut stream = served.tls(served.connect(HERE)).unwrap();
        stream.sock.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n").unwrap();
        let begun = Instant::now();
        let is_cut_off = loop {
            if stream.write_all(b"X: y\r\n").is_err() || ends(&mut stream) {
                break true;
            }
            if begun.elapsed() > Duration::from_secs(60) {
                break false;
            }
        };
        assert!(is_cut_off, "haasd waits for it without end");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_says_nothing_is_cut_off_before_tls_after_it_and_between_requests() {
    let served = Served::start(Bounds { handshake: SHORT, ..Bounds::default() }).await;
    blocking(&served, |served| assert!(ends(&mut served.connect(HERE)), "no handshake")).await;
    let served = Served::start(Bounds { head: SHORT, ..Bounds::default() }).await;
    blocking(&served, |served| {
        let mut silent = served.tls(served.connect(HERE)).unwrap();
        let mut once = served.tls(served.connect(HERE)).unwrap();
        once.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        assert!(ends(&mut silent), "no request");
        assert!(ends(&mut once), "no second request");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_refused_before_he_has_sent_all_of_it_hears_why_and_may_go_on() {
    let served = Served::start(Bounds::default()).await;
    blocking(&served, |served| {
        let mut stream = served.tls(served.connect(HERE)).unwrap();
        for (length, rest) in [(2, "{}".to_owned()), (20_000, "x".repeat(20_000))] {
            let head = format!(
                "POST /v1/webhooks HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n\
                 Content-Length: {length}\r\n\r\n"
            );
            stream.write_all(head.as_bytes()).unwrap();
            std::thread::sleep(Duration::from_millis(300));
            stream.write_all(rest.as_bytes()).unwrap();
            let mut answer = [0; 1024];
            let len = stream.read(&mut answer).unwrap();
            assert!(answer[..len].starts_with(b"HTTP/1.1 401"), "{answer:?}");
        }
        stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer);
        assert!(answer.contains("HTTP/1.1 200"), "{answer}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_address_cannot_take_every_connection_of_the_api() {
    let served =
        Served::start(Bounds { per_address: 3, connections: 5, ..Bounds::default() }).await;
    blocking(&served, |served| {
        let kept: Vec<_> = (0..3).map(|_| served.tls(served.connect(HERE)).unwrap()).collect();
        assert!(served.healthz(HERE).is_err(), "a fourth connection");
        assert!(served.healthz(THERE).unwrap().starts_with("HTTP/1.1 200"), "another address");
        let _there: Vec<_> = (0..2).map(|_| served.at_last(THERE)).collect();
        assert!(served.healthz([127, 0, 0, 3]).is_err(), "a sixth connection of all");
        drop(kept);
        served.at_last(HERE);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_huge_head_is_refused() {
    let served = Served::start(Bounds::default()).await;
    blocking(&served, |served| {
        let mut stream = served.tls(served.connect(HERE)).unwrap();
        let head = format!("GET /healthz HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(1 << 20));
        // haasd may hang up in the middle of it.
        let _ = stream.write_all(head.as_bytes());
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer);
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 431"), "{answer}");
        assert!(served.healthz(HERE).unwrap().starts_with("HTTP/1.1 200"));
    })
    .await;
}
