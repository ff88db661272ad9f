//! dnsmasq.conf and the files of its `dhcp-hostsfile`: dnsmasq(8), `--dhcp-host` and
//! `--host-record`. Files that it includes are named and not followed.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
};

use super::{
    draft::{Draft, Problems},
    hosts::{self, Host},
    text,
};

pub(super) fn read(text: &str, problems: &mut Problems) -> Draft {
    let mut draft = Draft::default();
    let mut found = Vec::new();
    let mut records: BTreeMap<String, Ipv4Addr> = BTreeMap::new();
    let mut others = BTreeSet::new();
    for (index, line) in text.lines().enumerate() {
        let number = index + 1;
        let line = plain(line);
        if line.is_empty() {
            continue;
        }
        match option(&line) {
            None if is_host_line(&line) => found.extend(host(&line, number, &mut draft, problems)),
            None => {
                problems.add(number, format!("{:?} is no option of dnsmasq", text::comment(&line)))
            }
            Some(("dhcp-host", value)) => found.extend(host(value, number, &mut draft, problems)),
            Some(("host-record", value)) => {
                let words: Vec<_> = value.split(',').map(str::trim).collect();
                if let Some(address) = words.iter().find_map(|word| word.parse::<Ipv4Addr>().ok()) {
                    let names = words
                        .iter()
                        .filter(|word| !word.is_empty() && word.parse::<u64>().is_err());
                    for name in names.filter(|word| word.parse::<std::net::IpAddr>().is_err()) {
                        records.entry(name.to_ascii_lowercase()).or_insert(address);
                    }
                }
            }
            Some((
                key @ ("conf-file" | "conf-dir" | "dhcp-hostsfile" | "dhcp-hostsdir"),
                value,
            )) => {
                let told =
                    format!("line {number}, {key}={value}, is not followed: import it by itself");
                draft.remarks.push(text::comment(&told));
            }
            Some((key, _)) => {
                others.insert(key.to_owned());
            }
        }
    }
    for host in &mut found {
        if host.address.is_none() {
            let name = host.name.as_deref().unwrap_or_default().to_ascii_lowercase();
            host.address = records.get(&name).copied();
        }
    }
    if !others.is_empty() {
        let list = others.into_iter().collect::<Vec<_>>().join(", ");
        draft.remarks.push(format!("what haasd.toml and haasd do instead: {list}"));
    }
    hosts::to_nodes(found, &mut draft, problems);
    draft
}

/// A line without quotes and without a comment; that needs a space before its `#`.
fn plain(line: &str) -> String {
    let mut text = String::new();
    let mut quoted = false;
    let mut before = ' ';
    for c in line.chars() {
        match c {
            '"' => quoted = !quoted,
            '#' if !quoted && before.is_whitespace() => break,
            c => text.push(c),
        }
        before = c;
    }
    text.trim().to_owned()
}

/// The option of a line of dnsmasq.conf, and its value.
pub(super) fn option(line: &str) -> Option<(&str, &str)> {
    let (key, value) = line.split_once('=').unwrap_or((line, ""));
    let key = key.trim();
    // A line of a hosts file has a comma or a colon first.
    let is_option = key.len() > 1
        && key.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    (is_option && key.as_bytes()[0].is_ascii_lowercase() && !is_mac(key))
        .then(|| (key, value.trim()))
}

/// Whether a line is one of a dhcp-hostsfile.
pub(super) fn is_host_line(line: &str) -> bool {
    let mut words = line.split(',').map(str::trim);
    let first = words.next().unwrap_or_default();
    let starts = ["id:", "set:", "net:", "tag:"].iter().any(|start| first.starts_with(start));
    line.contains(',') && (is_mac(first) || starts)
}

/// Whether a word has the form of a hardware address, perhaps with wildcards, with the type of the
/// hardware before a hyphen, or with a wrong number of bytes.
fn is_mac(word: &str) -> bool {
    let parts: Vec<_> = word.split([':', '-']).collect();
    let byte = |p: &&str| {
        *p == "*" || (1..=2).contains(&p.len()) && p.bytes().all(|b| b.is_ascii_hexdigit())
    };
    parts.len() >= 5 && parts.iter().all(byte)
}

/// Without the ARP type that may stand before a hardware address, `06-52:54:...`.
fn without_type(word: &str) -> &str {
    match word.split_once('-') {
        Some((kind, rest)) if kind.len() <= 2 && rest.contains(':') => rest,
        _ => word,
    }
}

fn is_lease_time(word: &str) -> bool {
    let digits = word.trim_end_matches(['s', 'm', 'h', 'd', 'w', 'S', 'M', 'H', 'D', 'W']);
    word == "infinite"
        || (word.len() - digits.len() <= 1
            && !digits.is_empty()
            && digits.bytes().all(|b| b.is_ascii_digit()))
}

