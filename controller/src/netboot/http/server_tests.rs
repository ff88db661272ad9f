//! The routes on a real socket, asked by curl and by bytes that are no HTTP.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;
use crate::netboot::{
    firmware::Binaries,
    testing::{self, MemoryTargets},
};

struct Server {
    address: SocketAddr,
    targets: Arc<MemoryTargets>,
    _dir: tempfile::TempDir,
    _stop: tokio_util::sync::DropGuard,
}

async fn server() -> Server {
    let dir = tempfile::tempdir().unwrap();
    let (kernel, initrd) = (dir.path().join("vmlinuz"), dir.path().join("initrd.zst"));
    std::fs::write(&kernel, vec![7; 300_000]).unwrap();
    std::fs::write(&initrd, b"0123456789").unwrap();
    std::fs::write(dir.path().join("snponly.efi"), b"MZ binary").unwrap();
    let targets = Arc::new(MemoryTargets::with_attempt(testing::target(&kernel, &initrd)));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let serving = Serving {
        targets: targets.clone(),
        templates: Arc::new(Templates::load(&testing::templates_dir()).unwrap()),
        binaries: Binaries::in_one(dir.path()),
    };
    let stop = CancellationToken::new();
    tokio::spawn(run(listener, serving, stop.clone()));
    Server { address, targets, _dir: dir, _stop: stop.drop_guard() }
}

impl Server {
    /// Status line, headers and body, in the form of `curl -i`.
    async fn curl(&self, arguments: &[&str], path: &str) -> (u16, String, Vec<u8>) {
        let output = tokio::process::Command::new("curl")
            .args(["-s", "-i", "--path-as-is", "--max-time", "20"])
            .args(arguments)
            .arg(format!("http://{}{path}", self.address))
            .output()
            .await
            .unwrap();
        let split = output.stdout.windows(4).position(|w| w == b"\r\n\r\n").expect("a head");
        let head = String::from_utf8(output.stdout[..split].to_vec()).unwrap();
        let status = head.split(' ').nth(1).and_then(|s| s.parse().ok()).expect("a status");
        (status, head.to_ascii_lowercase(), output.stdout[split + 4..].to_vec())
    }

