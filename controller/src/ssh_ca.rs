//! The cluster's ssh authorities: one key signs the nodes' host keys, so that ssh knows every node
//! that it has never seen; another one signs the keys with which users go from node to node.
//!
//! Both are made at the first start and lie in the state directory as OpenSSH keeps private keys. What
//! a certificate is for is decided in `boots`; here it is only made. The format is OpenSSH's
//! (PROTOCOL.certkeys).

use std::path::{Path, PathBuf};

use haas_api::names::UserName;
use rand::RngCore as _;
use ssh_key::{
    LineEnding, PrivateKey, PublicKey,
    certificate::{Builder, CertType},
    private::Ed25519Keypair,
};

use crate::{
    model::{Micros, SECOND},
    secret::Secret,
    tokens::write_private,
};

const DAY: u64 = 24 * 60 * 60;
/// How long a certificate holds. A node asks for new ones after a third of it, so one that runs on
/// while haasd is away for weeks still has one that holds.
const HOLDS: u64 = 90 * DAY;
/// Seconds after which a node asks for new certificates.
pub const RENEW_IN: u64 = 30 * DAY;
/// It holds from a day before, for clients whose clocks are late.
const EARLIER: u64 = DAY;
/// A public key of 16384 bits of RSA has less than 3 KiB.
const MOST: usize = 4096;

/// What ssh-keygen lets a user's certificate do when nobody says anything.
const USUAL: [&str; 5] = [
    "permit-X11-forwarding",
    "permit-agent-forwarding",
    "permit-port-forwarding",
    "permit-pty",
    "permit-user-rc",
];

/// Why there is no authority, or no certificate.
#[derive(Debug, thiserror::Error)]
pub enum SshCaError {
    /// The file in the state directory.
    #[error("cannot read or write the key of the ssh authority in {path}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// There is something else in it.
    #[error(
        "{path} is no ed25519 private key of OpenSSH without a passphrase; restore it from the backup, or \
         remove it: haasd then makes a new one, and all who trust the old one have to be told"
    )]
    NoKey {
        /// The file.
        path: PathBuf,
    },
    /// What was to be signed is no public key.
    #[error("what was to be signed is no ssh public key")]
    NoPublicKey,
    /// It could not be made or signed.
    #[error("cannot make a certificate")]
    Sign(#[from] ssh_key::Error),
}

/// The two authorities.
#[derive(Debug)]
pub struct SshCa {
    hosts: Secret<PrivateKey>,
    users: Secret<PrivateKey>,
    host_ca: String,
    user_ca: String,
}

/// A certificate, and until when it holds on the wall clock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    /// As `ssh-keygen -s` writes it, one line.
    pub text: String,
    /// Its end.
    pub until: Micros,
}

impl SshCa {
    /// Reads `ssh-host-ca.key` and `ssh-user-ca.key` in `folder`, or makes them.
    ///
    /// # Errors
    /// When a file cannot be read or written, or holds no such key.
    pub fn open(folder: &Path) -> Result<Self, SshCaError> {
        let hosts = open_key(&folder.join("ssh-host-ca.key"))?;
        let users = open_key(&folder.join("ssh-user-ca.key"))?;
        let (host_ca, user_ca) = (public_half(&hosts)?, public_half(&users)?);
        Ok(Self { hosts: Secret::new(hosts), users: Secret::new(users), host_ca, user_ca })
    }

    /// The public key that host certificates are checked with, `ssh-ed25519 AAAA…`.
    pub fn host_ca(&self) -> &str {
        &self.host_ca
    }

    /// The public key that users' certificates are checked with, `ssh-ed25519 AAAA…`.
    pub fn user_ca(&self) -> &str {
        &self.user_ca
    }

    /// Signs a host key for these names and addresses. `id` stands in the client's log.
    ///
    /// # Errors
    /// When `key` is no public key.
    pub fn certify_host(
        &self,
        key: &PublicKey,
        names: &[String],
        id: &str,
        now: Micros,
    ) -> Result<Certificate, SshCaError> {
        let (mut builder, until) = begin(key, CertType::Host, id, now)?;
        for name in names {
            builder.valid_principal(name)?;
        }
        end(builder, until, self.hosts.expose())
    }

    /// Signs a user's key, which opens the account `login` on the nodes of `set`.
    ///
    /// # Errors
    /// When `key` is no public key.
    pub fn certify_user(
        &self,
        key: &PublicKey,
        set: &str,
        login: &UserName,
        id: &str,
        now: Micros,
    ) -> Result<Certificate, SshCaError> {
        let (mut builder, until) = begin(key, CertType::User, id, now)?;
        builder.valid_principal(format!("{set}/{login}"))?;
        for extension in USUAL {
            builder.extension(extension, "")?;
        }
        end(builder, until, self.users.expose())
    }
}

