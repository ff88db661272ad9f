//! Who the node is: host name, machine-id, hosts, name servers, ssh host keys and users, written
//! into the merged root before the image's init runs.
//!
//! The merged root is the user's: any name in it may be a link that points elsewhere, also into
//! another user's overlay. So all this is done by a process of its own, chrooted into the merged
//! root, and files are replaced by renaming, never written through.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, Write as _},
    os::unix::{
        fs::{PermissionsExt as _, chown},
        process::CommandExt as _,
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use haas_api::agent::{BootPlan, Login};
use nix::unistd::{chdir, chroot};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::{
    fault::{Fault, OrFault as _},
    files::replace,
    guards, labels, log, net,
    overlay::{Layer, MERGED},
};

/// `argv[0]` of the process that writes the identity.
pub(crate) const NAME: &str = "@haas-identity";

/// Where ssh servers keep their host keys: folder, beginning and end of the names.
const HOST_KEYS: [(&str, &str, &str); 2] =
    [("etc/ssh", "ssh_host_", ""), ("etc/dropbear", "dropbear_", "host_key")];
const BEGIN: &str = "# haas begin: written at each boot";
const END: &str = "# haas end";

/// What is written.
#[derive(Debug, Serialize, Deserialize)]
struct Identity {
    plan: BootPlan,
    machine_id: String,
    /// Host keys that are this node's own, in this overlay; others come from the image.
    own_keys: Vec<PathBuf>,
}

/// The machine-id: stable per (overlay, node), never shared, and says nothing about either.
pub(crate) fn machine_id(overlay_id: &str, node_id: &str) -> String {
    let hash = Sha256::new()
        .chain_update("haas machine-id\0")
        .chain_update(overlay_id)
        .chain_update("\0")
        .chain_update(node_id)
        .finalize();
    let mut id = hex::encode(hash);
    id.truncate(32);
    id
}

/// Writes the identity into the merged root.
pub(crate) fn write(plan: &BootPlan, layer: &Layer) -> Result<(), Fault> {
    let overlay_id = layer.meta.as_ref().map_or(&*plan.attempt, |meta| &meta.overlay_id);
    let identity = Identity {
        plan: plan.clone(),
        machine_id: machine_id(overlay_id, &plan.node_id),
        own_keys: host_keys(&layer.folder.join("upper")),
    };
    nix::unistd::sethostname(plan.node.as_str())
        .or_retry("identity", "cannot set the host name")?;
    let mut child = Command::new("/init")
        .arg0(NAME)
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .or_retry("identity", "cannot start the process for it")?;
    let text = serde_json::to_vec(&identity).or_retry("identity", "cannot be encoded")?;
    let sent = child.stdin.take().map(|mut pipe| pipe.write_all(&text));
    let output = child.wait_with_output().or_retry("identity", "the process for it is lost")?;
    match (output.status.success(), sent) {
        (true, Some(Ok(()))) => Ok(()),
        _ => {
            let text = String::from_utf8_lossy(&output.stderr);
            let cause = format!("the node's identity cannot be written: {}", text.trim());
            Err(Fault::hold("identity", cause))
        }
    }
}

/// The process itself: reads what to write from its standard input.
pub(crate) fn main() -> Result<(), String> {
    let identity: Identity =
        serde_json::from_reader(io::stdin().lock()).map_err(|e| format!("bad input: {e}"))?;
    chroot(MERGED).and_then(|()| chdir("/")).map_err(|e| format!("cannot enter the root: {e}"))?;
    write_all(Path::new("/"), &identity)
}

fn write_all(root: &Path, identity: &Identity) -> Result<(), String> {
    let plan = &identity.plan;
    let put = |path: &str, mode: u32, text: &str| {
        replace(&root.join(path), mode, text).map_err(|e| format!("/{path}: {e}"))
    };
    put("etc/hostname", 0o644, &format!("{}\n", plan.node.as_str()))?;
    put("etc/machine-id", 0o444, &format!("{}\n", identity.machine_id))?;
    put("etc/hosts", 0o644, &hosts(plan))?;
    if !plan.net.dns.is_empty() {
        put("etc/resolv.conf", 0o644, &resolv_conf(plan))?;
    }
    fresh_host_keys(root, &identity.own_keys).map_err(|e| format!("ssh host keys: {e}"))?;
    users(root, &plan.logins).map_err(|e| format!("users: {e}"))?;
    let nic = net::find(plan.net.mac).ok_or("the boot NIC has gone")?;
    guards::write(root, plan, &nic).map_err(|e| format!("guards of the boot NIC: {e}"))?;
    if let Err(error) = labels::write(root, &touched(root, &plan.logins)) {
        // A node that enforces its policy may not let its users in now, and this says why.
        log::error(&format!("SELinux labels of the node's own files: {error}"));
    }
    Ok(())
}

/// What the image's policy must know of, relative to the root.
fn touched(root: &Path, logins: &[Login]) -> Vec<PathBuf> {
    let etc = ["hostname", "machine-id", "hosts", "resolv.conf", "passwd", "group", "shadow"];
    let mut paths: Vec<PathBuf> = etc.iter().map(|name| Path::new("etc").join(name)).collect();
    paths.push(guards::CLOUD_INIT.into());
    paths.extend(host_keys(root));
    let passwd = fs::read_to_string(root.join("etc/passwd")).unwrap_or_default();
    for name in logins.iter().map(|login| login.name.as_str()).chain(["root"]) {
        let home = home_of(&passwd, name);
        let home = home.strip_prefix("/").unwrap_or(&home);
        paths.push(home.join(".ssh/authorized_keys"));
    }
    paths
}

fn hosts(plan: &BootPlan) -> String {
    let name = |n: &str| match &plan.net.domain {
        Some(domain) => format!("{n}.{domain} {n}"),
        None => n.to_owned(),
    };
    let mut text = "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n".to_owned();
    let own = (plan.net.address.addr(), plan.node.clone());
    if !plan.net.hosts.contains(&own) {
        text += &format!("{} {}\n", own.0, name(own.1.as_str()));
    }
    for (address, node) in &plan.net.hosts {
        text += &format!("{address} {}\n", name(node.as_str()));
    }
    text
}

fn resolv_conf(plan: &BootPlan) -> String {
    let mut text = String::new();
    if let Some(domain) = &plan.net.domain {
        text += &format!("search {domain}\n");
    }
    for server in &plan.net.dns {
        text += &format!("nameserver {server}\n");
    }
    text
}

/// Host keys in a layer, relative to its root. A whiteout is a device and so no key.
fn host_keys(layer: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for (folder, start, end) in HOST_KEYS {
        let Ok(entries) = fs::read_dir(layer.join(folder)) else { continue };
        for entry in entries.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let is_file = entry.file_type().is_ok_and(|kind| kind.is_file());
            if is_file && name.starts_with(start) && name.trim_end_matches(".pub").ends_with(end) {
                found.push(Path::new(folder).join(name));
            }
        }
    }
    found
}

