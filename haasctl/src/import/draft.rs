//! What was read of another system's file, before it is written as nodes.toml.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::{IpAddr, Ipv4Addr},
};

use haas_api::names::{Mac, NodeGroupName, NodeName};

/// All that a file says.
#[derive(Debug, Default)]
pub(super) struct Draft {
    pub(super) nodes: Vec<Node>,
    /// Entries that became no node, and why, in one line each behind the line of the file.
    pub(super) left_out: Vec<(usize, String)>,
    /// What nodes.toml has no place for, with the nodes that it was said of.
    dropped: Vec<(String, Vec<String>)>,
    /// What a person should know of the whole file, in one line each.
    pub(super) remarks: Vec<String>,
    /// What the file itself says of node groups. A group of which it says nothing may hold whatever
    /// its nodes have alike.
    pub(super) said: BTreeMap<NodeGroupName, Said>,
}

/// What a file says of a node group.
#[derive(Debug, Default)]
pub(super) struct Said {
    /// The keys of its labels, and its kernel arguments.
    pub(super) words: BTreeSet<String>,
    /// Whether it says who logs in to BMCs.
    pub(super) account: bool,
    pub(super) remark: Option<String>,
}

impl Draft {
    /// Notes an entry that becomes no node, with nothing else that was noted of it.
    pub(super) fn leave_out(&mut self, line: usize, who: &str, why: &str) {
        self.left_out.push((line, format!("{who} (line {line}): {why}")));
        for (_, nodes) in &mut self.dropped {
            nodes.retain(|node| node != who);
        }
        self.dropped.retain(|(_, nodes)| !nodes.is_empty());
    }

    /// Notes something that is said of a node and not taken over.
    pub(super) fn drop(&mut self, what: impl Into<String>, node: &str) {
        let what = what.into();
        match self.dropped.iter_mut().find(|(known, _)| *known == what) {
            Some((_, nodes)) if nodes.iter().any(|known| known == node) => {}
            Some((_, nodes)) => nodes.push(node.to_owned()),
            None => self.dropped.push((what, vec![node.to_owned()])),
        }
    }

    pub(super) fn dropped(&self) -> &[(String, Vec<String>)] {
        &self.dropped
    }
}

/// A node with all that holds for it: profiles and scopes are already applied.
#[derive(Debug)]
pub(super) struct Node {
    /// Where the file names it.
    pub(super) line: usize,
    pub(super) name: NodeName,
    /// The first one boots.
    pub(super) nics: Vec<Nic>,
    pub(super) address: Option<Ipv4Addr>,
    pub(super) groups: Vec<NodeGroupName>,
    pub(super) labels: BTreeMap<String, String>,
    pub(super) kernel_args: Vec<String>,
    pub(super) firmware: Option<&'static str>,
    pub(super) arch: Option<&'static str>,
    pub(super) bmc: Option<Bmc>,
    /// What a person should know of this node, in one line each.
    pub(super) remarks: Vec<String>,
}

impl Node {
    /// A node of which only the name and the NICs are known.
    pub(super) fn new(line: usize, name: NodeName, nics: Vec<Nic>) -> Self {
        Self {
            line,
            name,
            nics,
            address: None,
            groups: Vec::new(),
            labels: BTreeMap::new(),
            kernel_args: Vec::new(),
            firmware: None,
            arch: None,
            bmc: None,
            remarks: Vec::new(),
        }
    }
}

/// A network interface.
#[derive(Debug, Clone, Copy)]
pub(super) struct Nic {
    /// Where the file names it.
    pub(super) line: usize,
    pub(super) mac: Mac,
    /// `boot`, `data` or `ib`.
    pub(super) role: &'static str,
}

/// A BMC that speaks IPMI.
#[derive(Debug)]
pub(super) struct Bmc {
    /// Where the file names it.
    pub(super) line: usize,
    pub(super) address: IpAddr,
    pub(super) port: Option<u16>,
    pub(super) mac: Option<Mac>,
    pub(super) account: Account,
}

