//! Brings the node up, stage by stage, and hands PID 1 over to the image.
//!
//! A stage that fails is shown on the console and told to haasd. What can come right by itself is
//! tried again; anything else holds the node until haasd says that it shall try again, perhaps
//! with another plan. Stages that are done stay done.

use std::{
    convert::Infallible,
    fs,
    io::{BufRead as _, BufReader, Write as _},
    os::{fd::AsFd as _, unix::net::UnixStream},
    path::Path,
    process::ExitCode,
    thread,
    time::{Duration, Instant},
};

use haas_api::agent::{
    BootPlan, BootStage, DiskName, DiskSelector, OverlayPlan, StoreReport, ToAgent, ToController,
};
use nix::{
    errno::Errno,
    mount::{MsFlags, mount},
    sys::{
        mman::{MlockAllFlags, mlockall},
        time::TimeSpec,
    },
    time::{ClockId, clock_settime},
    unistd::{chdir, chroot},
};

use crate::{
    agent::Agent,
    baseline,
    channel::{Channel, Heard},
    cmdline::{Addressing, CommandLine},
    dhcp,
    fault::{Fault, OrFault as _},
    hardware, identity, init,
    iscsi::Keeper,
    log, net,
    overlay::{self, Layer},
    proof,
    reach::Look,
    readonly::Guard,
    ready, scratch, shutdown, ssh,
    store::{self, Owner, Store},
    usage,
};

const RETRY_FIRST: Duration = Duration::from_secs(1);
const RETRY_MOST: Duration = Duration::from_secs(30);
const DISK_WITHIN: Duration = Duration::from_secs(20);
/// How long haasd may take to sign the node's keys. What is not signed then is signed later.
const SIGNED_WITHIN: Duration = Duration::from_secs(20);
const READ_ONLY_WITHIN: Duration = Duration::from_secs(10);
/// Programs that an image may have as its first, in the order in which the kernel tries them.
const INITS: [&str; 4] = ["sbin/init", "etc/init", "bin/init", "init"];

/// Runs as the agent; ends only if it cannot even begin.
pub(crate) fn run() -> ExitCode {
    match start() {
        Ok(never) => match never {},
        Err(fault) => {
            log::error(&format!("the agent cannot start: {fault}"));
            ExitCode::FAILURE
        }
    }
}

fn start() -> Result<Infallible, Fault> {
    chroot(init::AGENT_ROOT).or_hold("agent-root", "cannot enter the agent's root")?;
    chdir("/").or_hold("agent-root", "cannot enter the agent's root")?;
    let _ = fs::write("/proc/self/oom_score_adj", "-1000");
    // The agent serves the root's session: it must never wait for a page itself.
    mlockall(MlockAllFlags::MCL_CURRENT | MlockAllFlags::MCL_FUTURE)
        .or_hold("agent-memory", "cannot lock the agent in memory")?;
    let stdin = std::io::stdin();
    let pid1 = stdin.as_fd().try_clone_to_owned().or_hold("agent-pipe", "no way to PID 1")?;

    let text = fs::read_to_string("/proc/cmdline").unwrap_or_default();
    let line = CommandLine::parse(&text);
    let show = |value: &Option<String>| value.clone().unwrap_or_else(|| "none".to_owned());
    log::info(&format!(
        "command line: target {}, initiator {}, overlay {:?}",
        show(&line.target),
        show(&line.initiator),
        show(&line.overlay)
    ));
    let controller = line.controller.clone().ok_or_else(|| {
        Fault::hold("cmdline", "haas.url=, haas.fp= and haas.token= are not on the command line")
    });
    let controller = alone(controller);
    let mut pause = RETRY_FIRST;
    while let Err(fault) = net::bring_up(&line) {
        if !fault.retryable {
            alone::<()>(Err(fault));
            continue;
        }
        log::error(&fault.to_string());
        thread::sleep(pause);
        pause = (pause * 2).min(RETRY_MOST);
    }
    let lease = alone(keep_lease(&line));
    let channel = alone(Channel::start(&controller));
    let plan = welcome(&channel);
    Node {
        channel,
        plan,
        pid1: pid1.into(),
        lease,
        keeper: None,
        disk: None,
        layer: None,
        store: None,
        is_merged: false,
        is_guarded: false,
        is_erased: false,
    }
    .bring_up()
}

