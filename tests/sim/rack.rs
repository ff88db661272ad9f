//! A rack of simulated nodes: one namespace with the bridge and haasd, and one for each node, with a
//! veth between the two.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, OnceLock};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use haas_api::client::{Client, ClientError, Submitted, Wanted};
use haas_api::event::Event;
use haas_api::names::{ImageRef, OverlayRef};
use haas_api::node::{ManageRequest, Node, NodeState};
use haas_api::operation::{
    Operation, OperationState, PowerRequest, PowerVerb, RollbackRequest, Strategy, SwitchRequest,
};
use haas_api::overlay::NewOverlay;
use sim::{Behaviour, Folder, NodeConfig};
use tests::{CONTROLLER, Haasd, Rack, RackSpec, built, files, wait_some};

/// Longer than anything takes on a busy machine.
pub(crate) const LONG: Duration = Duration::from_secs(60);

/// Short limits, so that deadlines pass while a person watches.
pub(crate) const QUICK: &str = "\n[boot]\nfirmware = \"6s\"\nstage = \"6s\"\ntotal = \"40s\"\n\
                                attempts = 1\nshutdown = \"3s\"\n";

/// Limits that no healthy boot meets, also on a busy machine.
pub(crate) const PATIENT: &str = "\n[boot]\nfirmware = \"60s\"\nstage = \"60s\"\ntotal = \"120s\"\n\
                                  attempts = 1\nshutdown = \"60s\"\n";

/// The namespaces and the nodes' folders. Everything goes when this is dropped.
#[derive(Debug)]
pub(crate) struct SimRack {
    pub(crate) rack: Rack,
    pub(crate) nodes: Vec<Folder>,
}

/// haasd in a rack of simulated nodes, and the API as its first admin.
#[derive(Debug)]
pub(crate) struct Controller<'rack> {
    pub(crate) sim: &'rack SimRack,
    pub(crate) haasd: Haasd<'rack>,
}

impl SimRack {
    /// A rack of `count` nodes, all off, after removing what an earlier one of this name left.
    pub(crate) fn start(name: &str, count: usize) -> Result<SimRack> {
        let name = format!("w-sim-{name}");
        remove_node_namespaces(&format!("haas-{name}"))?;
        let rack = Rack::start(RackSpec::new(&name, Vec::new()))?;
        let netns = rack.netns();
        let mut batch = String::new();
        let mut nodes = Vec::new();
        for number in 1..=count {
            let own = node_netns(&netns, number);
            ip(&["netns", "add", &own])?;
            let mac = mac(number);
            batch.push_str(&format!(
                "link add v{number} type veth peer name eth0 address {mac} netns {own}\n\
                 link set v{number} master br0 up\n"
            ));
            let config = NodeConfig { mac, netns: own, owner: Some(rack.dir().join("owner")) };
            nodes.push(Folder::create(rack.dir().join(format!("sim/n{number}")), &config)?);
        }
        let file = rack.dir().join("links.batch");
        fs::write(&file, batch)?;
        ip(&["-n", &netns, "-batch", &file.to_string_lossy()])?;
        Ok(SimRack { rack, nodes })
    }

    /// Node `number`, counted from 1.
    pub(crate) fn node(&self, number: usize) -> &Folder {
        &self.nodes[number - 1]
    }

    /// nodes.toml with the nodes of these numbers; node 1 is n1, at 10.77.0.11.
    pub(crate) fn nodes_toml_of(&self, numbers: &[usize]) -> Result<String> {
        let program = built("haas-sim-node")?;
        self.nodes_toml_with(numbers, |number| {
            let folder = self.node(number).path();
            Ok(format!("{{ driver = \"exec\", command = [{program:?}, \"power\", {folder:?}] }}"))
        })
    }

    /// The same with other power drivers.
    fn nodes_toml_with(
        &self,
        numbers: &[usize],
        power: impl Fn(usize) -> Result<String>,
    ) -> Result<String> {
        let mut text = String::from("[defaults]\ncache = \"0\"\n");
        for &number in numbers {
            text.push_str(&format!(
                "\n[[node]]\nname = \"n{0}\"\nmac = \"{1}\"\naddress = \"10.77.0.{2}\"\n\
                 power = {3}\n",
                number,
                mac(number),
                number + 10,
                power(number)?,
            ));
        }
        Ok(text)
    }

