//! Warewulf 4's nodes.conf, as releases 4.2 to 4.6 spell it. A node is merged with its profiles as
//! Warewulf does it: nested profiles first, later ones over earlier ones, lists added up. A profile
//! becomes a node group of its name; `default` does not, since it is every node's.

mod node;
mod places;
mod values;

use std::collections::BTreeMap;

use haas_api::names::NodeGroupName;
use serde_norway::{Mapping, Value};

use self::{
    node::{Reader, kernel_args},
    places::Places,
    values::{list, merge, word},
};
use super::{
    draft::{Draft, Problems, Said},
    text,
};

pub(super) fn read(text: &str, problems: &mut Problems) -> Draft {
    let mut draft = Draft::default();
    let places = Places::of(text, problems);
    let parsed = serde_norway::from_str::<Value>(text).and_then(|mut value| {
        value.apply_merge()?;
        Ok(value)
    });
    let root = match parsed {
        Ok(Value::Mapping(root)) => root,
        Ok(_) => {
            problems.add(1, "is no nodes.conf: it has no nodes:");
            return draft;
        }
        Err(error) => {
            // A name that is there twice has been told with both lines.
            let line = error.location().map_or(1, |at| at.line());
            if !places.has_duplicates {
                problems.add(line, format!("is no YAML: {error}"));
            }
            return draft;
        }
    };
    let none = Mapping::new();
    let section = |key: &str| root.get(key).and_then(Value::as_mapping).unwrap_or(&none);
    let profiles = section("nodeprofiles");
    for (name, value) in section("nodes") {
        let Some(name) = word(name) else { continue };
        let line = places.line(&name);
        let own = match value {
            Value::Mapping(own) => own,
            Value::Null => &none,
            _ => {
                problems.add(line, format!("{name} is no mapping"));
                continue;
            }
        };
        let mut reader = Reader { places: &places, name: &name, draft: &mut draft, problems };
        let names = reader.profile_names(own, profiles);
        let mut merged = Mapping::new();
        for profile in &names {
            if let Some(Value::Mapping(profile)) = profiles.get(profile.as_str()) {
                merge(&mut merged, profile);
            }
        }
        merge(&mut merged, own);
        let mut node = reader.node(line, &merged, &names);
        if let Some(node) = &mut node {
            node.remarks.extend(own.get("comment").and_then(word));
        }
        draft.nodes.extend(node);
    }
    draft.said = said(profiles);
    draft
}

/// What the profiles themselves say.
fn said(profiles: &Mapping) -> BTreeMap<NodeGroupName, Said> {
    let mut groups = BTreeMap::new();
    for (name, profile) in profiles {
        let name = word(name).and_then(|name| text::group_name(&name).ok());
        let (Some(name), Value::Mapping(profile)) = (name, profile) else { continue };
        let mut said = Said { remark: profile.get("comment").and_then(word), ..Said::default() };
        for key in ["keys", "tags"] {
            let tags = profile.get(key).and_then(Value::as_mapping).into_iter().flatten();
            said.words.extend(tags.filter_map(|(key, _)| word(key)));
        }
        said.words.extend(profile.get("cluster name").map(|_| "cluster".to_owned()));
        let args = list(kernel_args(profile)).join(" ");
        said.words.extend(args.split_whitespace().map(str::to_owned));
        let ipmi = profile.get("ipmi").and_then(Value::as_mapping);
        let logs_in = ["username", "password"];
        said.account = logs_in.iter().any(|key| {
            ipmi.is_some_and(|ipmi| ipmi.contains_key(*key))
                || profile.contains_key(format!("ipmi {key}"))
        });
        groups.insert(name, said);
    }
    groups
}

#[cfg(test)]
mod tests {
    use crate::import::{
        Source,
        tests::{comments, refusal, stanzas},
    };

