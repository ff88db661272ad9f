//! One BMC on a TCP port, a thread for each connection.

use std::{
    io,
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

use super::{
    Machine, Setup, Tls,
    http::Request,
    service::{Does, Service},
};

/// How often a silent connection looks whether it shall end.
const LOOK: Duration = Duration::from_millis(100);

/// Runs until it is dropped.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    service: Arc<Mutex<Service>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// A BMC on a free port of the loopback interface.
    ///
    /// # Errors
    /// When there is no port, or no mockup.
    pub fn start(setup: Setup, tls: &Tls, machine: impl Machine) -> Result<Self> {
        Self::start_at(TcpListener::bind("127.0.0.1:0")?, setup, tls, machine)
    }

    /// A BMC on this port.
    ///
    /// # Errors
    /// When there is no mockup, or no thread.
    pub fn start_at(
        listener: TcpListener,
        setup: Setup,
        tls: &Tls,
        machine: impl Machine,
    ) -> Result<Self> {
        let address = listener.local_addr()?;
        let service = Arc::new(Mutex::new(Service::new(setup, Box::new(machine))?));
        let stop = Arc::new(AtomicBool::new(false));
        let (here, stopped, config) = (Arc::clone(&service), Arc::clone(&stop), tls.config.clone());
        listener.set_nonblocking(true)?;
        let thread = std::thread::Builder::new().name("redfish".to_owned()).spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                match listener.accept() {
                    Ok((stream, _)) => {
                        let (here, stopped, config) =
                            (here.clone(), stopped.clone(), config.clone());
                        std::thread::spawn(move || {
                            // A client that breaks off is no matter.
                            let _ = serve(stream, &here, &stopped, config);
                        });
                    }
                    Err(_) => std::thread::sleep(Duration::from_millis(2)),
                }
            }
        });
        let thread = Some(thread.context("no thread")?);
        Ok(Self { address, service, stop, thread })
    }

    /// Where it is.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What it serves.
    pub fn service(&self) -> MutexGuard<'_, Service> {
        lock(&self.service)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn lock(service: &Mutex<Service>) -> MutexGuard<'_, Service> {
    service.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

fn serve(
    stream: TcpStream,
    service: &Mutex<Service>,
    stop: &AtomicBool,
    config: Arc<ServerConfig>,
) -> Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_nodelay(true)?;
    let connection = ServerConnection::new(config)?;
    let mut stream = StreamOwned::new(connection, stream);
    loop {
        let Some(request) = Request::read(&mut Patient { stream: &mut stream, stop })? else {
            return Ok(());
        };
        let (does, slow) = {
            let mut service = lock(service);
            (service.answer(&request, Instant::now()), service.faults().slow_ms)
        };
        std::thread::sleep(Duration::from_millis(slow));
        match does {
            Does::Reply(reply) => reply.write(&mut stream)?,
            Does::Close => return Ok(()),
            Does::Nothing => {
                while !stop.load(Ordering::Relaxed) {
                    std::thread::sleep(LOOK);
                }
                return Ok(());
            }
        }
    }
}

/// Reads, and ends when the server does.
struct Patient<'a> {
    stream: &'a mut StreamOwned<ServerConnection, TcpStream>,
    stop: &'a AtomicBool,
}

impl io::Read for Patient<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.stream.sock.set_read_timeout(Some(LOOK))?;
        loop {
            match self.stream.read(buffer) {
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
                    ) =>
                {
                    if self.stop.load(Ordering::Relaxed) {
                        return Ok(0);
                    }
                }
                other => return other,
            }
        }
    }
}
