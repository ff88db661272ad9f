//! A real `ipmi_sim` on loopback, whose chassis script keeps a log of every order.

use std::{
    fs,
    net::{SocketAddr, UdpSocket},
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use tempfile::TempDir;

/// The simulator; it dies with this value, or with the thread that started it.
#[derive(Debug)]
pub(super) struct Sim {
    pub(super) bmc: SocketAddr,
    dir: TempDir,
    child: Child,
}

pub(super) const USER: &str = "admin";
pub(super) const PASSWORD: &str = "s3cret-of-bmc";

const CHASSIS: &str = r#"#!/bin/sh
# ipmi_sim calls: PROG DIR DEVICE get|set WHAT [VALUE]
dir=$1
shift 2
case "$1 $2" in
"get power") echo "power:$(cat "$dir/power")" ;;
"get boot") echo "boot:$(cat "$dir/boot")" ;;
"set power") echo "power $3" >>"$dir/log"; echo "$3" >"$dir/power"; sleep "$(cat "$dir/delay")" ;;
"set shutdown") echo "shutdown" >>"$dir/log"; echo 0 >"$dir/power" ;;
"set boot") echo "boot $3" >>"$dir/log"; echo "$3" >"$dir/boot" ;;
*) echo "$*" >>"$dir/log" ;;
esac
"#;

impl Sim {
    pub(super) fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        for (name, text) in [("power", "0"), ("boot", "none"), ("log", ""), ("delay", "0")] {
            fs::write(path(name), text).unwrap();
        }
        fs::create_dir(path("state")).unwrap();
        fs::write(path("chassis"), CHASSIS).unwrap();
        fs::set_permissions(path("chassis"), fs::Permissions::from_mode(0o700)).unwrap();
        fs::write(
            path("cmd.emu"),
            "mc_setbmc 0x20\nmc_add 0x20 0 no-device-sdrs 0x23 9 8 0x9f 0x1291 0xf02\n\
             sel_enable 0x20 1000 0x0a\nmc_enable 0x20\n",
        )
        .unwrap();

        let bmc = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let auths = "none md2 md5 straight";
        let here = dir.path().display();
        let lan = format!(
            "name \"test\"\nset_working_mc 0x20\n  startlan 1\n    addr {} {}\n    priv_limit admin\n    \
             allowed_auths_callback {auths}\n    allowed_auths_user {auths}\n    \
             allowed_auths_operator {auths}\n    allowed_auths_admin {auths}\n    \
             guid a123456789abcdefa123456789abcd01\n  endlan\n  \
             chassis_control \"{here}/chassis {here} 0x20\"\n  \
             user 1 false \"\" \"\" user 10 {auths}\n  \
             user 2 true \"{USER}\" \"{PASSWORD}\" admin 10 {auths}\n  \
             user 3 true \"guest\" \"{PASSWORD}\" user 10 {auths}\n",
            bmc.ip(),
            bmc.port(),
        );
        fs::write(path("lan.conf"), lan).unwrap();

        // Die with the test, however it ends.
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "ipmi_sim", "-n", "-c"])
            .arg(path("lan.conf"))
            .arg("-f")
            .arg(path("cmd.emu"))
            .arg("-s")
            .arg(path("state"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("ipmi_sim (package openipmi) and setpriv (util-linux) are needed");
        let sim = Self { bmc, dir, child };
        sim.wait_for_pong();
        sim
    }

    /// Where files of the test may be put.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// What the chassis was told, in order.
    pub(super) fn log(&self) -> Vec<String> {
        fs::read_to_string(self.path("log")).unwrap().lines().map(str::to_owned).collect()
    }

    /// Makes each power order take this long.
    pub(super) fn delay(&self, seconds: &str) {
        fs::write(self.path("delay"), seconds).unwrap();
    }

    fn wait_for_pong(&self) {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        socket.connect(self.bmc).unwrap();
        let ping = [6, 0, 0xFF, 6, 0, 0, 0x11, 0xBE, 0x80, 0, 0, 0];
        let started = Instant::now();
        while started.elapsed() < Duration::from_secs(20) {
            if socket.send(&ping).is_ok() && socket.recv(&mut [0; 64]).is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("ipmi_sim does not answer on {}", self.bmc);
    }
}

impl Drop for Sim {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