/// Removes host keys that came with the image, which every node would share, and has the image's
/// own tool make new ones where there are none.
fn fresh_host_keys(root: &Path, own: &[PathBuf]) -> io::Result<()> {
    for key in host_keys(root) {
        if !own.contains(&key) {
            fs::remove_file(root.join(key))?;
        }
    }
    if !host_keys(root).is_empty() {
        return Ok(());
    }
    let make = |tool: &str, arguments: &[&str]| -> io::Result<bool> {
        let Some(tool) = ["/usr/bin", "/bin", "/usr/sbin", "/sbin"]
            .iter()
            .map(|folder| Path::new(folder).join(tool))
            .find(|path| path.exists())
        else {
            return Ok(false);
        };
        let output = Command::new(&tool).args(arguments).stdin(Stdio::null()).output()?;
        if output.status.success() {
            return Ok(true);
        }
        let text = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        Err(io::Error::other(format!("{} fails: {text}", tool.display())))
    };
    if root.join("etc/ssh").is_dir() {
        let file = "/etc/ssh/ssh_host_ed25519_key";
        make("ssh-keygen", &["-q", "-t", "ed25519", "-N", "", "-C", "", "-f", file])?;
    }
    if root.join("etc/dropbear").is_dir() {
        let file = "/etc/dropbear/dropbear_ed25519_host_key";
        make("dropbearkey", &["-t", "ed25519", "-f", file])?;
    }
    Ok(())
}

/// Makes the accounts that are missing, and gives each the keys of this boot.
fn users(root: &Path, logins: &[Login]) -> io::Result<()> {
    let read = |name: &str| match fs::read_to_string(root.join(name)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        result => result,
    };
    let (mut passwd, mut group, mut shadow) =
        (read("etc/passwd")?, read("etc/group")?, read("etc/shadow")?);
    let before = (passwd.clone(), group.clone(), shadow.clone());
    let shell = ["/bin/bash", "/bin/sh"].into_iter().find(|s| root.join(&s[1..]).exists());
    let shell = shell.unwrap_or("/bin/sh");
    let has = |table: &str, name: &str| table.lines().any(|l| l.split(':').next() == Some(name));
    let mut keys: BTreeMap<PathBuf, (u32, Vec<String>)> = BTreeMap::new();
    for login in logins {
        let (name, uid) = (login.name.as_str(), login.uid);
        if !has(&group, name) && uid != 0 {
            add_line(&mut group, &format!("{name}:x:{uid}:"));
        }
        if !has(&passwd, name) {
            add_line(&mut passwd, &format!("{name}:x:{uid}:{uid}::/home/{name}:{shell}"));
        }
        if !has(&shadow, name) {
            // No password opens it, but it is not locked either: a key does.
            add_line(&mut shadow, &format!("{name}:*:::::::"));
        }
        let home = home_of(&passwd, name);
        // An image may have an account of this name.
        let uid = uid_of(&passwd, name).unwrap_or(uid);
        keys.entry(home).or_insert((uid, Vec::new())).1.extend(login.ssh_keys.clone());
        if login.root {
            let home = home_of(&passwd, "root");
            keys.entry(home).or_insert((0, Vec::new())).1.extend(login.ssh_keys.clone());
        }
    }
    for (path, mode, new, old) in [
        ("etc/passwd", 0o644, &passwd, &before.0),
        ("etc/group", 0o644, &group, &before.1),
        ("etc/shadow", 0o640, &shadow, &before.2),
    ] {
        if new != old {
            replace(&root.join(path), mode, new)?;
        }
    }
    // Keys of a former login must go also when nobody may log in as root any more.
    keys.entry(home_of(&passwd, "root")).or_insert((0, Vec::new()));
    for (home, (uid, keys)) in keys {
        authorize(&root.join(home.strip_prefix("/").unwrap_or(&home)), uid, &keys)?;
    }
    Ok(())
}

