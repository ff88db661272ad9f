//! From power-on to the agent.

use std::{
    future::pending,
    net::{Ipv4Addr, SocketAddr},
    sync::atomic::AtomicUsize,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpSocket, TcpStream},
    time::{sleep, timeout},
};

use super::{FleetNode, agent, dhcp::Dhcp};
use crate::boot::Script;

/// How long a download is tried again, as iPXE and a patient person do.
const TRIES: u32 = 120;

/// A node's life from power-on until it has shut down in order. An error is a node that hangs.
pub(super) async fn live(node: &FleetNode, dhcp: &Dhcp, admitted: &AtomicUsize) -> Result<()> {
    if node.never_boots {
        pending::<()>().await;
    }
    sleep(node.firmware).await;
    let lease = loop {
        if let Some(lease) = dhcp.ask(node.mac).await? {
            break lease;
        }
    };
    ensure!(lease.address == node.address, "{} was given {}", node.address, lease.address);
    let url = lease.boot_file.context("the lease has no boot file")?;
    let script = insist(node.address, &url, true).await?;
    let script = Script::parse(std::str::from_utf8(&script)?)?;
    insist(node.address, &script.kernel, false).await?;
    insist(node.address, &script.initrd, false).await?;
    agent::run(node.address, &script.cmdline, admitted).await
}

async fn insist(source: Ipv4Addr, url: &str, keep: bool) -> Result<Vec<u8>> {
    let mut tries = 1;
    loop {
        match timeout(Duration::from_secs(120), get(source, url, keep)).await {
            Ok(Ok(body)) => return Ok(body),
            Ok(Err(error)) if tries == TRIES => return Err(error),
            Err(_) if tries == TRIES => bail!("{url} takes too long"),
            Ok(Err(_)) | Err(_) => tries += 1,
        }
        sleep(Duration::from_millis(500)).await;
    }
}

/// A TCP connection from a node's address.
pub(super) async fn connect(source: Ipv4Addr, to: SocketAddr) -> Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind((source, 0).into())?;
    let connected = timeout(Duration::from_secs(10), socket.connect(to)).await;
    Ok(connected.with_context(|| format!("{to} does not answer"))??)
}

/// HTTP/1.1 GET as a boot loader does it. The body is read, and kept only if it is wanted.
async fn get(source: Ipv4Addr, url: &str, keep: bool) -> Result<Vec<u8>> {
    let rest = url.strip_prefix("http://").with_context(|| format!("{url} is not http"))?;
    let (authority, path) = rest.split_once('/').with_context(|| format!("{url} has no path"))?;
    let address =
        if authority.contains(':') { authority.to_owned() } else { format!("{authority}:80") };
    let mut stream = connect(source, address.parse()?).await?;
    let request = format!("GET /{path} HTTP/1.1\r\nHost: {authority}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line).await?;
    ensure!(line.split(' ').nth(1) == Some("200"), "{}", line.trim());
    let mut length: Option<u64> = None;
    loop {
        line.clear();
        ensure!(reader.read_line(&mut line).await? > 0, "the headers end too soon");
        if line.trim().is_empty() {
            break;
        }
        if let Some((name, value)) = line.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            length = Some(value.trim().parse()?);
        }
    }
    let length = length.context("the answer has no Content-Length")?;
    let mut body = reader.take(length);
    let mut kept = Vec::new();
    let got = if keep {
        u64::try_from(body.read_to_end(&mut kept).await?)?
    } else {
        tokio::io::copy_buf(&mut body, &mut tokio::io::sink()).await?
    };
    ensure!(got == length, "got {got} of {length} bytes");
    Ok(kept)
}
