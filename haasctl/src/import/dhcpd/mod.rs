//! ISC dhcpd.conf: dhcpd.conf(5). The `host` blocks, wherever they are nested; a `group NAME` is a
//! node group. What the scopes around them serve is haasd.toml's business. `host` blocks that
//! other systems left in dhcpd.leases are read too.

mod words;

use std::collections::BTreeSet;

use haas_api::names::NodeGroupName;

use self::words::{Word, words};
use super::{
    draft::{Draft, Problems},
    hosts::{self, Host},
    text,
};

/// Blocks in blocks; nobody writes more.
const DEEPEST: usize = 32;

pub(super) fn read(text: &str, problems: &mut Problems) -> Draft {
    let mut reader = Reader {
        words: words(text, problems),
        at: 0,
        hosts: Vec::new(),
        draft: Draft::default(),
        served: BTreeSet::new(),
        problems,
    };
    reader.block(&Scope::default(), 0);
    let Reader { hosts, mut draft, served, .. } = reader;
    if !served.is_empty() {
        let list = served.into_iter().collect::<Vec<_>>().join(", ");
        draft.remarks.push(format!("what haasd.toml and haasd do instead: {list}"));
    }
    hosts::to_nodes(hosts, &mut draft, problems);
    draft
}

/// What holds for the hosts in a block.
#[derive(Debug, Default, Clone)]
struct Scope {
    groups: Vec<NodeGroupName>,
}

struct Reader<'a> {
    words: Vec<Word>,
    at: usize,
    hosts: Vec<Host>,
    draft: Draft,
    /// Statements of scopes, which belong to haasd.toml.
    served: BTreeSet<String>,
    problems: &'a mut Problems,
}

