//! The servers on their real ports in a network namespace, asked by real clients. Needs root.
//!
//! `ip netns` names are fixed per test and removed before and after, so that a crashed run leaves
//! nothing that the next one trips over.

mod foreign;

use std::{
    fs::File,
    path::Path,
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use tokio_util::sync::CancellationToken;

use super::{
    Serving, Sockets,
    boot_target::{BootResource, Served},
    firmware::{Binaries, Client},
    ra, run,
    script::Templates,
    testing::{self, MemoryTargets},
};
use crate::{
    config::{BootLimits, Config, DhcpMode, Network, Ports},
    inventory::Firmware,
};

const NODE_MAC: &str = "52:54:00:77:00:01";
const STRANGER_MAC: &str = "52:54:00:77:00:99";

/// A namespace with a bridge that has the controller's address, and haasd's servers in it.
struct Rack {
    namespace: String,
    targets: Arc<MemoryTargets>,
    dir: tempfile::TempDir,
    stop: CancellationToken,
    servers: Option<std::thread::JoinHandle<()>>,
}

fn sh(command: &str) -> String {
    let output = Command::new("sh").args(["-ec", command]).output().expect("sh runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command}\n{text}{errors}(these tests need root)");
    text
}

impl Rack {
    fn new(namespace: &str, mode: DhcpMode, with_ra: bool) -> Self {
        let mut rack = Self::wired(namespace, "10.77.0.11/24");
        rack.serve(config(mode), with_ra);
        rack
    }

    /// The wire alone; the node will have this address.
    fn wired(namespace: &str, address: &str) -> Self {
        remove(namespace);
        sh(&format!(
            "ip netns add {namespace}; x='ip -n {namespace}'; $x link set lo up
             $x link add br0 type bridge stp_state 0 forward_delay 0
             $x addr add 10.77.0.1/24 dev br0; $x link set br0 up"
        ));
        let dir = tempfile::tempdir().unwrap();
        let (kernel, initrd) = (dir.path().join("kernel"), dir.path().join("initrd"));
        std::fs::write(&kernel, b"not yet").unwrap();
        std::fs::write(&initrd, vec![b'#'; 500_000]).unwrap();
        let mut target = testing::target(&kernel, &initrd);
        target.address = address.parse().unwrap();
        let targets = Arc::new(MemoryTargets::with_attempt(target));
        let (namespace, stop) = (namespace.to_owned(), CancellationToken::new());
        Self { namespace, targets, dir, stop, servers: None }
    }

    /// haasd's servers begin.
    fn serve(&mut self, config: Config, with_ra: bool) {
        let (ready, is_ready) = std::sync::mpsc::channel();
        let (namespace, targets) = (self.namespace.clone(), self.targets.clone());
        let stop = self.stop.clone();
        let body = move || serve(&namespace, &config, with_ra, targets, stop, &ready);
        self.servers = Some(std::thread::spawn(body));
        is_ready.recv_timeout(Duration::from_secs(20)).expect("the servers start");
    }

    /// A second namespace behind a cable to the bridge.
    fn plug_in(&self, mac: &str) -> String {
        self.plug_in_as("c", mac)
    }

    /// The same under a name of its own, for several.
    fn plug_in_as(&self, name: &str, mac: &str) -> String {
        let (rack, client) = (&self.namespace, format!("{}-{name}", self.namespace));
        sh(&format!(
            "ip netns del {client} 2>/dev/null || true; ip netns add {client}
             ip -n {rack} link add port-{name} type veth peer name eth0 netns {client} address {mac}
             ip -n {rack} link set port-{name} master br0 up
             ip -n {client} link set lo up; ip -n {client} link set eth0 up"
        ));
        client
    }

    /// busybox's DHCP client; gives what its script was told, or nothing.
    fn udhcpc(&self, client: &str, arguments: &str) -> Option<String> {
        let script = self.dir.path().join("told.sh");
        let told = self.dir.path().join("told");
        let _ = std::fs::remove_file(&told);
        std::fs::write(
            &script,
            format!("#!/bin/sh\n[ $1 = bound ] && env > {}\nexit 0\n", told.display()),
        )
        .unwrap();
        sh(&format!(
            "chmod +x {0}; ip netns exec {client} busybox udhcpc -i eth0 -f -q -n -t 4 -T 1 -s {0} {arguments} 2>&1 || true",
            script.display()
        ));
        std::fs::read_to_string(told).ok()
    }

    fn served(&self) -> Vec<Served> {
        self.targets.seen.lock().unwrap().served.clone()
    }

    /// A DHCP server of somebody else on the bridge: it gives the node's address and no boot file.
    fn foreign_dhcp(&self) -> ChildGuard {
        let server = self.plug_in("52:54:00:77:00:fe");
        let (config, leases) =
            (self.dir.path().join("udhcpd.conf"), self.dir.path().join("leases"));
        File::create(&leases).unwrap();
        let text = format!(
            "start 10.77.0.11\nend 10.77.0.11\ninterface eth0\nlease_file {}\noption subnet 255.255.255.0\n",
            leases.display()
        );
        std::fs::write(&config, text).unwrap();
        sh(&format!("ip -n {server} addr add 10.77.0.253/24 dev eth0"));
        let child = Command::new("ip")
            .args(["netns", "exec", &server, "busybox", "udhcpd", "-f"])
            .arg(&config)
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("busybox");
        ChildGuard(child)
    }

    /// A node. With BIOS its network card's ROM is Debian's iPXE; with UEFI the card has no ROM, so
    /// that the firmware's own PXE is used.
    fn qemu(&self, firmware: Firmware, console: &Path) -> ChildGuard {
        let ns = &self.namespace;
        sh(&format!(
            "ip -n {ns} link del tap1 2>/dev/null || true
             ip -n {ns} tuntap add dev tap1 mode tap; ip -n {ns} link set tap1 master br0 up"
        ));
        let mut command = Command::new("ip");
        let mut card = format!("virtio-net-pci,netdev=n0,mac={NODE_MAC},bootindex=1");
        command.args(["netns", "exec", ns, "qemu-system-x86_64"]);
        if firmware == Firmware::Uefi {
            card += ",romfile=";
            let vars = self.dir.path().join("vars.fd");
            std::fs::copy("/usr/share/OVMF/OVMF_VARS_4M.fd", &vars).expect("Debian's package ovmf");
            let flash = "if=pflash,format=raw,unit";
            let code = "/usr/share/OVMF/OVMF_CODE_4M.fd";
            command.args(["-drive", &format!("{flash}=0,readonly=on,file={code}")]);
            command.args(["-drive", &format!("{flash}=1,file={}", vars.display())]);
            command.args(["-device", "virtio-rng-pci"]);
        }
        let child = command
            .args(["-machine", "q35,graphics=off", "-accel", "tcg,tb-size=64", "-m", "256"])
            .args(["-nodefaults", "-display", "none", "-vga", "none"])
            .args(["-netdev", "tap,id=n0,ifname=tap1,script=no,downscript=no"])
            .args(["-device", &card])
            .args(["-serial", &format!("file:{}", console.display())])
            .stdin(Stdio::null())
            .stderr(File::create(self.dir.path().join("qemu.err")).unwrap())
            .spawn()
            .expect("qemu-system-x86");
        ChildGuard(child)
    }
}

impl Drop for Rack {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(servers) = self.servers.take() {
            let _ = servers.join();
        }
        remove(&self.namespace);
    }
}