/// Reads one line of `authorized_keys` without options.
///
/// # Errors
/// When it is none.
pub fn public_key(line: &str) -> Result<PublicKey, SshCaError> {
    let line = line.trim();
    let sane = line.len() <= MOST && !line.contains(|c: char| c.is_control());
    let key = sane.then(|| PublicKey::from_openssh(line));
    let mut key = key.ok_or(SshCaError::NoPublicKey)?.map_err(|_| SshCaError::NoPublicKey)?;
    // Whatever the node's user has written behind the key is of no use here.
    key.set_comment("");
    Ok(key)
}

fn begin(
    key: &PublicKey,
    kind: CertType,
    id: &str,
    now: Micros,
) -> Result<(Builder, u64), SshCaError> {
    let mut random = [0; 24];
    rand::rng().fill_bytes(&mut random);
    let (nonce, serial) = random.split_at(Builder::RECOMMENDED_NONCE_SIZE);
    let now = u64::try_from(now / SECOND).unwrap_or(0);
    let until = now + HOLDS;
    let mut builder =
        Builder::new(nonce, key.key_data().clone(), now.saturating_sub(EARLIER), until)?;
    builder.cert_type(kind)?.key_id(id)?;
    builder.serial(u64::from_be_bytes(serial.try_into().expect("eight of them are left")))?;
    Ok((builder, until))
}

fn end(builder: Builder, until: u64, key: &PrivateKey) -> Result<Certificate, SshCaError> {
    let text = builder.sign(key)?.to_openssh()?;
    let until = Micros::try_from(until).unwrap_or(Micros::MAX).saturating_mul(SECOND);
    Ok(Certificate { text: text.trim_end().to_owned(), until })
}

fn open_key(path: &Path) -> Result<PrivateKey, SshCaError> {
    let file = |source| SshCaError::File { path: path.to_owned(), source };
    match std::fs::read(path) {
        Ok(text) => {
            let key = PrivateKey::from_openssh(text).ok();
            let key = key.filter(|key| key.key_data().ed25519().is_some());
            key.ok_or_else(|| SshCaError::NoKey { path: path.to_owned() })
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let mut seed = [0; 32];
            rand::rng().fill_bytes(&mut seed);
            let key = PrivateKey::from(Ed25519Keypair::from_seed(&seed));
            write_private(path, key.to_openssh(LineEnding::LF)?.as_bytes()).map_err(file)?;
            Ok(key)
        }
        Err(error) => Err(file(error)),
    }
}

fn public_half(key: &PrivateKey) -> Result<String, SshCaError> {
    let mut public = key.public_key().clone();
    public.set_comment("");
    Ok(public.to_openssh()?.trim_end().to_owned())
}

#[cfg(test)]
mod tests {
    use std::{os::unix::fs::PermissionsExt as _, process::Command};

    use super::*;

    /// 2026-11-27 00:00:00 UTC.
    const NOW: Micros = 1_795_737_600 * SECOND;

    fn authority() -> (tempfile::TempDir, SshCa) {
        let dir = tempfile::tempdir().unwrap();
        let ca = SshCa::open(dir.path()).unwrap();
        (dir, ca)
    }

    fn somebodys_key() -> PublicKey {
        let mut seed = [0; 32];
        rand::rng().fill_bytes(&mut seed);
        PrivateKey::from(Ed25519Keypair::from_seed(&seed)).public_key().clone()
    }

    /// What `ssh-keygen -L` says of a certificate, its lines without their indentation.
    fn read_by_openssh(certificate: &Certificate) -> Vec<String> {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("key-cert.pub");
        std::fs::write(&file, format!("{}\n", certificate.text)).unwrap();
        let mut keygen = Command::new("ssh-keygen");
        let output = keygen.env("TZ", "UTC").arg("-L").arg("-f").arg(&file).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        text.lines().skip(1).map(|line| line.trim().to_owned()).collect()
    }

