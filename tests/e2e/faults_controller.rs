//! What the controller must survive: its own death, garbage on every port, a full disk. Nodes that
//! boot get there, nodes that run notice nothing but a pause.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use tests::{CONTROLLER, NodeHw, Rack, RackSpec, files};

use crate::support::{self, Lab, boots, soon};

/// Bytes that are the same in each run: a xorshift generator.
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn bytes(&mut self, length: usize) -> Vec<u8> {
        (0..length).map(|_| self.next().to_le_bytes()[0]).collect()
    }

    fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % limit as u64).unwrap_or_default()
    }

    /// A well-formed message cut short, changed or grown.
    fn spoil(&mut self, message: &[u8]) -> Vec<u8> {
        let mut bytes = message.to_vec();
        match self.next() % 3 {
            0 => bytes.truncate(self.below(message.len())),
            1 => {
                for _ in 0..=self.below(8) {
                    let at = self.below(bytes.len());
                    bytes[at] = self.next().to_le_bytes()[0];
                }
            }
            _ => bytes.extend(self.bytes(60_000 - message.len())),
        }
        bytes
    }
}

#[test]
#[ignore = "needs QEMU; run: cargo xtask e2e --slow"]
fn slow_nodes_outlive_the_controllers_death_and_garbage_on_its_ports() -> Result<()> {
    let late = NodeHw { clock: Some("2001-02-03T04:05:06".into()), ..NodeHw::default() };
    let nodes = vec![NodeHw::default(), late];
    Rack::with(RackSpec::new("faults-death", nodes), |rack| {
        let mut lab = Lab::start(rack)?;
        killed_while_nodes_boot(&mut lab)?;
        clock_was_right(&lab)?;
        killed_while_a_node_reads(&mut lab)?;
        garbage(&lab)
    })
}

fn killed_while_nodes_boot(lab: &mut Lab<'_>) -> Result<()> {
    lab.switch("node[1-2]", "alice/work")?;
    for number in [1, 2] {
        let console = lab.rack.node(number).console.clone();
        console.wait_for("iPXE", Default::default(), support::BOOT)?;
    }
    lab.haasd.kill()?;
    lab.haasd.launch()?;
    // And once more where the agents are at work.
    lab.rack.node(1).console.wait_for("bootagent", Default::default(), support::BOOT)?;
    lab.haasd.kill()?;
    lab.haasd.launch()?;
    for number in [1, 2] {
        lab.wait_ready(&format!("node{number}"))?;
        let commands = lab.rack.node(number).bmc.power_commands();
        ensure!(commands.off == 0 && commands.reset == 0, "node{number}: {commands:?}");
    }
    Ok(())
}

/// node2's own clock is years behind; the store was made after the agent had set it.
fn clock_was_right(lab: &Lab<'_>) -> Result<()> {
    let now = || SystemTime::now().duration_since(UNIX_EPOCH).map(|now| now.as_secs());
    let before = now()?;
    let lines =
        lab.ssh("alice", "node2", "date +%s; stat -c %Y /run/haas/rank /home/alice/.ssh")?;
    let times: Vec<u64> = lines.lines().map(str::parse).collect::<Result<_, _>>()?;
    ensure!(times.len() == 3, "{lines}");
    ensure!(times.iter().all(|time| time.abs_diff(before) < 600), "{times:?} at {before}");
    Ok(())
}

