//! What OpenSSH on a node reads: the certificates of its server, whom its client trusts, and which key
//! it shows to the other nodes.
//!
//! OpenSSH reads folders of small files where its own file says so, as Debian's and the Enterprise
//! Linux family's do since 2021. In an older one our lines stand in that file itself, at its top: what
//! is said first counts.

use std::{
    fs, io,
    os::unix::fs::{MetadataExt as _, lchown},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use haas_api::agent::{BootPlan, SshCertificates, SshPlan};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::{Found, keys::with_end};
use crate::{
    files::{block, replace},
    labels,
};

const OURS: &str = "10-haas.conf";
const KNOWN_HOSTS: &str = "etc/ssh/ssh_known_hosts";
const SSHD: [&str; 3] = ["usr/sbin/sshd", "usr/local/sbin/sshd", "sbin/sshd"];

/// Writes certificates beside their keys, and tells the server of its own.
pub(super) fn install(root: &Path, found: &Found, made: &SshCertificates) -> io::Result<()> {
    let mut written = Vec::new();
    let mut lines = String::new();
    let host = found.host.iter().map(|(file, _)| file).zip(&made.host);
    for (file, certificate) in host {
        let Some(certificate) = certificate else { continue };
        let path = with_end(file, "-cert.pub");
        replace(&root.join(&path), 0o644, &format!("{certificate}\n"))?;
        lines += &format!("HostCertificate /{}\n", path.display());
        written.push(path);
    }
    if !lines.is_empty() {
        written.push(configure(root, "sshd_config", &lines)?);
    }
    let users = found.users.iter().map(|(file, _)| file).zip(&made.users);
    for (file, certificate) in users {
        let Some(certificate) = certificate else { continue };
        let path = with_end(file, "-cert.pub");
        replace(&root.join(&path), 0o644, &format!("{certificate}\n"))?;
        let owner = fs::symlink_metadata(root.join(file))?;
        lchown(root.join(&path), Some(owner.uid()), Some(owner.gid()))?;
        written.push(path);
    }
    labels::write(root, &written)
}

/// Tells the node's ssh client whom it may trust and which key to show, and answers what was written.
/// Nothing in an image without OpenSSH.
pub(crate) fn write_client(root: &Path, plan: &BootPlan) -> io::Result<Vec<PathBuf>> {
    let Some(ssh) = plan.ssh.as_ref().filter(|_| root.join("etc/ssh").is_dir()) else {
        return Ok(Vec::new());
    };
    let known = root.join(KNOWN_HOSTS);
    let old = fs::read_to_string(&known).unwrap_or_default();
    replace(&known, 0o644, &block(&old, &[known_hosts(plan, ssh)]))?;
    let config = configure(root, "ssh_config", &client(plan))?;
    Ok(vec![KNOWN_HOSTS.into(), config])
}

/// The line of `known_hosts` that makes every node known.
fn known_hosts(plan: &BootPlan, ssh: &SshPlan) -> String {
    format!("@cert-authority {} {}", names(plan).join(","), ssh.host_ca)
}

/// Every name and address that a node of the cluster has.
fn names(plan: &BootPlan) -> Vec<String> {
    let mut names = Vec::new();
    for (address, node) in &plan.net.hosts {
        names.push(node.to_string());
        names.extend(plan.net.domain.as_ref().map(|domain| format!("{node}.{domain}")));
        names.push(address.to_string());
    }
    names
}

/// To a node, the key of this one is shown first. Named once, keys are not looked for in their usual
/// places any more, so these stand here too.
fn client(plan: &BootPlan) -> String {
    let keys: String = ["id_haas", "id_ed25519", "id_ecdsa", "id_rsa"]
        .iter()
        .map(|key| format!("    IdentityFile ~/.ssh/{key}\n"))
        .collect();
    // What follows in a file that we share with others is for all hosts again.
    format!("Host {}\n{keys}Host *\n", names(plan).join(" "))
}

/// Gives OpenSSH lines of ours, and answers the file that has them.
fn configure(root: &Path, file: &str, lines: &str) -> io::Result<PathBuf> {
    let main = Path::new("etc/ssh").join(file);
    let text = fs::read_to_string(root.join(&main)).unwrap_or_default();
    let own = PathBuf::from(format!("etc/ssh/{file}.d/{OURS}"));
    if includes(&text, file) {
        let text = format!("# Written by haas at each boot.\n{lines}");
        replace(&root.join(&own), 0o644, &text)?;
        return Ok(own);
    }
    let mode = fs::metadata(root.join(&main)).map_or(0o644, |m| m.mode() & 0o7777);
    let rest = block(&text, &[]);
    let ours = block("", &lines.lines().map(str::to_owned).collect::<Vec<_>>());
    replace(&root.join(&main), mode, &format!("{ours}{rest}"))?;
    Ok(main)
}

/// Whether a configuration reads the files of its folder before anything that is for some hosts only.
fn includes(text: &str, file: &str) -> bool {
    let folder = format!("{file}.d/*.conf");
    for line in text.lines() {
        let mut words = line.split([' ', '\t', '=']).filter(|word| !word.is_empty());
        match words.next().map(str::to_ascii_lowercase).as_deref() {
            Some("include") if words.any(|path| path.trim_matches('"').ends_with(&folder)) => {
                return true;
            }
            Some("match" | "host") => return false,
            _ => {}
        }
    }
    false
}

/// Has the ssh server that runs read its files anew, if it could also start with them. Connections
/// stay.
pub(super) fn reload(root: &Path) -> Result<(), String> {
    let Some(sshd) = SSHD.iter().map(|path| root.join(path)).find(|path| path.exists()) else {
        return Ok(());
    };
    let test = Command::new(&sshd).arg("-t").stdin(Stdio::null()).output();
    let test = test.map_err(|e| format!("{} cannot be run: {e}", sshd.display()))?;
    if !test.status.success() {
        let text = String::from_utf8_lossy(&test.stderr).trim().to_owned();
        return Err(format!(
            "the ssh server was not told of its certificates: sshd -t says {text}"
        ));
    }
    for pid in servers(&root.join("proc")) {
        // One that has just ended needs nothing.
        let _ = kill(Pid::from_raw(pid), Signal::SIGHUP);
    }
    Ok(())
}

/// The ssh servers that the node's init has started; each connection has a process below them.
fn servers(proc: &Path) -> Vec<i32> {
    let Ok(entries) = fs::read_dir(proc) else { return Vec::new() };
    let is_server = |pid: &i32| {
        let stat = fs::read_to_string(proc.join(pid.to_string()).join("stat")).unwrap_or_default();
        let behind = stat.split_once(" (sshd) ").map(|(_, behind)| behind);
        behind.and_then(|behind| behind.split(' ').nth(1)) == Some("1")
    };
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(is_server).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::chown;

    use haas_api::agent::{SshHostKey, SshUserKey};

    use super::*;

    const DEBIAN: &str = "# sshd\nInclude /etc/ssh/sshd_config.d/*.conf\nUsePAM yes\n";
    const OLD: &str = "Port 22\nMatch User x\n  Include /etc/ssh/sshd_config.d/*.conf\n";

    fn root(sshd_config: &str) -> tempfile::TempDir {
        let root = tempfile::tempdir().expect("root");
        for folder in ["etc/ssh", "home/alice/.ssh"] {
            fs::create_dir_all(root.path().join(folder)).expect("folder");
        }
        fs::write(root.path().join("etc/ssh/sshd_config"), sshd_config).expect("config");
        root
    }

    fn read(root: &tempfile::TempDir, file: &str) -> String {
        fs::read_to_string(root.path().join(file)).unwrap_or_else(|e| panic!("{file}: {e}"))
    }

    /// A server with three keys, of which one cannot be certified, and a user with one.
    fn found() -> (Found, SshCertificates) {
        let host = |kind: &str, certify| {
            let file = PathBuf::from(format!("etc/ssh/ssh_host_{kind}_key"));
            (file, SshHostKey { key: format!("ssh-{kind} AAAA"), certify })
        };
        let login = "alice".parse().expect("a name");
        let user = SshUserKey { login, key: "ssh-ed25519 AAAB".into() };
        let found = Found {
            host: vec![host("dsa", true), host("ed25519", true), host("rsa", true)],
            users: vec![("home/alice/.ssh/id_haas".into(), user)],
        };
        let made = SshCertificates {
            host: vec![None, Some("cert of ed25519".into()), Some("cert of rsa".into())],
            users: vec![Some("cert of alice".into())],
            renew_in_s: 1,
        };
        (found, made)
    }

    #[test]
    fn certificates_lie_beside_their_keys_and_the_server_is_told() {
        let root = root(DEBIAN);
        let key = root.path().join("home/alice/.ssh/id_haas");
        fs::write(&key, "private").expect("a key");
        chown(&key, Some(10_001), Some(10_001)).expect("tests run as root");
        let (found, made) = found();
        install(root.path(), &found, &made).expect("certificates");
        assert_eq!(read(&root, "etc/ssh/ssh_host_ed25519_key-cert.pub"), "cert of ed25519\n");
        assert_eq!(
            read(&root, "etc/ssh/sshd_config.d/10-haas.conf"),
            "# Written by haas at each boot.\n\
             HostCertificate /etc/ssh/ssh_host_ed25519_key-cert.pub\n\
             HostCertificate /etc/ssh/ssh_host_rsa_key-cert.pub\n"
        );
        assert_eq!(read(&root, "etc/ssh/sshd_config"), DEBIAN, "the image's file stays");
        assert!(!root.path().join("etc/ssh/ssh_host_dsa_key-cert.pub").exists());
        let own = root.path().join("home/alice/.ssh/id_haas-cert.pub");
        assert_eq!(fs::metadata(own).expect("a certificate").uid(), 10_001);
    }

    #[test]
    fn a_server_that_includes_no_files_is_told_in_its_own_once() {
        let root = root(OLD);
        let (mut found, made) = found();
        found.users.clear();
        install(root.path(), &found, &made).expect("certificates");
        let first = read(&root, "etc/ssh/sshd_config");
        let (ours, rest) = first.split_once("# haas end\n").expect("our lines come first");
        assert!(ours.contains("\nHostCertificate /etc/ssh/ssh_host_rsa_key-cert.pub\n"), "{first}");
        assert_eq!(rest, OLD);
        install(root.path(), &found, &made).expect("certificates");
        assert_eq!(read(&root, "etc/ssh/sshd_config"), first);
    }

    #[test]
    fn includes_count_where_they_are_for_every_host() {
        for (text, expected) in [
            (DEBIAN, true),
            (OLD, false),
            ("  include  \"/etc/ssh/sshd_config.d/*.conf\"\n", true),
            ("#Include /etc/ssh/sshd_config.d/*.conf\n", false),
            ("Include /etc/ssh/other.d/*.conf\n", false),
            ("", false),
        ] {
            assert_eq!(includes(text, "sshd_config"), expected, "{text:?}");
        }
    }

    #[test]
    fn the_client_knows_every_node_and_shows_the_nodes_key_to_nobody_else() {
        let root = root(DEBIAN);
        let mine = "github.com ssh-ed25519 THEIRS\n";
        fs::write(root.path().join(KNOWN_HOSTS), mine).expect("known hosts");
        fs::write(root.path().join("etc/ssh/ssh_config"), "Include /etc/ssh/ssh_config.d/*.conf\n")
            .expect("config");
        let mut plan = crate::channel::fake::plan(0);
        assert_eq!(write_client(root.path(), &plan).expect("nothing"), [] as [PathBuf; 0]);
        plan.ssh = Some(SshPlan {
            host_ca: "ssh-ed25519 H".into(),
            user_ca: "ssh-ed25519 U".into(),
            set: None,
        });
        plan.net.domain = Some("lab".into());
        let node = |n: u8| ([10, 0, 0, n].into(), format!("n0{n}").parse().expect("a name"));
        plan.net.hosts = vec![node(1), node(2)];
        write_client(root.path(), &plan).expect("files");
        let known = read(&root, KNOWN_HOSTS);
        assert!(known.starts_with(mine), "{known}");
        let line = "\n@cert-authority n01,n01.lab,10.0.0.1,n02,n02.lab,10.0.0.2 ssh-ed25519 H\n";
        assert!(known.contains(line), "{known}");
        let config = read(&root, "etc/ssh/ssh_config.d/10-haas.conf");
        let host =
            "\nHost n01 n01.lab 10.0.0.1 n02 n02.lab 10.0.0.2\n    IdentityFile ~/.ssh/id_haas\n";
        assert!(config.contains(host), "{config}");
        assert!(config.ends_with("\nHost *\n"), "{config}");
    }

    #[test]
    fn only_the_server_is_told_and_no_connection() {
        let proc = tempfile::tempdir().expect("proc");
        for (pid, stat) in [
            (1, "1 (systemd) S 0 1 1 0"),
            (400, "400 (sshd) S 1 400 400 0"),
            (500, "500 (sshd) S 400 500 500 0"),
            (600, "600 (bash) S 1 600 600 0"),
        ] {
            let folder = proc.path().join(pid.to_string());
            fs::create_dir(&folder).expect("folder");
            fs::write(folder.join("stat"), stat).expect("stat");
        }
        fs::create_dir(proc.path().join("sys")).expect("folder");
        assert_eq!(servers(proc.path()), [400]);
    }
}