impl Reader<'_> {
    /// Reads up to the end of a block that began in line `opened`, or of the file for 0.
    fn block(&mut self, scope: &Scope, depth: usize) {
        let first_host = self.hosts.len();
        let mut boots = (None, None);
        let opened = if depth == 0 { 0 } else { self.words[self.at - 1].line };
        while let Some(statement) = self.statement(opened) {
            let Some(end) = statement.last() else { break };
            let head = &statement[..statement.len() - 1];
            if end.is("{") {
                self.nested(head, end.line, scope, depth);
            } else if let [first, file, ..] = head
                && first.is("filename")
            {
                boots = hosts::firmware_of(&file.text);
                self.served.insert("filename".to_owned());
            } else if let [first, file, ..] = head
                && first.is("include")
            {
                let (line, file) = (first.line, &file.text);
                let told =
                    format!("line {line}, include {file:?}, is not followed: import it by itself");
                self.draft.remarks.push(text::comment(&told));
            } else if !head.is_empty() {
                self.served.insert(key_of(head));
            }
        }
        for host in &mut self.hosts[first_host..] {
            // A file of the host's own decides both.
            if host.firmware.is_none() {
                (host.firmware, host.arch) = boots;
            }
        }
    }

    /// The words up to and with the next `;` or `{`; none at the block's end.
    fn statement(&mut self, opened: usize) -> Option<Vec<Word>> {
        let start = self.at;
        while let Some(word) = self.words.get(self.at) {
            self.at += 1;
            if word.is(";") || word.is("{") {
                return Some(self.words[start..self.at].to_vec());
            }
            if word.is("}") {
                if let Some(first) = self.words.get(start).filter(|first| !first.is("}")) {
                    let line = first.line;
                    self.problems.add(line, format!("{:?} has no ; at its end", first.text));
                }
                if opened == 0 {
                    let line = word.line;
                    self.problems.add(line, "closes a block that was not opened");
                    return Some(vec![Word { line, text: ";".to_owned(), quoted: false }]);
                }
                return None;
            }
        }
        if opened > 0 {
            self.problems.add(opened, "a block is opened and not closed");
        } else if let Some(first) = self.words.get(start) {
            self.problems.add(first.line, format!("{:?} has no ; at its end", first.text));
        }
        None
    }

    fn nested(&mut self, head: &[Word], line: usize, scope: &Scope, depth: usize) {
        if depth == DEEPEST {
            self.problems.add(line, format!("more than {DEEPEST} blocks in each other"));
            self.at = self.words.len();
            return;
        }
        let kind = head.first().map(|word| word.text.to_ascii_lowercase()).unwrap_or_default();
        match (kind.as_str(), head.get(1)) {
            ("host", Some(name)) => self.host(name.clone(), scope),
            ("group", Some(name)) => {
                let mut inner = scope.clone();
                match text::group_name(&name.text) {
                    Ok(group) if inner.groups.contains(&group) => {}
                    Ok(group) => inner.groups.push(group),
                    Err(_) => {
                        let told =
                            format!("line {line}, group {}, can name no node group", name.text);
                        self.draft.remarks.push(text::comment(&told));
                    }
                }
                self.block(&inner, depth + 1);
            }
            ("group" | "subnet" | "shared-network" | "pool", _) => self.block(scope, depth + 1),
            // A lease says nothing of how a host is to be served.
            ("lease", _) => {
                let served = self.served.clone();
                self.block(&Scope::default(), depth + 1);
                self.served = served;
            }
            // What holds under a condition holds for no host for certain, and hosts are not nested
            // in one.
            _ => self.block(&Scope::default(), depth + 1),
        }
    }

    fn host(&mut self, declared: Word, scope: &Scope) {
        let line = declared.line;
        let mut host = Host {
            line,
            name: Some(declared.text.clone()),
            groups: scope.groups.clone(),
            ..Host::default()
        };
        while let Some(statement) = self.statement(line) {
            let Some(end) = statement.last() else { break };
            let head = &statement[..statement.len() - 1];
            if end.is("{") {
                host.dropped.push(format!("{} {{ }}", key_of(head)));
                self.block(&Scope::default(), DEEPEST - 1);
                continue;
            }
            self.host_statement(&mut host, head);
        }
        // With a name of its own it is one of several blocks for a machine with several NICs.
        let name = host.name.as_deref().map(hosts::short);
        host.may_join = name != Some(hosts::short(&declared.text));
        self.hosts.push(host);
    }

    fn host_statement(&mut self, host: &mut Host, head: &[Word]) {
        let text: Vec<_> = head.iter().map(|word| word.text.to_ascii_lowercase()).collect();
        let words: Vec<_> = text.iter().map(String::as_str).collect();
        match words[..] {
            [] => {}
            ["hardware", "ethernet", mac] => {
                host.macs.extend(self.problems.take(head[0].line, text::mac(mac)));
            }
            ["fixed-address", ref addresses @ ..] => {
                for address in addresses.iter().filter(|word| **word != ",") {
                    self.fixed_address(host, head[0].line, address);
                }
            }
            // `supersede` is how a dynamic host is written into dhcpd.leases.
            ["option", "host-name", name] | ["supersede", "host-name", "=", name] => {
                host.name = Some(name.to_owned());
            }
            ["filename", file] | ["supersede", "server.filename", "=", file] => {
                (host.firmware, host.arch) = hosts::firmware_of(file);
            }
            ["deny" | "ignore", "booting"] => host.ignored = true,
            ["next-server" | "server-name" | "dynamic" | "deleted" | "ddns-hostname", ..] => {
                host.ignored |= words[0] == "deleted";
            }
            [..] => host.dropped.push(text::comment(&words.join(" "))),
        }
    }

    fn fixed_address(&mut self, host: &mut Host, line: usize, address: &str) {
        let looks = address.bytes().all(|b| b.is_ascii_digit() || b == b'.');
        if !looks {
            host.dropped.push(format!("fixed-address {address}, which is a name"));
        } else if let Some(address) = self.problems.take(line, text::ipv4(address)) {
            match host.address {
                None => host.address = Some(address),
                Some(_) => host.dropped.push(format!("second fixed-address {address}")),
            }
        }
    }
}