/// Keeps the lease of the address, from now on: the way to haasd may be long.
fn keep_lease(line: &CommandLine) -> Result<Option<dhcp::Keeper>, Fault> {
    let (Some(mac), Addressing::Static { address, .. }, true) =
        (line.nic, &line.addressing, line.is_leased)
    else {
        return Ok(None);
    };
    dhcp::Keeper::start(mac, *address)
        .map(Some)
        .or_retry("net-lease", "no thread to keep the lease of the node's address")
}

/// A fault that nobody can be told of but the person at the console.
fn alone<T>(result: Result<T, Fault>) -> T {
    match result {
        Ok(value) => value,
        Err(fault) => loop {
            log::error(&format!("the node is held: {fault}"));
            thread::sleep(Duration::from_secs(60));
        },
    }
}

fn welcome(channel: &Channel) -> BootPlan {
    loop {
        match channel.hear(Duration::from_secs(60)) {
            Some(Heard::Welcome(welcome)) => {
                set_clock(welcome.now_us);
                return welcome.plan;
            }
            Some(Heard::Refused(reason)) => {
                alone(Err(Fault::hold("refused", format!("haasd refuses this boot: {reason}"))))
            }
            Some(Heard::Said(_)) | None => log::info("waiting for haasd"),
        }
    }
}

fn set_clock(now_us: i64) {
    let time = TimeSpec::new(now_us.div_euclid(1_000_000), now_us.rem_euclid(1_000_000) * 1000);
    if let Err(error) = clock_settime(ClockId::CLOCK_REALTIME, time) {
        log::error(&format!("the clock cannot be set: {error}"));
    }
}

/// The node as far as it is up.
struct Node {
    channel: Channel,
    plan: BootPlan,
    pid1: UnixStream,
    lease: Option<dhcp::Keeper>,
    keeper: Option<Keeper>,
    /// The root's disk, once it is mounted.
    disk: Option<String>,
    layer: Option<Layer>,
    store: Option<Store>,
    is_merged: bool,
    is_guarded: bool,
    is_erased: bool,
}

impl Node {
    /// Reaches each stage in turn, then looks after the node.
    fn bring_up(mut self) -> Result<Infallible, Fault> {
        self.reached(BootStage::Agent);
        if let Some(mtu) = self.plan.net.mtu {
            self.pass(BootStage::Agent, |node| net::set_mtu(node.plan.net.mac, mtu));
        }
        self.tell_baseline();
        let look = Look::begin(&self.plan.doors);
        self.pass(BootStage::Root, Self::attach_root);
        self.reached(BootStage::Root);
        if self.plan.inventory {
            // Disks have been found by now, and no user's code has run yet.
            self.channel.say(ToController::Inventory(Box::new(hardware::look(&named(&self.plan)))));
        }
        self.pass(BootStage::Overlay, Self::mount_overlay);
        // It has mostly ended by now, and nothing of the image or a user runs yet.
        self.channel.say(ToController::Reaches { doors: look.end() });
        // Before its ssh server starts, which then shows its certificate from the first moment on.
        let renew_in = self.certify().unwrap_or_else(|error| {
            log::error(&format!("ssh has no certificates yet: {error}"));
            None
        });
        self.reached(BootStage::Overlay);
        self.pass(BootStage::Userspace, Self::start_init);
        let (Some(keeper), Some(disk)) = (self.keeper, self.disk) else {
            return Err(Fault::hold("agent", "userspace runs without a root"));
        };
        Agent {
            channel: self.channel,
            plan: self.plan,
            keeper,
            lease: self.lease,
            root_disk: disk,
            has_store: self.store.is_some(),
        }
        .run(renew_in)
    }