    /// haasd with all nodes, none of them managed, and these power drivers. The file `bmc-password`
    /// is beside nodes.toml.
    pub(crate) fn haasd_with_power(
        &self,
        limits: &str,
        power: impl Fn(usize) -> Result<String>,
    ) -> Result<Controller<'_>> {
        let all: Vec<usize> = (1..=self.nodes.len()).collect();
        fs::write(self.rack.dir().join("bmc-password"), crate::bmcs::PASSWORD)?;
        let nodes = self.nodes_toml_with(&all, power)?;
        self.haasd_with_inventory(limits, &nodes)
    }

    /// haasd with the image `minimal` and the overlays `a` and `b`, and all nodes managed.
    pub(crate) fn haasd(&self, limits: &str) -> Result<Controller<'_>> {
        let all: Vec<usize> = (1..=self.nodes.len()).collect();
        let controller = self.haasd_with(limits, &all)?;
        let set = format!("n[1-{}]", self.nodes.len());
        controller.manage(&set, true)?;
        Ok(controller)
    }

    /// The same with an inventory of these nodes only, none of them managed.
    pub(crate) fn haasd_with(&self, limits: &str, numbers: &[usize]) -> Result<Controller<'_>> {
        self.haasd_with_inventory(limits, &self.nodes_toml_of(numbers)?)
    }

    /// The same with this inventory.
    pub(crate) fn haasd_with_inventory(
        &self,
        limits: &str,
        inventory: &str,
    ) -> Result<Controller<'_>> {
        copy_tree(seed()?, &self.rack.dir().join("state"))?;
        let config = files::haasd_toml(&self.rack)? + limits;
        let haasd = Haasd::start(&self.rack, &config, inventory)?;
        Ok(Controller { sim: self, haasd })
    }

    /// Cuts the power of every node.
    pub(crate) fn all_off(&self) -> Result<()> {
        self.nodes.iter().try_for_each(sim::power::off)
    }

    /// What went wrong, for the one who reads a failed test: the nodes' diaries.
    pub(crate) fn diaries(&self) -> String {
        let diary = |(i, n): (usize, &Folder)| format!("--- n{}\n{}", i + 1, n.diary());
        self.nodes.iter().enumerate().map(diary).collect()
    }

    /// Empties the logs of power commands.
    pub(crate) fn forget_power(&self) -> Result<()> {
        for node in &self.nodes {
            let _ = fs::remove_file(node.path().join("power.log"));
        }
        Ok(())
    }

    /// How often each node's BMC was told `verb`.
    pub(crate) fn count(&self, verb: &str) -> Vec<usize> {
        let count = |n: &Folder| n.power_lines().iter().filter(|l| l.verb == verb).count();
        self.nodes.iter().map(count).collect()
    }
}

impl Drop for SimRack {
    fn drop(&mut self) {
        // What is left is removed by the next rack of this name.
        let _ = self.all_off();
        let _ = remove_node_namespaces(&self.rack.netns());
    }
}

