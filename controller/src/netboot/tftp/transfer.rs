//! One TFTP transfer: a connected socket, the file's bytes, and a peer that may be slow or gone.

use std::{io, time::Duration};

use tokio::{
    net::UdpSocket,
    time::{Instant, timeout_at},
};

use super::{
    content::Source,
    packet::{Options, Reply, data},
};

/// Tries of one window before the peer is given up.
const TRIES: u32 = 6;
/// The longest wait before another try.
const MAX_WAIT: Duration = Duration::from_secs(8);
/// No transfer lives longer than this, whatever its peer does.
const MAX_LIFE: Duration = Duration::from_secs(300);

/// How a transfer ended.
#[derive(Debug)]
pub enum End {
    /// The last block was acknowledged.
    Done,
    /// The peer sent an ERROR with this code: firmware does so after it has asked for the size.
    PeerGaveUp(u16),
    /// The peer fell silent, or the transfer lasted too long.
    PeerSilent,
    /// The socket failed; also when nobody listens at the peer any more.
    Socket(io::Error),
}

/// Sends `file` to the connected peer.
pub async fn send(socket: &UdpSocket, file: &mut Source, options: &Options) -> End {
    match try_send(socket, file, options).await {
        Ok(end) => end,
        Err(error) => End::Socket(error),
    }
}

async fn try_send(socket: &UdpSocket, file: &mut Source, options: &Options) -> io::Result<End> {
    let size = options.blksize.unwrap_or(512);
    let window = u64::from(options.windowsize.unwrap_or(1));
    // A file that fills its last block ends with an empty one (RFC 1350 section 6).
    let last = (file.size() / size) as u64 + 1;
    let end_of_life = Instant::now() + MAX_LIFE;
    let first_wait = Duration::from_secs(u64::from(options.timeout.unwrap_or(1)));
    let oack = options.ack(file.size());

    // The last acknowledged block. Block 0 is the option acknowledgement.
    let mut acked: u64 = 0;
    let mut greeting = oack.is_some();
    while greeting || acked < last {
        let mut wait = first_wait;
        let mut tries = 0;
        'window: loop {
            if tries == TRIES || Instant::now() >= end_of_life {
                return Ok(End::PeerSilent);
            }
            tries += 1;
            match &oack {
                Some(oack) if greeting => drop(socket.send(oack).await?),
                _ => {
                    for n in acked + 1..=last.min(acked + window) {
                        let start = usize::try_from(n - 1).unwrap_or(usize::MAX);
                        let block = file.read(start.saturating_mul(size), size).await?;
                        socket.send(&data(on_wire(n), block)).await?;
                    }
                }
            }
            let deadline = (Instant::now() + wait).min(end_of_life);
            loop {
                let mut buffer = [0; 128];
                let Ok(received) = timeout_at(deadline, socket.recv(&mut buffer)).await else {
                    wait = (wait * 2).min(MAX_WAIT);
                    continue 'window;
                };
                let length = received?;
                let number = match Reply::parse(buffer.get(..length).unwrap_or_default()) {
                    Reply::Ack(number) => number,
                    Reply::Error(code) => return Ok(End::PeerGaveUp(code)),
                    Reply::Other => continue,
                };
                if greeting {
                    if number == 0 {
                        greeting = false;
                        break 'window;
                    }
                    continue;
                }
                let sent = acked + 1..=last.min(acked + window);
                if let Some(n) = sent.into_iter().find(|n| on_wire(*n) == number) {
                    acked = n;
                    break 'window;
                }
                // The client lost the first block of a window and says so. With one block per
                // window the same packet is an old duplicate, and answering it would double all
                // that follows.
                if window > 1 && number == on_wire(acked) && acked > 0 {
                    continue 'window;
                }
            }
        }
    }
    Ok(End::Done)
}

/// Block numbers go on from 65535 with 0.
#[expect(clippy::cast_possible_truncation, reason = "the wire has 16 bits of it")]
fn on_wire(n: u64) -> u16 {
    n as u16
}
