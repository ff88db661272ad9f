//! What the node reaches that it must not: BMCs, and ports of the controller that are none of nodes'
//! business. haasd names the places; what answers there is told.
//!
//! It is tried while root and overlay are mounted, and so before any code of the image or a user runs; only the
//! boot NIC is up then. Nothing is sent but a TCP handshake and RMCP's ping, and it takes no time of the boot.

use std::{
    net::{SocketAddr, TcpStream, UdpSocket},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use haas_api::agent::{Door, DoorKind};

use crate::log;

/// How long a place may take to answer.
const WITHIN: Duration = Duration::from_millis(800);
/// A ping that was lost is sent once more.
const PING_AGAIN: Duration = Duration::from_millis(300);

/// RMCP's presence ping (IPMI 2.0 section 13.2.3).
const PING: [u8; 12] = [0x06, 0x00, 0xFF, 0x06, 0x00, 0x00, 0x11, 0xBE, 0x80, 0x00, 0x00, 0x00];

/// A look that is under way.
#[derive(Debug)]
pub(crate) struct Look {
    answers: mpsc::Receiver<Door>,
    until: Instant,
}

impl Look {
    /// Begins it, in threads of its own.
    pub(crate) fn begin(doors: &[Door]) -> Self {
        let (say, answers) = mpsc::channel();
        for door in doors {
            let (say, door) = (say.clone(), door.clone());
            let spawned = thread::Builder::new().name("reach".into()).stack_size(64 * 1024).spawn(
                move || {
                    if is_open(&door) {
                        let _ = say.send(door);
                    }
                },
            );
            if let Err(error) = spawned {
                log::error(&format!("no thread to see what the node reaches: {error}"));
            }
        }
        Self { answers, until: Instant::now() + WITHIN }
    }

    /// The places that answer. Mostly they have had their time by now.
    pub(crate) fn end(self) -> Vec<Door> {
        let mut open = Vec::new();
        while let Ok(door) =
            self.answers.recv_timeout(self.until.saturating_duration_since(Instant::now()))
        {
            open.push(door);
        }
        open
    }
}

fn is_open(door: &Door) -> bool {
    let at = SocketAddr::new(door.address, door.port);
    match door.kind {
        DoorKind::Tcp => TcpStream::connect_timeout(&at, WITHIN).is_ok(),
        DoorKind::Rmcp => answers_ping(at).unwrap_or(false),
    }
}

fn answers_ping(at: SocketAddr) -> std::io::Result<bool> {
    let any = if at.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = UdpSocket::bind(any)?;
    socket.connect(at)?;
    for wait in [PING_AGAIN, WITHIN - PING_AGAIN] {
        socket.send(&PING)?;
        socket.set_read_timeout(Some(wait))?;
        if socket.recv(&mut [0; 64]).is_ok() {
            return Ok(true);
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    fn door(kind: DoorKind, at: SocketAddr) -> Door {
        Door { address: at.ip(), port: at.port(), kind, what: "a place".to_owned() }
    }

    #[test]
    fn who_answers_is_told_and_the_others_cost_less_than_a_second() {
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let bmc = UdpSocket::bind("127.0.0.1:0").unwrap();
        let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
        let at = bmc.local_addr().unwrap();
        let pong = thread::spawn(move || {
            let mut packet = [0; 64];
            let (length, from) = bmc.recv_from(&mut packet).unwrap();
            assert_eq!(packet[..length], PING);
            bmc.send_to(&[0x06, 0x00, 0xFF, 0x06], from).unwrap();
        });
        let open = [door(DoorKind::Tcp, tcp.local_addr().unwrap()), door(DoorKind::Rmcp, at)];
        let shut = [
            door(DoorKind::Tcp, closed),
            door(DoorKind::Rmcp, silent.local_addr().unwrap()),
            // No route leads there.
            door(DoorKind::Tcp, "192.0.2.1:443".parse().unwrap()),
        ];
        let begun = Instant::now();
        let mut found = Look::begin(&[&open[..], &shut[..]].concat()).end();
        assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
        found.sort_by_key(|door| door.kind == DoorKind::Rmcp);
        assert_eq!(found, open);
        pong.join().unwrap();
    }
}