/// Who logs in to BMCs. BMCs with equal accounts share a file for the password.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Account {
    pub(super) user: Option<String>,
    pub(super) password: Option<Password>,
}

/// A password in clear, kept only to tell which BMCs share one.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Password(pub(super) String);

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// Everything that is wrong in a file, each with its line.
#[derive(Debug, Default)]
pub(super) struct Problems(Vec<(usize, String)>);

impl Problems {
    pub(super) fn add(&mut self, line: usize, text: impl Into<String>) {
        self.0.push((line, text.into()));
    }

    /// The value of a result, or a note of what is wrong in that line.
    pub(super) fn take<T>(&mut self, line: usize, result: Result<T, String>) -> Option<T> {
        result.map_err(|text| self.add(line, text)).ok()
    }

    /// All of them in the file's order, one line each; none if nothing is wrong.
    pub(super) fn told(mut self, file: &str) -> Option<String> {
        self.0.sort_by_key(|(line, _)| *line);
        let lines: Vec<_> =
            self.0.iter().map(|(line, text)| format!("  {file}:{line}: {text}")).collect();
        (!lines.is_empty()).then(|| lines.join("\n"))
    }
}

/// Takes away the names of BMC users that IPMI cannot have (IPMI 2.0 section 22.28: 16 bytes).
pub(super) fn settle_users(draft: &mut Draft) {
    for at in 0..draft.nodes.len() {
        let node = &mut draft.nodes[at];
        let name = node.name.as_str().to_owned();
        let Some(bmc) = &mut node.bmc else { continue };
        let long = |user: &mut String| user.len() > 16 || !user.is_ascii();
        if let Some(user) = bmc.account.user.take_if(long) {
            draft.drop(format!("BMC user {user} (IPMI has up to 16 ASCII characters)"), &name);
        }
    }
}

/// Refuses what no two nodes may share, as haasd would, but with the lines of the file.
pub(super) fn check(draft: &Draft, problems: &mut Problems) {
    let mut nodes: Vec<_> = draft.nodes.iter().collect();
    nodes.sort_by_key(|node| node.line);
    let mut names = BTreeMap::new();
    let mut macs = BTreeMap::new();
    let mut addresses: BTreeMap<IpAddr, (String, usize)> = BTreeMap::new();
    let mut bmcs = BTreeMap::new();
    for node in &nodes {
        let (line, who) = (node.line, node.name.as_str());
        if let Some(other) = names.insert(who, line) {
            problems.add(line, format!("{who} is already the node in line {other}"));
        }
        let bmc = node.bmc.iter().filter_map(|bmc| Some((bmc.line, bmc.mac?)));
        for (line, mac) in node.nics.iter().map(|nic| (nic.line, nic.mac)).chain(bmc) {
            if let Some((other, at)) = macs.insert(mac, (who, line)) {
                problems.add(line, format!("{mac} of {who} is already {other}'s in line {at}"));
            }
        }
        if let Some(address) = node.address
            && let Some((other, at)) = addresses.insert(address.into(), (who.to_owned(), line))
        {
            problems.add(line, format!("{address} of {who} is already {other}'s in line {at}"));
        }
    }
    for node in &nodes {
        let Some(bmc) = &node.bmc else { continue };
        let (line, who, address) = (bmc.line, node.name.as_str(), bmc.address);
        // Behind one address there may be several BMCs, each with a port of its own.
        if let Some((other, at)) = bmcs.insert((address, bmc.port.unwrap_or(623)), (who, line)) {
            let told = format!("{address}, {who}'s BMC, is already {other}'s in line {at}");
            problems.add(line, told);
        }
        if let Some((other, at)) = addresses.get(&address) {
            let told = format!("{address}, {who}'s BMC, is the address of {other} in line {at}");
            problems.add(line, told);
        }
    }
}
