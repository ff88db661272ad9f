//! The server on loopback, asked by curl and by a client that can misbehave.

use std::{sync::Arc, time::Duration};

use tokio::time::timeout;

use super::*;
use crate::netboot::{
    boot_target::{BootResource, Served},
    firmware::Binaries,
    script::Templates,
    testing::{self, MemoryTargets},
};

struct Server {
    address: SocketAddr,
    targets: Arc<MemoryTargets>,
    _dir: tempfile::TempDir,
    _stop: tokio_util::sync::DropGuard,
}

/// 100,000 bytes: 196 blocks of 512, and no two of them alike.
fn content() -> Vec<u8> {
    (0..50_000u16).flat_map(u16::to_be_bytes).collect()
}

async fn server() -> Server {
    server_for(MemoryTargets::default()).await
}

async fn server_for(targets: MemoryTargets) -> Server {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("snponly.efi"), content()).unwrap();
    // Exactly two blocks, so that an empty third one must end it.
    std::fs::write(dir.path().join("even.efi"), &content()[..1024]).unwrap();
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    let targets = Arc::new(targets);
    let stop = CancellationToken::new();
    let listener = Listener { socket, interface: None };
    let serving = Serving {
        targets: targets.clone(),
        templates: Arc::new(Templates::load(&testing::templates_dir()).unwrap()),
        binaries: Binaries::in_one(dir.path()),
    };
    tokio::spawn(run(listener, serving, stop.clone()));
    Server { address, targets, _dir: dir, _stop: stop.drop_guard() }
}

impl Server {
    async fn client(&self) -> UdpSocket {
        UdpSocket::bind("127.0.0.1:0").await.unwrap()
    }

