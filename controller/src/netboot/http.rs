//! Node-facing HTTP: what iPXE and UEFI's HTTP boot fetch, and nothing else.
//!
//! | URL | What |
//! |---|---|
//! | `/boot/TOKEN/script` | the rendered iPXE script of the token's boot attempt |
//! | `/boot/TOKEN/kernel`, `/boot/TOKEN/initrd` | its files, with HEAD and Range |
//! | `/ipxe/FILE` | a program for firmware, for UEFI's HTTP boot and for chainloading |
//! | `/grub/grub.cfg` | the script of the node at the asking address, for a GRUB loaded so |
//!
//! Plain HTTP, since firmware speaks nothing better: the token in the URL opens one attempt to one
//! address, and is never logged. The seam decides who may fetch what and how often.

mod counted;

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    Router,
    body::Body,
    extract::{ConnectInfo, Path, Request, State},
    http::{HeaderMap, Method, StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse as _, Response},
    routing::get,
};
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use iscsi_target::Census;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower_http::services::ServeFile;
use tracing::{debug, error, info, warn};

use self::counted::counted;
use super::{
    Serving,
    boot_target::{BootResource, BootTarget, BootTargets, Refusal, Served},
    firmware::BinaryError,
    script::{Loader, Templates},
};
use crate::rates::{Rate, Rates, asker};

/// Connections at a time; more wait in the kernel's queue.
const MAX_CONNECTIONS: usize = 4096;
/// Connections of one address; a booting node needs one or two.
const MAX_PER_ADDRESS: usize = 32;
/// A request's head must arrive within this time, also on a connection that is kept.
const HEAD_TIMEOUT: Duration = Duration::from_secs(15);
/// A node that takes no more bytes for this long is gone.
const STALL_TIMEOUT: Duration = Duration::from_secs(120);
/// The longest request head, bytes.
const MAX_HEAD: usize = 16 << 10;

/// Requests of one address: a boot has some ten, and firmware that reads by Range some more.
const PER_ADDRESS: Rate = Rate::per_second(200, 20);
/// Requests of all; racks that are switched on at once fit into it.
const IN_ALL: Rate = Rate::per_second(20_000, 2000);

/// Serves until `stop`. Downloads in progress are cut then: the node asks the next haasd again.
pub async fn run<T: BootTargets>(
    listener: TcpListener,
    serving: Serving<T>,
    stop: CancellationToken,
) -> io::Result<()> {
    let rates = Arc::new(Rates::new(PER_ADDRESS, IN_ALL));
    let router = router(serving).layer(middleware::from_fn_with_state(rates, not_too_often));
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let census = Arc::new(Census::default());
    let tasks = TaskTracker::new();
    loop {
        let slot = slots.clone().acquire_owned().await.map_err(io::Error::other)?;
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of file descriptors, or a peer that was gone before we looked.
                warn!(%error, "cannot accept an HTTP connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let Some(counted) = census.count(peer.ip(), MAX_PER_ADDRESS) else {
            debug!(%peer, "HTTP connection refused: too many from this address");
            continue;
        };
        let connection = serve_connection(stream, peer, router.clone());
        let stop = stop.clone();
        tasks.spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = connection => {}
            }
            drop((slot, counted));
        });
    }
    tasks.close();
    tasks.wait().await;
    Ok(())
}

async fn serve_connection(stream: TcpStream, peer: SocketAddr, router: Router) {
    let socket = socket2::SockRef::from(&stream);
    let set = socket.set_tcp_user_timeout(Some(STALL_TIMEOUT)).and(stream.set_nodelay(true));
    if let Err(error) = set {
        debug!(%peer, %error, "cannot set the options of an HTTP connection");
    }
    let router = router.layer(axum::Extension(ConnectInfo(peer)));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(MAX_HEAD)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    if let Err(error) = connection.await {
        debug!(%peer, %error, "HTTP connection broke");
    }
}

