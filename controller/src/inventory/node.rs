//! From the tables of nodes.toml to nodes, and what no two of them may share.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr},
    ops::Range,
    path::Path,
};

use haas_api::{
    agent::DiskSelector,
    names::{Mac, NodeGroupName, NodeName},
};

use super::{
    Arch, ConsoleBy, Firmware, IPMI_PORT, Nic, NicRole, NodeSpec, PowerSpec, layer::Layer,
    power::Level,
};
use crate::config::{
    DhcpMode, Network,
    reader::{At, Notes, Table, Value},
};

pub(super) fn nodes(notes: &Notes<'_>, folder: &Path, networks: &[Network]) -> Vec<NodeSpec> {
    let parsed = notes.parse();
    let root = notes.root(&parsed);
    let defaults = root.get("defaults").and_then(|value| value.table()).map(|table| {
        let layer = Layer::read(&table, Level::Shared, folder);
        table.refuse_unknown();
        layer
    });
    let reader = Reader {
        notes,
        folder,
        networks,
        defaults: defaults.unwrap_or_default(),
        groups: groups(notes, &root, folder),
    };
    let mut taken = Taken::default();
    let mut nodes = Vec::new();
    for table in root.tables("node") {
        nodes.extend(reader.node(&table, &mut taken));
        table.refuse_unknown();
    }
    taken.refuse_nodes_at_bmcs(notes);
    root.refuse_unknown();
    nodes
}

type Groups = BTreeMap<NodeGroupName, (Layer, usize)>;

fn groups(notes: &Notes<'_>, root: &Table<'_>, folder: &Path) -> Groups {
    let mut groups = Groups::new();
    for table in root.tables("group") {
        let name = table.need("name", "the group's name").and_then(|v| Some(v.at(v.name()?)));
        let layer = Layer::read(&table, Level::Shared, folder);
        table.refuse_unknown();
        let Some(At { value: name, span }) = name else { continue };
        if let Some((_, line)) = groups.get(&name) {
            let wrong = format!("\"{name}\" is already the group in line {line}");
            notes.add(span, "group.name", wrong, "a name of its own");
            continue;
        }
        groups.insert(name, (layer, table.line()));
    }
    groups
}

struct Reader<'a> {
    notes: &'a Notes<'a>,
    folder: &'a Path,
    networks: &'a [Network],
    defaults: Layer,
    groups: Groups,
}

