//! What an import would change, for a person to read before it does.

use std::{collections::BTreeMap, fmt};

use haas_api::{check::command_line, names::NodeName};

use super::{
    Arch, BmcPrivilege, CipherSuite, ConsoleBy, Firmware, NetworkBoot, NicRole, NodeSpec,
    PowerSpec, RedfishSpec, TlsTrust,
};

/// The difference of two inventories.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Diff {
    /// Nodes that are new.
    pub added: Vec<NodeName>,
    /// Nodes that are gone.
    pub removed: Vec<NodeName>,
    /// Nodes of which something is different, and what.
    pub changed: Vec<(NodeName, Vec<FieldChange>)>,
}

/// A field that is different.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldChange {
    /// Its key in nodes.toml.
    pub field: &'static str,
    /// What it was, as text; `-` for nothing.
    pub old: String,
    /// What it becomes.
    pub new: String,
}

impl Diff {
    /// Whether both inventories say the same.
    pub fn is_empty(&self) -> bool {
        self.added.is_empty() && self.removed.is_empty() && self.changed.is_empty()
    }
}

impl fmt::Display for Diff {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return f.write_str("no changes");
        }
        let names = self.added.iter().chain(&self.removed).chain(self.changed.iter().map(|c| &c.0));
        let width = names.map(|name| name.as_str().len()).max().unwrap_or_default();
        for name in &self.added {
            writeln!(f, "+ {name}")?;
        }
        for name in &self.removed {
            writeln!(f, "- {name}")?;
        }
        for (name, fields) in &self.changed {
            for (i, FieldChange { field, old, new }) in fields.iter().enumerate() {
                let head = if i == 0 { format!("~ {name}") } else { String::new() };
                writeln!(f, "{head:<0$}  {field}: {old} -> {new}", width + 2)?;
            }
        }
        let (added, removed, changed) = (self.added.len(), self.removed.len(), self.changed.len());
        write!(f, "{added} added, {removed} removed, {changed} changed")
    }
}

pub(super) fn diff(old: &[NodeSpec], new: &[NodeSpec]) -> Diff {
    let by_name = |nodes: &'_ [NodeSpec]| -> BTreeMap<NodeName, NodeSpec> {
        nodes.iter().map(|node| (node.name.clone(), node.clone())).collect()
    };
    let (old, new) = (by_name(old), by_name(new));
    let changed = |(name, was): (&NodeName, &NodeSpec)| {
        let changes = changes(was, new.get(name)?);
        (!changes.is_empty()).then(|| (name.clone(), changes))
    };
    Diff {
        added: new.keys().filter(|name| !old.contains_key(name)).cloned().collect(),
        removed: old.keys().filter(|name| !new.contains_key(name)).cloned().collect(),
        changed: old.iter().filter_map(changed).collect(),
    }
}

fn changes(old: &NodeSpec, new: &NodeSpec) -> Vec<FieldChange> {
    let pairs = fields(old).into_iter().zip(fields(new));
    pairs
        .filter(|((_, old), (_, new))| old != new)
        .map(|((field, old), (_, new))| FieldChange { field, old, new })
        .collect()
}

// Destructured, so that a field added to NodeSpec cannot be forgotten here.
fn fields(node: &NodeSpec) -> Vec<(&'static str, String)> {
    let NodeSpec {
        name: _,
        nics,
        address,
        groups,
        power,
        firmware,
        arch,
        overlay_disk,
        scratch_disks,
        detached_disks,
        cache_mib,
        labels,
        kernel_args,
        ipxe,
        secure_boot,
        ready_checks,
    } = node;
    let nics = nics.iter().map(|nic| {
        let role = match nic.role {
            NicRole::Boot => "boot",
            NicRole::Data => "data",
            NicRole::Ib => "ib",
        };
        format!("{} {role}", nic.mac)
    });
    let firmware = match firmware {
        Firmware::Bios => "bios",
        Firmware::Uefi => "uefi",
    };
    let arch = match arch {
        Arch::X86_64 => "x86_64",
        Arch::Aarch64 => "aarch64",
    };
    let checks = ready_checks.iter().map(|check| {
        let line = command_line(&check.command);
        format!("{line} within {} s", check.within_s)
    });
    vec![
        ("nics", joined(nics)),
        ("address", address.map_or("from the pool".to_owned(), |a| a.to_string())),
        ("groups", joined(groups.iter().map(|group| group.to_string()))),
        ("power", power_text(power)),
        ("firmware", firmware.to_owned()),
        ("arch", arch.to_owned()),
        ("overlay_disk", overlay_disk.to_string()),
        ("scratch_disks", joined(scratch_disks.iter().map(ToString::to_string))),
        ("detached_disks", joined(detached_disks.iter().map(ToString::to_string))),
        ("cache", format!("{cache_mib} MiB")),
        ("labels", joined(labels.iter().map(|(key, value)| format!("{key}={value}")))),
        ("kernel_args", joined(kernel_args.iter().cloned())),
        ("ipxe", ipxe.clone().unwrap_or_else(|| "-".to_owned())),
        ("secure_boot", secure_boot.to_string()),
        ("ready_checks", joined(checks)),
    ]
}

fn power_text(power: &PowerSpec) -> String {
    match power {
        PowerSpec::Manual => "manual".to_owned(),
        PowerSpec::Exec { command } => format!("exec {command:?}"),
        PowerSpec::Ipmi { address, port, mac, user, password, kg, privilege, cipher_suite } => {
            let mac = mac.map(|mac| format!(" ({mac})")).unwrap_or_default();
            let kg = kg.as_ref().map(|kg| format!(", K_g in {kg}")).unwrap_or_default();
            let privilege = match privilege {
                BmcPrivilege::Administrator => "",
                BmcPrivilege::Operator => ", as operator",
            };
            let suite = match cipher_suite {
                None => "",
                Some(CipherSuite::Three) => ", cipher suite 3",
                Some(CipherSuite::Seventeen) => ", cipher suite 17",
            };
            format!(
                "ipmi {user}@{address} port {port}{mac}, password in {password}{kg}{privilege}{suite}"
            )
        }
        PowerSpec::Redfish(RedfishSpec {
            address,
            port,
            mac,
            user,
            password,
            tls,
            server_name,
            system,
            network_boot,
            console,
        }) => {
            let mac = mac.map(|mac| format!(" ({mac})")).unwrap_or_default();
            let tls = match tls {
                TlsTrust::Fingerprint(fingerprint) => format!("certificate {fingerprint}"),
                TlsTrust::CaFile(path) => format!("certificate by {}", path.display()),
            };
            let name = server_name.as_ref().map(|name| format!(" for {name}")).unwrap_or_default();
            let system = system.as_ref().map(|id| format!(", system {id}")).unwrap_or_default();
            let boot = match network_boot {
                NetworkBoot::Pxe => "",
                NetworkBoot::Http => ", boots by HTTP",
            };
            let console = match console {
                ConsoleBy::Nothing => "",
                ConsoleBy::Ipmi => ", console by IPMI",
            };
            format!(
                "redfish {user}@{address} port {port}{mac}, password in {password}, {tls}{name}{system}{boot}{console}"
            )
        }
    }
}

fn joined(items: impl Iterator<Item = String>) -> String {
    match items.collect::<Vec<_>>().join(", ") {
        empty if empty.is_empty() => "-".to_owned(),
        text => text,
    }
}