async fn not_too_often(
    State(rates): State<Arc<Rates<IpAddr>>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    request: Request,
    next: Next,
) -> Response {
    match rates.ask(asker(peer.ip()), Instant::now()) {
        Ok(()) => next.run(request).await,
        Err(_) => {
            debug!(%peer, "HTTP request refused: too many from this address");
            line(StatusCode::TOO_MANY_REQUESTS, "too many requests")
        }
    }
}

/// The paths of [`router`]; the last is `firmware::GRUB_CONFIG`.
pub(crate) const PATHS: [&str; 3] = ["/boot/{token}/{resource}", "/ipxe/{file}", "/grub/grub.cfg"];

/// The routes; the peer's address is expected as [`ConnectInfo`].
pub fn router<T: BootTargets>(serving: Serving<T>) -> Router {
    let [boots, programs, grubs] = PATHS;
    Router::new()
        .route(boots, get(boot::<T>))
        .route(programs, get(ipxe::<T>))
        .route(grubs, get(grub::<T>))
        .fallback(|| async { line(StatusCode::NOT_FOUND, "nothing here") })
        .with_state(serving)
}

async fn boot<T: BootTargets>(
    State(serving): State<Serving<T>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    Path((token, resource)): Path<(String, String)>,
    request: Request,
) -> Response {
    let Some(resource) = BootResource::from_path(&resource) else {
        return line(StatusCode::NOT_FOUND, "nothing here");
    };
    let target = match serving.targets.boot_by_token(&token, peer.ip(), resource).await {
        Ok(target) => target,
        Err(refusal) => {
            warn!(%peer, %resource, %refusal, "boot request refused");
            return refused(refusal);
        }
    };
    let (node, boot) = (&target.node, target.boot.as_str());
    info!(%node, boot, %peer, %resource, method = %request.method(), "boot request");
    let method = request.method().clone();
    let response = match resource {
        BootResource::Script => script(&serving.templates, &target, Loader::Ipxe),
        BootResource::Kernel => file(&target.kernel, &target, resource, request).await,
        BootResource::Initrd => file(&target.initrd, &target, resource, request).await,
    };
    boot_reported(response, &method, serving.targets, &target, resource)
}

/// The script for a GRUB whose loader was given no token.
async fn grub<T: BootTargets>(
    State(serving): State<Serving<T>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    method: Method,
) -> Response {
    let target = match serving.targets.boot_by_address(peer.ip()).await {
        Ok(target) => target,
        Err(refusal) => {
            warn!(%peer, %refusal, "GRUB's request refused");
            return refused(refusal);
        }
    };
    info!(node = %target.node, boot = target.boot, %peer, "GRUB asks for its script");
    let response = script(&serving.templates, &target, Loader::Grub);
    boot_reported(response, &method, serving.targets, &target, BootResource::Script)
}

fn boot_reported<T: BootTargets>(
    response: Response,
    method: &Method,
    targets: Arc<T>,
    target: &BootTarget,
    resource: BootResource,
) -> Response {
    if method == Method::HEAD || !response.status().is_success() {
        return response;
    }
    let (boot, node) = (target.boot.clone(), target.node.clone());
    reported(response, move |bytes, complete| {
        debug!(%node, boot, %resource, bytes, complete, "boot resource sent");
        let served = Served::Boot { boot, resource, bytes, complete };
        async move { targets.served(served).await }
    })
}

fn script(templates: &Templates, target: &BootTarget, loader: Loader) -> Response {
    match templates.render(target, loader) {
        Ok(rendered) => text(StatusCode::OK, rendered.script),
        Err(error) => {
            error!(node = %target.node, boot = target.boot, %error, "cannot render the boot script");
            line(StatusCode::INTERNAL_SERVER_ERROR, "cannot render the script, see haasd's log")
        }
    }
}