/// A child process that ends with the test.
struct ChildGuard(Child);

impl Drop for ChildGuard {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn remove(namespace: &str) {
    sh(&format!(
        "for n in $(ip netns list | cut -d' ' -f1 | grep -E '^{namespace}(-|$)'); do ip netns del $n; done"
    ));
}

/// Runs haasd's network boot in a thread of its own, since a namespace belongs to a thread.
fn serve(
    namespace: &str,
    config: &Config,
    with_ra: bool,
    targets: Arc<MemoryTargets>,
    stop: CancellationToken,
    ready: &std::sync::mpsc::Sender<()>,
) {
    let file = File::open(format!("/run/netns/{namespace}")).unwrap();
    nix::sched::setns(file, nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut sockets = Sockets::bind(config).unwrap();
        if !with_ra {
            sockets.ra.clear();
        }
        let templates = Arc::new(Templates::load(&config.templates_dir).unwrap());
        ready.send(()).unwrap();
        let serving = Serving { targets, templates, binaries: Binaries::of(config) };
        run(sockets, serving, stop).await.unwrap();
    });
}

fn config(dhcp: DhcpMode) -> Config {
    Config {
        state_dir: "/nonexistent".into(),
        database_url: String::new(),
        nodes_file: "/nonexistent".into(),
        agent_cpio: "/nonexistent".into(),
        ipxe_dir: "/usr/lib/ipxe".into(),
        shim: "/nonexistent".into(),
        grub: "/nonexistent".into(),
        templates_dir: testing::templates_dir(),
        api_interfaces: Vec::new(),
        networks: vec![Network { interface: "br0".into(), mtu: None, ..testing::network(dhcp) }],
        ports: Ports::default(),
        iscsi: crate::config::Iscsi::default(),
        boot: BootLimits::default(),
        health: crate::config::HealthChecks::default(),
        auth: crate::config::Auth::default(),
        power_ramp: std::collections::BTreeMap::new(),
        metrics: crate::config::Metrics::default(),
        events: crate::config::Events::default(),
        webhooks: crate::config::Webhooks::default(),
        network_hook: None,
        drain_hook: None,
        console: crate::config::Console::default(),
        baseline: Default::default(),
        tenants: Default::default(),
        reachability: Default::default(),
        power: crate::config::PowerLimits::default(),
        idle: Vec::new(),
        reservations: crate::config::Reservations::default(),
        queues: Vec::new(),
    }
}

