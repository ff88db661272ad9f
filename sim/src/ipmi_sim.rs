//! Debian's `ipmi_sim` on loopback: a BMC that none of us wrote. It has cipher suite 3 only, does not
//! answer Get Channel Cipher Suites, and asks a script to switch its machine, which keeps a log of every order.

use std::{
    fs,
    net::{SocketAddr, UdpSocket},
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

/// The simulator; it dies with this value, or with the thread that started it.
#[derive(Debug)]
pub struct IpmiSim {
    address: SocketAddr,
    dir: TempDir,
    child: Child,
}

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

/// A BMC with a temperature (96 degrees), a power supply that is there, one uncorrectable memory error in
/// its log, and a board on file.
const EMULATION: &str = r"mc_setbmc 0x20
mc_add 0x20 0 no-device-sdrs 0x23 9 8 0x9f 0x1291 0xf02
sel_enable 0x20 1000 0x0a
sensor_add 0x20 0 1 0x01 0x01
sensor_set_value 0x20 0 1 0x60 0
sensor_set_threshold 0x20 0 1 settable 111000 0xe0 0xd0 0xc0 00 00 00
sensor_set_event_support 0x20 0 1 enable scanning per-state 000111111000000 000111111000000 \
    000111111000000 000111111000000
main_sdr_add 0x20 0x00 0x00 0x51 0x01 0x37 0x20 0x00 0x01 0x07 0x01 0x7f 0xc8 0x01 0x01 0x00 \
    0x70 0x00 0x70 0x38 0x38 0x00 0x01 0x00 0x00 0x01 0x00 0x00 0x00 0x00 0x00 0x00 0x00 \
    0x00 0x00 0x00 0x00 0x00 0x00 0x00 0x00 0x00 0x00 0x00 0x00 0x00 0x00 0x00 0xcc 0x52 \
    0x65 0x66 0x65 0x72 0x65 0x65 0x20 0x54 0x65 0x6d 0x70
sensor_add 0x20 0 2 0x08 0x6f
sensor_set_event_support 0x20 0 2 enable scanning per-state 000000000001111 000000000001111 \
    000000000001111 000000000001111
sensor_set_bit 0x20 0 2 0 1 0
main_sdr_add 0x20 0x00 0x00 0x51 0x02 0x1e 0x20 0x00 0x02 0x07 0x01 0x63 0x40 0x08 0x6f 0x0f \
    0x00 0x0f 0x00 0x0f 0x00 0x00 0x00 0x00 0x01 0x00 0x00 0x00 0x00 0x00 0x00 0x00 0xc3 \
    0x50 0x53 0x55
sel_add 0x20 0x02 0x00 0x00 0x00 0x60 0x20 0x00 0x04 0x0c 0x03 0x6f 0x01 0xff 0xff
mc_add_fru_data 0x20 0 40 data 0x01 0x00 0x00 0x01 0x00 0x00 0x00 0xfe 0x01 0x04 0x00 0x00 \
    0x00 0x00 0xc7 0x52 0x65 0x66 0x65 0x72 0x65 0x65 0xc7 0x42 0x4f 0x41 0x52 0x44 0x2d \
    0x31 0xc3 0x42 0x37 0x37 0xc2 0x50 0x31 0xc1 0x00 0x72
mc_enable 0x20
";

impl IpmiSim {
    /// The administrator's name.
    pub const USER: &str = "admin";
    /// A user who may only look; the password is the same.
    pub const GUEST: &str = "guest";
    /// The password of both.
    pub const PASSWORD: &str = "s3cret-of-bmc";

    /// Starts one, and waits until it answers.
    ///
    /// # Errors
    /// When `ipmi_sim` (package openipmi) or `setpriv` (util-linux) is missing, or it does not answer.
    pub fn start() -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let path = |name: &str| dir.path().join(name);
        for (name, text) in [("power", "0"), ("boot", "none"), ("log", ""), ("delay", "0")] {
            fs::write(path(name), text)?;
        }
        fs::create_dir(path("state"))?;
        fs::write(path("chassis"), CHASSIS)?;
        fs::set_permissions(path("chassis"), fs::Permissions::from_mode(0o700))?;
        fs::write(path("cmd.emu"), EMULATION)?;
        let address = UdpSocket::bind("127.0.0.1:0")?.local_addr()?;
        fs::write(path("lan.conf"), lan_conf(address, &dir.path().display().to_string()))?;

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
            .context("ipmi_sim (package openipmi) and setpriv (util-linux) are needed")?;
        let sim = Self { address, dir, child };
        sim.wait_for_pong()?;
        Ok(sim)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where files of the test may be put.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// What the chassis was told, in order: `power 1`, `shutdown`, `boot pxe` and so on.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn log(&self) -> Result<Vec<String>> {
        Ok(fs::read_to_string(self.path("log"))?.lines().map(str::to_owned).collect())
    }

    /// Makes each power order take this long.
    ///
    /// # Errors
    /// When that cannot be written.
    pub fn delay(&self, seconds: &str) -> Result<()> {
        Ok(fs::write(self.path("delay"), seconds)?)
    }

    fn wait_for_pong(&self) -> Result<()> {
        let socket = UdpSocket::bind("127.0.0.1:0")?;
        socket.set_read_timeout(Some(Duration::from_millis(50)))?;
        socket.connect(self.address)?;
        let ping = [6, 0, 0xFF, 6, 0, 0, 0x11, 0xBE, 0x80, 0, 0, 0];
        let started = Instant::now();
        while started.elapsed() < Duration::from_secs(20) {
            if socket.send(&ping).is_ok() && socket.recv(&mut [0; 64]).is_ok() {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        bail!("ipmi_sim does not answer on {}", self.address)
    }
}

fn lan_conf(address: SocketAddr, here: &str) -> String {
    let auths = "none md2 md5 straight";
    let (user, guest, password) = (IpmiSim::USER, IpmiSim::GUEST, IpmiSim::PASSWORD);
    format!(
        "name \"test\"\nset_working_mc 0x20\n  startlan 1\n    addr {} {}\n    priv_limit admin\n    \
         allowed_auths_callback {auths}\n    allowed_auths_user {auths}\n    \
         allowed_auths_operator {auths}\n    allowed_auths_admin {auths}\n    \
         guid a123456789abcdefa123456789abcd01\n  endlan\n  \
         chassis_control \"{here}/chassis {here} 0x20\"\n  \
         user 1 false \"\" \"\" user 10 {auths}\n  \
         user 2 true \"{user}\" \"{password}\" admin 10 {auths}\n  \
         user 3 true \"{guest}\" \"{password}\" user 10 {auths}\n",
        address.ip(),
        address.port(),
    )
}

impl Drop for IpmiSim {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
