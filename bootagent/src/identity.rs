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
    files::{add_line, block, replace},
    guards, labels, log, net,
    overlay::{Layer, MERGED},
    ssh,
};

/// Whom sudo lets do everything; it reads no file with a dot in its name.
const SUDOERS: &str = "etc/sudoers.d/haas";

/// `argv[0]` of the process that writes the identity.
pub(crate) const NAME: &str = "@haas-identity";

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
        own_keys: ssh::host_keys(&layer.folder.join("upper")),
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
    ssh::fresh_host_keys(root, &identity.own_keys).map_err(|e| format!("ssh host keys: {e}"))?;
    users(root, plan).map_err(|e| format!("users: {e}"))?;
    sudoers(root, &plan.logins).map_err(|e| format!("sudo: {e}"))?;
    let client = ssh_between_nodes(root, plan).unwrap_or_else(|error| {
        // The node works without it.
        log::error(&format!("ssh from this node to others is not set up: {error}"));
        Vec::new()
    });
    let nic = net::find(plan.net.mac).ok_or("the boot NIC has gone")?;
    guards::write(root, plan, &nic).map_err(|e| format!("guards of the boot NIC: {e}"))?;
    if let Err(error) = labels::write(root, &[touched(root, &plan.logins), client].concat()) {
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
    paths.push(SUDOERS.into());
    paths.extend(ssh::host_keys(root));
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

/// Makes the accounts that are missing, and gives each the keys of this boot.
fn users(root: &Path, plan: &BootPlan) -> io::Result<()> {
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
    // dropbear knows no authorities.
    let trust = |names: &[&str]| ssh::trust(plan, names).filter(|_| root.join("etc/ssh").is_dir());
    // Whose own key, made on another node of the set, opens root here.
    let mut roots = vec!["root"];
    for login in &plan.logins {
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
        let own = keys.entry(home).or_insert((uid, Vec::new()));
        own.1.extend(login.ssh_keys.clone());
        own.1.extend(trust(&[name]));
        if login.root {
            roots.push(name);
            let home = home_of(&passwd, "root");
            keys.entry(home).or_insert((0, Vec::new())).1.extend(login.ssh_keys.clone());
        }
    }
    if roots.len() > 1 {
        let root = keys.entry(home_of(&passwd, "root")).or_insert((0, Vec::new()));
        root.1.extend(trust(&roots));
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
    // The keys of who may log in no more must go, whose account the overlay still has.
    keys.entry(home_of(&passwd, "root")).or_insert((0, Vec::new()));
    for name in passwd.lines().filter_map(|line| line.split(':').next()) {
        if let Some(uid) = uid_of(&passwd, name) {
            keys.entry(home_of(&passwd, name)).or_insert((uid, Vec::new()));
        }
    }
    for (home, (uid, keys)) in keys {
        authorize(&root.join(home.strip_prefix("/").unwrap_or(&home)), uid, &keys)?;
    }
    Ok(())
}

/// Who may do everything by sudo, where the image has it. Written anew at each boot, so that who lost it
/// has it no more; what an image or a user says in other files stays.
fn sudoers(root: &Path, logins: &[Login]) -> io::Result<()> {
    let folder = root.join("etc/sudoers.d");
    if !folder.is_dir() {
        return Ok(());
    }
    let may = logins.iter().filter(|login| login.sudo);
    let lines: String =
        may.map(|login| format!("{} ALL=(ALL:ALL) NOPASSWD: ALL\n", login.name)).collect();
    let file = root.join(SUDOERS);
    if !lines.is_empty() {
        return replace(&file, 0o440, &lines);
    }
    match fs::remove_file(file) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// What ssh from this node to others needs: whom its client trusts, and a key for each account.
fn ssh_between_nodes(root: &Path, plan: &BootPlan) -> io::Result<Vec<PathBuf>> {
    let mut written = ssh::write_client(root, plan)?;
    if written.is_empty() {
        return Ok(written);
    }
    let passwd = fs::read_to_string(root.join("etc/passwd"))?;
    for name in ssh::accounts(plan) {
        let Some(uid) = uid_of(&passwd, name.as_str()) else { continue };
        let home = home_of(&passwd, name.as_str());
        ssh::make_user_key(root, home.strip_prefix("/").unwrap_or(&home), uid)?;
        written.extend(ssh::user_files(&home));
    }
    Ok(written)
}

fn uid_of(passwd: &str, name: &str) -> Option<u32> {
    let line = passwd.lines().find(|l| l.split(':').next() == Some(name))?;
    line.split(':').nth(2)?.parse().ok()
}

/// Where an account is at home: as the image has it, or else where one is made.
pub(crate) fn home_of(passwd: &str, name: &str) -> PathBuf {
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
    let new = block(&old, keys);
    if new == old {
        return Ok(());
    }
    make_home(home, uid)?;
    replace(&file, 0o600, &new)?;
    chown(&file, Some(uid), Some(uid))
}

/// Makes what is missing of a home with a folder for ssh.
pub(crate) fn make_home(home: &Path, uid: u32) -> io::Result<()> {
    for folder in [home.to_owned(), home.join(".ssh")] {
        if !folder.exists() {
            fs::create_dir_all(&folder)?;
            fs::set_permissions(&folder, fs::Permissions::from_mode(0o700))?;
            chown(&folder, Some(uid), Some(uid))?;
        }
    }
    Ok(())
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

    fn login(name: &str, uid: u32, root: bool) -> Login {
        let ssh_keys = vec![format!("ssh-ed25519 {name}")];
        Login { name: name.parse().expect("a name"), uid, ssh_keys, root, sudo: false }
    }

    #[test]
    fn accounts_have_the_name_and_the_ids_that_haasd_gave_and_an_images_own_stay() {
        use std::os::unix::fs::MetadataExt as _;
        let root = tempfile::tempdir().expect("root");
        let at = |path: &str| root.path().join(path);
        fs::create_dir_all(at("etc")).expect("folder");
        let image = "root:x:0:0::/root:/bin/sh\nbob:x:1000:1000::/data/bob:/bin/sh\n";
        fs::write(at("etc/passwd"), image).expect("passwd");
        let mut plan = crate::channel::fake::plan(0);
        plan.logins = vec![login("alice", 10_001, false), login("bob", 10_002, true)];
        for _ in 0..2 {
            users(root.path(), &plan).expect("accounts");
            let read = |path: &str| fs::read_to_string(at(path)).expect("it is there");
            let alice = "alice:x:10001:10001::/home/alice:/bin/sh\n";
            assert_eq!(read("etc/passwd"), format!("{image}{alice}"));
            assert_eq!(read("etc/group"), "alice:x:10001:\nbob:x:10002:\n");
            assert_eq!(read("etc/shadow"), "alice:*:::::::\nbob:*:::::::\n");
            let owner = |path: &str| {
                let metadata = fs::metadata(at(path)).expect("it is there");
                (metadata.uid(), metadata.gid())
            };
            assert_eq!(owner("home/alice/.ssh/authorized_keys"), (10_001, 10_001));
            assert_eq!(owner("data/bob/.ssh/authorized_keys"), (1000, 1000), "the image's own");
            let roots = read("root/.ssh/authorized_keys");
            assert!(roots.contains("ssh-ed25519 bob") && !roots.contains("alice"), "{roots}");
        }
    }

    #[test]
    fn who_may_log_in_no_more_keeps_only_keys_of_his_own_making() {
        let root = tempfile::tempdir().expect("root");
        let mut plan = crate::channel::fake::plan(0);
        plan.logins = vec![login("alice", 10_001, false), login("bob", 10_002, true)];
        users(root.path(), &plan).expect("accounts");
        let file = root.path().join("home/bob/.ssh/authorized_keys");
        let given = fs::read_to_string(&file).expect("it is there");
        fs::write(&file, format!("ssh-ed25519 bobs-own\n{given}")).expect("a key of his own");
        plan.logins.truncate(1);
        for _ in 0..2 {
            users(root.path(), &plan).expect("accounts");
            let left = fs::read_to_string(&file).expect("it is there");
            assert_eq!(left, "ssh-ed25519 bobs-own\n");
        }
        let of =
            |home: &str| fs::read_to_string(root.path().join(home).join(".ssh/authorized_keys"));
        assert!(of("home/alice").expect("it is there").contains("ssh-ed25519 alice"));
        assert!(!of("root").expect("it is there").contains("bob"));
    }

    #[test]
    fn users_come_from_other_nodes_of_the_set_to_their_own_account_and_root_if_they_may() {
        let root = tempfile::tempdir().expect("root");
        fs::create_dir_all(root.path().join("etc/ssh")).expect("folder");
        let mut plan = crate::channel::fake::plan(0);
        plan.logins = vec![login("alice", 10_001, true), login("bob", 10_002, false)];
        let ca = || "ssh-ed25519 CA".to_owned();
        let set = Some("o1".to_owned());
        plan.ssh = Some(haas_api::agent::SshPlan { host_ca: ca(), user_ca: ca(), set });
        users(root.path(), &plan).expect("accounts");
        for (home, principals) in
            [("home/alice", "o1/alice"), ("home/bob", "o1/bob"), ("root", "o1/root,o1/alice")]
        {
            let file = root.path().join(home).join(".ssh/authorized_keys");
            let text = fs::read_to_string(&file).expect("it is there");
            let line = format!("cert-authority,principals=\"{principals}\" ssh-ed25519 CA\n");
            assert!(text.contains(&line), "{home}: {text}");
        }
    }

    #[test]
    fn sudo_is_for_whom_haasd_says_at_this_boot_and_only_where_the_image_has_it() {
        let root = tempfile::tempdir().expect("root");
        let file = root.path().join(SUDOERS);
        let sudo = Login { sudo: true, ..login("bob", 10_002, false) };
        let logins = [login("alice", 10_001, true), sudo, login("carol", 10_003, false)];
        sudoers(root.path(), &logins).expect("no sudo there");
        assert!(!file.exists());
        fs::create_dir_all(root.path().join("etc/sudoers.d")).expect("folder");
        sudoers(root.path(), &logins).expect("written");
        let text = fs::read_to_string(&file).expect("it is there");
        assert_eq!(text, "bob ALL=(ALL:ALL) NOPASSWD: ALL\n");
        assert_eq!(fs::metadata(&file).expect("it is there").permissions().mode() & 0o777, 0o440);
        for _ in 0..2 {
            sudoers(root.path(), &[login("bob", 10_002, false)]).expect("removed");
            assert!(!file.exists());
        }
    }

    #[test]
    fn homes_are_read_from_the_image() {
        let passwd = "root:x:0:0::/root:/bin/sh\nalice:x:1000:1000::/data/alice:/bin/sh\n";
        assert_eq!(home_of(passwd, "alice"), Path::new("/data/alice"));
        assert_eq!(home_of(passwd, "bob"), Path::new("/home/bob"));
    }
}