fn add_line(table: &mut String, line: &str) {
    if !table.is_empty() && !table.ends_with('\n') {
        table.push('\n');
    }
    table.push_str(line);
    table.push('\n');
}

fn uid_of(passwd: &str, name: &str) -> Option<u32> {
    let line = passwd.lines().find(|l| l.split(':').next() == Some(name))?;
    line.split(':').nth(2)?.parse().ok()
}

fn home_of(passwd: &str, name: &str) -> PathBuf {
    let line = passwd.lines().find(|l| l.split(':').next() == Some(name));
    let home = line.and_then(|l| l.split(':').nth(5)).filter(|h| h.starts_with('/'));
    match (home, name) {
        (Some(home), _) => home.into(),
        (None, "root") => "/root".into(),
        (None, name) => Path::new("/home").join(name),
    }
}

/// Writes our part of `authorized_keys`; what the user has added by himself stays.
fn authorize(home: &Path, uid: u32, keys: &[String]) -> io::Result<()> {
    let file = home.join(".ssh/authorized_keys");
    let old = fs::read_to_string(&file).unwrap_or_default();
    let new = with_our_keys(&old, keys);
    if new == old {
        return Ok(());
    }
    for (folder, mode) in [(home.to_owned(), 0o700), (home.join(".ssh"), 0o700)] {
        if !folder.exists() {
            fs::create_dir_all(&folder)?;
            fs::set_permissions(&folder, fs::Permissions::from_mode(mode))?;
            chown(&folder, Some(uid), Some(uid))?;
        }
    }
    replace(&file, 0o600, &new)?;
    chown(&file, Some(uid), Some(uid))
}

fn with_our_keys(old: &str, keys: &[String]) -> String {
    let mut inside = false;
    let mut text = String::new();
    for line in old.lines() {
        if line == BEGIN {
            inside = true;
        }
        if !inside {
            add_line(&mut text, line);
        }
        if line == END {
            inside = false;
        }
    }
    if !keys.is_empty() {
        add_line(&mut text, BEGIN);
        for key in keys.iter().filter(|k| !k.contains('\n')) {
            add_line(&mut text, key);
        }
        add_line(&mut text, END);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn machine_ids_are_stable_and_never_shared() {
        let id = machine_id("o1", "n1");
        assert_eq!(id, machine_id("o1", "n1"));
        assert_eq!(id.len(), 32);
        assert_ne!(id, machine_id("o2", "n1"));
        assert_ne!(id, machine_id("o1", "n2"));
        assert_ne!(machine_id("a", "bc"), machine_id("ab", "c"));
    }

    #[test]
    fn keys_of_the_image_go_and_our_own_stay() {
        let root = tempfile::tempdir().expect("root");
        let keys = root.path().join("etc/dropbear");
        fs::create_dir_all(&keys).expect("folder");
        for name in ["dropbear_rsa_host_key", "dropbear_ed25519_host_key", "banner"] {
            fs::write(keys.join(name), name).expect("key");
        }
        let own = [PathBuf::from("etc/dropbear/dropbear_rsa_host_key")];
        fresh_host_keys(root.path(), &own).expect("keys");
        assert_eq!(host_keys(root.path()), own);
        assert!(keys.join("banner").exists());
    }

    #[test]
    fn our_keys_replace_our_keys_and_leave_the_users() {
        let first = with_our_keys("ssh-ed25519 mine\n", &["ssh-ed25519 A".to_owned()]);
        assert_eq!(first, format!("ssh-ed25519 mine\n{BEGIN}\nssh-ed25519 A\n{END}\n"));
        let second = with_our_keys(&first, &["ssh-ed25519 B".to_owned()]);
        assert!(!second.contains("ssh-ed25519 A") && second.contains("ssh-ed25519 B"));
        assert_eq!(with_our_keys(&second, &[]), "ssh-ed25519 mine\n");
    }

    #[test]
    fn homes_are_read_from_the_image() {
        let passwd = "root:x:0:0::/root:/bin/sh\nalice:x:1000:1000::/data/alice:/bin/sh\n";
        assert_eq!(home_of(passwd, "alice"), Path::new("/data/alice"));
        assert_eq!(home_of(passwd, "bob"), Path::new("/home/bob"));
    }
}