impl Reader<'_> {
    // Everything is read and compared before anything missing ends the work, so that one mistake
    // hides no other.
    fn node(&self, table: &Table<'_>, taken: &mut Taken) -> Option<NodeSpec> {
        let name = table.need("name", "the node's name").and_then(|v| Some(v.at(v.name()?)));
        let who = name.as_ref().map_or("a node".to_owned(), |n: &At<NodeName>| n.value.to_string());
        if let Some(name) = &name {
            taken.name(self.notes, name);
        }
        let nics = self.nics(table, &who, taken);
        let address = table.get("address").and_then(|v| self.address(&v, &who, taken));
        let groups = table.get("groups").map(|v| self.group_names(&v)).unwrap_or_default();
        let own = Layer::read(table, Level::Node, self.folder);
        if let Some(mac) = own.power.mac() {
            taken.mac(self.notes, mac, "node.power.mac", &format!("{who}'s BMC"));
        }
        let bmc_at = own.power.address().map(|a| a.span.clone());

        let mut below = self.defaults.clone();
        for group in &groups {
            below = self.groups[group].0.clone().over(below);
        }
        let layer = own.over(below);
        let secure_boot = layer.secure_boot.unwrap_or(false);
        if secure_boot {
            self.signed_only(table, &layer);
        }
        let power = layer.power.finish(self.notes, table);
        if let (Some(power), Some(span)) = (&power, bmc_at) {
            self.bmc(power, span, &who, taken);
        }
        let overlay_disk = layer.overlay_disk.unwrap_or(DiskSelector::Auto);
        let scratch_disks = layer.scratch_disks.unwrap_or_default();
        let detached_disks = layer.detached_disks.unwrap_or_default();
        let lists = [("scratch_disks", &scratch_disks), ("detached_disks", &detached_disks)];
        for (key, disks) in lists {
            if let DiskSelector::One(disk) = &overlay_disk
                && disks.contains(disk)
            {
                let wrong = format!("{disk} is the overlay_disk too");
                let right = "another disk, or another overlay_disk";
                self.notes.add(table.span(), &format!("node.{key}"), wrong, right);
            }
        }
        if let Some(disk) = scratch_disks.iter().find(|disk| detached_disks.contains(disk)) {
            let wrong = format!("{disk} is among scratch_disks too");
            self.notes.add(table.span(), "node.detached_disks", wrong, "it in one of the two");
        }
        Some(NodeSpec {
            name: name?.value,
            nics,
            address,
            groups: groups.into_iter().collect(),
            power: power?,
            firmware: layer.firmware.unwrap_or(Firmware::Bios),
            arch: layer.arch.unwrap_or(Arch::X86_64),
            overlay_disk,
            scratch_disks,
            detached_disks,
            cache_mib: layer.cache_mib.unwrap_or(0),
            labels: layer.labels,
            kernel_args: layer.kernel_args,
            ipxe: layer.ipxe,
            secure_boot,
            ready_checks: layer.ready_checks,
        })
    }

    /// What goes with `secure_boot`.
    fn signed_only(&self, table: &Table<'_>, layer: &Layer) {
        let right = match (&layer.firmware, &layer.arch, &layer.ipxe) {
            (None | Some(Firmware::Bios), _, _) => {
                "firmware = \"uefi\": a BIOS checks no signature"
            }
            (_, Some(Arch::Aarch64), _) => "arch = \"x86_64\": for others there is no shim here",
            (_, _, Some(_)) => "no ipxe: iPXE is not signed, shim and GRUB are loaded in its place",
            (Some(Firmware::Uefi), None | Some(Arch::X86_64), None) => return,
        };
        self.notes.add(table.span(), "node.secure_boot", "cannot be".to_owned(), right);
    }

    fn nics(&self, table: &Table<'_>, who: &str, taken: &mut Taken) -> Vec<Nic> {
        const RIGHT: &str = "mac = \"…\", or nics with exactly one role = \"boot\"";
        let short = table.get("mac");
        let long = table.get("nics");
        let mut nics = Vec::new();
        let mut complete = true;
        if let (Some(_), Some(long)) = (&short, &long) {
            let _: Option<()> = long.refuse("stands beside mac", "one of the two");
        }
        if let Some(value) = short {
            let mac = value.name().map(|mac| value.at(mac));
            complete &= mac.is_some();
            nics.extend(mac.map(|mac| (mac, NicRole::Boot, "node.mac")));
        } else if let Some(value) = long {
            for item in value.items("a list such as [{ mac = \"…\", role = \"boot\" }]") {
                let nic = nic(&item);
                complete &= nic.is_some();
                nics.extend(nic.map(|(mac, role)| (mac, role, "node.nics.mac")));
            }
        }
        for (mac, _, key) in &nics {
            taken.mac(self.notes, mac, key, who);
        }
        let boot = nics.iter().filter(|(_, role, _)| *role == NicRole::Boot).count();
        // A NIC that could not be read may have been the one.
        if boot == 0 && complete {
            table.refuse("node", format!("{who} has no NIC to boot from"), RIGHT);
        } else if boot > 1 {
            table.refuse("node", format!("{who} has {boot} NICs with the role boot"), RIGHT);
        }
        nics.into_iter().map(|(mac, role, _)| Nic { mac: mac.value, role }).collect()
    }

    fn group_names(&self, value: &Value<'_>) -> Vec<NodeGroupName> {
        let mut named: Vec<(usize, NodeGroupName)> = Vec::new();
        for item in value.items("a list of group names") {
            let Some(name) = item.name::<NodeGroupName>() else { continue };
            let Some((_, line)) = self.groups.get(&name) else {
                let known = self.groups.keys().map(|g| g.to_string()).collect::<Vec<_>>();
                let right = match known.as_slice() {
                    [] => format!("a [[group]] with name = \"{name}\""),
                    known => format!("one of {}", known.join(", ")),
                };
                let _: Option<()> = item.refuse(format!("no [[group]] is named \"{name}\""), right);
                continue;
            };
            named.push((*line, name));
        }
        // "In order listed" is the order of the [[group]] tables, the same for every node.
        named.sort();
        named.dedup();
        named.into_iter().map(|(_, name)| name).collect()
    }

    fn address(&self, value: &Value<'_>, who: &str, taken: &mut Taken) -> Option<Ipv4Addr> {
        let address: Ipv4Addr = value.parsed("an IPv4 address such as \"10.77.0.11\"")?;
        if self.networks.is_empty() {
            // They are not known: haasd.toml itself is wrong.
            taken.address(self.notes, address, value.span(), who);
            return Some(address);
        }
        let Some(network) = self.networks.iter().find(|n| n.cidr.contains(&address)) else {
            let known = self.networks.iter().map(|n| format!("{} ({})", n.cidr, n.name));
            let right = format!("an address in {}", known.collect::<Vec<_>>().join(", "));
            return value.refuse(format!("{address} is in no [[network]]"), right);
        };
        let collision = if address == network.cidr.network() {
            Some(format!("the network {} itself", network.cidr))
        } else if address == network.cidr.broadcast() {
            Some(format!("the broadcast address of {}", network.cidr))
        } else if address == network.controller {
            Some("the controller".to_owned())
        } else if Some(address) == network.gateway {
            Some("the gateway".to_owned())
        } else {
            in_pool(network, address)
        };
        if let Some(whose) = collision {
            let right = "an address that is free, or none to take one from the pool";
            return value.refuse(format!("{address} is {whose}"), right);
        }
        taken.address(self.notes, address, value.span(), who);
        Some(address)
    }

    fn bmc(&self, power: &PowerSpec, span: Range<usize>, who: &str, taken: &mut Taken) {
        let (address, port, system) = match power {
            PowerSpec::Ipmi { address, port, .. } => (*address, *port, None),
            PowerSpec::Redfish(spec) => {
                // Nobody can say which of a BMC's systems prints on the console that it has.
                let has_console = spec.console != ConsoleBy::Nothing;
                if has_console {
                    taken.bmc(self.notes, (spec.address, IPMI_PORT), None, span.clone(), who);
                }
                (spec.address, spec.port, spec.system.clone().filter(|_| !has_console))
            }
            PowerSpec::Exec { .. } | PowerSpec::Manual => return,
        };
        if let IpAddr::V4(v4) = address {
            let pool = self.networks.iter().find_map(|network| in_pool(network, v4));
            if let Some(pool) = pool {
                let wrong = format!("{address} is {pool}");
                self.notes.add(span.clone(), "node.power.address", wrong, "an address outside it");
            }
        }
        taken.bmc(self.notes, (address, port), system, span, who);
    }
}