    fn reached(&self, stage: BootStage) {
        let uptime_ms = usage::uptime_ms();
        log::info(&format!("stage {stage} reached after {uptime_ms} ms"));
        self.channel.say(ToController::Stage { stage, uptime_ms });
    }

    /// Works on a stage until it is passed.
    fn pass(&mut self, stage: BootStage, work: impl Fn(&mut Self) -> Result<(), Fault>) {
        let mut pause = RETRY_FIRST;
        let mut told = None;
        loop {
            let Err(fault) = work(self) else { return };
            log::error(&format!("stage {stage} fails: {fault}"));
            if told.as_ref() != Some(&fault) {
                self.channel.say(ToController::Failure(fault.at(stage)));
                told = Some(fault.clone());
            }
            if !fault.retryable {
                log::error("the node is held until haasd says that it shall try again");
            }
            if self.wait(fault.retryable.then_some(pause)) {
                // Who asks for another attempt wants to know how it ended.
                told = None;
            }
            pause = (pause * 2).min(RETRY_MOST);
        }
    }

    /// Waits for a word of haasd, or for the time to try again. Says whether haasd asked for it.
    fn wait(&mut self, pause: Option<Duration>) -> bool {
        let until = pause.map(|pause| Instant::now() + pause);
        loop {
            let left = until.map_or(Duration::from_secs(60), |until| {
                until.saturating_duration_since(Instant::now())
            });
            match self.channel.hear(left) {
                Some(Heard::Said(ToAgent::Retry { plan })) => {
                    self.replan(*plan);
                    return true;
                }
                // Whatever haasd said while there was no connection is lost: this holds now.
                Some(Heard::Welcome(welcome)) => {
                    self.replan(welcome.plan);
                    return true;
                }
                Some(Heard::Said(ToAgent::Shutdown { how })) => {
                    shutdown::before_userspace(&self.channel, self.keeper.as_ref(), how);
                }
                Some(Heard::Refused(reason)) => {
                    log::error(&format!("haasd refuses this boot: {reason}"));
                }
                Some(Heard::Said(_)) => {}
                None if until.is_some() => return false,
                None => {}
            }
        }
    }

    fn replan(&mut self, mut plan: BootPlan) {
        plan.root.keep_secrets(&self.plan.root);
        if plan.overlay != self.plan.overlay && !self.is_merged {
            self.layer = None;
        }
        self.plan = plan;
    }

    /// Tells haasd how the machine is, if it wants to hear that, and waits until it says how to go on: with
    /// the secrets of the boot, or not at all.
    fn tell_baseline(&mut self) {
        while self.plan.baseline {
            self.channel.say(ToController::Baseline { facts: baseline::look(&self.plan.scratch) });
            log::info("told haasd what the machine starts from; waits for its word");
            self.wait(None);
        }
    }