impl Controller<'_> {
    /// Asks the API as the first admin, from inside the namespace.
    pub(crate) fn api<T: Send>(
        &self,
        ask: impl AsyncFnOnce(Client) -> Result<T, ClientError> + Send,
    ) -> Result<Result<T, ClientError>> {
        let token = self.sim.rack.dir().join("state/admin.token");
        self.api_as(&fs::read_to_string(token)?, ask)
    }

    /// Asks the API as the holder of a token.
    pub(crate) fn api_as<T: Send>(
        &self,
        token: &str,
        ask: impl AsyncFnOnce(Client) -> Result<T, ClientError> + Send,
    ) -> Result<Result<T, ClientError>> {
        let state = self.sim.rack.dir().join("state");
        let fingerprint = fs::read_to_string(state.join("fingerprint"))?;
        self.sim.rack.in_netns(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let url = format!("https://{CONTROLLER}:8443");
            let client = Client::new(&url, fingerprint.trim(), token)?;
            Ok(runtime.block_on(ask(client)))
        })?
    }

    pub(crate) fn manage(&self, nodeset: &str, managed: bool) -> Result<()> {
        let request = ManageRequest { nodeset: nodeset.to_owned(), managed };
        self.api(async |client| client.manage(&request).await)??;
        Ok(())
    }

    pub(crate) fn node(&self, name: &str) -> Result<Node> {
        let name = name.parse().map_err(|e| anyhow::anyhow!("{name}: {e}"))?;
        Ok(self.api(async |client| client.node(&name).await)??)
    }

    /// Starts a switch of `nodeset` to `minimal` and an overlay.
    pub(crate) fn switch(
        &self,
        nodeset: &str,
        overlay: &str,
    ) -> Result<Result<Operation, ClientError>> {
        self.switch_as(request(nodeset, overlay)?)
    }

    pub(crate) fn switch_as(
        &self,
        request: SwitchRequest,
    ) -> Result<Result<Operation, ClientError>> {
        self.api(async |client| client.switch(&request).await.map(started))
    }

    pub(crate) fn power(
        &self,
        nodeset: &str,
        action: PowerVerb,
        force: bool,
    ) -> Result<Result<Operation, ClientError>> {
        let request = PowerRequest { nodeset: nodeset.to_owned(), action, force, dry_run: false };
        self.api(async |client| client.power(&request).await.map(started))
    }

    pub(crate) fn rollback(&self, nodeset: &str) -> Result<Result<Operation, ClientError>> {
        let nodeset = nodeset.to_owned();
        let request = RollbackRequest { nodeset, force: false, dry_run: false };
        self.api(async |client| client.rollback(&request).await.map(started))
    }

    /// Waits until the operation is over, however.
    pub(crate) fn over(&self, id: &str) -> Result<Operation> {
        self.until(&format!("the operation {id} to end"), LONG, || {
            let operation = self.api(async |client| client.operation(id).await)??;
            Ok(operation.state.is_over().then_some(operation))
        })
    }

    /// Waits until the operation has succeeded on all its nodes.
    pub(crate) fn done(&self, operation: Operation) -> Result<Operation> {
        let operation = self.over(&operation.id)?;
        ensure!(
            operation.state == OperationState::Succeeded,
            "{:?}\n{}",
            operation.nodes,
            self.sim.diaries()
        );
        Ok(operation)
    }

    /// Switches and waits for success.
    pub(crate) fn switched(&self, nodeset: &str, overlay: &str) -> Result<Operation> {
        self.done(self.switch(nodeset, overlay)??)
    }

    /// Waits for a fault of the node, and returns its words.
    pub(crate) fn fault(&self, name: &str, limit: Duration) -> Result<String> {
        self.until(&format!("a fault of {name}"), limit, || {
            let node = self.node(name)?;
            Ok((node.state == NodeState::Fault).then_some(node.reason))
        })
    }

    /// Like [`wait_some`], for looks that can fail; the error tells the nodes' diaries.
    pub(crate) fn until<T>(
        &self,
        what: &str,
        limit: Duration,
        mut look: impl FnMut() -> Result<Option<T>>,
    ) -> Result<T> {
        let found = wait_some(what, limit, || look().transpose());
        found.with_context(|| self.sim.diaries())?
    }

    /// Every event so far, in order.
    pub(crate) fn events(&self) -> Result<Vec<Event>> {
        self.api(async |client| {
            let mut events = Vec::new();
            let wanted = Wanted { from: Some(0), so_far: true, ..Wanted::default() };
            let mut stream = client.events_of(wanted);
            loop {
                match stream.next().await {
                    Ok(event) => events.push(event),
                    Err(_) if stream.is_over() => return Ok(events),
                    Err(error) => return Err(error),
                }
            }
        })?
        .map_err(Into::into)
    }
}

/// A switch of `nodeset` to `minimal` and an overlay.
pub(crate) fn request(nodeset: &str, overlay: &str) -> Result<SwitchRequest> {
    let image: ImageRef = "minimal".parse().map_err(|e| anyhow::anyhow!("minimal: {e}"))?;
    let overlay: OverlayRef = overlay.parse().map_err(|e| anyhow::anyhow!("{overlay}: {e}"))?;
    Ok(SwitchRequest {
        project: None,
        rescue: false,
        spare: false,
        nodeset: nodeset.to_owned(),
        image: Some(image),
        overlay: Some(overlay),
        at_most: None,
        strategy: Strategy::All,
        min_success: None,
        reboot: false,
        fast: false,
        force: false,
        dry_run: false,
    })
}

