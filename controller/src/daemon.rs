//! Puts the parts of haasd together and runs them until told to stop.
//!
//! Every part is a task of one JoinSet; when one ends by itself, haasd stops with its name in the
//! log. The order of the start matters in two places: the store's exports are complete before port
//! 3260 opens, and everything listens before the reconciler powers anything.

use std::{
    ffi::OsString,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, bail};
use haas_api::user::{Role, TokenRequest, UserKind};
use iscsi_target::Inherited;
use tokio::{net::TcpListener, signal::unix, sync::Notify, task::JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::{
    agents::Agents,
    api,
    auth::{attempts::Attempts, principals},
    boots::Targets,
    calendar,
    clock::{self, Clock},
    config::{AuthMode, Config},
    console::{self, Consoles},
    context::Context,
    enroll,
    exports::Exports,
    hardware,
    health::Health,
    heartbeats::Heartbeats,
    housekeeping,
    images::{Images, worker::WorkerCommand},
    looks::{PowerLooks, Probes},
    netboot::{self, Serving, firmware::Binaries, script::Templates},
    power,
    rates::Doors,
    reconcile, retention,
    ssh_ca::SshCa,
    store::Store,
    tls,
    tokens::{self, MasterKey},
    webhooks,
};

/// How long haasd waits at its end until the BMCs' sessions are closed.
const SESSIONS: Duration = Duration::from_secs(2);

/// Runs haasd until SIGTERM or SIGINT, or until one of its parts fails.
pub async fn run(config: Config) -> anyhow::Result<()> {
    std::fs::create_dir_all(&config.state_dir).with_context(|| {
        format!("cannot make the state directory {}", config.state_dir.display())
    })?;
    let _lock = lock(&config.state_dir)?;
    if config.auth.mode == AuthMode::Off {
        warn!("whoever has an account on this machine is an admin here: [auth] mode = \"off\"");
    }
    let templates = Arc::new(Templates::load(&config.templates_dir)?);
    let store = Store::open(&config.database_url).await.context("cannot open the database")?;
    let (clock, cluster_id) = Clock::open(&store).await?;
    let epoch = store.begin_epoch().await?;
    let worker = WorkerCommand {
        program: std::env::current_exe().context("cannot find haasd's own program")?,
        args: vec!["image-worker".to_owned()],
    };
    let images = Images::open(&config.state_dir, worker).context("cannot open the images")?;
    let master_key = master_key(&store, &config.state_dir).await?;
    let exports = Arc::new(Exports::new(images.clone(), &config, master_key.clone()));
    let (tls_config, fingerprint) = tls::open(&config.state_dir)?;
    show_fingerprint(&config.state_dir, &fingerprint)?;
    let context = Arc::new(Context {
        master_key,
        ssh_ca: SshCa::open(&config.state_dir)?,
        exports: exports.clone(),
        agents: Agents::default(),
        consoles: Consoles::new(&config),
        heartbeats: Heartbeats::default(),
        wake: Notify::new(),
        bmc_wake: Notify::new(),
        calendar_wake: Notify::new(),
        events: tokio::sync::watch::Sender::new(0),
        images,
        templates: templates.clone(),
        config,
        cluster_id,
        epoch,
        store,
        clock,
        principals: principals::Principals::default(),
        attempts: Attempts::default(),
        probes: Probes::default(),
        power_looks: PowerLooks::default(),
        doors: Doors::default(),
        fingerprint,
        health: Health::default(),
    });
    first_admin(&context).await?;
    enroll::at_start(&context).await.context("cannot read the inventory")?;
    calendar::at_start(&context).await.context("cannot take the queues of haasd.toml")?;
    clear_up(&context).await.context("cannot clear up what a crash left")?;
    exports.reload(&context.store).await.context("cannot read what is to be exported")?;

    let stop = CancellationToken::new();
    let mut parts: JoinSet<(&'static str, anyhow::Result<()>)> = JoinSet::new();
    let mut inherited = Inherited::from_env().context("cannot take over systemd's sockets")?;
    let mut options = iscsi_target::Options::default();
    if let Some(io_threads) = context.config.iscsi.io_threads {
        options.io_threads = io_threads;
    }
    let listeners = iscsi_listeners(&context.config, &mut inherited)?;
    let server = iscsi_target::serve(listeners, exports.clone(), options, stop.clone());
    parts.spawn(async { ("iscsi", server.await.map_err(Into::into)) });
    let app = api::router(context.clone());
    let api_listeners = api_listeners(&context.config, &mut inherited)?;
    for address in inherited.addresses() {
        warn!(%address, "systemd passes a socket that haasd.toml has no use for");
    }
    let connections = api::server::Connections::new(api::server::Bounds::default());
    for listener in api_listeners {
        let (connections, stop) = (connections.clone(), stop.clone());
        let (tls, app) = (tls_config.clone(), app.clone());
        parts.spawn(async move {
            ("api", connections.serve(listener, tls, app, stop).await.map_err(Into::into))
        });
    }
    for address in &context.config.metrics.listen {
        let listener = TcpListener::bind(address).await;
        let listener =
            listener.with_context(|| format!("cannot listen for [metrics] on {address}"))?;
        let app = api::watch_router(context.clone());
        let server = axum::serve(listener, app.into_make_service_with_connect_info::<SocketAddr>());
        let server = server.with_graceful_shutdown(stop.clone().cancelled_owned());
        parts.spawn(async { ("metrics", server.await.map_err(Into::into)) });
    }
    let sockets = netboot::Sockets::bind(&context.config)?;
    let targets = Arc::new(Targets::new(context.clone()));
    let binaries = Binaries::of(&context.config);
    let served = Serving { targets, templates, binaries };
    let boot = netboot::run(sockets, served, stop.clone());
    parts.spawn(async { ("netboot", boot.await.map_err(Into::into)) });
    let reconciler = reconcile::run(context.clone(), stop.clone());
    parts.spawn(async { ("reconcile", reconciler.await.map_err(Into::into)) });
    let calendar = calendar::run(context.clone(), stop.clone());
    parts.spawn(async { ("calendar", calendar.await.map_err(Into::into)) });
    let sending = webhooks::run(context.clone(), webhooks::Patience::default(), stop.clone());
    parts.spawn(async {
        sending.await;
        ("webhooks", Ok(()))
    });
    let forgetting = retention::run(context.clone(), stop.clone());
    parts.spawn(async {
        forgetting.await;
        ("retention", Ok(()))
    });
    context.health.listens();
    let health = hardware::run(context.clone(), stop.clone());
    parts.spawn(async {
        health.await;
        ("hardware", Ok(()))
    });
    let principals = principals::run(context.clone(), stop.clone());
    parts.spawn(async {
        principals.await;
        ("principals", Ok(()))
    });
    let housekeeping = housekeeping::run(context.clone(), stop.clone());
    parts.spawn(async {
        housekeeping.await;
        ("housekeeping", Ok(()))
    });
    let consoles = console::run(context.clone(), stop.clone());
    parts.spawn(async {
        consoles.await;
        ("console", Ok(()))
    });
    ready();
    let result = until_stopped(&context, &mut parts).await;
    stop.cancel();
    while parts.join_next().await.is_some() {}
    if tokio::time::timeout(SESSIONS, power::close()).await.is_err() {
        warn!("some BMCs keep their sessions, since calls to them have not ended");
    }
    context.store.close().await;
    info!("haasd has stopped");
    result
}

/// The key that systemd hands over (`LoadCredentialEncrypted=master.key`), or else the one in the state
/// directory. A new one is made only where no node runs that would need the one that is lost.
async fn master_key(store: &Store, state_dir: &Path) -> anyhow::Result<MasterKey> {
    let path = master_key_path(std::env::var_os("CREDENTIALS_DIRECTORY"), state_dir);
    if !path.try_exists().with_context(|| format!("cannot look for {}", path.display()))? {
        let live = store.read().await?.live_attempts().await?;
        let with_secret = live.iter().filter(|attempt| attempt.chap).count();
        if with_secret > 0 {
            bail!(
                "{} is missing, and {with_secret} nodes run or boot that can log in to their image again \
                 only with it: put it back from the backup (docs/operations.md says what to do without)",
                path.display()
            );
        }
    }
    MasterKey::open(&path).context("cannot open the master key")
}

fn master_key_path(credentials: Option<OsString>, state_dir: &Path) -> PathBuf {
    let given = credentials.map(|folder| Path::new(&folder).join("master.key"));
    given.filter(|path| path.exists()).unwrap_or_else(|| state_dir.join("master.key"))
}

/// Removes what a crash left: images without a row, and uploads.
async fn clear_up(context: &Context) -> anyhow::Result<()> {
    let known = context.store.read().await?.images().await?;
    context.images.keep_only(&known.into_iter().map(|row| row.digest).collect())?;
    match std::fs::remove_dir_all(context.config.state_dir.join("uploads")) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
        _ => Ok(()),
    }
}

/// Tells systemd, and whoever reads our output, that everything listens.
#[expect(clippy::print_stdout, reason = "the one line that says it is ready")]
fn ready() {
    info!("haasd is ready");
    println!("haasd ready");
}

async fn until_stopped(
    context: &Arc<Context>,
    parts: &mut JoinSet<(&'static str, anyhow::Result<()>)>,
) -> anyhow::Result<()> {
    let mut terminate = unix::signal(unix::SignalKind::terminate())?;
    let mut interrupt = unix::signal(unix::SignalKind::interrupt())?;
    let mut hangup = unix::signal(unix::SignalKind::hangup())?;
    loop {
        tokio::select! {
            _ = terminate.recv() => return Ok(()),
            _ = interrupt.recv() => return Ok(()),
            _ = hangup.recv() => {
                if let Err(error) = enroll::reload(context).await {
                    error!(%error, "the inventory was not taken");
                }
            }
            Some(ended) = parts.join_next() => {
                let (part, result) = ended.context("a part of haasd panicked")?;
                result.with_context(|| format!("{part} failed"))?;
                bail!("{part} ended by itself");
            }
        }
    }
}

/// Two haasd on one state directory would undo each other's work. A record lock and not `flock`:
/// it belongs to this process alone, so that a program that haasd was about to start when it was
/// killed does not hold it a moment longer than haasd lived.
fn lock(state_dir: &Path) -> anyhow::Result<std::fs::File> {
    let path = state_dir.join("lock");
    let file = std::fs::File::create(&path)
        .with_context(|| format!("cannot write in the state directory {}", state_dir.display()))?;
    let whole = libc::flock {
        l_type: libc::F_WRLCK as _,
        l_whence: libc::SEEK_SET as _,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    };
    nix::fcntl::fcntl(&file, nix::fcntl::FcntlArg::F_SETLK(&whole))
        .map_err(|e| anyhow::anyhow!("another haasd runs on {} ({e})", state_dir.display()))?;
    Ok(file)
}

/// At the first start there is a user `admin` with a token, written where only root can read it:
/// there is never an open API.
async fn first_admin(context: &Context) -> anyhow::Result<()> {
    let mut tx = context.store.write().await?;
    if !tx.users().await?.is_empty() {
        return Ok(());
    }
    let name = "admin".parse().expect("a valid user name");
    let user = tx.add_user(&name, UserKind::Person, Role::Admin, &[], clock::wall()).await?;
    let token = api::make_token(&mut tx, &user, TokenRequest::default()).await?;
    let path = context.config.state_dir.join("admin.token");
    tokens::write_private(&path, format!("{}\n", token.token).as_bytes())
        .with_context(|| format!("cannot write {}", path.display()))?;
    tx.commit().await?;
    info!("made the user admin; its token is in admin.token in the state directory");
    Ok(())
}

/// What contexts of haasctl pin. Public, and written at each start, since a certificate that was lost
/// is made anew.
fn show_fingerprint(state_dir: &Path, fingerprint: &str) -> anyhow::Result<()> {
    let path = state_dir.join("fingerprint");
    std::fs::write(&path, format!("{fingerprint}\n"))
        .with_context(|| format!("cannot write {}", path.display()))?;
    info!(fingerprint, "the API's certificate");
    Ok(())
}

fn iscsi_listeners(config: &Config, inherited: &mut Inherited) -> anyhow::Result<Vec<TcpListener>> {
    let mut addresses: Vec<_> = config.networks.iter().map(|n| n.controller).collect();
    addresses.sort_unstable();
    addresses.dedup();
    addresses
        .into_iter()
        .map(|address| {
            let address = SocketAddr::new(IpAddr::V4(address), config.ports.iscsi);
            let listener = match inherited.take(address) {
                Some(socket) => TcpListener::from_std(socket),
                None => iscsi_target::listen(address),
            };
            listener.with_context(|| format!("cannot listen for iSCSI on {address}"))
        })
        .collect()
}

/// One listener for each address of the interfaces that the configuration names, and for the
/// controller's address in each network, since agents call there.
fn api_listeners(
    config: &Config,
    inherited: &mut Inherited,
) -> anyhow::Result<Vec<std::net::TcpListener>> {
    let mut addresses: Vec<IpAddr> = config.networks.iter().map(|n| n.controller.into()).collect();
    for name in &config.api_interfaces {
        let before = addresses.len();
        for entry in nix::ifaddrs::getifaddrs()?.filter(|entry| entry.interface_name == *name) {
            let Some(storage) = entry.address else { continue };
            if let Some(v4) = storage.as_sockaddr_in() {
                addresses.push(IpAddr::V4(v4.ip()));
            }
        }
        if addresses.len() == before {
            bail!("the interface {name} in [api] has no IPv4 address");
        }
    }
    addresses.sort_unstable();
    addresses.dedup();
    addresses
        .into_iter()
        .map(|address| {
            let address = SocketAddr::new(address, config.ports.api);
            if let Some(socket) = inherited.take(address) {
                return Ok(socket);
            }
            let listener = std::net::TcpListener::bind(address)
                .with_context(|| format!("cannot listen for the API on {address}"))?;
            listener.set_nonblocking(true)?;
            Ok(listener)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Bench;

    #[tokio::test]
    async fn no_new_master_key_is_made_while_nodes_run_that_need_the_old_one() {
        let bench = Bench::new().await;
        bench.add_image("a").await;
        bench.add_nodes([1]).await;
        let (store, folder) = (&bench.context.store, &bench.context.config.state_dir);
        let attempt = bench.begin_boot(1).await;
        let before = master_key(store, folder).await.unwrap();
        assert_eq!(before.node_chap("x"), bench.context.master_key.node_chap("x"));
        std::fs::remove_file(folder.join("master.key")).unwrap();
        let refused = master_key(store, folder).await.unwrap_err().to_string();
        assert!(refused.contains("master.key is missing, and 1 nodes"), "{refused}");
        assert!(!folder.join("master.key").exists());
        let mut tx = store.write().await.unwrap();
        tx.end_attempts(&attempt.node_id, 1).await.unwrap();
        tx.commit().await.unwrap();
        let after = master_key(store, folder).await.unwrap();
        assert_ne!(after.node_chap("x"), before.node_chap("x"));
    }

    #[test]
    fn a_master_key_that_systemd_hands_over_goes_before_the_one_in_the_state_directory() {
        let (state, given) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let path = || master_key_path(Some(given.path().into()), state.path());
        assert_eq!(master_key_path(None, state.path()), state.path().join("master.key"));
        assert_eq!(path(), state.path().join("master.key"), "it hands over something else");
        std::fs::write(given.path().join("master.key"), [7; 32]).unwrap();
        assert_eq!(path(), given.path().join("master.key"));
    }
}