    fn attach_root(&mut self) -> Result<(), Fault> {
        if self.disk.is_some() {
            return Ok(());
        }
        let root = &self.plan.root;
        // A session of an earlier plan is of no use for another target.
        if let Some(keeper) = self.keeper.take() {
            let target = fs::read_to_string(keeper.folder().join("targetname"));
            if target.is_ok_and(|t| t.trim() == root.target) {
                self.keeper = Some(keeper);
            } else {
                keeper.logout();
            }
        }
        if self.keeper.is_none() {
            self.keeper = Some(Keeper::start(root)?);
        }
        let Some(keeper) = &self.keeper else { return Ok(()) };
        keeper.scan().or_retry("root-scan", "the kernel does not look for the root's disk")?;
        let until = Instant::now() + DISK_WITHIN;
        let disk = loop {
            if let Some(disk) = keeper.disk().filter(|d| Path::new("/dev").join(d).exists()) {
                break disk;
            }
            if Instant::now() > until {
                let cause = format!("target {} shows no disk at LUN 0", root.target);
                return Err(Fault::retry("root-no-disk", cause));
            }
            thread::sleep(Duration::from_millis(50));
        };
        let sysfs = Path::new("/sys/block").join(&disk);
        let wwid = proof::wwid(&sysfs).or_retry("root-wwid", "the root's disk has no identity")?;
        if wwid != root.wwid {
            let cause = format!("the root's disk is {wwid}, the plan says {}", root.wwid);
            return Err(Fault::hold("root-wrong-disk", cause));
        }
        if !is_read_only(&sysfs) {
            let cause = format!(
                "the target {} lets its disk be written, which haasd's own never does: something else \
                 answers at {}:{}",
                root.target, root.portal, root.port
            );
            return Err(Fault::hold("root-writable", cause));
        }
        let options = if root.fstype == "ext4" { "noload" } else { "" };
        let device = Path::new("/dev").join(&disk);
        let what = format!("cannot mount the image {} ({disk}) as {}", root.name, root.fstype);
        let mounted = mount(
            Some(&device),
            overlay::LOWER,
            Some(root.fstype.as_str()),
            MsFlags::MS_RDONLY,
            Some(options),
        );
        match mounted {
            // The kernel still looks at the disk, or lost it for a moment.
            Err(Errno::ENXIO | Errno::EIO) => mounted.or_retry("root-mount", &what)?,
            _ => mounted.or_hold("root-mount", &what)?,
        }
        log::info(&format!("root: {} over {disk}, {wwid}", root.name));
        self.disk = Some(disk);
        Ok(())
    }

    fn mount_overlay(&mut self) -> Result<(), Fault> {
        if self.plan.erase_scratch && !self.is_erased {
            let disks = scratch::erase(&self.plan.scratch, |disk, done, size| {
                self.channel.say(ToController::Erasing { disk: disk.to_owned(), done, size });
            })?;
            self.channel.say(ToController::Erased { disks });
            self.is_erased = true;
        }
        if self.layer.is_none() {
            let layer = match &self.plan.overlay {
                OverlayPlan::Ram { rank } => {
                    // Whose they are is asked before a user comes who could read and write them.
                    self.survey();
                    overlay::in_ram(store::MOUNT, *rank)?
                }
                OverlayPlan::Disk { removed, rescue, .. } => {
                    if self.store.is_none() {
                        self.store = Some(self.open_store()?);
                        overlay::forget(removed);
                    }
                    // What haasd knows of shards was in another store than one that was just made.
                    let is_new = self.store.as_ref().is_some_and(|store| store.created);
                    match rescue {
                        true => overlay::rescue(&self.plan.overlay)?,
                        false => overlay::shard(&self.plan.overlay, is_new)?,
                    }
                }
            };
            if let Some(store) = &self.store {
                self.channel.say(ToController::Store(report(store)));
            }
            self.layer = Some(layer);
        }
        let Some(layer) = &self.layer else { return Ok(()) };
        if !self.is_merged {
            overlay::mount_merged(layer)?;
            self.is_merged = true;
        }
        write_run(&self.plan, layer.rank).or_retry("run", "cannot write to /run")?;
        mount_into_merged()?;
        if let Some(shown) = &layer.shown {
            show(shown)?;
        }
        identity::write(&self.plan, layer)?;
        if self.store.is_some() {
            store::keep_reserve();
        }
        if !self.is_guarded {
            let store = self.store.as_ref().map(|store| store.disk.name.clone());
            let (scratch, detached) = (self.plan.scratch.clone(), self.plan.detached.clone());
            Guard { store, scratch, detached }.start()?;
            self.is_guarded = true;
        }
        Ok(())
    }

