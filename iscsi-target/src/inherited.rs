//! Listening sockets that were open before the process began: those of a systemd socket unit, which
//! keeps them over a restart, so that a login meanwhile waits and is not refused (`sd_listen_fds(3)`).

use std::io;
use std::net::{SocketAddr, TcpListener};

use listenfd::ListenFd;

/// The sockets that were passed, until they are taken.
#[derive(Debug, Default)]
pub struct Inherited(Vec<TcpListener>);

impl Inherited {
    /// Takes over what the environment announces (`LISTEN_PID`, `LISTEN_FDS`), which is nothing unless
    /// it was meant for this process.
    ///
    /// # Errors
    /// When something was passed that is no TCP listener.
    pub fn from_env() -> io::Result<Self> {
        let mut passed = ListenFd::from_env();
        let mut sockets = Vec::new();
        for number in 0..passed.len() {
            let socket = passed.take_tcp_listener(number).map_err(|error| {
                io::Error::new(
                    error.kind(),
                    format!(
                        "descriptor {} that was passed is no TCP listener: {error}",
                        number + 3
                    ),
                )
            })?;
            if let Some(socket) = socket {
                socket.set_nonblocking(true)?;
                sockets.push(socket);
            }
        }
        Ok(Self(sockets))
    }

    /// Takes the socket that listens on this very address.
    pub fn take(&mut self, address: SocketAddr) -> Option<TcpListener> {
        let at = self.0.iter().position(|s| s.local_addr().is_ok_and(|here| here == address))?;
        Some(self.0.swap_remove(at))
    }

    /// The addresses of those that nobody took.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.0.iter().filter_map(|socket| socket.local_addr().ok()).collect()
    }
}
