//! `haas-iscsi`: serves one file as LUN 0 of one target, for tests and by hand.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, bail};
use clap::Parser;
use iscsi_target::{
    Admission, Chap, ClassLimits, Exports, Grant, Inherited, Limits, LoginRequest, Lun,
    LunIdentity, Options, Refusal, Secret,
};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Serve a disk image read-only over iSCSI.
#[derive(Debug, Parser)]
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
    /// Initiators that may log in (may be repeated); anyone if there is none.
    #[arg(long, value_name = "IQN")]
    initiator: Vec<String>,
    /// The image: a file or block device.
    file: PathBuf,
}

/// One target for all.
struct OneTarget {
    name: String,
    initiators: Vec<String>,
    chap: Option<Chap>,
    lun: Arc<Lun>,
    /// Where it listens.
    portals: Vec<SocketAddr>,
}

impl OneTarget {
    fn allows(&self, initiator: &str) -> bool {
        self.initiators.is_empty() || self.initiators.iter().any(|name| name == initiator)
    }
}

impl Exports for OneTarget {
    fn admit(&self, request: &LoginRequest<'_>) -> Admission {
        if request.target != self.name {
            return Admission::Refused(Refusal::NotFound);
        }
        if !self.allows(request.initiator) {
            return Admission::Refused(Refusal::NotAuthorized);
        }
        Admission::Granted(Grant {
            lun: Arc::clone(&self.lun),
            chap: self.chap.clone(),
            class: class_of(request.initiator),
            class_limits: ClassLimits::default(),
            limits: Limits::default(),
            observer: None,
        })
    }

    fn discover(&self, initiator: &str, _peer: SocketAddr) -> Vec<String> {
        if self.allows(initiator) { vec![self.name.clone()] } else { Vec::new() }
    }

    fn portals(&self, _peer: SocketAddr, here: SocketAddr) -> Vec<SocketAddr> {
        // What listens on any address cannot be told to others; `here` is how the peer found it.
        let others = self.portals.iter().filter(|portal| !portal.ip().is_unspecified());
        let reachable = others.filter(|other| **other != here && other.is_ipv4() == here.is_ipv4());
        std::iter::once(here).chain(reachable.copied()).collect()
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .with_writer(std::io::stderr)
        .init();
    let arguments = Arguments::parse();
    let digest = digest_of_path(&arguments.file)?;
    let lun = Lun::open(&arguments.file, LunIdentity::from_sha256(&digest))?;
    let size = lun.blocks() * iscsi_target::BLOCK;
    let listeners = listeners(&arguments.listen)?;
    let portals = listeners.iter().map(TcpListener::local_addr).collect::<Result<Vec<_>, _>>()?;
    let exports = Arc::new(OneTarget {
        name: arguments.target.clone(),
        initiators: arguments.initiator,
        chap: arguments.chap.as_deref().map(read_chap).transpose()?,
        lun: Arc::new(lun),
        portals: portals.clone(),
    });
    // Before the line that says "ready", so that no signal after it is missed.
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut out = std::io::stdout();
    let portals: Vec<_> = portals.iter().map(SocketAddr::to_string).collect();
    writeln!(out, "ready: {} on {}, {size} bytes", arguments.target, portals.join(" and "))?;
    out.flush()?;

    let stop = CancellationToken::new();
    let server = iscsi_target::serve(listeners, exports, Options::default(), stop.clone());
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

/// Initiators share the target fairly by their naming authority, which is what stands before the colon.
fn class_of(initiator: &str) -> u64 {
    let authority = initiator.split(':').next().unwrap_or_default();
    let mut hasher = DefaultHasher::new();
    authority.hash(&mut hasher);
    hasher.finish() >> 1
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

/// A stable identity for a disk of which no digest is known: that of its full path, spread over 32
/// bytes by MD5 with two prefixes. `haasd` uses the image's own digest.
fn digest_of_path(file: &Path) -> anyhow::Result<[u8; 32]> {
    use md5::{Digest, Md5};
    use std::os::unix::ffi::OsStrExt;
    let full = file.canonicalize().with_context(|| format!("cannot open {}", file.display()))?;
    let mut digest = [0; 32];
    for (prefix, half) in digest.chunks_exact_mut(16).enumerate() {
        let mut md5 = Md5::new();
        md5.update(prefix.to_be_bytes());
        md5.update(full.as_os_str().as_bytes());
        half.copy_from_slice(&md5.finalize());
    }
    Ok(digest)
}

/// Reads `USER:SECRET-FILE`; the secret is the file's first line.
fn read_chap(argument: &str) -> anyhow::Result<Chap> {
    let (user, path) = argument.split_once(':').context("--chap wants USER:SECRET-FILE")?;
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
