//! The cable between a node's serial port and its BMC. It outlives the node's power cycles, as a
//! cable does: ipmi_sim connects once and never again, and each QEMU is a new one.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};

use super::config::NodeConfig;

/// One end of the cable, if something is plugged in.
type End<S> = Arc<Mutex<Option<S>>>;

/// A hung BMC must not stop its node: what it does not take within this time is lost to it.
const PATIENCE: Duration = Duration::from_millis(100);

/// Joins the two ends until the process is ended.
pub fn run(node: &NodeConfig) -> Result<()> {
    let bmc_side = TcpListener::bind(node.serial)
        .with_context(|| format!("cannot serve the serial line on {}", node.serial))?;
    let node_side = UnixListener::bind(node.tty_socket())
        .with_context(|| format!("cannot serve {}", node.tty_socket().display()))?;
    let bmc: End<TcpStream> = End::default();
    let guest: End<UnixStream> = End::default();
    {
        let (bmc, guest) = (bmc.clone(), guest.clone());
        std::thread::spawn(move || {
            for stream in node_side.incoming().flatten() {
                let limited = stream.set_write_timeout(Some(PATIENCE));
                if let (Ok(()), Ok(reader)) = (limited, stream.try_clone()) {
                    plug(&guest, stream);
                    let bmc = bmc.clone();
                    std::thread::spawn(move || copy(reader, &bmc));
                }
            }
        });
    }
    for stream in bmc_side.incoming().flatten() {
        let limited = stream.set_write_timeout(Some(PATIENCE));
        if let (Ok(()), Ok(reader)) = (limited, stream.try_clone()) {
            plug(&bmc, stream);
            let guest = guest.clone();
            std::thread::spawn(move || copy(reader, &guest));
        }
    }
    Ok(())
}

/// The last one plugged in has the line.
fn plug<S>(end: &End<S>, stream: S) {
    *end.lock().unwrap_or_else(PoisonError::into_inner) = Some(stream);
}

/// Carries bytes one way until their source ends. Without a receiver they are lost, as on a cable.
fn copy(mut source: impl Read, receiver: &End<impl Write>) {
    let mut buffer = [0; 4096];
    loop {
        let length = match source.read(&mut buffer) {
            Ok(0) => return,
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(_) => return,
        };
        let mut end = receiver.lock().unwrap_or_else(PoisonError::into_inner);
        let gone = end.as_mut().is_some_and(|stream| {
            let result = stream.write_all(&buffer[..length]);
            result.is_err_and(|error| error.kind() != io::ErrorKind::WouldBlock)
        });
        if gone {
            *end = None;
        }
    }
}
