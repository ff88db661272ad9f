//! One node of nodes.conf, with its profiles laid under it.

use std::net::{IpAddr, Ipv4Addr};

use serde_norway::{Mapping, Value};

use super::{
    places::Places,
    values::{is_empty, list, word},
};
use crate::import::{
    draft::{Account, Bmc, Draft, Nic, Node, Password, Problems},
    text,
};

/// Reads one node.
pub(super) struct Reader<'a> {
    pub(super) places: &'a Places<'a>,
    pub(super) name: &'a str,
    pub(super) draft: &'a mut Draft,
    pub(super) problems: &'a mut Problems,
}

impl Reader<'_> {
    /// The node's profiles with those that they name in turn, in the order in which they apply.
    pub(super) fn profile_names(&mut self, own: &Mapping, profiles: &Mapping) -> Vec<String> {
        fn expand(
            names: &[String],
            profiles: &Mapping,
            seen: &mut Vec<String>,
            out: &mut Vec<String>,
        ) {
            for name in names {
                if name.starts_with('~') {
                    out.push(name.clone());
                } else if !seen.contains(name) {
                    seen.push(name.clone());
                    if let Some(Value::Mapping(profile)) = profiles.get(name.as_str()) {
                        let inner = match profile.get("profiles") {
                            Some(Value::Sequence(items)) => items.iter().filter_map(word).collect(),
                            _ => Vec::new(),
                        };
                        expand(&inner, profiles, seen, out);
                    }
                    out.push(name.clone());
                }
            }
        }
        let listed = match own.get("profiles") {
            Some(Value::Sequence(items)) => items.iter().filter_map(word).collect(),
            Some(value) => word(value).into_iter().collect::<Vec<_>>(),
            None => Vec::new(),
        };
        let mut names = Vec::new();
        expand(&listed, profiles, &mut Vec::new(), &mut names);
        let mut names =
            list(Some(&Value::Sequence(names.into_iter().map(Value::String).collect())));
        names.retain(|name| {
            let known = profiles.contains_key(name.as_str());
            if !known {
                self.draft.drop(format!("profile {name}, which the file does not have"), self.name);
            }
            known
        });
        names
    }

    /// What a node merged with its profiles becomes; none if it cannot boot.
    pub(super) fn node(
        &mut self,
        line: usize,
        merged: &Mapping,
        profiles: &[String],
    ) -> Option<Node> {
        let (name, domain) = self.problems.take(line, text::node_name(self.name))?;
        let (nics, address) = self.nics(merged);
        if nics.is_empty() {
            let why = "it has no network device with a MAC";
            self.draft.leave_out(line, self.name, why);
            return None;
        }
        if let Some(domain) = domain {
            self.drop(format!("domain {domain} (haasd.toml has the network's)"));
        }
        let mut node = Node::new(line, name, nics);
        node.address = address;
        self.groups(&mut node, profiles);
        self.labels(&mut node, merged);
        self.kernel(&mut node, merged);
        node.bmc = self.bmc(line, merged);
        self.others(merged);
        Some(node)
    }

    fn drop(&mut self, what: impl Into<String>) {
        self.draft.drop(what, self.name);
    }

    /// The NICs with MACs, the one that boots first, and its address.
    fn nics(&mut self, merged: &Mapping) -> (Vec<Nic>, Option<Ipv4Addr>) {
        let none = Mapping::new();
        let devices = merged.get("network devices").and_then(Value::as_mapping).unwrap_or(&none);
        let mut named: Vec<(String, &Mapping)> = Vec::new();
        for (name, device) in devices {
            if let (Some(name), Value::Mapping(device)) = (word(name), device) {
                named.push((name, device));
            }
        }
        let primary = self.primary(merged, &named);
        let (mut nics, mut address) = (Vec::new(), None);
        for (name, device) in &named {
            let get = |key: &str| device.get(key).and_then(word);
            let boots = Some(name) == primary.as_ref();
            if let Some(text) = get("ipaddr") {
                let line = self.places.value(self.name, &text);
                match self.problems.take(line, text::ipv4(&text)) {
                    Some(found) if boots => address = Some(found),
                    Some(found) => self.drop(format!("address {found} of network {name}")),
                    None => {}
                }
            }
            let known = ["hwaddr", "ipaddr", "type", "device", "primary", "default", "onboot"];
            let others = device.iter().filter(|(_, value)| !is_empty(value));
            let others =
                others.filter_map(|(key, _)| word(key)).filter(|k| !known.contains(&k.as_str()));
            let others = others.collect::<Vec<_>>().join(", ");
            if !others.is_empty() {
                let there = if boots { " (haasd.toml has the network's)" } else { "" };
                self.drop(format!("{others} of network {name}{there}"));
            }
            let Some(hwaddr) = get("hwaddr") else { continue };
            if text::is_infiniband(&hwaddr) {
                self.drop(format!("InfiniBand address of network {name}"));
                continue;
            }
            let line = self.places.value(self.name, &hwaddr);
            let Some(mac) = self.problems.take(line, text::mac(&hwaddr)) else { continue };
            let kind = get("type").unwrap_or_default().to_ascii_lowercase();
            let device = get("device").unwrap_or_default();
            let role = match (boots, kind.as_str()) {
                (true, _) => "boot",
                (false, "infiniband") => "ib",
                (false, _) if device.starts_with("ib") => "ib",
                (false, _) => "data",
            };
            nics.push(Nic { line, mac, role });
        }
        nics.sort_by_key(|nic| nic.role != "boot");
        (nics, address)
    }

    /// Which network device boots: the one that is said to be primary, else `default`, else the
    /// first one with a MAC.
    fn primary(&mut self, merged: &Mapping, devices: &[(String, &Mapping)]) -> Option<String> {
        let has_mac = |device: &Mapping| {
            device.get("hwaddr").and_then(word).is_some_and(|m| !text::is_infiniband(&m))
        };
        let is =
            |device: &Mapping, key: &str| device.get(key).and_then(word).as_deref() == Some("true");
        let with_mac: Vec<_> = devices.iter().filter(|(_, device)| has_mac(device)).collect();
        let said = merged.get("primary network").and_then(word);
        let found = with_mac
            .iter()
            .find(|(name, _)| Some(name) == said.as_ref())
            .or_else(|| with_mac.iter().find(|(_, d)| is(d, "primary") || is(d, "default")))
            .or_else(|| with_mac.iter().find(|(name, _)| name == "default"));
        if found.is_none() && with_mac.len() > 1 {
            self.drop("which network is primary is not said: the first with a MAC boots");
        }
        found.or(with_mac.first()).map(|(name, _)| name.clone())
    }

    fn groups(&mut self, node: &mut Node, profiles: &[String]) {
        for profile in profiles.iter().filter(|profile| *profile != "default") {
            match text::group_name(profile) {
                Ok(group) => node.groups.push(group),
                Err(_) => self.drop(format!("profile {profile}, which can name no node group")),
            }
        }
    }

    fn labels(&mut self, node: &mut Node, merged: &Mapping) {
        let mut labels = Vec::new();
        for key in ["keys", "tags"] {
            for (key, value) in merged.get(key).and_then(Value::as_mapping).into_iter().flatten() {
                labels.extend(word(key).zip(word(value)));
            }
        }
        let cluster = merged.get("cluster name").and_then(word);
        labels.extend(cluster.map(|name| ("cluster".to_owned(), name)));
        for (key, value) in labels {
            if text::is_secret(&key) {
                self.drop(format!("tag {key}, which looks secret"));
            } else if text::is_label(&key, &value) {
                node.labels.insert(key, value);
            } else {
                self.drop(format!("tag {key}, which can be no label"));
            }
        }
    }

    fn kernel(&mut self, node: &mut Node, merged: &Mapping) {
        let kernel = merged.get("kernel").and_then(Value::as_mapping);
        let (kept, not) = text::kernel_args(&list(kernel_args(merged)).join(" "));
        // Two profiles may say the same; once is enough.
        for arg in kept {
            if !node.kernel_args.contains(&arg) {
                node.kernel_args.push(arg);
            }
        }
        for arg in not {
            self.drop(format!("kernel argument {arg}"));
        }
        for key in ["version", "override"] {
            let inner = kernel.and_then(|kernel| kernel.get(key));
            if let Some(value) =
                inner.or_else(|| merged.get(format!("kernel {key}"))).and_then(word)
            {
                self.drop(format!("kernel {key} {value} (an image has its own)"));
            }
        }
    }

    fn bmc(&mut self, line: usize, merged: &Mapping) -> Option<Bmc> {
        let ipmi = merged.get("ipmi").and_then(Value::as_mapping);
        let get = |key: &str| {
            let inner = ipmi.and_then(|ipmi| ipmi.get(key));
            inner.or_else(|| merged.get(format!("ipmi {key}"))).and_then(word)
        };
        let address = get("ipaddr")?;
        let at = self.places.value(self.name, &address);
        let address: IpAddr = self.problems.take(at, text::bmc_address(&address))?;
        let port = match get("port").map(|port| port.parse::<u16>()) {
            None => None,
            Some(Ok(port)) if port > 0 => Some(port),
            Some(_) => {
                self.problems.add(line, format!("the port of {}'s BMC is no UDP port", self.name));
                None
            }
        };
        match get("interface").as_deref() {
            None | Some("lanplus") => {}
            Some(other) => self.drop(format!("ipmi interface {other} (haasd speaks lanplus)")),
        }
        match get("template").as_deref() {
            None | Some("ipmitool.tmpl") => {}
            Some(other) => self.drop(format!("ipmi template {other} (written as ipmi)")),
        }
        for key in ["netmask", "gateway", "write", "vlan", "escapechar"] {
            if get(key).is_some() {
                self.drop(format!("ipmi {key}"));
            }
        }
        let account = Account { user: get("username"), password: get("password").map(Password) };
        Some(Bmc { line: at, address, port, mac: None, account })
    }

    /// Names whatever else holds for the node.
    fn others(&mut self, merged: &Mapping) {
        const READ: [&str; 13] = [
            "comment",
            "profiles",
            "network devices",
            "primary network",
            "tags",
            "keys",
            "cluster name",
            "kernel",
            "kernel args",
            "kernel version",
            "kernel override",
            "ipmi",
            "discoverable",
        ];
        for (key, value) in merged {
            let Some(key) = word(key) else { continue };
            if READ.contains(&key.as_str()) || key.starts_with("ipmi ") || is_empty(value) {
                continue;
            }
            let said = match value {
                Value::Mapping(inner) if inner.is_empty() => continue,
                Value::Mapping(_) | Value::Tagged(_) => String::new(),
                _ if text::is_secret(&key) => String::new(),
                value => list(Some(value)).join(","),
            };
            self.drop(format!("{key} {said}").trim_end().to_owned());
        }
    }
}

/// The kernel arguments, a text or a list, where any release has them.
pub(super) fn kernel_args(merged: &Mapping) -> Option<&Value> {
    let kernel = merged.get("kernel").and_then(Value::as_mapping);
    kernel.and_then(|kernel| kernel.get("args")).or_else(|| merged.get("kernel args"))
}