/// The problem of a request that was refused.
pub(crate) fn refusal<T: std::fmt::Debug>(
    answer: Result<T, ClientError>,
) -> Result<Box<haas_api::problem::Problem>> {
    match answer {
        Err(ClientError::Problem(problem)) => Ok(problem),
        other => bail!("expected a refusal, not {other:?}"),
    }
}

fn started(submitted: Submitted) -> Operation {
    match submitted {
        Submitted::Operation(operation) => *operation,
        Submitted::Plan(plan) => panic!("no dry run was asked for, yet: {plan:?}"),
    }
}

/// A state directory with the image `minimal` and the overlays, made once per run.
pub(crate) fn seed() -> Result<&'static Path> {
    static SEED: OnceLock<PathBuf> = OnceLock::new();
    static MAKING: Mutex<()> = Mutex::new(());
    let _one_at_a_time = MAKING.lock();
    if let Some(seed) = SEED.get() {
        return Ok(seed);
    }
    let place = std::env::temp_dir().join("haas-w-sim-seed");
    let _ = fs::remove_dir_all(&place);
    let rack = SimRack::start("seed", 0)?;
    let config = files::haasd_toml(&rack.rack)?;
    let mut controller = Controller { haasd: Haasd::start(&rack.rack, &config, "")?, sim: &rack };
    let state = rack.rack.dir().join("state");
    let fingerprint = fs::read_to_string(state.join("fingerprint"))?;
    let token = state.join("admin.token");
    let url = format!("https://{CONTROLLER}:8443");
    controller
        .haasd
        .ctl(&[
            "context",
            "add",
            "sim",
            "--url",
            &url,
            "--fingerprint",
            fingerprint.trim(),
            "--token-file",
            &token.to_string_lossy(),
            "--use",
        ])?
        .ok()?;
    let recipe = Path::new(env!("CARGO_MANIFEST_DIR")).join("../images/minimal");
    controller.haasd.ctl(&["image", "build", &recipe.to_string_lossy()])?.ok()?;
    for name in ["a", "b"] {
        let name = name.parse().map_err(|e| anyhow::anyhow!("{e}"))?;
        let overlay = NewOverlay { owner: None, name };
        controller.api(async |client| client.new_overlay(&overlay).await)??;
    }
    controller.haasd.stop()?;
    copy_tree(&state, &place)?;
    drop(controller);
    Ok(SEED.get_or_init(|| place))
}

/// Copies a state directory; what never changes is linked.
pub(crate) fn copy_tree(from: &Path, to: &Path) -> Result<()> {
    let _ = fs::remove_dir_all(to);
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        let kind = entry.file_type()?;
        if kind.is_symlink() {
            std::os::unix::fs::symlink(fs::read_link(entry.path())?, target)?;
        } else if kind.is_dir() {
            copy_tree(&entry.path(), &target)?;
            fs::set_permissions(&target, entry.metadata()?.permissions())?;
        } else if entry.metadata()?.len() > 1 << 20 && !is_database(&entry.path()) {
            fs::hard_link(entry.path(), target)?;
        } else {
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}

fn is_database(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().contains(".db"))
}

pub(crate) fn mac(number: usize) -> String {
    format!("52:54:00:77:01:{number:02x}")
}

pub(crate) fn node_netns(rack: &str, number: usize) -> String {
    format!("{rack}.n{number}")
}

fn remove_node_namespaces(rack: &str) -> Result<()> {
    let prefix = format!("{rack}.n");
    let Ok(all) = fs::read_dir("/run/netns") else { return Ok(()) };
    for entry in all {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if name.starts_with(&prefix) {
            // A crashed run's nodes have ended with its lock.
            ip(&["netns", "delete", &name])?;
        }
    }
    Ok(())
}

pub(crate) fn ip(args: &[&str]) -> Result<()> {
    let output = Command::new("ip").args(args).output().context("cannot run ip (iproute2)")?;
    if !output.status.success() {
        bail!("ip {}: {}", args.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

/// How a node is to behave.
pub(crate) fn behave(node: &Folder, change: impl FnOnce(&mut Behaviour)) -> Result<()> {
    let mut behaviour = Behaviour::default();
    change(&mut behaviour);
    node.set_behaviour(&behaviour)
}
