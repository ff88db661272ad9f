//! A controller for tests: a store in a folder of its own and the whole API, but no hardware, no
//! loops and, unless a test serves it, no socket.

use std::{path::Path, sync::Arc};

use axum::{
    body::Body,
    http::{Request, Response, header},
};
use haas_api::{
    agent::{BootStage, DiskSelector},
    names::{Digest, OverlayLabel},
    user::{Role, UserKind},
};
use http_body_util::BodyExt;
use hyper::service::Service;
use hyper_util::service::TowerToHyperService;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::{
    agents::Agents,
    api,
    auth::{attempts::Attempts, principals},
    clock::Clock,
    config::{
        Auth, AuthMode, BootLimits, Config, DhcpMode, Network, NetworkHook, Ports, PowerLimits,
    },
    console::Consoles,
    context::Context,
    exports::Exports,
    heartbeats::Heartbeats,
    images::{
        Images,
        manifest::{Blob, FsType, KernelBlob, Manifest, RootBlob, Verity},
        worker::WorkerCommand,
    },
    inventory::{Arch, BmcPrivilege, Firmware, Nic, NicRole, NodeSpec, PowerSpec, SecretRef},
    looks::{PowerLooks, Probes},
    model::{Attempt, Cause, Node},
    netboot::script::Templates,
    rates::Doors,
    reconcile,
    ssh_ca::SshCa,
    store::{Store, TokenRow, Tx},
    tokens::{self, MasterKey},
};

/// The router as callers from this address find it.
pub(crate) fn called_from(router: axum::Router, peer: std::net::Ipv4Addr) -> axum::Router {
    let peer = std::net::SocketAddr::from((peer, 9));
    router.layer(axum::extract::connect_info::MockConnectInfo(peer))
}

async fn open(router: &axum::Router, request: Request<Body>) -> Response<Body> {
    let service = TowerToHyperService::new(router.clone());
    match service.call(request).await {
        Ok(response) => response,
        Err(never) => match never {},
    }
}

/// The controller, with the users `admin` and `alice`.
pub(crate) struct Bench {
    pub(crate) context: Arc<Context>,
    pub(crate) router: axum::Router,
    /// The admin's token.
    pub(crate) admin: String,
    /// The token of alice, a plain user.
    pub(crate) alice: String,
    _dir: tempfile::TempDir,
}

/// What the API answered.
#[derive(Debug)]
pub(crate) struct Answered {
    pub(crate) status: u16,
    pub(crate) media_type: String,
    pub(crate) text: String,
}

impl Answered {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }

    /// The code of a problem; panics where the answer is none, or one for axum's eyes only.
    #[track_caller]
    pub(crate) fn code(&self) -> String {
        assert_eq!(self.media_type, "application/problem+json", "{self:?}");
        let problem: haas_api::problem::Problem =
            serde_json::from_str(&self.text).unwrap_or_else(|e| panic!("{e}: {self:?}"));
        assert_eq!(problem.status, self.status, "{self:?}");
        assert!(!problem.detail.is_empty(), "{self:?}");
        problem.code
    }
}

impl Bench {
    pub(crate) async fn new() -> Self {
        Self::on(network()).await
    }

    /// With this network.
    pub(crate) async fn on(network: Network) -> Self {
        Self::build(network, |_| ()).await
    }

    /// With something else in its haasd.toml.
    pub(crate) async fn with(change: impl FnOnce(&mut Config)) -> Self {
        Self::build(network(), change).await
    }

    /// The same where the steady clock shows what the test sets.
    pub(crate) async fn at_time(
        shows: &'static std::sync::atomic::AtomicI64,
        change: impl FnOnce(&mut Config),
    ) -> Self {
        let clock = Clock::made_up(shows);
        Self::build_at(network(), change, Some(clock)).await
    }

    /// Where people may register.
    pub(crate) async fn open_to_all() -> Self {
        Self::with(|config| config.auth.register = true).await
    }

    /// Where nobody on the controller itself has to say who they are.
    pub(crate) async fn without_auth() -> Self {
        Self::with(|config| config.auth.mode = AuthMode::Off).await
    }

    /// With this program for the nodes' networks.
    pub(crate) async fn with_hook(hook: NetworkHook) -> Self {
        Self::with(|config| config.network_hook = Some(hook)).await
    }

    /// With consoles that are logged.
    pub(crate) async fn with_console_logs() -> Self {
        Self::with(|config| config.console.log = true).await
    }

    async fn build(network: Network, change: impl FnOnce(&mut Config)) -> Self {
        Self::build_at(network, change, None).await
    }

