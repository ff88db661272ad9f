//! DHCP for all nodes over one socket: answers are broadcast, and belong to whoever asked with their id.

use std::{
    collections::HashMap,
    net::SocketAddrV4,
    sync::{Mutex, PoisonError},
};

use anyhow::Result;
use tokio::{net::UdpSocket, sync::mpsc, time::timeout};

pub(super) use crate::dhcp::socket;
use crate::dhcp::{ACK, ANSWER_WITHIN, DISCOVER, Lease, OFFER, Program, REQUEST, message, parse};

/// The socket, and who waits for an answer.
#[derive(Debug)]
pub(super) struct Dhcp {
    socket: UdpSocket,
    waiting: Mutex<HashMap<[u8; 4], mpsc::Sender<Vec<u8>>>>,
}

impl Dhcp {
    pub(super) fn new(socket: std::net::UdpSocket) -> Result<Self> {
        socket.set_nonblocking(true)?;
        Ok(Self { socket: UdpSocket::from_std(socket)?, waiting: Mutex::default() })
    }

    /// Hands answers on, for ever.
    pub(super) async fn receive(self: std::sync::Arc<Self>) {
        let mut buffer = [0; 2048];
        loop {
            let Ok(length) = self.socket.recv(&mut buffer).await else { continue };
            let bytes = &buffer[..length];
            let Some(xid) = bytes.get(4..8).and_then(|xid| <[u8; 4]>::try_from(xid).ok()) else {
                continue;
            };
            if let Some(sender) = self.waiting().get(&xid) {
                let _ = sender.try_send(bytes.to_vec());
            }
        }
    }

    /// One try to get an address and a boot file, as iPXE.
    pub(super) async fn ask(&self, mac: [u8; 6]) -> Result<Option<Lease>> {
        let xid: [u8; 4] = rand::random();
        let (sender, mut answers) = mpsc::channel(8);
        self.waiting().insert(xid, sender);
        let asked = self.exchanges(xid, mac, &mut answers).await;
        self.waiting().remove(&xid);
        asked
    }

    async fn exchanges(
        &self,
        xid: [u8; 4],
        mac: [u8; 6],
        answers: &mut mpsc::Receiver<Vec<u8>>,
    ) -> Result<Option<Lease>> {
        let mut lease = None;
        for (kind, wanted) in [(DISCOVER, OFFER), (REQUEST, ACK)] {
            let question = message(xid, mac, Program::Ipxe, kind, lease.as_ref());
            match self.answered(&question, wanted, xid, mac, answers).await? {
                Some(given) if given.boot_file.is_some() => lease = Some(given),
                _ => return Ok(None),
            }
        }
        Ok(lease)
    }

    /// Asks, and asks again, each time waiting twice as long as before: RFC 2131 section 4.1, and iPXE.
    async fn answered(
        &self,
        question: &[u8],
        wanted: u8,
        xid: [u8; 4],
        mac: [u8; 6],
        answers: &mut mpsc::Receiver<Vec<u8>>,
    ) -> Result<Option<Lease>> {
        let server = SocketAddrV4::new(std::net::Ipv4Addr::BROADCAST, 67);
        for times in [1, 2, 4, 8] {
            self.socket.send_to(question, server).await?;
            let answer = timeout(times * ANSWER_WITHIN, async {
                while let Some(bytes) = answers.recv().await {
                    if let Some((kind, lease)) = parse(&bytes, xid, mac)
                        && kind == wanted
                    {
                        return Some(lease);
                    }
                }
                None
            });
            if let Ok(answer) = answer.await {
                return Ok(answer);
            }
        }
        Ok(None)
    }

    fn waiting(&self) -> std::sync::MutexGuard<'_, HashMap<[u8; 4], mpsc::Sender<Vec<u8>>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