/// A program reads pages that are not in its node's memory while the target is away for 20 s.
fn killed_while_a_node_reads(lab: &mut Lab<'_>) -> Result<()> {
    let boots_before = boots(lab, "node1")?.len();
    let file = lab.ssh("root", "node1", "find /usr/bin /bin -type f -size +500k | head -n 1")?;
    let file = file.trim().to_owned();
    let sum = lab.ssh("root", "node1", &format!("sha256sum {file}"))?;
    lab.ssh("root", "node1", "cat /bin/busybox /bin/bash > /dev/null")?;
    lab.haasd.kill()?;
    let read = format!("sync; echo 3 > /proc/sys/vm/drop_caches; sha256sum {file}; echo read=$?");
    let mut ssh = lab.ssh_command("root", "node1", &read)?;
    let mut reader = ssh.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let gone = Instant::now();
    // The length of the outage is the test's subject.
    std::thread::sleep(Duration::from_secs(20));
    ensure!(reader.try_wait()?.is_none(), "nothing had to be read; this test proves nothing");
    lab.haasd.launch()?;
    let mut ended = None;
    let back = soon("the reader to end", || {
        ended = reader.try_wait().ok().flatten();
        ended.is_some()
    });
    if back.is_err() {
        reader.kill()?;
    }
    let output = reader.wait_with_output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    back.with_context(|| format!("{} s after the kill: {text}", gone.elapsed().as_secs()))?;
    ensure!(text.contains(sum.trim()) && text.contains("read=0"), "{text}");
    lab.wait_ready("node1")?;
    ensure!(boots(lab, "node1")?.len() == boots_before, "the node was booted anew");
    let console = lab.rack.node(1).console.text();
    ensure!(!console.contains("I/O error"), "an error came through");
    Ok(())
}

fn garbage(lab: &Lab<'_>) -> Result<()> {
    lab.ok(&["power", "cycle", "node2", "--force"])?;
    let before = lab.haasd.memory()?.private;
    let mut rounds = 0;
    let mut noise = Noise(0x5eed_2545_f491_4f6c);
    let mut state = String::new();
    let start = Instant::now();
    // Until the node is there again, and at least long enough to have sent a lot.
    while (state != "ready" || rounds < 40) && start.elapsed() < support::BOOT {
        lab.rack.in_netns(|| throw(&mut noise))??;
        rounds += 1;
        let booted = boots(lab, "node2")?;
        state = if booted.len() > 1 { lab.state("node2") } else { "going down".to_owned() };
    }
    lab.wait_ready("node2")?;
    let after = lab.haasd.memory()?.private;
    let grown = after.saturating_sub(before) >> 20;
    ensure!(grown < 24, "{rounds} rounds of garbage cost {grown} MiB that stay");
    ensure!(!lab.haasd.log().contains("panicked"), "something panicked");
    Ok(())
}

/// One round: some of everything to every port.
fn throw(noise: &mut Noise) -> Result<()> {
    let at = |port: u16| SocketAddr::from((CONTROLLER, port));
    let udp = UdpSocket::bind("0.0.0.0:0")?;
    udp.set_broadcast(true)?;
    let mut discover = vec![1, 1, 6, 0, 9, 9, 9, 9];
    discover.resize(236, 0);
    discover.extend([99, 130, 83, 99, 53, 1, 1, 60, 9]);
    discover.extend(b"PXEClient");
    discover.extend([93, 2, 0, 0, 82, 255, 255]);
    let read = b"\0\x01../../etc/shadow\0octet\0blksize\x0065464\0tsize\x000\0".as_slice();
    for _ in 0..8 {
        let length = noise.below(2000);
        for (port, message) in [
            (67, noise.spoil(&discover)),
            (69, noise.spoil(read)),
            (4011, noise.spoil(&discover)),
            (67, noise.bytes(length)),
            (69, noise.bytes(length)),
        ] {
            // Refused by the network where it is too long; that is fine too.
            let _ = udp.send_to(&message, at(port));
            let _ = udp.send_to(&message, ("255.255.255.255", port));
        }
    }
    let mut login = vec![0x43, 0x87, 0, 0, 0, 0, 0, 40];
    login.resize(48, 0);
    login.extend(b"InitiatorName=iqn.x\0TargetName=iqn.y\0\0\0\0");
    let get = format!("GET /boot/{}/script HTTP/1.1\r\nHost: x\r\n\r\n", "A".repeat(26));
    let long = format!("GET /{} HTTP/1.1\r\nX: {}\r\n", "%2e%2e/".repeat(900), "y".repeat(60_000));
    for (port, message) in [
        (80, noise.spoil(get.as_bytes())),
        (80, long.clone().into_bytes()),
        (80, noise.bytes(3000)),
        (3260, noise.spoil(&login)),
        (3260, noise.bytes(70_000)),
        (3260, vec![0xff; 4096]),
        (8443, noise.bytes(5000)),
        (8443, get.into_bytes()),
        (8443, vec![0x16, 3, 1, 0xff, 0xff, 1, 0xff, 0xff, 0xff]),
    ] {
        let limit = Duration::from_secs(2);
        let mut stream = TcpStream::connect_timeout(&at(port), limit)
            .with_context(|| format!("port {port} is no longer served"))?;
        stream.set_read_timeout(Some(Duration::from_millis(20)))?;
        stream.set_write_timeout(Some(limit))?;
        // It may hang up in the middle, which is the best answer.
        let _ = stream.write_all(&message);
        let _ = stream.read(&mut [0; 4096]);
    }
    Ok(())
}