fn in_pool(network: &Network, address: Ipv4Addr) -> Option<String> {
    let (first, last) = network.pool?;
    let inside = network.dhcp == DhcpMode::Own && (first..=last).contains(&address);
    inside.then(|| format!("in the pool {first}-{last} of {}", network.name))
}

fn nic(item: &Value<'_>) -> Option<(At<Mac>, NicRole)> {
    let table = item.table()?;
    let mac = table.need("mac", "its address").and_then(|v| Some(v.at(v.name()?)));
    let roles = [("boot", NicRole::Boot), ("data", NicRole::Data), ("ib", NicRole::Ib)];
    let role = table.need("role", "\"boot\" or \"data\" or \"ib\"").and_then(|v| v.word(&roles));
    table.refuse_unknown();
    Some((mac?, role?))
}

/// A system behind a BMC, none if it is the only one; whose it is, and in which line.
type TakenSystem = (Option<String>, String, usize);

/// What earlier nodes of the file have.
#[derive(Debug, Default)]
struct Taken {
    names: BTreeMap<NodeName, usize>,
    macs: BTreeMap<Mac, (String, usize)>,
    addresses: BTreeMap<IpAddr, (String, Range<usize>)>,
    /// At each address the systems that are taken, by whom and in which line.
    bmcs: BTreeMap<(IpAddr, u16), Vec<TakenSystem>>,
}

impl Taken {
    fn name(&mut self, notes: &Notes<'_>, name: &At<NodeName>) {
        if let Some(line) = self.names.get(&name.value) {
            let wrong = format!("\"{}\" is already the node in line {line}", name.value);
            notes.add(name.span.clone(), "node.name", wrong, "a name of its own");
        } else {
            self.names.insert(name.value.clone(), notes.line(&name.span));
        }
    }

    fn mac(&mut self, notes: &Notes<'_>, mac: &At<Mac>, key: &str, who: &str) {
        if let Some((other, line)) = self.macs.get(&mac.value) {
            let wrong = format!("{} is already {other}'s in line {line}", mac.value);
            notes.add(mac.span.clone(), key, wrong, "the MAC that stands on this one's label");
        } else {
            self.macs.insert(mac.value, (who.to_owned(), notes.line(&mac.span)));
        }
    }

    fn address(&mut self, notes: &Notes<'_>, at: Ipv4Addr, span: Range<usize>, who: &str) {
        if let Some((other, place)) = self.addresses.get(&at.into()) {
            let wrong = format!("{at} is already {other}'s in line {}", notes.line(place));
            notes.add(span, "node.address", wrong, "an address of its own");
        } else {
            self.addresses.insert(at.into(), (who.to_owned(), span));
        }
    }

    // One BMC may have the systems of several nodes, if each says which one is its own.
    fn bmc(
        &mut self,
        notes: &Notes<'_>,
        at: (IpAddr, u16),
        system: Option<String>,
        span: Range<usize>,
        who: &str,
    ) {
        let here = self.bmcs.entry(at).or_default();
        let same = |known: &Option<String>| known.is_none() || system.is_none() || *known == system;
        if let Some((_, other, line)) = here.iter().find(|(known, ..)| same(known)) {
            let wrong = format!("{} port {} is already {other}'s BMC in line {line}", at.0, at.1);
            let right = "a BMC of its own, or two nodes would be powered as one";
            notes.add(span, "node.power.address", wrong, right);
        } else {
            here.push((system, who.to_owned(), notes.line(&span)));
        }
    }

    // BMCs may stand above or below the node whose address they hold, so this comes last.
    fn refuse_nodes_at_bmcs(&self, notes: &Notes<'_>) {
        for (address, (_, span)) in &self.addresses {
            let bmc = self.bmcs.iter().find(|((at, _), _)| at == address);
            if let Some((_, who, line)) = bmc.and_then(|(_, here)| here.first()) {
                let wrong = format!("{address} is the address of {who}'s BMC in line {line}");
                notes.add(span.clone(), "node.address", wrong, "an address of its own");
            }
        }
    }
}