    async fn served(&self) -> Vec<Served> {
        for _ in 0..200 {
            let served = self.targets.seen.lock().unwrap().served.clone();
            if !served.is_empty() {
                return served;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("nothing was reported as served");
    }
}

async fn receive(socket: &UdpSocket) -> (Vec<u8>, SocketAddr) {
    let mut buffer = [0; 2048];
    let waited = timeout(Duration::from_secs(5), socket.recv_from(&mut buffer)).await;
    let (length, from) = waited.expect("an answer within 5 s").unwrap();
    (buffer[..length].to_vec(), from)
}

async fn ack(socket: &UdpSocket, block: u16, to: SocketAddr) {
    let [high, low] = block.to_be_bytes();
    socket.send_to(&[0, 4, high, low], to).await.unwrap();
}

#[tokio::test]
async fn grub_gets_its_script_only_where_something_is_to_boot() {
    let server = server().await;
    let client = server.client().await;
    let ask = b"\0\x01/grub/grub.cfg\0octet\0";
    client.send_to(ask, server.address).await.unwrap();
    let (answer, _) = receive(&client).await;
    assert_eq!(answer[..4], [0, 5, 0, 2], "an error: access");

    let nowhere = std::path::Path::new("/nonexistent");
    let targets = MemoryTargets::with_attempt(testing::target(nowhere, nowhere));
    let server = server_for(targets).await;
    let client = server.client().await;
    client.send_to(ask, server.address).await.unwrap();
    let (block, from) = receive(&client).await;
    assert_eq!(block[..4], [0, 3, 0, 1], "the first block");
    assert!(block.windows(4).any(|w| w == b"haas"), "{block:?}");
    let mut number = 1;
    let mut length = block.len();
    while length == 4 + 512 {
        ack(&client, number, from).await;
        length = receive(&client).await.0.len();
        number += 1;
    }
    ack(&client, number, from).await;
    let served = server.served().await;
    assert!(
        matches!(&served[0], Served::Boot { resource: BootResource::Script, complete: true, .. }),
        "{served:?}"
    );
}

#[tokio::test]
async fn curl_gets_the_file_and_the_boot_moves_on() {
    let server = server().await;
    for options in [&["--tftp-no-options"][..], &["--tftp-blksize", "1468"]] {
        let output = tokio::process::Command::new("curl")
            .args(["-sS", "--max-time", "20"])
            .args(options)
            .arg(format!("tftp://{}/snponly.efi", server.address))
            .output()
            .await
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert!(output.stdout == content());
    }
    let served = server.served().await;
    let expected = Served::Firmware {
        peer: [127, 0, 0, 1].into(),
        file: "snponly.efi".into(),
        bytes: 100_000,
    };
    assert_eq!(served[0], expected);
}

#[tokio::test]
async fn a_window_of_blocks_survives_the_loss_of_one() {
    let server = server().await;
    let client = server.client().await;
    let request = b"\0\x01snponly.efi\0octet\0windowsize\x004\0blksize\x001000\0tsize\x000\0";
    client.send_to(request, server.address).await.unwrap();
    let (oack, from) = receive(&client).await;
    assert_eq!(oack, b"\0\x06blksize\x001000\0tsize\x00100000\0windowsize\x004\0");
    assert_ne!(from, server.address, "a transfer has a port of its own");
    assert_eq!(from.ip(), server.address.ip());
    ack(&client, 0, from).await;
    let mut got: Vec<u8> = Vec::new();
    let mut next: u16 = 1;
    let mut lose = true;
    while got.len() < 100_000 {
        let (data, _) = receive(&client).await;
        let block = u16::from_be_bytes([data[2], data[3]]);
        if block == 3 && std::mem::take(&mut lose) {
            continue;
        }
        if block != next {
            // Something is missing: say what came last, as RFC 7440 section 4 wants.
            if block == 4 {
                ack(&client, next - 1, from).await;
            }
            continue;
        }
        got.extend(&data[4..]);
        if next.is_multiple_of(4) || data.len() < 1004 {
            ack(&client, next, from).await;
        }
        next += 1;
    }
    assert!(got == content());
    let (last, _) = receive(&client).await;
    assert_eq!((last.len(), &last[2..4]), (4, &[0, 101][..]), "an empty block ends an even file");
    ack(&client, 101, from).await;
    server.served().await;
}

#[tokio::test]
async fn a_lost_packet_is_sent_again_and_an_old_ack_is_not_answered() {
    let server = server().await;
    let client = server.client().await;
    client.send_to(b"\0\x01even.efi\0octet\0", server.address).await.unwrap();
    let (first, from) = receive(&client).await;
    let (again, _) = receive(&client).await;
    assert_eq!(first, again);
    ack(&client, 1, from).await;
    assert_eq!(receive(&client).await.0[3], 2);
    // The Sorcerer's Apprentice: a second ACK of block 1 must not bring a second block 2.
    ack(&client, 1, from).await;
    ack(&client, 2, from).await;
    assert_eq!(receive(&client).await.0, [0, 3, 0, 3]);
    ack(&client, 3, from).await;
    server.served().await;
}

#[tokio::test]
async fn an_error_ends_a_transfer_and_a_new_request_starts_it_anew() {
    let server = server().await;
    let client = server.client().await;
    let request = b"\0\x01even.efi\0octet\0";
    client.send_to(request, server.address).await.unwrap();
    let (_, from) = receive(&client).await;
    client.send_to(b"\0\x05\0\0stop\0", from).await.unwrap();
    let mut buffer = [0; 600];
    let more = timeout(Duration::from_millis(2500), client.recv_from(&mut buffer)).await;
    assert!(more.is_err(), "nothing may come after an ERROR");
    client.send_to(request, server.address).await.unwrap();
    let (_, first) = receive(&client).await;
    client.send_to(request, server.address).await.unwrap();
    let (_, second) = receive(&client).await;
    assert_ne!(first, second);
    let (_, third) = receive(&client).await;
    assert_eq!(third, second, "the first transfer is over");
}

#[tokio::test]
async fn only_binaries_are_served_and_garbage_harms_nothing() {
    use rand::{Rng as _, SeedableRng as _};
    let server = server().await;
    let client = server.client().await;
    for (request, code) in [
        (&b"\0\x01../../etc/passwd\0octet\0"[..], 2),
        (b"\0\x01/etc/passwd\0octet\0", 2),
        (b"\0\x01missing.efi\0octet\0", 1),
        (b"\0\x01snponly.efi\0netascii\0", 0),
        (b"\0\x02snponly.efi\0octet\0", 2),
        (b"\0\x01snponly.efi", 4),
    ] {
        client.send_to(request, server.address).await.unwrap();
        let (answer, _) = receive(&client).await;
        assert_eq!(answer[..4], [0, 5, 0, code], "{request:?}");
    }
    let mut rng = rand::rngs::StdRng::seed_from_u64(1350);
    for _ in 0..2000 {
        let mut packet = vec![0; rng.random_range(0..100)];
        rng.fill(&mut packet[..]);
        client.send_to(&packet, server.address).await.unwrap();
    }
    let other = server.client().await;
    other.send_to(b"\0\x01even.efi\0octet\0", server.address).await.unwrap();
    assert_eq!(receive(&other).await.0[..4], [0, 3, 0, 1]);
}

#[tokio::test]
async fn one_peer_cannot_take_all_transfers() {
    let server = server().await;
    let mut answered = 0;
    let mut clients = Vec::new();
    for _ in 0..MAX_PER_PEER + 3 {
        let client = server.client().await;
        client.send_to(b"\0\x01even.efi\0octet\0", server.address).await.unwrap();
        let mut buffer = [0; 600];
        let wait = timeout(Duration::from_millis(500), client.recv_from(&mut buffer));
        answered += usize::from(wait.await.is_ok());
        clients.push(client);
    }
    assert_eq!(answered, MAX_PER_PEER);
}

#[tokio::test]
async fn an_address_that_asks_without_end_is_dropped_and_another_is_served() {
    let server = server().await;
    let ask = b"\0\x01nothing\0octet\0";
    let mut answers = 0;
    let client = server.client().await;
    for _ in 0..2 * PER_ADDRESS.burst {
        client.send_to(ask, server.address).await.unwrap();
        match timeout(Duration::from_millis(200), client.recv(&mut [0; 100])).await {
            Ok(answer) => answers += u32::from(answer.is_ok()),
            Err(_) => break,
        }
    }
    assert!((PER_ADDRESS.burst..2 * PER_ADDRESS.burst).contains(&answers), "{answers} answers");
    let other = UdpSocket::bind("127.0.0.2:0").await.unwrap();
    other.send_to(ask, server.address).await.unwrap();
    assert_eq!(receive(&other).await.0[..4], [0, 5, 0, 2]);
}