    #[test]
    fn profiles_are_inherited_as_warewulf_does_it() {
        let text = "\
nodeprofiles:
  default:
    kernel: {args: [quiet, crashkernel=no]}
    ipmi: {username: admin, interface: lanplus}
  base:
    tags: {site: a, tier: base}
  gpu:
    profiles: [base]
    tags: {tier: gpu}
    kernel:
      args: [iommu=pt]
nodes:
  n01:
    profiles: [default, gpu]
    tags: {tier: own}
    ipmi: {ipaddr: 10.77.0.101}
    network devices:
      default: {hwaddr: '52:54:00:77:00:01', ipaddr: 10.77.0.11}
  n02:
    profiles: [default, gpu, ~base]
    network devices:
      eth1: {hwaddr: 52-54-00-77-00-12, ipaddr: 10.78.0.12, device: eth1}
      ib: {hwaddr: 52:54:00:77:00:22, type: InfiniBand}
      eth0: {hwaddr: 52:54:00:77:00:02, primary: true}
";
        assert_eq!(
            stanzas(Source::Warewulf, text),
            "\
[defaults]
kernel_args = [\"quiet\", \"crashkernel=no\", \"iommu=pt\"]

[defaults.power]
driver = \"ipmi\"
user = \"admin\"
password_file = \"secrets/bmc\"

[[group]]
name = \"base\"

[[group]]
name = \"gpu\"

[[node]]
name = \"n01\"
mac = \"52:54:00:77:00:01\"
address = \"10.77.0.11\"
groups = [\"base\", \"gpu\"]
labels = { site = \"a\", tier = \"own\" }
power = { address = \"10.77.0.101\" }

[[node]]
name = \"n02\"
nics = [
    { mac = \"52:54:00:77:00:02\", role = \"boot\" },
    { mac = \"52:54:00:77:00:12\", role = \"data\" },
    { mac = \"52:54:00:77:00:22\", role = \"ib\" },
]
groups = [\"gpu\"]
labels = { tier = \"gpu\" }
power = { driver = \"manual\" }
"
        );
        assert!(
            comments(Source::Warewulf, text).contains("address 10.78.0.12 of network eth1: n02")
        );
    }

    #[test]
    fn the_oldest_spelling_is_read() {
        let text = "\
nodes:
  n01.lab:
    comment: old
    container name: rocky-8
    kernel args: quiet root=/dev/nfs
    ipmi ipaddr: 10.77.0.101
    ipmi port: \"6231\"
    ipmi username: root
    ipmi password: calvin
    ipmi interface: lan
    keys: {rack: '1', bmc_password: calvin}
    network devices:
      eth0: {default: \"true\", hwaddr: \"5254.0077.0001\", netmask: 255.255.255.0}
";
        let told = stanzas(Source::Warewulf, text);
        for line in [
            "# old",
            "kernel_args = [\"quiet\"]",
            "user = \"root\"",
            "port = 6231",
            "labels = { rack = \"1\" }",
        ] {
            assert!(told.contains(line), "{line}\n{told}");
        }
        let told = comments(Source::Warewulf, text);
        for line in [
            "container name rocky-8: n01",
            "kernel argument root=/dev/nfs: n01",
            "ipmi interface lan (haasd speaks lanplus): n01",
            "tag bmc_password, which looks secret: n01",
            "netmask of network eth0 (haasd.toml has the network's): n01",
        ] {
            assert!(told.contains(line), "{line}\n{told}");
        }
        assert!(!told.contains("calvin"));
    }

    #[test]
    fn mistakes_are_told_with_their_lines() {
        for (text, expected) in [
            ("nodes:\n  n01: {}\n  n02: {}\n  n01: {}\n", "f:4: n01 is already the node in line 2"),
            ("nodes:\n  n01: [\n", "is no YAML"),
            ("- n01\n", "f:1: is no nodes.conf"),
            (
                "nodes:\n  n01:\n    network devices:\n      d:\n        hwaddr: 52:54\n",
                "f:5: \"52:54\" is not a valid MAC",
            ),
            ("nodes:\n  my_node:\n    comment: x\n", "f:2: \"my_node\" is not a valid node name"),
            (
                "nodes:\n  n01: {network devices: {d: {hwaddr: 52:54:00:77:00:01}}}\n  n02: {network devices: {d: {hwaddr: 52:54:00:77:00:01}}}\n",
                "f:3: 52:54:00:77:00:01 of n02 is already n01's in line 2",
            ),
        ] {
            let told = refusal(Source::Warewulf, text);
            assert!(told.contains(expected), "{expected}\n{told}");
        }
    }
}