    /// Has haasd sign the public keys of the node's ssh server and users, and answers when that is due
    /// again. An older haasd signs nothing.
    fn certify(&mut self) -> Result<Option<Duration>, String> {
        if self.plan.ssh.is_none() {
            return Ok(None);
        }
        let found = ssh::find(overlay::MERGED, &self.plan)?;
        self.channel.say(ToController::SshKeys(found.keys()));
        let until = Instant::now() + SIGNED_WITHIN;
        while let Some(left) = until.checked_duration_since(Instant::now()) {
            match self.channel.hear(left) {
                Some(Heard::Said(ToAgent::SshCertificates(made))) => {
                    let renew_in = Duration::from_secs(made.renew_in_s);
                    ssh::install(overlay::MERGED, found, made)?;
                    return Ok(Some(renew_in));
                }
                Some(Heard::Said(ToAgent::Shutdown { how })) => {
                    shutdown::before_userspace(&self.channel, self.keeper.as_ref(), how);
                }
                Some(Heard::Said(ToAgent::Retry { plan })) => self.replan(*plan),
                // The answer was lost with the connection.
                Some(Heard::Welcome(welcome)) => {
                    self.replan(welcome.plan);
                    if self.plan.ssh.is_none() {
                        return Ok(None);
                    }
                    self.channel.say(ToController::SshKeys(found.keys()));
                }
                Some(Heard::Refused(reason)) => return Err(format!("haasd refuses us: {reason}")),
                Some(Heard::Said(_)) | None => {}
            }
        }
        Err("haasd does not answer".to_owned())
    }

    fn owner(&self) -> Owner<'_> {
        Owner {
            cluster: &self.plan.cluster_id,
            node: &self.plan.node_id,
            name: self.plan.node.as_str(),
        }
    }

    /// Looks at the node's own disks, and tells what is on them.
    fn survey(&self) -> Vec<store::Seen> {
        let survey = store::survey(self.owner(), &self.plan);
        self.channel.say(ToController::Disks { disks: store::report(&survey) });
        survey
    }

    fn open_store(&self) -> Result<Store, Fault> {
        let survey = self.survey();
        let store = store::open(&self.plan, self.owner(), &survey)?;
        let disks = store::report_opened(&survey, &store);
        if disks != store::report(&survey) {
            self.channel.say(ToController::Disks { disks });
        }
        Ok(store)
    }

    fn start_init(&mut self) -> Result<(), Fault> {
        let merged = fs::File::open(overlay::MERGED).or_retry("init", "no merged root")?;
        let init = INITS
            .iter()
            .find(|path| proof::open_in(&merged, path, nix::fcntl::OFlag::O_PATH).is_ok())
            .ok_or_else(|| Fault::hold("init-missing", "the image has no init"))?;
        drop(merged);
        writeln!(&self.pid1, "/{init}").or_hold("init", "PID 1 does not listen")?;
        // PID 1's end of the socket closes as it becomes the image's init.
        let mut answer = String::new();
        let read = BufReader::new(&self.pid1).read_line(&mut answer);
        match read.or_hold("init", "PID 1 is lost")? {
            0 => Ok(()),
            _ => Err(Fault::hold("init", format!("/{init} does not start: {}", answer.trim()))),
        }
    }
}

/// The disks of which the inventory's entry says something.
fn named(plan: &BootPlan) -> Vec<DiskName> {
    let overlay = match &plan.overlay {
        OverlayPlan::Disk { disk: DiskSelector::One(disk), .. } => Some(disk),
        OverlayPlan::Disk { disk: DiskSelector::Auto, .. } | OverlayPlan::Ram { .. } => None,
    };
    plan.scratch.iter().chain(&plan.detached).chain(overlay).cloned().collect()
}

fn report(store: &Store) -> StoreReport {
    let (size, free) = usage::file_system(store::MOUNT).unwrap_or((0, 0));
    StoreReport {
        store_id: store.header.store_id.clone(),
        generation: store.header.generation,
        disk_serial: store.disk.serial.clone(),
        size,
        free,
        created: store.created,
        repaired: store.repaired.clone(),
        shards: overlay::shards(store),
    }
}