#[test]
fn a_real_client_gets_its_address_and_its_boot_file_and_a_stranger_nothing() {
    let rack = Rack::new("w-netboot-dhcp", DhcpMode::Own, true);
    let client = rack.plug_in(NODE_MAC);
    let told = rack.udhcpc(&client, "").expect("a lease");
    for line in [
        "ip=10.77.0.11",
        "subnet=255.255.255.0",
        "router=10.77.0.254",
        "dns=10.77.0.1",
        "domain=lab.example",
        "hostname=n01",
        "ntpsrv=10.77.0.3",
        "lease=3600",
        "serverid=10.77.0.1",
    ] {
        assert!(told.lines().any(|l| l == line), "{line} is missing in\n{told}");
    }
    assert!(!told.contains("boot_file="), "an operating system boots nothing:\n{told}");
    let told = rack.udhcpc(&client, "-V PXEClient:Arch:00007 -x 0x5d:0007").expect("a lease");
    assert!(told.contains("boot_file=snponly.efi\n"), "{told}");
    let told = rack.udhcpc(&client, "-V PXEClient -x 0x4d:69505845").expect("a lease");
    let url = "http://10.77.0.1/boot/TOKEN/script";
    assert!(told.contains(&format!("boot_file={url}\n")), "{told}");
    // A wrong address of one of ours is refused, and the client takes the right one.
    let told = rack.udhcpc(&client, "-r 10.77.0.200").expect("a lease");
    assert!(told.contains("ip=10.77.0.11\n"), "{told}");

    sh(&format!("ip -n {client} addr add 10.77.0.11/24 dev eth0"));
    let script = sh(&format!("ip netns exec {client} curl -sf --max-time 10 {url}"));
    assert!(script.starts_with("#!ipxe\n"), "{script}");
    let binary = sh(&format!(
        "ip netns exec {client} curl -sf --max-time 10 tftp://10.77.0.1/undionly.kpxe | wc -c"
    ));
    assert_eq!(
        binary.trim(),
        std::fs::metadata("/usr/lib/ipxe/undionly.kpxe").unwrap().len().to_string()
    );
    let is_script = |one: &Served| {
        matches!(one, Served::Boot { resource: BootResource::Script, complete: true, .. })
    };
    let is_binary =
        |one: &Served| matches!(one, Served::Firmware { file, .. } if file == "undionly.kpxe");
    // The client may be done a moment before that is noted.
    let begun = Instant::now();
    while !(rack.served().iter().any(is_script) && rack.served().iter().any(is_binary)) {
        assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", rack.served());
        std::thread::sleep(Duration::from_millis(20));
    }

    sh(&format!(
        "ip -n {client} link set eth0 down address {STRANGER_MAC}; ip -n {client} link set eth0 up"
    ));
    assert_eq!(rack.udhcpc(&client, ""), None);
    assert_eq!(rack.udhcpc(&client, "-V PXEClient -r 10.77.0.11"), None);
    let seen = rack.targets.seen.lock().unwrap();
    assert!(
        seen.dhcp.iter().any(|s| s.mac.to_string() == STRANGER_MAC && s.client == Client::Pxe(0))
    );
    assert!(seen.leases.iter().all(|l| !format!("{l:?}").contains(STRANGER_MAC)));
}