    async fn build_at(
        network: Network,
        change: impl FnOnce(&mut Config),
        made_up: Option<Clock>,
    ) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let state_dir = dir.path().to_owned();
        let templates_dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../templates");
        let database_url = format!("sqlite://{}/haas.db", state_dir.display());
        let store = Store::open(&database_url).await.unwrap();
        let (clock, cluster_id) = Clock::open(&store).await.unwrap();
        let clock = made_up.unwrap_or(clock);
        let worker = WorkerCommand { program: "/bin/false".into(), args: Vec::new() };
        let images = Images::open(&state_dir, worker).unwrap();
        let mut config = Config {
            database_url,
            nodes_file: state_dir.join("nodes.toml"),
            agent_cpio: state_dir.join("agent.cpio.zst"),
            ipxe_dir: state_dir.clone(),
            shim: state_dir.join("shim"),
            grub: state_dir.join("grub"),
            templates_dir: templates_dir.clone(),
            state_dir: state_dir.clone(),
            api_interfaces: Vec::new(),
            networks: vec![network],
            ports: Ports::default(),
            iscsi: crate::config::Iscsi::default(),
            boot: BootLimits::default(),
            health: crate::config::HealthChecks::default(),
            power_ramp: Default::default(),
            auth: Auth::default(),
            power: PowerLimits::default(),
            idle: Vec::new(),
            reservations: crate::config::Reservations::default(),
            queues: Vec::new(),
            metrics: crate::config::Metrics::default(),
            events: crate::config::Events::default(),
            webhooks: crate::config::Webhooks::default(),
            network_hook: None,
            drain_hook: None,
            console: crate::config::Console::default(),
            baseline: crate::config::Baseline::default(),
            tenants: crate::config::Tenants::default(),
            reachability: crate::config::Reachability::default(),
        };
        change(&mut config);
        let master_key = MasterKey::open(&state_dir.join("master.key")).unwrap();
        let context = Arc::new(Context {
            cluster_id,
            epoch: store.begin_epoch().await.unwrap(),
            store,
            clock,
            exports: Arc::new(Exports::new(images.clone(), &config, master_key.clone())),
            images,
            agents: Agents::default(),
            consoles: Consoles::new(&config),
            heartbeats: Heartbeats::default(),
            templates: Arc::new(Templates::load(&templates_dir).unwrap()),
            master_key,
            ssh_ca: SshCa::open(&state_dir).unwrap(),
            principals: principals::Principals::default(),
            attempts: Attempts::default(),
            probes: Probes::default(),
            power_looks: PowerLooks::default(),
            doors: Doors::default(),
            fingerprint: "0".repeat(64),
            health: crate::health::Health::default(),
            wake: tokio::sync::Notify::new(),
            bmc_wake: tokio::sync::Notify::new(),
            calendar_wake: tokio::sync::Notify::new(),
            events: tokio::sync::watch::Sender::new(0),
            config,
        });
        // It ends with the test's runtime.
        tokio::spawn(principals::run(context.clone(), CancellationToken::new()));
        let router = api::router(context.clone());
        let router = called_from(router, std::net::Ipv4Addr::LOCALHOST);
        let mut bench =
            Self { context, router, admin: String::new(), alice: String::new(), _dir: dir };
        bench.admin = bench.add_user("admin", Role::Admin).await;
        bench.alice = bench.add_user("alice", Role::User).await;
        bench
    }

    /// Adds a user and answers its token.
    pub(crate) async fn add_user(&self, name: &str, role: Role) -> String {
        let mut tx = self.context.store.write().await.unwrap();
        let user =
            tx.add_user(&name.parse().unwrap(), UserKind::Person, role, &[], 1).await.unwrap();
        let token = tokens::random().expose().clone();
        let row = TokenRow {
            id: name.to_owned(),
            name: String::new(),
            read_only: false,
            feed_only: false,
            created_at: 1,
            expires_at: None,
            last_used_at: None,
        };
        tx.add_token(&user.id, &row, &tokens::hash(&token)).await.unwrap();
        tx.commit().await.unwrap();
        token
    }

    /// A group `staff` and a project `vision` of alice's, and a grant of her overlay `dev`, whose id is
    /// answered.
    pub(crate) async fn add_tenants(&self) -> String {
        let made = [
            (&self.alice, "/v1/groups", json!({ "name": "staff" })),
            (&self.admin, "/v1/projects", json!({ "name": "vision", "owner": "alice" })),
        ];
        for (token, path, body) in made {
            let answer = self.call(token, "POST", path, body).await;
            assert_eq!(answer.status, 201, "{answer:?}");
        }
        let body = json!({ "subject": "vision", "object": "overlay:alice/dev", "role": "view" });
        let grant = self.call(&self.alice, "POST", "/v1/grants", body).await;
        grant.json()["id"].as_str().expect("a grant has an id").to_owned()
    }

    /// Adds managed nodes with a BMC, in the node group `rack1`.
    pub(crate) async fn add_nodes(&self, numbers: impl IntoIterator<Item = u8>) {
        let mut tx = self.context.store.write().await.unwrap();
        for number in numbers {
            add_node(&mut tx, &spec(number)).await;
        }
        tx.commit().await.unwrap();
    }

    /// Adds this managed node.
    pub(crate) async fn add(&self, spec: &NodeSpec) {
        let mut tx = self.context.store.write().await.unwrap();
        add_node(&mut tx, spec).await;
        tx.commit().await.unwrap();
    }

    /// Adds a managed node whose address the inventory leaves open.
    pub(crate) async fn add_node_without_address(&self, number: u8) {
        self.add(&NodeSpec { address: None, ..spec(number) }).await;
    }

    /// Adds a managed node whose BMC is at this address; the account is `admin` with `s3cret`.
    pub(crate) async fn add_node_with_bmc(&self, number: u8, bmc: std::net::SocketAddr) {
        let password = self.context.config.state_dir.join("bmc.password");
        std::fs::write(&password, "s3cret").unwrap();
        let power = PowerSpec::Ipmi {
            address: bmc.ip(),
            port: bmc.port(),
            mac: None,
            user: "admin".to_owned(),
            password: SecretRef::File(password),
            kg: None,
            privilege: BmcPrivilege::Administrator,
            cipher_suite: None,
        };
        self.add(&NodeSpec { power, ..spec(number) }).await;
    }

    /// Adds a managed node that only a person can switch.
    pub(crate) async fn add_node_by_hand(&self, number: u8) {
        self.add(&NodeSpec { power: PowerSpec::Manual, ..spec(number) }).await;
    }

    /// Gives every image a disk full of sevens, which is exported.
    pub(crate) async fn give_disks(&self) {
        for row in self.context.store.read().await.unwrap().images().await.unwrap() {
            let manifest = Manifest::parse(row.manifest.as_bytes()).unwrap();
            let disk = self.context.images.blob_path(&manifest.root.digest);
            std::fs::create_dir_all(disk.parent().unwrap()).unwrap();
            std::fs::write(disk, vec![7; 12_288]).unwrap();
        }
        self.context.exports.reload(&self.context.store).await.unwrap();
    }

    /// Takes an attempt to a stage from the agent's on, as its node's agent does.
    pub(crate) async fn advance(&self, attempt: &Attempt, stage: BootStage) -> Attempt {
        let mut tx = self.context.store.write().await.unwrap();
        let now = tx.attempt(&attempt.id).await.unwrap().unwrap();
        if !now.token_spent {
            let credential = format!("credential of {}", now.id);
            let from = std::net::Ipv4Addr::LOCALHOST.into();
            tx.spend_token(&now.id, &credential, from).await.unwrap();
        }
        assert!(tx.advance(&now, stage, self.context.clock.now()).await.unwrap());
        let after = tx.attempt(&attempt.id).await.unwrap().unwrap();
        tx.commit().await.unwrap();
        after
    }

    /// Wants an image of a node and opens its boot attempt.
    pub(crate) async fn begin_boot(&self, number: u8) -> Attempt {
        let body = json!({ "nodeset": format!("n{number:02}"), "image": "a", "overlay": "none" });
        assert_eq!(self.post("/v1/switch", body).await.status, 202);
        let node = self.node(number).await;
        reconcile::open_attempt(&self.context, &node, None, Cause::Desired).await.unwrap()
    }

    /// The kinds of all events so far.
    pub(crate) async fn event_kinds(&self) -> Vec<String> {
        let mut tx = self.context.store.read().await.unwrap();
        let events = tx.events_after(0, 1_000).await.unwrap();
        events.into_iter().map(|row| row.event.kind).collect()
    }

    /// Adds an image `NAME:latest`, by its manifest alone.
    pub(crate) async fn add_image(&self, name: &str) -> Digest {
        let manifest = manifest(name).canonical();
        let digest = Digest::of(&manifest);
        let mut tx = self.context.store.write().await.unwrap();
        tx.add_image(&digest, std::str::from_utf8(&manifest).unwrap(), 1).await.unwrap();
        tx.set_tag(&name.parse().unwrap(), &"latest".parse().unwrap(), &digest).await.unwrap();
        tx.commit().await.unwrap();
        digest
    }

    /// Adds an overlay and answers its id.
    pub(crate) async fn add_overlay(&self, owner: &str, name: &str) -> String {
        let name: OverlayLabel = name.parse().unwrap();
        let mut tx = self.context.store.write().await.unwrap();
        let owner = tx.user(owner).await.unwrap().unwrap();
        let id = tx.add_overlay(&owner.id, &name, 1).await.unwrap();
        tx.commit().await.unwrap();
        id
    }

    pub(crate) async fn node(&self, number: u8) -> Node {
        let name = format!("n{number:02}");
        self.context.store.read().await.unwrap().node(&name).await.unwrap().unwrap()
    }

    /// Sends a request through the whole router.
    pub(crate) async fn send(&self, request: Request<Body>) -> Answered {
        self.send_to(&self.router, request).await
    }

    /// Sends a request through this router.
    pub(crate) async fn send_to(&self, router: &axum::Router, request: Request<Body>) -> Answered {
        let response = open(router, request).await;
        let status = response.status().as_u16();
        let media_type = response.headers().get(header::CONTENT_TYPE);
        let media_type = media_type.map_or("", |v| v.to_str().unwrap()).to_owned();
        // A stream of events never ends.
        let bytes = if media_type == "text/event-stream" {
            Default::default()
        } else {
            response.into_body().collect().await.unwrap().to_bytes()
        };
        Answered { status, media_type, text: String::from_utf8(bytes.to_vec()).unwrap() }
    }

    /// Sends a request through the whole router, and leaves the answer's body to be read.
    pub(crate) async fn open(&self, request: Request<Body>) -> Response<Body> {
        open(&self.router, request).await
    }

    /// A request with a JSON body as the holder of `token`.
    pub(crate) async fn call(
        &self,
        token: &str,
        method: &str,
        path: &str,
        body: Value,
    ) -> Answered {
        let body = if body.is_null() { Body::empty() } else { Body::from(body.to_string()) };
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::AUTHORIZATION, format!("Bearer {token}"))
            .header(header::CONTENT_TYPE, "application/json")
            .body(body)
            .unwrap();
        self.send(request).await
    }

    pub(crate) async fn post(&self, path: &str, body: Value) -> Answered {
        self.call(&self.admin, "POST", path, body).await
    }
}

