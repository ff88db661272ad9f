//! `haas-iscsi`: serves one file as LUN 0 of one target, for tests and by hand.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, bail, ensure};
use clap::Parser;
use iscsi_target::{Chap, Inherited, Lun, LunIdentity, OneTarget, Options, Secret};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Serve a disk image read-only over iSCSI, as LUN 0 of one target, until SIGTERM.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// Address and port to listen on (port 0 picks one); may be repeated. A socket of that address
    /// that systemd passes is taken over.
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:3260")]
    listen: Vec<SocketAddr>,
    /// Name of the target.
    #[arg(long, value_name = "IQN")]
    target: String,
    /// User name and file with the secret that initiators must prove to know.
    #[arg(long, value_name = "USER:SECRET-FILE")]
    chap: Option<String>,
    /// User name and file with the secret that the target proves to know to initiators that ask.
    #[arg(long, value_name = "USER:SECRET-FILE", requires = "chap")]
    mutual_chap: Option<String>,
    /// Initiators that may log in (may be repeated); anyone if there is none.
    #[arg(long, value_name = "IQN")]
    initiator: Vec<String>,
    /// SHA-256 of the image, 64 hexadecimal digits, of which the disk's names are made. Servers of one
    /// image that are given the same are paths to one disk. Without it the names are made of the
    /// file's full path.
    #[arg(long, value_name = "DIGEST", value_parser = parse_digest)]
    sha256: Option<[u8; 32]>,
    /// The image: a file or block device.
    file: PathBuf,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .with_writer(std::io::stderr)
        .init();
    let arguments = Arguments::parse();
    let identity = match arguments.sha256 {
        Some(digest) => LunIdentity::from_sha256(&digest),
        None => LunIdentity::from_path(&arguments.file)?,
    };
    let lun = Lun::open(&arguments.file, identity)?;
    let size = lun.blocks() * iscsi_target::BLOCK;
    let mut target = OneTarget::new(arguments.target, lun);
    target.initiators = arguments.initiator;
    target.chap = arguments.chap.as_deref().map(read_chap).transpose()?;
    target.mutual_chap = arguments.mutual_chap.as_deref().map(read_chap).transpose()?;
    if let (Some(theirs), Some(ours)) = (&target.chap, &target.mutual_chap) {
        ensure!(theirs.secret != ours.secret, "--chap and --mutual-chap need different secrets");
    }
    let listeners = listeners(&arguments.listen)?;
    target.portals =
        listeners.iter().map(TcpListener::local_addr).collect::<Result<Vec<_>, _>>()?;
    // Before the line that says "ready", so that no signal after it is missed.
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut out = std::io::stdout();
    let portals: Vec<_> = target.portals.iter().map(SocketAddr::to_string).collect();
    writeln!(out, "ready: {} on {}, {size} bytes", target.name, portals.join(" and "))?;
    out.flush()?;

    let stop = CancellationToken::new();
    let server = iscsi_target::serve(listeners, Arc::new(target), Options::default(), stop.clone());
    let signals = async {
        tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
        stop.cancel();
        std::future::pending::<()>().await;
    };
    tokio::select! {
        result = server => result.context("the server failed"),
        () = signals => Ok(()),
    }
}

/// Listens on all addresses; sockets that were passed are taken over.
fn listeners(addresses: &[SocketAddr]) -> anyhow::Result<Vec<TcpListener>> {
    let mut inherited = Inherited::from_env()?;
    let mut listen = |address: &SocketAddr| match inherited.take(*address) {
        Some(socket) => TcpListener::from_std(socket),
        None => iscsi_target::listen(*address),
    };
    let listen = |address| listen(address).with_context(|| format!("cannot listen on {address}"));
    addresses.iter().map(listen).collect()
}

fn parse_digest(text: &str) -> anyhow::Result<[u8; 32]> {
    let mut digest = [0; 32];
    hex::decode_to_slice(text, &mut digest).context("a SHA-256 has 64 hexadecimal digits")?;
    Ok(digest)
}

/// Reads `USER:SECRET-FILE`; the secret is the file's first line.
fn read_chap(argument: &str) -> anyhow::Result<Chap> {
    // An initiator's name, which is often the user's too, has colons in it.
    let (user, path) = argument
        .rsplit_once(':')
        .with_context(|| format!("{argument:?} is not of the form USER:SECRET-FILE"))?;
    let mut content = String::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(4096).read_to_string(&mut content))
        .with_context(|| format!("cannot read the secret file {path}"))?;
    let secret = content.lines().next().unwrap_or("");
    if secret.len() < 12 {
        bail!("the secret in {path} has {} bytes; RFC 7143 wants at least 12", secret.len());
    }
    Ok(Chap { user: user.to_owned(), secret: Secret::new(secret) })
}
