//! What can be asked of a node: names of fields, what they are, and their values.

use haas_api::{
    hardware::{Inventory, Summary},
    node::Node,
};

/// A field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Field {
    /// One of [`FIELDS`].
    Known(&'static Known),
    /// A label by its key.
    Label(String),
}

/// A field that every node has, though perhaps without a value.
pub(super) struct Known {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    of: Of,
}

/// Where a field's values come from.
enum Of {
    /// What lists have.
    Node(fn(&Node) -> Vec<Value>),
    /// The agent's inventory.
    Inventory(fn(&Inventory) -> Vec<Value>),
}

/// What a field is compared with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Text.
    Text,
    /// One of these words.
    Word(&'static [&'static str]),
    /// A number.
    Count,
    /// Bytes: `64G` is 2^36.
    Bytes,
    /// Bits per second: `10G` is 10^10.
    Rate,
}

/// A value.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    Text(String),
    Number(u64),
}

const STATES: &[&str] =
    &["unmanaged", "idle", "off", "switching", "ready", "unreachable", "handed-over", "fault"];
const POWERS: &[&str] = &["on", "off", "unknown"];
const LEVELS: &[&str] = &["unknown", "ok", "warning", "critical"];
const YES_NO: &[&str] = &["yes", "no"];

/// All of them, in the order of the documentation.
pub(super) const FIELDS: &[Known] = &[
    node("name", Kind::Text, |node| text(node.name.to_string())),
    node("group", Kind::Text, |node| node.groups.iter().map(|g| one(g.to_string())).collect()),
    node("address", Kind::Text, |node| maybe(node.address.as_ref())),
    node("mac", Kind::Text, |node| text(node.mac.to_string())),
    node("driver", Kind::Text, |node| text(node.power_driver.clone())),
    node("managed", Kind::Word(YES_NO), |node| {
        text(if node.managed { "yes" } else { "no" }.into())
    }),
    node("state", Kind::Word(STATES), |node| text(node.state.as_str().to_owned())),
    node("power", Kind::Word(POWERS), |node| text(node.observed.power.clone())),
    node("tenant", Kind::Text, |node| {
        maybe(node.tenant.as_ref().map(ToString::to_string).as_ref())
    }),
    node("image", Kind::Text, |node| {
        maybe(node.desired.as_ref().and_then(|desired| desired.image.as_ref()))
    }),
    node("overlay", Kind::Text, |node| {
        maybe(node.desired.as_ref().and_then(|desired| desired.overlay.as_ref()))
    }),
    node("logins", Kind::Count, |node| number(node.observed.logins.len())),
    node("watts", Kind::Count, |node| {
        node.observed.watts.map(|watts| Value::Number(watts.into())).into_iter().collect()
    }),
    node("health", Kind::Word(LEVELS), |node| text(node.health.level.as_str().to_owned())),
    summary("sockets", Kind::Count, |node| known(node, |s| s.sockets.into())),
    summary("cores", Kind::Count, |node| known(node, |s| s.cores.into())),
    summary("threads", Kind::Count, |node| known(node, |s| s.threads.into())),
    summary("cpu", Kind::Text, |node| {
        maybe(node.summary.as_ref().and_then(|summary| summary.cpu.as_ref()))
    }),
    summary("memory", Kind::Bytes, |node| known(node, |s| s.memory)),
    summary("disks", Kind::Count, |node| known(node, |s| s.disks.into())),
    found("vendor", Kind::Text, |found| maybe(found.system.vendor.as_ref())),
    found("product", Kind::Text, |found| maybe(found.system.product.as_ref())),
    found("serial", Kind::Text, |found| maybe(found.system.serial.as_ref())),
    found("firmware", Kind::Text, |found| maybe(found.system.firmware.as_ref())),
    found("dimm.slot", Kind::Text, |found| each(&found.dimms, |d| Some(d.slot.clone()))),
    found("dimm.size", Kind::Bytes, |found| {
        found.dimms.iter().map(|dimm| Value::Number(dimm.size)).collect()
    }),
    found("dimm.part", Kind::Text, |found| each(&found.dimms, |d| d.part.clone())),
    found("dimm.serial", Kind::Text, |found| each(&found.dimms, |d| d.serial.clone())),
    found("disk.size", Kind::Bytes, |found| {
        found.disks.iter().map(|disk| Value::Number(disk.size)).collect()
    }),
    found("disk.model", Kind::Text, |found| each(&found.disks, |d| d.model.clone())),
    found("disk.serial", Kind::Text, |found| each(&found.disks, |d| d.serial.clone())),
    found("disk.transport", Kind::Text, |found| each(&found.disks, |d| Some(d.transport.clone()))),
    found("disk.smart", Kind::Word(LEVELS), |found| {
        each(&found.disks, |d| Some(d.smart.level.as_str().to_owned()))
    }),
    found("nic.mac", Kind::Text, |found| each(&found.nics, |n| Some(n.mac.clone()))),
    found("nic.driver", Kind::Text, |found| each(&found.nics, |n| n.driver.clone())),
    found("nic.speed", Kind::Rate, |found| {
        let speeds = found.nics.iter().filter_map(|nic| nic.speed_mbps);
        speeds.map(|speed| Value::Number(speed.saturating_mul(1_000_000))).collect()
    }),
    found("pci", Kind::Text, |found| {
        each(&found.pci, |p| Some(format!("{}:{}", p.vendor, p.device)))
    }),
];