    #[test]
    fn the_keys_are_made_once_and_nobody_else_may_read_them() {
        let (dir, ca) = authority();
        for name in ["ssh-host-ca.key", "ssh-user-ca.key"] {
            let path = dir.path().join(name);
            let mode = std::fs::metadata(&path).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{name}");
            let text = std::fs::read_to_string(path).unwrap();
            assert!(text.starts_with("-----BEGIN OPENSSH PRIVATE KEY-----\n"), "{name}");
        }
        let again = SshCa::open(dir.path()).unwrap();
        assert_eq!((again.host_ca(), again.user_ca()), (ca.host_ca(), ca.user_ca()));
        assert_ne!(ca.host_ca(), ca.user_ca());
        assert!(!format!("{ca:?}").contains("PRIVATE"), "{ca:?}");
    }

    #[test]
    fn a_file_that_is_no_key_is_refused_and_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ssh-host-ca.key");
        std::fs::write(&path, "hunter2").unwrap();
        let told = SshCa::open(dir.path()).unwrap_err().to_string();
        assert!(told.contains("ssh-host-ca.key") && !told.contains("hunter2"), "{told}");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "hunter2");
    }

    #[test]
    fn openssh_reads_a_host_certificate_with_its_names_and_its_end() {
        let (_dir, ca) = authority();
        let names = ["n01", "n01.lab.example", "10.77.0.11"].map(str::to_owned);
        let made = ca.certify_host(&somebodys_key(), &names, "node n01, boot b1", NOW).unwrap();
        let read = read_by_openssh(&made);
        assert_eq!(read[0], "Type: ssh-ed25519-cert-v01@openssh.com host certificate");
        let has = |line: &str| assert!(read.iter().any(|l| l == line), "no {line:?} in {read:#?}");
        has("Key ID: \"node n01, boot b1\"");
        has("Valid: from 2026-11-26T00:00:00 to 2027-02-25T00:00:00");
        for name in &names {
            has(name);
        }
        has("Critical Options: (none)");
        let ca_line = read.iter().find(|line| line.starts_with("Signing CA: ED25519")).unwrap();
        let expected = public_key(ca.host_ca()).unwrap().fingerprint(ssh_key::HashAlg::Sha256);
        assert!(ca_line.contains(&expected.to_string()), "{ca_line} is not {expected}");
        assert_eq!(made.until, NOW + 90 * 24 * 3600 * SECOND);
    }

    #[test]
    fn openssh_reads_a_users_certificate_that_opens_one_account_of_one_set() {
        let (_dir, ca) = authority();
        let alice = "alice".parse().unwrap();
        let made = ca.certify_user(&somebodys_key(), "01O", &alice, "alice", NOW).unwrap();
        let read = read_by_openssh(&made);
        assert_eq!(read[0], "Type: ssh-ed25519-cert-v01@openssh.com user certificate");
        let at = read.iter().position(|line| line == "Principals:").unwrap();
        assert_eq!(
            (read[at + 1].as_str(), read[at + 2].as_str()),
            ("01O/alice", "Critical Options: (none)")
        );
        for extension in USUAL {
            assert!(read.iter().any(|line| line == extension), "no {extension} in {read:#?}");
        }
    }

    #[test]
    fn every_kind_of_host_key_that_servers_have_is_signed() {
        let (_dir, ca) = authority();
        let dir = tempfile::tempdir().unwrap();
        for (kind, bits) in
            [("rsa", "2048"), ("ecdsa", "256"), ("ecdsa", "521"), ("ed25519", "256")]
        {
            let file = dir.path().join(format!("{kind}{bits}"));
            let mut keygen = Command::new("ssh-keygen");
            keygen.args(["-q", "-t", kind, "-b", bits, "-N", "", "-f"]).arg(&file);
            assert!(keygen.status().unwrap().success(), "{kind} {bits}");
            let line = std::fs::read_to_string(file.with_extension("pub")).unwrap();
            let key = public_key(&line).unwrap();
            let made = ca.certify_host(&key, &["n01".to_owned()], "n01", NOW).unwrap();
            assert!(read_by_openssh(&made)[0].ends_with("host certificate"), "{kind} {bits}");
        }
    }

    #[test]
    fn what_is_no_public_key_is_not_signed() {
        let good = somebodys_key().to_openssh().unwrap();
        let two = format!("{good}\n{good}");
        let long = format!("{good} {}", "x".repeat(MOST));
        for bad in ["", "ssh-ed25519", "ssh-ed25519 AAAA", "cert-authority", &two, &long] {
            assert!(matches!(public_key(bad), Err(SshCaError::NoPublicKey)), "{bad:?}");
        }
        let with_comment = public_key(&format!("{good} root@image\n")).unwrap();
        assert_eq!(with_comment.to_openssh().unwrap().trim_end(), good.trim_end());
    }
}
