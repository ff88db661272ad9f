//! HTTP/1.1 GET as a boot loader does it: one connection, the whole body (RFC 9112).

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};

/// The body of `url`.
pub(crate) fn get(url: &str) -> Result<Vec<u8>> {
    let rest = url.strip_prefix("http://").with_context(|| format!("{url} is not http"))?;
    let (authority, path) = rest.split_once('/').with_context(|| format!("{url} has no path"))?;
    let address =
        if authority.contains(':') { authority.to_owned() } else { format!("{authority}:80") };
    let mut stream =
        TcpStream::connect(&address).with_context(|| format!("no TCP to {address}"))?;
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    write!(
        stream,
        "GET /{path} HTTP/1.1\r\nHost: {authority}\r\nUser-Agent: iPXE/1.21.1 (sim)\r\nConnection: close\r\n\r\n"
    )?;
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let status = line.split(' ').nth(1).unwrap_or_default().to_owned();
    let mut length: Option<u64> = None;
    loop {
        line.clear();
        ensure!(reader.read_line(&mut line)? > 0, "the headers of {path} end too soon");
        let header = line.trim_end();
        if header.is_empty() {
            break;
        }
        if let Some((name, value)) = header.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            length = Some(value.trim().parse()?);
        }
    }
    if status != "200" {
        // The path holds a token; what it ends with does not.
        bail!("{status} for …/{}", path.rsplit('/').next().unwrap_or_default());
    }
    let length = length.context("the answer has no Content-Length")?;
    let mut body = Vec::new();
    reader.take(length).read_to_end(&mut body)?;
    ensure!(body.len() as u64 == length, "got {} of {length} bytes", body.len());
    Ok(body)
}
