//! How ssh knows the nodes: one line of `known_hosts` for all whose servers show a certificate, and one
//! for each key of those that show none.

use std::{
    collections::BTreeSet,
    fs,
    io::Write as _,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
};

use haas_api::node::Node;

use crate::error::{Error, io_error};

/// The lines for these nodes. A node that does not run is expected to show a certificate when it does.
pub(crate) fn text(authority: &str, nodes: &[Node]) -> String {
    let mut certified = Vec::new();
    let mut plain = String::new();
    for node in nodes {
        let keys = &node.observed.host_keys;
        let mut names = vec![node.name.to_string()];
        names.extend(node.address.clone());
        names.extend(keys.iter().flat_map(|key| key.names.clone()));
        let mut seen = BTreeSet::new();
        names.retain(|name| seen.insert(name.clone()));
        if keys.is_empty() || keys.iter().any(|key| key.certified_until.is_some()) {
            certified.extend(names);
        } else {
            for key in keys {
                plain += &format!("{} {}\n", names.join(","), key.key);
            }
        }
    }
    match certified.is_empty() {
        true => plain,
        false => format!("@cert-authority {} {authority}\n{plain}", certified.join(",")),
    }
}

/// Writes the lines for the haasd with this fingerprint into the user's cache, and answers the place. It
/// is always written whole: ssh reads it once, when it connects.
pub(super) fn write(fingerprint: &str, text: &str) -> Result<PathBuf, Error> {
    let folder = std::env::var_os("XDG_CACHE_HOME").filter(|folder| !folder.is_empty());
    let folder = folder.map(PathBuf::from);
    let folder = folder.or_else(|| std::env::home_dir().map(|home| home.join(".cache")));
    let folder = folder
        .ok_or_else(|| Error::Usage("there is no home folder; set XDG_CACHE_HOME".to_owned()))?;
    // ssh is started in this folder, but may be told to leave it.
    let folder = std::path::absolute(folder.join("haasctl")).map_err(io_error("no such folder"))?;
    write_in(&folder, fingerprint, text)
        .map_err(io_error(format!("{} cannot be written to", folder.display())))
}

fn write_in(folder: &Path, fingerprint: &str, text: &str) -> std::io::Result<PathBuf> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    let of: String = fingerprint.chars().filter(char::is_ascii_hexdigit).take(16).collect();
    let path = folder.join(format!("known_hosts.{}", of.to_ascii_lowercase()));
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.write_all(text.as_bytes())?;
    file.persist(&path)?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use haas_api::node::HostKey;

    use super::*;
    use crate::status::tests::sample;

    fn node(name: &str, address: Option<&str>, keys: &[(&str, &[&str], bool)]) -> Node {
        let mut node = sample();
        node.name = name.parse().unwrap();
        node.address = address.map(str::to_owned);
        let key = |(key, names, certified): &(&str, &[&str], bool)| HostKey {
            key: (*key).to_owned(),
            names: names.iter().map(|name| (*name).to_owned()).collect(),
            certified_until: certified.then(|| "2027-02-25T00:00:00Z".to_owned()),
        };
        node.observed.host_keys = keys.iter().map(key).collect();
        node
    }

    #[test]
    fn certified_nodes_share_the_authoritys_line_and_others_have_their_keys() {
        let nodes = [
            node(
                "n01",
                Some("10.0.0.1"),
                &[("ssh-ed25519 A", &["n01", "n01.lab", "10.0.0.1"], true)],
            ),
            node(
                "n02",
                Some("10.0.0.2"),
                &[("ssh-ed25519 B", &["n02"], false), ("ssh-rsa C", &["n02"], false)],
            ),
            node("n03", None, &[]),
            // One key that its server can certify is enough for the others.
            node("n04", None, &[("ssh-dss D", &["n04"], false), ("ssh-ed25519 E", &["n04"], true)]),
        ];
        assert_eq!(
            text("ssh-ed25519 CA", &nodes),
            "@cert-authority n01,10.0.0.1,n01.lab,n03,n04 ssh-ed25519 CA\n\
             n02,10.0.0.2 ssh-ed25519 B\n\
             n02,10.0.0.2 ssh-rsa C\n"
        );
        assert_eq!(text("ssh-ed25519 CA", &[]), "");
    }

    #[test]
    fn the_authority_is_trusted_for_nothing_but_the_nodes() {
        let line = text("ssh-ed25519 CA", &[node("n01", Some("10.0.0.1"), &[])]);
        assert_eq!(line, "@cert-authority n01,10.0.0.1 ssh-ed25519 CA\n");
        assert!(!line.contains('*'));
    }

    #[test]
    fn each_haasd_has_a_file_of_its_own_that_is_replaced_whole() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().join("cache");
        let one = write_in(&folder, &"AB:".repeat(32), "first and longer\n").unwrap();
        assert_eq!(one.file_name().unwrap(), "known_hosts.abababababababab");
        assert_eq!(write_in(&folder, &"ab".repeat(32), "second\n").unwrap(), one);
        assert_eq!(fs::read_to_string(&one).unwrap(), "second\n");
        assert_ne!(write_in(&folder, &"cd".repeat(32), "other\n").unwrap(), one);
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 2, "nothing else stays");
    }
}