/// Whether the kernel lets nobody write to a disk. While it still looks at a new disk, it says "0"
/// for a moment although the disk is write-protected.
fn is_read_only(sysfs: &Path) -> bool {
    let until = Instant::now() + READ_ONLY_WITHIN;
    loop {
        if fs::read_to_string(sysfs.join("ro")).is_ok_and(|text| text.trim() == "1") {
            return true;
        }
        if Instant::now() > until {
            return false;
        }
        thread::sleep(Duration::from_millis(50));
    }
}

/// What programs on the node may read of it. Users may not log in yet.
fn write_run(plan: &BootPlan, rank: u32) -> std::io::Result<()> {
    fs::create_dir_all("/run/haas")?;
    fs::write("/run/haas/rank", format!("{rank}\n"))?;
    fs::write("/run/haas/node", format!("{}\n", plan.node.as_str()))?;
    fs::write("/run/haas/image", format!("{}\n", plan.root.name))?;
    ready::write_nologin();
    Ok(())
}

/// The kernel's file systems, and the agent's /run, for the image.
fn mount_into_merged() -> Result<(), Fault> {
    let quiet = MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC | MsFlags::MS_NODEV;
    for (name, kind, flags) in [
        ("proc", Some("proc"), quiet),
        ("sys", Some("sysfs"), quiet),
        ("dev", Some("devtmpfs"), MsFlags::MS_NOSUID),
        ("run", None, MsFlags::MS_BIND),
    ] {
        let at = Path::new(overlay::MERGED).join(name);
        let is_folder = fs::symlink_metadata(&at).is_ok_and(|m| m.is_dir());
        if !is_folder {
            // A link here could lead the mount into the agent's own root.
            fs::create_dir(&at).or_hold("image-folders", &format!("/{name} is no folder"))?;
        }
        if is_mounted(&at) {
            continue;
        }
        let source = kind.unwrap_or("/run");
        mount(Some(source), &at, kind, flags, None::<&str>)
            .or_hold("image-folders", &format!("cannot mount /{name}"))?;
    }
    Ok(())
}

/// Shows the overlay of a rescue in the merged root.
fn show(upper: &Path) -> Result<(), Fault> {
    let at = Path::new(overlay::MERGED).join(overlay::SHOWN);
    if !fs::symlink_metadata(&at).is_ok_and(|m| m.is_dir()) {
        fs::create_dir(&at).or_hold("image-folders", "/overlay is no folder")?;
    }
    if is_mounted(&at) {
        return Ok(());
    }
    mount(Some(upper), &at, None::<&str>, MsFlags::MS_BIND, None::<&str>)
        .or_hold("image-folders", "cannot mount /overlay")
}

fn is_mounted(at: &Path) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    let device = |path: &Path| fs::symlink_metadata(path).map(|m| m.dev()).ok();
    device(at) != at.parent().and_then(device)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::channel::fake;

    #[test]
    fn a_held_node_takes_the_plan_that_changed_while_it_had_no_connection() {
        let haasd = fake::Haasd::new();
        let channel = Channel::start(&haasd.controller()).unwrap();
        let lost = haasd.welcome(fake::plan(0));
        assert!(matches!(channel.hear(Duration::from_secs(10)), Some(Heard::Welcome(_))));
        let mut node = Node {
            channel,
            plan: fake::plan(0),
            pid1: UnixStream::pair().unwrap().0,
            lease: None,
            keeper: None,
            disk: None,
            layer: None,
            store: None,
            is_merged: false,
            is_guarded: false,
            is_erased: false,
        };
        drop(lost);
        let _next = haasd.welcome(fake::plan(1));
        assert!(node.wait(None), "it tries again");
        assert_eq!(node.plan, fake::plan(1));
    }
}