    async fn served(&self, count: usize) -> Vec<Served> {
        for _ in 0..200 {
            let served = self.targets.seen.lock().unwrap().served.clone();
            if served.len() >= count {
                return served;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("only {:?} was reported", self.targets.seen.lock().unwrap().served)
    }
}

fn boot(resource: BootResource, bytes: u64, complete: bool) -> Served {
    Served::Boot { boot: "01JDEXAMPLE".into(), resource, bytes, complete }
}

#[tokio::test]
async fn grub_gets_its_script_by_its_address_and_the_boot_moves_on() {
    let server = server().await;
    let (status, _, body) = server.curl(&[], "/grub/grub.cfg").await;
    let script = String::from_utf8(body).unwrap();
    assert_eq!(status, 200);
    assert!(script.contains("linux /boot/TOKEN/kernel ip="), "{script}");
    let served = server.served(1).await;
    assert!(
        matches!(&served[0], Served::Boot { resource: BootResource::Script, complete: true, .. }),
        "{served:?}"
    );
    let (status, ..) = server.curl(&[], "/grub/x86_64-efi/grub.cfg").await;
    assert_eq!(status, 404);
}

#[tokio::test]
async fn a_node_fetches_script_kernel_and_initramfs_and_the_boot_moves_on() {
    let server = server().await;
    let (status, _, body) = server.curl(&[], "/boot/TOKEN/script").await;
    let script = String::from_utf8(body).unwrap();
    assert_eq!(status, 200);
    assert!(script.starts_with("#!ipxe\n") && script.contains("/boot/TOKEN/kernel"), "{script}");
    let (status, head, body) = server.curl(&[], "/boot/TOKEN/kernel").await;
    assert_eq!((status, body.len()), (200, 300_000));
    assert!(head.contains("content-length: 300000"), "{head}");
    let (status, _, body) = server.curl(&[], "/boot/TOKEN/initrd").await;
    assert_eq!((status, &body[..]), (200, &b"0123456789"[..]));
    let served = server.served(3).await;
    assert_eq!(served[0], boot(BootResource::Script, script.len() as u64, true));
    assert_eq!(served[1], boot(BootResource::Kernel, 300_000, true));
    assert_eq!(served[2], boot(BootResource::Initrd, 10, true));
}

#[tokio::test]
async fn head_counts_for_nothing_and_a_range_is_complete_only_with_the_last_byte() {
    let server = server().await;
    let (status, head, body) = server.curl(&["-I"], "/boot/TOKEN/kernel").await;
    assert_eq!((status, body.len()), (200, 0));
    assert!(head.contains("content-length: 300000"), "{head}");
    let (status, head, _) = server.curl(&["-I"], "/ipxe/snponly.efi").await;
    assert_eq!(status, 200);
    assert!(head.contains("content-length: 9"), "{head}");
    let (status, head, body) = server.curl(&["-r", "2-4"], "/boot/TOKEN/initrd").await;
    assert_eq!((status, &body[..]), (206, &b"234"[..]));
    assert!(head.contains("content-range: bytes 2-4/10"), "{head}");
    server.curl(&["-r", "5-"], "/boot/TOKEN/initrd").await;
    assert_eq!(server.curl(&["-r", "20-30"], "/boot/TOKEN/initrd").await.0, 416);
    let served = server.served(2).await;
    assert_eq!(served[0], boot(BootResource::Initrd, 3, false));
    assert_eq!(served[1], boot(BootResource::Initrd, 5, true));
}

#[tokio::test]
async fn a_download_that_breaks_off_is_not_complete() {
    let server = server().await;
    std::fs::write(server._dir.path().join("vmlinuz"), vec![7; 64 << 20]).unwrap();
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    stream.write_all(b"GET /boot/TOKEN/kernel HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    stream.read_exact(&mut [0; 100]).await.unwrap();
    drop(stream);
    let served = server.served(1).await;
    assert!(
        matches!(served[0], Served::Boot { complete: false, bytes, .. } if bytes < 64 << 20),
        "{served:?}"
    );
}

#[tokio::test]
async fn uefi_fetches_ipxe_by_http() {
    let server = server().await;
    let (status, _, body) = server.curl(&[], "/ipxe/snponly.efi").await;
    assert_eq!((status, &body[..]), (200, &b"MZ binary"[..]));
    let file = "snponly.efi".to_owned();
    let expected = Served::Firmware { peer: [127, 0, 0, 1].into(), file, bytes: 9 };
    assert_eq!(server.served(1).await[0], expected);
}

#[tokio::test]
async fn nothing_else_is_served_and_every_refusal_is_one_line() {
    let server = server().await;
    for (path, expected) in [
        ("/", 404),
        ("/boot/", 404),
        ("/boot/OTHER/script", 404),
        ("/boot/TOKEN/passwd", 404),
        ("/boot/TOKEN/..%2f..%2fetc%2fpasswd", 404),
        ("/ipxe/", 404),
        ("/ipxe/..%2fvmlinuz", 404),
        ("/ipxe/vmlinuz", 404),
        ("/ipxe/missing.efi", 404),
        ("/../../etc/passwd", 404),
    ] {
        let (status, _, body) = server.curl(&[], path).await;
        assert_eq!(status, expected, "{path}");
        assert_eq!(body.iter().filter(|b| **b == b'\n').count(), 1, "{path}: {body:?}");
    }
    assert_eq!(server.curl(&["-X", "POST"], "/boot/TOKEN/script").await.0, 405);
    // 127.0.0.2 is not the node's address.
    let (status, _, body) = server.curl(&["--interface", "127.0.0.2"], "/boot/TOKEN/script").await;
    assert_eq!((status, &body[..]), (403, &b"this boot attempt belongs to another address\n"[..]));
    // The image was deleted while the node boots.
    std::fs::remove_file(server._dir.path().join("vmlinuz")).unwrap();
    assert_eq!(server.curl(&[], "/boot/TOKEN/kernel").await.0, 503);
}

#[tokio::test]
async fn garbage_and_oversized_heads_harm_nothing() {
    use rand::{Rng as _, SeedableRng as _};
    let server = server().await;
    let mut rng = rand::rngs::StdRng::seed_from_u64(80);
    for round in 0..50 {
        let mut bytes = vec![0; rng.random_range(1..2000)];
        rng.fill(&mut bytes[..]);
        if round % 2 == 0 {
            bytes = [b"GET /boot/", &bytes[..], b"/script HTTP/1.1\r\n\r\n"].concat();
        }
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        // The server may hang up on us in the middle.
        let _ = stream.write_all(&bytes).await;
    }
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    let huge = format!("GET / HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(MAX_HEAD * 4));
    let _ = stream.write_all(huge.as_bytes()).await;
    let mut answer = String::new();
    let _ = stream.read_to_string(&mut answer).await;
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 431"), "{answer}");
    assert_eq!(server.curl(&[], "/boot/TOKEN/initrd").await.0, 200);
}

#[tokio::test]
async fn one_machine_cannot_take_every_connection() {
    let server = server().await;
    let mut taken = Vec::new();
    for _ in 0..MAX_PER_ADDRESS {
        taken.push(TcpStream::connect(server.address).await.unwrap());
    }
    // One more is closed, and another machine is served.
    let mut more = TcpStream::connect(server.address).await.unwrap();
    assert_eq!(more.read(&mut [0]).await.unwrap(), 0);
    let other = ["--interface", "127.0.0.2"];
    assert_eq!(server.curl(&other, "/ipxe/snponly.efi").await.0, 200);
    drop(taken);
}

#[tokio::test]
async fn an_address_that_asks_without_end_is_refused_and_another_is_served() {
    let server = server().await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    let burst = PER_ADDRESS.burst;
    let head = "HEAD /nothing HTTP/1.1\r\nHost: x\r\n\r\n".repeat(usize::try_from(burst).unwrap());
    stream.write_all((head + "GET /nothing HTTP/1.0\r\n\r\n").as_bytes()).await.unwrap();
    let mut answers = String::new();
    stream.read_to_string(&mut answers).await.unwrap();
    assert!(answers.contains("HTTP/1.1 404"), "{answers}");
    let more = ["-I".to_owned(), format!("http://{}/[1-400]", server.address)];
    let more = tokio::process::Command::new("curl").arg("-s").args(more).output().await.unwrap();
    let more = String::from_utf8(more.stdout).unwrap();
    assert!(more.contains("HTTP/1.1 429"), "{more}");
    let other = ["--interface", "127.0.0.2"];
    assert_eq!(server.curl(&other, "/ipxe/snponly.efi").await.0, 200);
}