const fn node(name: &'static str, kind: Kind, of: fn(&Node) -> Vec<Value>) -> Known {
    Known { name, kind, of: Of::Node(of) }
}

/// A field of the hardware that lists have too.
const fn summary(name: &'static str, kind: Kind, of: fn(&Node) -> Vec<Value>) -> Known {
    node(name, kind, of)
}

const fn found(name: &'static str, kind: Kind, of: fn(&Inventory) -> Vec<Value>) -> Known {
    Known { name, kind, of: Of::Inventory(of) }
}

fn one(text: String) -> Value {
    Value::Text(text)
}

fn text(text: String) -> Vec<Value> {
    vec![one(text)]
}

fn number(count: usize) -> Vec<Value> {
    vec![Value::Number(u64::try_from(count).unwrap_or(u64::MAX))]
}

fn maybe(value: Option<&String>) -> Vec<Value> {
    value.map(|value| one(value.clone())).into_iter().collect()
}

fn known(node: &Node, of: fn(&Summary) -> u64) -> Vec<Value> {
    node.summary.as_ref().map(|summary| Value::Number(of(summary))).into_iter().collect()
}

fn each<T>(list: &[T], of: fn(&T) -> Option<String>) -> Vec<Value> {
    list.iter().filter_map(of).map(one).collect()
}

impl Field {
    /// What it is compared with.
    pub(super) fn kind(&self) -> Kind {
        match self {
            Self::Known(known) => known.kind,
            Self::Label(_) => Kind::Text,
        }
    }

    pub(super) fn needs_inventory(&self) -> bool {
        match self {
            Self::Known(known) => matches!(known.of, Of::Inventory(_)),
            Self::Label(_) => false,
        }
    }

    /// A node's values of it; none where nothing is known.
    pub(super) fn of(&self, node: &Node, inventory: Option<&Inventory>) -> Vec<Value> {
        match self {
            Self::Label(key) => maybe(node.labels.get(key)),
            Self::Known(Known { of: Of::Node(of), .. }) => of(node),
            Self::Known(Known { of: Of::Inventory(of), .. }) => {
                inventory.map(of).unwrap_or_default()
            }
        }
    }
}

impl PartialEq for Known {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Eq for Known {}

impl std::fmt::Debug for Known {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

#[cfg(test)]
mod tests {
    use haas_api::hardware::Level;

    use super::*;

    #[test]
    fn the_reference_names_every_field_and_word() {
        let reference = include_str!("../../../docs/reference/cli.md");
        for field in FIELDS {
            assert!(reference.contains(&format!("`{}`", field.name)), "{field:?} is missing");
        }
        let levels: Vec<_> = Level::ALL.iter().map(|level| level.as_str()).collect();
        assert_eq!(levels, LEVELS);
    }
}