pub(crate) fn network() -> Network {
    Network {
        name: "lab".into(),
        interface: "lo".into(),
        // On loopback, so that an agent can call from its node's address.
        cidr: "127.77.0.0/24".parse().unwrap(),
        controller: [127, 77, 0, 254].into(),
        gateway: None,
        dns: Vec::new(),
        domain: None,
        ntp: Vec::new(),
        mtu: None,
        dhcp: DhcpMode::Own,
        pool: None,
        lease_s: 3600,
        probe: false,
    }
}

pub(crate) fn spec(number: u8) -> NodeSpec {
    NodeSpec {
        name: format!("n{number:02}").parse().unwrap(),
        nics: vec![Nic {
            mac: format!("52:54:00:00:00:{number:02x}").parse().unwrap(),
            role: NicRole::Boot,
        }],
        address: Some([127, 77, 0, number].into()),
        groups: ["rack1".parse().unwrap()].into(),
        power: PowerSpec::Exec { command: vec!["/bin/false".into()] },
        firmware: Firmware::Bios,
        arch: Arch::X86_64,
        overlay_disk: DiskSelector::Auto,
        scratch_disks: Vec::new(),
        detached_disks: Vec::new(),
        cache_mib: 0,
        labels: Default::default(),
        kernel_args: Vec::new(),
        ipxe: None,
        secure_boot: false,
        ready_checks: Vec::new(),
    }
}

async fn add_node(tx: &mut Tx, spec: &NodeSpec) {
    tx.add_node(spec, 1).await.unwrap();
    let node = tx.node(spec.name.as_str()).await.unwrap().unwrap();
    tx.set_managed(&node.id, true).await.unwrap();
}

fn manifest(name: &str) -> Manifest {
    let digest = Digest::of(name.as_bytes());
    Manifest {
        schema: crate::images::manifest::SCHEMA,
        arch: Arch::X86_64,
        root: RootBlob {
            digest: digest.clone(),
            size: 12_288,
            fstype: FsType::Erofs,
            data_size: 4_096,
            verity: Verity {
                root_hash: "0".repeat(64),
                salt: "0".repeat(64),
                hash_offset: 4_096,
                data_block_size: 4_096,
                hash_block_size: 4_096,
            },
        },
        kernel: KernelBlob { digest: digest.clone(), size: 1, release: "6.1.0".into() },
        modules: Blob { digest, size: 1 },
        cmdline: Vec::new(),
        ready_checks: Vec::new(),
    }
}