#[test]
fn no_other_interface_is_served() {
    let rack = Rack::new("w-netboot-other", DhcpMode::Own, true);
    let client = rack.plug_in(NODE_MAC);
    // The same cable, but out of the bridge and with an address of its own.
    let ns = &rack.namespace;
    sh(&format!(
        "ip -n {ns} link set port-c nomaster; ip -n {ns} addr add 10.99.0.1/24 dev port-c
         ip -n {client} addr add 10.99.0.2/24 dev eth0; ip -n {client} route add 10.77.0.1 via 10.99.0.1"
    ));
    assert_eq!(rack.udhcpc(&client, ""), None);
    assert!(rack.targets.seen.lock().unwrap().dhcp.is_empty());
    let fetch = format!(
        "ip netns exec {client} ping -c1 -W2 10.77.0.1 >/dev/null 2>&1 || true
         ip netns exec {client} curl -s --max-time 3 http://10.77.0.1/boot/TOKEN/script || echo refused"
    );
    assert_eq!(sh(&fetch).trim(), "refused");
}

#[test]
fn a_second_server_on_a_missing_interface_says_what_is_missing() {
    let error = ra::Listener::bind("w-netboot-none").unwrap_err().to_string();
    assert!(error.contains("w-netboot-none"), "{error}");
    let mut config = config(DhcpMode::Own);
    config.networks[0].interface = "w-netboot-none".into();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let error = runtime.block_on(async { Sockets::bind(&config) }).unwrap_err().to_string();
    assert!(error.contains("DHCP") && error.contains("w-netboot-none"), "{error}");
}

/// Waits until `resource` was fetched whole; gives the seconds since `start`.
fn fetched(rack: &Rack, resource: BootResource, start: Instant, console: &Path) -> f64 {
    let is_it = |s: &Served| matches!(s, Served::Boot { resource: r, complete: true, .. } if *r == resource);
    while start.elapsed() < Duration::from_secs(240) {
        if rack.served().iter().any(is_it) {
            return start.elapsed().as_secs_f64();
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let text = std::fs::read(console).unwrap_or_default();
    panic!("no {resource} within 240 s; console:\n{}", String::from_utf8_lossy(&text));
}

/// Boots a node up to the end of its initramfs; gives the seconds from power-on to the script.
fn boot(rack: &Rack, firmware: Firmware) -> f64 {
    let console = rack.dir.path().join("console");
    // A program that the firmware can run, since iPXE refuses what it cannot.
    let kernel = match firmware {
        Firmware::Bios => "/usr/lib/ipxe/ipxe.lkrn",
        Firmware::Uefi => "/usr/lib/ipxe/ipxe.efi",
    };
    std::fs::copy(kernel, rack.dir.path().join("kernel")).expect("Debian's package ipxe");
    let start = Instant::now();
    let _qemu = rack.qemu(firmware, &console);
    let script = fetched(rack, BootResource::Script, start, &console);
    fetched(rack, BootResource::Initrd, start, &console);
    script
}

#[test]
#[ignore = "needs QEMU; run: cargo xtask e2e"]
fn a_bios_node_boots_through_dhcp_and_http_and_does_not_wait_for_ipv6() {
    let slow = boot(&Rack::new("w-netboot-slow", DhcpMode::Own, false), Firmware::Bios);
    let fast = boot(&Rack::new("w-netboot-fast", DhcpMode::Own, true), Firmware::Bios);
    eprintln!("script after power-on: {slow:.1} s without RA, {fast:.1} s with RA");
    assert!(fast + 5.0 < slow, "the RA saves nothing: {fast:.1} s against {slow:.1} s");
}

#[test]
#[ignore = "needs QEMU; run: cargo xtask e2e"]
fn a_bios_node_boots_in_a_network_where_somebody_else_gives_addresses() {
    let rack = Rack::new("w-netboot-proxy", DhcpMode::Proxy, true);
    let _foreign = rack.foreign_dhcp();
    let script = boot(&rack, Firmware::Bios);
    eprintln!("script after power-on: {script:.1} s by ProxyDHCP");
    assert!(rack.targets.seen.lock().unwrap().leases.is_empty());
}

#[test]
#[ignore = "needs QEMU and Debian's package ovmf; run: cargo xtask e2e"]
fn a_uefi_node_loads_ipxe_by_tftp_and_boots() {
    let rack = Rack::new("w-netboot-uefi", DhcpMode::Own, true);
    let script = boot(&rack, Firmware::Uefi);
    eprintln!("script after power-on: {script:.1} s by UEFI PXE");
    let is_ipxe = |s: &Served| matches!(s, Served::Firmware { file, .. } if file == "snponly.efi");
    assert!(rack.served().iter().any(is_ipxe));
}