async fn file(
    path: &std::path::Path,
    target: &BootTarget,
    resource: BootResource,
    request: Request,
) -> Response {
    let response = ServeFile::new(path).try_call(request).await;
    let problem = match response {
        Ok(response) if response.status() != StatusCode::NOT_FOUND => {
            return response.map(Body::new).into_response();
        }
        Ok(_) => "no such file".to_owned(),
        Err(error) => error.to_string(),
    };
    error!(node = %target.node, boot = target.boot, %resource, path = %path.display(),
        error = problem, "cannot read a file of an image");
    refused(Refusal::NotNow)
}

async fn ipxe<T: BootTargets>(
    State(serving): State<Serving<T>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    Path(name): Path<String>,
    request: Request,
) -> Response {
    let bytes = match serving.binaries.read(&name).await {
        Ok(bytes) => bytes,
        Err(error @ BinaryError::Name) => return line(StatusCode::NOT_FOUND, &error.to_string()),
        Err(error @ BinaryError::Read { .. }) => {
            warn!(%peer, file = name, %error, "boot program not served");
            return line(StatusCode::NOT_FOUND, "no such boot program");
        }
    };
    // UEFI takes it for a program by this type (RFC 5970 names none; the UEFI specification does).
    let response = ([(header::CONTENT_TYPE, "application/efi")], bytes).into_response();
    if request.method() == Method::HEAD {
        return response;
    }
    let length = response.body().size_hint_exact();
    reported(with_length(response, length), move |bytes, complete| async move {
        if complete {
            info!(%peer, file = name, bytes, "boot program sent by HTTP");
            let peer: IpAddr = peer.ip();
            serving.targets.served(Served::Firmware { peer, file: name, bytes }).await;
        }
    })
}

/// Calls `report` with the bytes sent, and whether the file's last byte was among them.
fn reported<F, R>(response: Response, report: F) -> Response
where
    F: FnOnce(u64, bool) -> R + Send + 'static,
    R: Future<Output = ()> + Send + 'static,
{
    let length = response.body().size_hint_exact().or_else(|| length_of(response.headers()));
    let to_the_end = match response.headers().get(header::CONTENT_RANGE) {
        None => true,
        Some(range) => range.to_str().is_ok_and(reaches_the_end),
    };
    response.map(|body| {
        counted(body, move |bytes| {
            let complete = to_the_end && Some(bytes) == length;
            tokio::spawn(report(bytes, complete));
        })
    })
}

/// Whether `bytes 5-9/10` ends with the last byte.
fn reaches_the_end(content_range: &str) -> bool {
    let parts = content_range.strip_prefix("bytes ").and_then(|r| r.split_once('/'));
    let Some((range, total)) = parts else { return false };
    let last = range.rsplit('-').next().and_then(|n| n.parse::<u64>().ok());
    last.and_then(|n| n.checked_add(1)) == total.parse().ok()
}

fn length_of(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

fn with_length(mut response: Response, length: Option<u64>) -> Response {
    if let Some(length) = length {
        response.headers_mut().insert(header::CONTENT_LENGTH, length.into());
    }
    response
}

fn refused(refusal: Refusal) -> Response {
    let status = match refusal {
        Refusal::Unknown => StatusCode::NOT_FOUND,
        Refusal::WrongPeer => StatusCode::FORBIDDEN,
        Refusal::Over => StatusCode::GONE,
        Refusal::NotNow => StatusCode::SERVICE_UNAVAILABLE,
    };
    line(status, &refusal.to_string())
}

fn line(status: StatusCode, sentence: &str) -> Response {
    text(status, format!("{sentence}\n"))
}

fn text(status: StatusCode, text: String) -> Response {
    (status, [(header::CONTENT_TYPE, "text/plain; charset=utf-8")], text).into_response()
}

/// A body's length where it is known.
trait ExactLength {
    fn size_hint_exact(&self) -> Option<u64>;
}

impl ExactLength for Body {
    fn size_hint_exact(&self) -> Option<u64> {
        hyper::body::Body::size_hint(self).exact()
    }
}

#[cfg(test)]
#[path = "http/server_tests.rs"]
mod tests;
