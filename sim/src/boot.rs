//! A node's process: from power-on through the boot loader to its agent, and again after a reboot.

use std::{
    collections::HashMap,
    fs::File,
    net::Ipv4Addr,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use haas_api::agent::BootStage;
use nix::sched::{CloneFlags, setns};

use crate::{
    agent,
    dhcp::{self, Lease, Program},
    folder::{Folder, Kexec},
    http,
};

/// How a boot ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum End {
    /// The node is off.
    Off,
    /// It starts anew.
    Reboot,
    /// It starts this kernel, of this command line.
    Kexec(Cmdline),
}

/// Runs the node of this folder until it is off. Called once per power-on, by a process with no
/// other thread, since it enters the node's network namespace.
pub fn run(folder: &Folder) -> Result<()> {
    let config = folder.config()?;
    let netns = Path::new("/run/netns").join(&config.netns);
    let file = File::open(&netns).with_context(|| format!("no namespace {}", netns.display()))?;
    setns(file, CloneFlags::CLONE_NEWNET).context("cannot enter the node's namespace")?;
    if let Some(owner) = &config.owner {
        let lock = File::open(owner).with_context(|| format!("no {}", owner.display()))?;
        std::thread::spawn(move || {
            // Granted only when the owner has let go, also by kill -9.
            let _ = lock.lock_shared();
            std::process::exit(0);
        });
    }
    let mac = parse_mac(&config.mac)?;
    let mut next = None;
    loop {
        let end = match next.take() {
            // It has its addresses still, as its new kernel would give itself from its command line.
            Some(cmdline) => kexec(folder, &cmdline)?,
            None => {
                ip(&["address", "flush", "dev", "eth0"])?;
                ip(&["link", "set", "eth0", "up"])?;
                boot(folder, mac)?
            }
        };
        match end {
            End::Off => return Ok(()),
            End::Reboot => folder.note("reboots")?,
            End::Kexec(cmdline) => next = Some(cmdline),
        }
    }
}

/// Starts another kernel without firmware.
fn kexec(folder: &Folder, cmdline: &Cmdline) -> Result<End> {
    folder.note("starts its next kernel")?;
    if folder.behaviour()?.kexec == Kexec::Hangs {
        return hold(folder);
    }
    match at(folder, BootStage::Agent)? {
        Some(end) => Ok(end),
        None => agent::run(folder, cmdline),
    }
}

fn boot(folder: &Folder, mac: [u8; 6]) -> Result<End> {
    folder.note("powered")?;
    let behaviour = folder.behaviour()?;
    if behaviour.never_boots {
        return hold(folder);
    }
    if behaviour.boots_disk {
        return boot_disk(folder, mac);
    }
    if let Some(end) = at(folder, BootStage::Dhcp)? {
        return Ok(end);
    }
    let lease = loop {
        if let Some(lease) = dhcp::ask(mac, Program::Ipxe)? {
            break lease;
        }
        if soft_off(folder)? {
            return Ok(End::Off);
        }
    };
    configure(&lease)?;
    let url = lease.boot_file.context("the lease has no boot file")?;
    if let Some(end) = at(folder, BootStage::Script)? {
        return Ok(end);
    }
    let Some(cmdline) = load(folder, &url)? else { return Ok(End::Reboot) };
    if let Some(end) = at(folder, BootStage::Agent)? {
        return Ok(end);
    }
    agent::run(folder, &cmdline)
}

/// What a step finds that the node is to do instead of going on.
pub(crate) fn at(folder: &Folder, stage: BootStage) -> Result<Option<End>> {
    let behaviour = folder.behaviour()?;
    if behaviour.dies_before == Some(stage) {
        folder.note(&format!("dies before {stage}"))?;
        return Ok(Some(End::Off));
    }
    if behaviour.hangs_before == Some(stage) {
        folder.note(&format!("hangs before {stage}"))?;
        return hold(folder).map(Some);
    }
    if soft_off(folder)? {
        return Ok(Some(End::Off));
    }
    Ok(None)
}

