//! Which format a file has, from its content and, where that leaves a doubt, its name.

use super::{Source, csv, dnsmasq};

/// The format; none if it cannot be told.
pub(super) fn format_of(name: &str, text: &str) -> Option<Source> {
    let named = by_name(name);
    let all = [Source::Csv, Source::Dnsmasq, Source::Dhcpd, Source::Warewulf];
    let fitting: Vec<_> = all.into_iter().filter(|source| fits(*source, text)).collect();
    match fitting[..] {
        [source] => Some(source),
        [] => named,
        _ => named.filter(|source| fitting.contains(source)),
    }
}

fn by_name(name: &str) -> Option<Source> {
    let name = name.rsplit('/').next().unwrap_or(name).to_ascii_lowercase();
    if name.ends_with(".csv") || name.ends_with(".tsv") {
        Some(Source::Csv)
    } else if name.contains("dnsmasq") {
        Some(Source::Dnsmasq)
    } else if name.contains("dhcpd") {
        Some(Source::Dhcpd)
    } else if name == "nodes.conf" || name.ends_with(".yaml") || name.ends_with(".yml") {
        Some(Source::Warewulf)
    } else {
        None
    }
}

fn fits(source: Source, text: &str) -> bool {
    let mut lines = text.lines().map(str::trim_end).filter(|line| {
        let line = line.trim_start();
        !line.is_empty() && !line.starts_with('#')
    });
    match source {
        Source::Csv => csv::has_header(text),
        Source::Dnsmasq => lines.any(|line| {
            let line = line.trim_start();
            dnsmasq::option(line).is_some_and(|(key, _)| key == "dhcp-host")
                || dnsmasq::is_host_line(line)
        }),
        Source::Dhcpd => lines.any(|line| {
            let words: Vec<_> = line.split_whitespace().collect();
            line.contains("hardware ethernet")
                || matches!(words[..], ["host", _, "{", ..] | ["subnet", _, "netmask", ..])
        }),
        Source::Warewulf => lines.any(|line| {
            ["nodes:", "nodeprofiles:", "WW_INTERNAL:"].iter().any(|key| line.starts_with(key))
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_content_tells_and_the_name_decides_a_doubt() {
        for (name, text, expected) in [
            ("x", "# nodes\nname;mac\n", Some(Source::Csv)),
            ("x", "dhcp-host=52:54:00:77:00:01,n01\n", Some(Source::Dnsmasq)),
            ("x", "52-54-00-77-00-01,n01,10.0.0.1\n", Some(Source::Dnsmasq)),
            ("x", "host n01 {\n", Some(Source::Dhcpd)),
            ("x", "WW_INTERNAL: 45\n", Some(Source::Warewulf)),
            ("/etc/dnsmasq.conf", "port=0\n", Some(Source::Dnsmasq)),
            ("hosts.CSV", "", Some(Source::Csv)),
            ("x", "10.0.0.1 n01\n", None),
        ] {
            assert_eq!(format_of(name, text), expected, "{name}: {text}");
        }
    }
}
