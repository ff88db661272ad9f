//! The keys of a node: its ssh server's, and those with which its users go to other nodes. All are
//! made on the node, by the image's own tools, and stay in the overlay.

use std::{
    fs, io,
    io::Read as _,
    os::unix::fs::{DirBuilderExt as _, chown},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use haas_api::{
    agent::{SshHostKey, SshUserKey},
    names::UserName,
};

use super::Found;
use crate::{files::replace, identity};

/// Where ssh servers keep their host keys: folder, beginning and end of the names.
const HOST_KEYS: [(&str, &str, &str); 2] =
    [(OPENSSH, "ssh_host_", ""), (DROPBEAR, "dropbear_", "host_key")];
const OPENSSH: &str = "etc/ssh";
const DROPBEAR: &str = "etc/dropbear";
/// A user's key for the other nodes, in `.ssh`. People have `id_ed25519` and others themselves.
const USER_KEY: &str = "id_haas";
/// Where a new key lies until it is in its place; nobody but root gets there.
const NEW_KEY: &str = "run/haas/new-key";
/// No public key is longer.
const MOST: u64 = 16 * 1024;

/// Host keys in a layer, relative to its root, with what belongs to them. A whiteout is a device and so
/// no key.
pub(crate) fn host_keys(layer: &Path) -> Vec<PathBuf> {
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
    found.sort();
    found
}

/// Removes host keys that came with the image, which every node would share, and has the image's
/// own tool make new ones where there are none.
pub(crate) fn fresh_host_keys(root: &Path, own: &[PathBuf]) -> io::Result<()> {
    for key in host_keys(root) {
        if !own.contains(&key) {
            fs::remove_file(root.join(key))?;
        }
    }
    if host_keys(root).iter().any(|key| is_private(key)) {
        return Ok(());
    }
    if root.join(OPENSSH).is_dir() {
        let file = root.join(OPENSSH).join("ssh_host_ed25519_key");
        make(root, "ssh-keygen", &["-q", "-t", "ed25519", "-N", "", "-C", "", "-f"], &file)?;
    }
    if root.join(DROPBEAR).is_dir() {
        let file = root.join(DROPBEAR).join("dropbear_ed25519_host_key");
        make(root, "dropbearkey", &["-t", "ed25519", "-f"], &file)?;
    }
    Ok(())
}

/// Makes the key with which a user goes to the other nodes, once for an overlay on a node. An image
/// without OpenSSH has no use for one.
pub(crate) fn make_user_key(root: &Path, home: &Path, uid: u32) -> io::Result<()> {
    let [private, public, _] = user_files(home).map(|file| root.join(file));
    if private.exists() || tool(root, "ssh-keygen").is_none() {
        return Ok(());
    }
    let folder = root.join(NEW_KEY);
    match fs::remove_dir_all(&folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    fs::DirBuilder::new().mode(0o700).recursive(true).create(&folder)?;
    let new = folder.join("key");
    make(root, "ssh-keygen", &["-q", "-t", "ed25519", "-N", "", "-C", "haas", "-f"], &new)?;
    identity::make_home(&root.join(home), uid)?;
    for (from, to, mode) in [(new.with_extension("pub"), public, 0o644), (new, private, 0o600)] {
        replace(&to, mode, &fs::read_to_string(from)?)?;
        chown(&to, Some(uid), Some(uid))?;
    }
    fs::remove_dir_all(folder)
}

/// The key, its public half and its certificate, of the user with this home, relative to the root.
pub(crate) fn user_files(home: &Path) -> [PathBuf; 3] {
    let home = home.strip_prefix("/").unwrap_or(home);
    ["", ".pub", "-cert.pub"].map(|end| home.join(".ssh").join(format!("{USER_KEY}{end}")))
}

/// The public keys of a root, each with the private one's file.
pub(super) fn find(root: &Path, accounts: &[UserName]) -> io::Result<Found> {
    let mut found = Found::default();
    for file in host_keys(root).into_iter().filter(|file| is_private(file)) {
        let certify = file.starts_with(OPENSSH);
        let key = match certify {
            true => public_key(&root.join(with_end(&file, ".pub"))),
            false => make(root, "dropbearkey", &["-y", "-f"], &root.join(&file))?
                .and_then(|text| key_line(&text)),
        };
        if let Some(key) = key {
            found.host.push((file, SshHostKey { key, certify }));
        }
    }
    let passwd = fs::read_to_string(root.join("etc/passwd"))?;
    for login in accounts {
        let [private, public, _] = user_files(&identity::home_of(&passwd, login.as_str()));
        if let Some(key) = public_key(&root.join(public)) {
            found.users.push((private, SshUserKey { login: login.clone(), key }));
        }
    }
    Ok(found)
}

/// A file's name with something behind it.
pub(super) fn with_end(file: &Path, end: &str) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(end);
    name.into()
}

fn is_private(key: &Path) -> bool {
    key.extension().is_none()
}

/// The public key in a file. It is the user's file: what is none is passed over.
fn public_key(file: &Path) -> Option<String> {
    fs::symlink_metadata(file).ok().filter(fs::Metadata::is_file)?;
    let mut text = String::new();
    fs::File::open(file).ok()?.take(MOST).read_to_string(&mut text).ok()?;
    key_line(&text)
}

/// The line that is a public key, in the output of a tool or a file.
fn key_line(text: &str) -> Option<String> {
    let is_key = |line: &&str| ["ssh-", "ecdsa-", "sk-"].iter().any(|kind| line.starts_with(kind));
    text.lines().map(str::trim).find(is_key).map(str::to_owned)
}

fn tool(root: &Path, name: &str) -> Option<PathBuf> {
    ["usr/bin", "bin", "usr/sbin", "sbin"]
        .iter()
        .map(|folder| root.join(folder).join(name))
        .find(|path| path.exists())
}

/// Runs one of the image's tools on a file and answers what it printed; nothing where there is none.
fn make(root: &Path, name: &str, arguments: &[&str], file: &Path) -> io::Result<Option<String>> {
    let Some(tool) = tool(root, name) else { return Ok(None) };
    let output = Command::new(&tool).args(arguments).arg(file).stdin(Stdio::null()).output()?;
    if output.status.success() {
        return Ok(Some(String::from_utf8_lossy(&output.stdout).into_owned()));
    }
    let text = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(io::Error::other(format!("{} fails: {text}", tool.display())))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};

    use super::*;

    /// A root with this machine's ssh-keygen.
    fn root() -> tempfile::TempDir {
        let root = tempfile::tempdir().expect("root");
        for folder in ["etc/ssh", "usr/bin", "root"] {
            fs::create_dir_all(root.path().join(folder)).expect("folder");
        }
        symlink("/usr/bin/ssh-keygen", root.path().join("usr/bin/ssh-keygen")).expect("tool");
        fs::write(root.path().join("etc/passwd"), "root:x:0:0::/root:/bin/sh\n").expect("passwd");
        root
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
    fn a_server_whose_key_is_gone_gets_a_new_one_though_its_certificate_is_there() {
        let root = root();
        let left = PathBuf::from("etc/ssh/ssh_host_ed25519_key-cert.pub");
        fs::write(root.path().join(&left), "of the old key").expect("certificate");
        fresh_host_keys(root.path(), &[left]).expect("keys");
        let key = fs::read_to_string(root.path().join("etc/ssh/ssh_host_ed25519_key"));
        assert!(key.expect("a key").contains("OPENSSH PRIVATE KEY"));
    }

    #[test]
    fn a_users_key_is_made_once_and_only_its_owner_may_read_it() {
        let root = root();
        let home = Path::new("/home/alice");
        make_user_key(root.path(), Path::new("home/alice"), 10_001).expect("a key");
        let [private, public, _] = user_files(home).map(|file| root.path().join(file));
        let is = |file: &Path| {
            let metadata = fs::metadata(file).expect("it is there");
            (metadata.uid(), metadata.gid(), metadata.permissions().mode() & 0o7777)
        };
        assert_eq!(is(&private), (10_001, 10_001, 0o600));
        assert_eq!(is(&public), (10_001, 10_001, 0o644));
        assert_eq!(is(private.parent().expect("a folder")), (10_001, 10_001, 0o700));
        let first = fs::read(&private).expect("a key");
        make_user_key(root.path(), Path::new("home/alice"), 10_001).expect("nothing to do");
        assert_eq!(fs::read(&private).expect("a key"), first, "peers know its public half");
        assert!(!root.path().join(NEW_KEY).exists(), "no copy stays in /run");
    }

    #[test]
    fn public_keys_are_found_with_their_files_and_nothing_else_is_read() {
        let root = root();
        fresh_host_keys(root.path(), &[]).expect("keys");
        make_user_key(root.path(), Path::new("root"), 0).expect("a key");
        let at = |file: &str| root.path().join(file);
        fs::write(at("etc/ssh/ssh_host_rsa_key"), "private").expect("a key without a public half");
        fs::write(at("etc/ssh/ssh_host_dsa_key"), "private").expect("a key");
        symlink("/etc/hostname", at("etc/ssh/ssh_host_dsa_key.pub")).expect("a link elsewhere");
        let accounts = ["root", "nobody"].map(|name| name.parse().expect("a name"));
        let found = find(root.path(), &accounts).expect("keys");
        let [(file, host)] = &found.host[..] else { panic!("{found:?}") };
        assert_eq!(file, Path::new("etc/ssh/ssh_host_ed25519_key"));
        assert!(host.certify && host.key.starts_with("ssh-ed25519 AAAA"), "{host:?}");
        let [(file, user)] = &found.users[..] else { panic!("{found:?}") };
        assert_eq!((file.as_path(), user.login.as_str()), (Path::new("root/.ssh/id_haas"), "root"));
        assert_ne!(user.key, host.key);
    }

    #[test]
    fn a_key_is_found_in_what_dropbearkey_prints() {
        let text = "Public key portion is:\nssh-ed25519 AAAA root@n01\nFingerprint: SHA256:x\n";
        assert_eq!(key_line(text).as_deref(), Some("ssh-ed25519 AAAA root@n01"));
        assert_eq!(key_line("no key at all\n"), None);
    }
}