/// What a statement is about: `option routers`, `range`, `class`.
fn key_of(head: &[Word]) -> String {
    let words: Vec<_> = head.iter().filter(|w| !w.quoted).map(|w| w.text.as_str()).collect();
    match words[..] {
        ["option", name, ..] => format!("option {name}"),
        [first, ..] => first.to_owned(),
        [] => "a text".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use crate::import::{
        Source,
        tests::{comments, refusal, stanzas},
    };

    #[test]
    fn hosts_are_found_in_every_scope() {
        let text = r#"
include "/etc/dhcp/more.conf";
option domain-name "lab"; # the domain
subnet 10.77.0.0 netmask 255.255.255.0 {
  option routers 10.77.0.254;
  if exists user-class { filename "x.efi"; } else { filename "y.0"; }
  group gpu { filename "grubaa64.efi";
    host n01 { hardware ethernet 52:54:00:77:00:0A; fixed-address 10.77.0.11; }
    host "generic1" { hardware ethernet 52-54-00-77-00-02; option host-name "n02.lab"; fixed-address n02.lab; filename "undionly.kpxe"; }
  }
}
host generic2 { hardware ethernet 52:54:00:77:00:12; option host-name "n02"; fixed-address 10.78.0.12, 10.79.0.12; }
host n01-ilo { hardware ethernet 52:54:00:77:01:01; fixed-address 10.77.0.101; }
host n01-ib0 { hardware ethernet 52:54:00:77:00:22; }
host old { hardware ethernet 52:54:00:77:00:09; deny booting; }
"#;
        let told = stanzas(Source::Dhcpd, text);
        assert!(told.starts_with("[defaults]\nfirmware = \"bios\"\n"), "{told}");
        let nodes = told.split_once("[[node]]").unwrap().1;
        assert_eq!(
            nodes,
            "
name = \"n01\"
nics = [
    { mac = \"52:54:00:77:00:0a\", role = \"boot\" },
    { mac = \"52:54:00:77:00:22\", role = \"ib\" },
]
address = \"10.77.0.11\"
groups = [\"gpu\"]
firmware = \"uefi\"
arch = \"aarch64\"
power = { address = \"10.77.0.101\", mac = \"52:54:00:77:01:01\" }

[[node]]
# the first of its host blocks is taken for the NIC that boots
name = \"n02\"
nics = [
    { mac = \"52:54:00:77:00:02\", role = \"boot\" },
    { mac = \"52:54:00:77:00:12\", role = \"data\" },
]
groups = [\"gpu\"]
power = { driver = \"manual\" }
"
        );
        let told = comments(Source::Dhcpd, text);
        for line in [
            "line 2, include \"/etc/dhcp/more.conf\", is not followed: import it by itself",
            "old (line 15): the file says to ignore it",
            "fixed-address n02.lab, which is a name: n02",
            "address 10.78.0.12 of n02: n02",
        ] {
            assert!(told.contains(line), "{line}\n{told}");
        }
    }

    #[test]
    fn mistakes_are_told_with_their_lines() {
        for (text, expected) in [
            (
                "host n01 {\n hardware ethernet 52:54:00;\n}\n",
                "f:2: \"52:54:00\" is not a valid MAC",
            ),
            ("group {\n host n01 { }\n", "f:1: a block is opened and not closed"),
            ("}\n", "f:1: closes a block that was not opened"),
            ("host n01 {\n deny booting\n}\n", "f:2: \"deny\" has no ; at its end"),
            ("option x \"a\n", "f:1: a quote is opened and not closed"),
            (
                "host n01 { hardware ethernet 52:54:00:77:00:01; }\nhost N01 { hardware ethernet 52:54:00:77:00:02; }\n",
                "f:2: n01 is already the node in line 1",
            ),
            (
                "host n01 { hardware ethernet 52:54:00:77:00:01; option host-name \"n01.lab\"; }\n\
                 host N01 { hardware ethernet 52:54:00:77:00:02; option host-name \"n01.lab\"; }\n",
                "f:2: n01 is already the node in line 1",
            ),
            (
                "host n01 { hardware ethernet 52:54:00:77:00:01; fixed-address 10.0.0.1; }\n\
                 host n02 { hardware ethernet 52:54:00:77:00:02; }\n\n\
                 host n02-bmc { hardware ethernet 52:54:00:77:00:01; fixed-address 10.0.0.1; }\n",
                "f:4: 10.0.0.1, n02's BMC, is the address of n01 in line 1",
            ),
            ("host n01 { fixed-address 10.0.0.256; }\n", "f:1: \"10.0.0.256\" is no IPv4"),
        ] {
            let told = refusal(Source::Dhcpd, text);
            assert!(told.contains(expected), "{expected}\n{told}");
        }
        let deep = "group {".repeat(100_000);
        assert!(refusal(Source::Dhcpd, &deep).contains("blocks in each other"));
    }
}