fn host(value: &str, line: usize, draft: &mut Draft, problems: &mut Problems) -> Option<Host> {
    let mut host = Host { line, ..Host::default() };
    for word in value.split(',').map(str::trim).filter(|word| !word.is_empty()) {
        if let Some(tag) = word.strip_prefix("set:").or_else(|| word.strip_prefix("net:")) {
            match text::group_name(tag) {
                Ok(group) if host.groups.contains(&group) => {}
                Ok(group) => host.groups.push(group),
                Err(_) => host.dropped.push(format!("tag {tag}, which can name no node group")),
            }
        } else if word.starts_with("tag:") || word.starts_with("id:") || word.starts_with('[') {
            host.dropped.push(word.to_owned());
        } else if word == "ignore" {
            host.ignored = true;
        } else if let Ok(address) = word.parse::<Ipv4Addr>() {
            host.address = Some(address);
        } else if text::is_infiniband(without_type(word)) {
            host.dropped.push(format!("InfiniBand address {word}"));
        } else if is_mac(word) || word.contains(':') {
            if word.contains('*') {
                draft.leave_out(line, word, "a pattern is no node's MAC");
                return None;
            }
            host.macs.push(problems.take(line, text::mac(without_type(word)))?);
        } else if word.contains('.') && word.bytes().all(|b| b.is_ascii_digit() || b == b'.') {
            host.address = Some(problems.take(line, text::ipv4(word))?);
        } else if !is_lease_time(word) {
            host.name = Some(word.to_owned());
        }
    }
    Some(host)
}

#[cfg(test)]
mod tests {
    use crate::import::{
        Source,
        tests::{comments, refusal, stanzas},
    };

    #[test]
    fn a_host_has_tags_times_and_two_macs_in_any_order() {
        let text = "\
dhcp-host = \"set:gpu\",52-54-00-77-00-0A,52:54:00:77:00:0b,N01.lab,10.77.0.11,12h # one
dhcp-host=06-52:54:00:77:00:02,n02,infinite
host-record=n02,n02.lab,10.77.0.12,3600
dhcp-host=52:54:00:77:01:01,10.77.0.101,n01-bmc
";
        assert_eq!(
            stanzas(Source::Dnsmasq, text),
            "\
[defaults.power]
driver = \"ipmi\"
user = \"haas\"  # f names no account: put the BMCs' here
password_file = \"secrets/bmc\"

[[group]]
name = \"gpu\"

[[node]]
# the first of its MACs is taken for the NIC that boots
name = \"n01\"
nics = [
    { mac = \"52:54:00:77:00:0a\", role = \"boot\" },
    { mac = \"52:54:00:77:00:0b\", role = \"data\" },
]
address = \"10.77.0.11\"
groups = [\"gpu\"]
power = { address = \"10.77.0.101\", mac = \"52:54:00:77:01:01\" }

[[node]]
name = \"n02\"
mac = \"52:54:00:77:00:02\"
address = \"10.77.0.12\"
power = { driver = \"manual\" }
"
        );
    }

    #[test]
    fn what_is_no_node_is_left_out_and_told() {
        let text = "\
conf-dir=/etc/dnsmasq.d/,*.conf
domain=lab
dhcp-range=10.77.0.200,10.77.0.250,12h
dhcp-host=52:54:00:77:00:01,n01
dhcp-host=52:54:00:*:*:*,set:vm
dhcp-host=52:54:00:77:00:02,10.77.0.2
dhcp-host=n03,10.77.0.3
dhcp-host=52:54:00:77:00:04,front_door,ignore
dhcp-host=52:54:00:77:00:05,my_printer
dhcp-host=52:54:00:77:00:06,n09-bmc,10.77.0.109
";
        let told = comments(Source::Dnsmasq, text);
        for line in [
            "line 1, conf-dir=/etc/dnsmasq.d/,*.conf, is not followed: import it by itself",
            "what haasd.toml and haasd do instead: dhcp-range, domain",
            "52:54:00:*:*:* (line 5): a pattern is no node's MAC",
            "52:54:00:77:00:02 (line 6): it has no name",
            "n03 (line 7): it has no MAC",
            "front_door (line 8): the file says to ignore it",
            "my_printer (line 9): its name can be no node's: letters, digits and hyphens",
            "n09-bmc (line 10): the BMC of n09, which is not here",
        ] {
            assert!(
                told.contains(&format!("#   {line}\n")) || told.ends_with(line),
                "{line}\n{told}"
            );
        }
    }

    #[test]
    fn duplicates_and_mistakes_are_refused_with_lines() {
        let text = "\
dhcp-host=52:54:00:77:00:01,n01,10.77.0.11
dhcp-host=52:54:00:77:00:02,N01
dhcp-host=52:54:00:77:00:01,n03
dhcp-host=52:54:00:77:00:04,n04,10.77.0.11
dhcp-host=52:54:00:77:00,n05
dhcp-host=52:54:00:77:00:06,n06,10.77.0.611
Hello World
";
        let told = refusal(Source::Dnsmasq, text);
        for line in [
            "  f:2: n01 is already the node in line 1",
            "  f:3: 52:54:00:77:00:01 of n03 is already n01's in line 1",
            "  f:4: 10.77.0.11 of n04 is already n01's in line 1",
            "  f:5: \"52:54:00:77:00\" is not a valid MAC",
            "  f:6: \"10.77.0.611\" is no IPv4 address",
            "  f:7: \"Hello World\" is no option of dnsmasq",
        ] {
            assert!(told.lines().any(|told| told.starts_with(line)), "{line}\n{told}");
        }
    }
}