#[test]
#[ignore = "needs QEMU; run: cargo xtask e2e --slow"]
fn slow_a_full_controller_disk_is_told_of_and_leaves_nothing_behind() -> Result<()> {
    Rack::with(RackSpec::new("faults-full", vec![NodeHw::default()]), |rack| {
        let state = rack.dir().join("state");
        std::fs::create_dir_all(&state)?;
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=2g", "haas-faults"])
            .arg(&state)
            .status()?;
        ensure!(mounted.success(), "no tmpfs for the state folder");
        let lab = Lab::start_with(rack, "", files::nodes_toml(rack)?)?;
        full(&lab, &state)
    })
}

/// The names and digests of all images.
fn images(lab: &Lab<'_>) -> Result<Vec<String>> {
    let list = lab.json(&["image", "list"])?;
    let items = list["items"].as_array().context("a list of images")?;
    Ok(items.iter().map(|image| format!("{} {}", image["name"], image["digest"])).collect())
}

fn full(lab: &Lab<'_>, state: &std::path::Path) -> Result<()> {
    let before_images = images(lab)?;
    let used = || -> Result<u64> {
        let output = Command::new("du").args(["-sk", "--exclude=haas.db*"]).arg(state).output()?;
        let text = String::from_utf8(output.stdout)?;
        Ok(text.split_whitespace().next().context("du prints a size")?.parse()?)
    };
    let before = used()?;
    // Room for the node's boot, and not for another image.
    let size = format!("remount,size={}k", before + (120 << 10));
    ensure!(Command::new("mount").args(["-o", &size]).arg(state).status()?.success());
    // A tar that cannot fit, random so that no compression helps.
    let tar = lab.rack.dir().join("large.tar");
    let folder = lab.rack.dir().join("large");
    std::fs::create_dir_all(&folder)?;
    let mut noise = std::io::BufReader::new(std::fs::File::open("/dev/urandom")?).take(200 << 20);
    std::io::copy(&mut noise, &mut std::fs::File::create(folder.join("data"))?)?;
    let made = Command::new("tar").arg("-C").arg(&folder).arg("-cf").arg(&tar).arg(".").status()?;
    ensure!(made.success());
    lab.switch("node1", "none")?;
    let tar = tar.to_str().context("plain text")?;
    let text = lab.refused(1, &["image", "import", tar, "--name", "large"])?;
    ensure!(text.contains("controller") && text.contains("full"), "{text}");
    ensure!(text.contains("remove images"), "it does not say what to do: {text}");
    // The same for a tar that fits, whose contents beside it do not.
    let file = std::fs::File::options().write(true).open(folder.join("data"))?;
    file.set_len(80 << 20)?;
    let made = Command::new("tar").arg("-C").arg(&folder).arg("-cf").arg(tar).arg(".").status()?;
    ensure!(made.success());
    let text = lab.refused(1, &["image", "import", tar, "--name", "large"])?;
    ensure!(text.contains("full") && text.contains("remove images"), "{text}");
    lab.wait_ready("node1")?;
    soon("what was uploaded to be gone", || used().is_ok_and(|now| now <= before + 20_000))?;
    let names = images(lab)?;
    ensure!(names == before_images, "not {before_images:?} but {names:?}");
    Ok(())
}