/// Does nothing until ACPI's button is pressed.
pub(crate) fn hold(folder: &Folder) -> Result<End> {
    while !soft_off(folder)? {
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(End::Off)
}

/// Whether ACPI's button was pressed and the node obeys it.
pub(crate) fn soft_off(folder: &Folder) -> Result<bool> {
    Ok(folder.path().join("soft").exists() && !folder.behaviour()?.ignores_soft)
}

fn boot_disk(folder: &Folder, mac: [u8; 6]) -> Result<End> {
    while !soft_off(folder)? {
        if let Some(lease) = dhcp::ask(mac, Program::InstalledSystem)? {
            configure(&lease)?;
            folder.note("runs its old disk")?;
            return hold(folder);
        }
    }
    Ok(End::Off)
}

/// The kernel command line, once script, kernel and initrd are here. As the script says, five tries;
/// None when they are used up.
fn load(folder: &Folder, url: &str) -> Result<Option<Cmdline>> {
    let begun = Instant::now();
    let script = loop {
        match http::get(url) {
            Ok(script) => break String::from_utf8(script)?,
            Err(error) if begun.elapsed() < Duration::from_secs(60) => {
                folder.note(&format!("no script yet: {error:#}"))?;
            }
            Err(_) => return Ok(None),
        }
        std::thread::sleep(Duration::from_millis(300));
    };
    let script = Script::parse(&script)?;
    for _ in 0..5 {
        if let Some(end) = at(folder, BootStage::Kernel)? {
            folder.note(&format!("ends while loading: {end:?}"))?;
            std::process::exit(0);
        }
        let loaded = http::get(&script.kernel).and_then(|kernel| {
            ensure!(kernel.get(0x202..0x206) == Some(b"HdrS"), "the kernel is no bzImage");
            http::get(&script.initrd)
        });
        match loaded {
            Ok(initrd) => {
                ensure!(initrd.len() > 1000, "the initrd has {} bytes", initrd.len());
                return Ok(Some(script.cmdline));
            }
            Err(error) => folder.note(&format!("cannot load: {error:#}"))?,
        }
        std::thread::sleep(Duration::from_millis(500));
    }
    Ok(None)
}

fn configure(lease: &Lease) -> Result<()> {
    let net = format!("{}/{}", lease.address, lease.prefix);
    ip(&["address", "flush", "dev", "eth0"])?;
    ip(&["address", "add", &net, "dev", "eth0"])?;
    if let Some(router) = lease.router.filter(|r| *r != Ipv4Addr::UNSPECIFIED) {
        ip(&["route", "replace", "default", "via", &router.to_string()])?;
    }
    Ok(())
}

fn ip(args: &[&str]) -> Result<()> {
    let output = Command::new("ip").args(args).output().context("cannot run ip (iproute2)")?;
    if !output.status.success() {
        bail!("ip {}: {}", args.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

pub(crate) fn parse_mac(text: &str) -> Result<[u8; 6]> {
    let bytes = hex::decode(text.replace(':', "")).with_context(|| format!("MAC {text:?}"))?;
    bytes.try_into().map_err(|_| anyhow::anyhow!("{text:?} has not six bytes"))
}

/// The words of a kernel command line.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Cmdline(HashMap<String, String>);

impl Cmdline {
    pub(crate) fn parse<'a>(words: impl IntoIterator<Item = &'a str>) -> Self {
        let words = words.into_iter().map(|word| word.split_once('=').unwrap_or((word, "")));
        Self(words.map(|(k, v)| (k.to_owned(), v.to_owned())).collect())
    }

    pub(crate) fn get(&self, key: &str) -> Result<&str> {
        let value = self.0.get(key).with_context(|| format!("the command line has no {key}="))?;
        Ok(value)
    }
}

/// What our iPXE scripts say.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Script {
    pub(crate) kernel: String,
    pub(crate) initrd: String,
    pub(crate) cmdline: Cmdline,
}

impl Script {
    pub(crate) fn parse(text: &str) -> Result<Self> {
        ensure!(text.starts_with("#!ipxe"), "not an iPXE script");
        let line = |word: &str| {
            text.lines()
                .filter_map(|line| line.trim().strip_prefix(word)?.strip_prefix(' '))
                .map(|rest| rest.split("||").next().unwrap_or_default().trim())
                .next()
                .with_context(|| format!("the script has no line {word:?}"))
        };
        let mut words = line("kernel")?.split_whitespace();
        let kernel = words.next().context("kernel has no URL")?.to_owned();
        let initrd = line("initrd")?.split_whitespace().last().context("initrd has no URL")?;
        Ok(Self { kernel, initrd: initrd.to_owned(), cmdline: Cmdline::parse(words) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_gives_its_urls_and_words() {
        let text = "#!ipxe\necho hi\nkernel http://a/k initrd=initrd ro haas.url=https://a:1 || goto x\n\
                    initrd --name initrd http://a/i || goto x\nboot || goto x\n";
        let script = Script::parse(text).expect("it is one of ours");
        assert_eq!((script.kernel.as_str(), script.initrd.as_str()), ("http://a/k", "http://a/i"));
        assert_eq!(script.cmdline.get("haas.url").ok(), Some("https://a:1"));
        assert!(script.cmdline.get("goto").is_err());
        assert!(Script::parse("#!ipxe\nboot\n").is_err());
    }
}
