//! OpenStack's Redfish emulator, sushy-tools, with its fake systems: a BMC that none of us wrote.

use std::{
    fs,
    net::{SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use rcgen::{CertificateParams, KeyPair};
use sha2::{Digest, Sha256};
use tempfile::TempDir;

/// The emulator; it ends with this value, or with the thread that started it.
#[derive(Debug)]
pub struct Sushy {
    address: SocketAddr,
    fingerprint: String,
    dir: TempDir,
    child: Child,
}

impl Sushy {
    /// The administrator's name.
    pub const USER: &str = "admin";
    /// Its password.
    pub const PASSWORD: &str = "s3cret-of-sushy";
    /// The only system.
    pub const SYSTEM: &str = "11111111-2222-3333-4444-555555555555";

    /// Starts one with one system, and waits until it answers.
    ///
    /// # Errors
    /// When it was not installed by `cargo xtask setup`, or does not answer.
    pub fn start() -> Result<Self> {
        let program = program();
        ensure!(
            program.exists(),
            "{} is missing; `cargo xtask setup` installs it",
            program.display()
        );
        let dir = tempfile::tempdir()?;
        let path = |name: &str| dir.path().join(name);
        let key = KeyPair::generate()?;
        let certificate = CertificateParams::new(vec!["sushy".to_owned()])?.self_signed(&key)?;
        let fingerprint = hex::encode(Sha256::digest(certificate.der()));
        fs::write(path("cert.pem"), certificate.pem())?;
        fs::write(path("key.pem"), key.serialize_pem())?;
        // The password with bcrypt would need a library; its digest is made by Python's.
        let hashed = Command::new(program.with_file_name("python3"))
            .args(["-c", HASH, Self::PASSWORD])
            .output()?;
        ensure!(hashed.status.success(), "{}", String::from_utf8_lossy(&hashed.stderr));
        let line = format!("{}:{}", Self::USER, String::from_utf8_lossy(&hashed.stdout).trim());
        fs::write(path("htpasswd"), line)?;
        let here = dir.path().display();
        fs::write(
            path("config.py"),
            format!(
                "{CONFIG}SUSHY_EMULATOR_AUTH_FILE = '{here}/htpasswd'\nSUSHY_EMULATOR_STATE_DIR = '{here}'\n"
            ),
        )?;
        let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let log = fs::File::create(path("log"))?;
        // Die with the test, however it ends.
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL"])
            .arg(&program)
            .args(["--fake", "--interface", "127.0.0.1", "--port", &address.port().to_string()])
            .arg("--config")
            .arg(path("config.py"))
            .arg("--ssl-certificate")
            .arg(path("cert.pem"))
            .arg("--ssl-key")
            .arg(path("key.pem"))
            .current_dir(dir.path())
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("setpriv (util-linux) is needed")?;
        let sushy = Self { address, fingerprint, dir, child };
        sushy.wait()?;
        Ok(sushy)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The SHA-256 of its certificate.
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// What it was asked, as its log has it.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn log(&self) -> Result<String> {
        Ok(fs::read_to_string(self.dir.path().join("log"))?)
    }

    fn wait(&self) -> Result<()> {
        let started = Instant::now();
        while started.elapsed() < Duration::from_secs(60) {
            if TcpStream::connect(self.address).is_ok() {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        bail!("sushy-emulator does not answer on {}:\n{}", self.address, self.log()?)
    }
}

/// Where `cargo xtask setup` puts it.
fn program() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/sushy-tools/bin/sushy-emulator")
}

const HASH: &str =
    "import bcrypt, sys; print(bcrypt.hashpw(sys.argv[1].encode(), bcrypt.gensalt(4)).decode())";

/// Its power changes one second after the order, in place of a random time up to eleven.
const CONFIG: &str = "\
import random
random.randint = lambda least, most: least
SUSHY_EMULATOR_FAKE_DRIVER = True
SUSHY_EMULATOR_FAKE_SYSTEMS = [{
    'uuid': '11111111-2222-3333-4444-555555555555',
    'name': 'fake1',
    'power_state': 'Off',
    'external_notifier': False,
    'nics': [{'mac': '00:5c:52:31:3a:9c', 'ip': '172.22.0.100'}],
}]
";

impl Drop for Sushy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
