//! Tables with one node in each line, as spreadsheets and inventories export them. The first line
//! names the columns; a column of no known name becomes a label.

mod columns;

use csv::{ReaderBuilder, StringRecord, Trim};

use self::columns::{Column, column};
use super::{
    draft::{Account, Bmc, Draft, Nic, Node, Password, Problems},
    text,
};

/// Whether the first line names columns that say which node has which MAC.
pub(super) fn has_header(text: &str) -> bool {
    header(text).is_some_and(|(_, _, line)| {
        let columns: Vec<_> =
            line.split([',', ';', '\t']).map(|h| column(h.trim_matches('"'))).collect();
        columns.contains(&Column::Name) && columns.contains(&Column::Mac("boot"))
    })
}

/// The byte and the number of the line with the columns' names, and that line. A `#` before it is
/// no comment if names of columns follow.
fn header(text: &str) -> Option<(usize, usize, &str)> {
    let mut start = 0;
    for (number, whole) in text.split_inclusive('\n').enumerate() {
        let line = whole.trim();
        let bare = line.trim_start_matches(['#', ' ']);
        let names = bare.split([',', ';', '\t']).filter(|h| column(h) == Column::Name).count();
        if names > 0 && bare.contains([',', ';', '\t'])
            || !(line.is_empty() || line.starts_with('#'))
        {
            return Some((start + whole.find(bare).unwrap_or(0), number + 1, bare));
        }
        start += whole.len();
    }
    None
}

pub(super) fn read(text: &str, problems: &mut Problems) -> Draft {
    let mut draft = Draft::default();
    let Some((start, first_line, line)) = header(text) else { return draft };
    let delimiter =
        [b'\t', b';', b','].into_iter().max_by_key(|d| line.bytes().filter(|b| b == d).count());
    let body = &text[start..];
    let mut reader = ReaderBuilder::new()
        .delimiter(delimiter.unwrap_or(b','))
        .comment(Some(b'#'))
        .flexible(true)
        .has_headers(false)
        .trim(Trim::All)
        .from_reader(body.as_bytes());
    let mut columns: Option<Vec<Column>> = None;
    for record in reader.records() {
        let record = match record {
            Ok(record) => record,
            Err(error) => {
                let at = error.position().map_or(0, |at| line_of(body, at.byte()));
                problems.add(first_line + at, format!("is no CSV: {error}"));
                break;
            }
        };
        let line = first_line + record.position().map_or(0, |at| line_of(body, at.byte()));
        match &columns {
            None => columns = Some(head(&record, line, &mut draft, problems)),
            Some(columns) => {
                let row = Row { columns, record: &record, line };
                let node = row.node(&mut draft, problems);
                draft.nodes.extend(node);
            }
        }
    }
    draft
}

/// Lines before the record that the reader began at `byte`: it counts the blank lines and comments
/// before a record to the record.
fn line_of(body: &str, byte: u64) -> usize {
    let mut at = usize::try_from(byte).unwrap_or(0).min(body.len());
    for line in body.get(at..).unwrap_or("").split_inclusive('\n') {
        if !line.trim().is_empty() && !line.starts_with('#') {
            break;
        }
        at += line.len();
    }
    body.as_bytes()[..at].iter().filter(|b| **b == b'\n').count()
}

fn head(
    record: &StringRecord,
    line: usize,
    draft: &mut Draft,
    problems: &mut Problems,
) -> Vec<Column> {
    let columns: Vec<_> = record.iter().map(column).collect();
    for (needed, example) in [(Column::Name, "name"), (Column::Mac("boot"), "mac")] {
        if !columns.contains(&needed) {
            let told = format!(
                "no column is named {example:?}; the first line names the columns, such as \
                 name,mac,ip,bmc"
            );
            problems.add(line, told);
        }
    }
    for (at, column) in columns.iter().enumerate() {
        let many = matches!(column, Column::Mac(_) | Column::Groups | Column::Comment);
        // Spreadsheets leave empty columns at the right.
        let nameless = record[at].is_empty();
        if !many && !nameless && columns[..at].contains(column) {
            problems.add(line, format!("the column {:?} is there twice", &record[at]));
        }
        match column {
            Column::Secret(key) => {
                draft.remarks.push(format!("the column {key} looks secret and was not copied"));
            }
            Column::Label(key) if !key.is_empty() && !text::is_label(key, "") => {
                problems
                    .add(line, format!("the column {:?} can be no label; rename it", &record[at]));
            }
            _ => {}
        }
    }
    columns
}

struct Row<'a> {
    columns: &'a [Column],
    record: &'a StringRecord,
    line: usize,
}

impl Row<'_> {
    /// What stands in a column, if anything.
    fn get(&self, column: &Column) -> Option<&str> {
        let at = self.columns.iter().position(|c| c == column)?;
        self.record.get(at).filter(|value| !value.is_empty())
    }

    fn node(&self, draft: &mut Draft, problems: &mut Problems) -> Option<Node> {
        let line = self.line;
        if self.record.iter().all(str::is_empty) {
            return None;
        }
        if self.record.len() > self.columns.len() {
            let (has, named) = (self.record.len(), self.columns.len());
            problems.add(line, format!("has {has} fields, but {named} columns are named"));
            return None;
        }
        let Some(name) = self.get(&Column::Name) else {
            problems.add(line, "names no node");
            return None;
        };
        if name.contains('\n') {
            // The rest of the table may be in it, with passwords: it is not repeated.
            problems.add(line, "the name goes over several lines: is a quote not closed?");
            return None;
        }
        let (name, domain) = problems.take(line, text::node_name(name))?;
        if let Some(domain) = domain {
            draft.drop(format!("domain {domain} (haasd.toml has the network's)"), name.as_str());
        }
        let mut nics = Vec::new();
        for (column, value) in self.columns.iter().zip(self.record) {
            let Column::Mac(role) = column else { continue };
            for word in words(value) {
                if text::is_infiniband(word) {
                    draft.drop(format!("InfiniBand address {word}"), name.as_str());
                } else if let Some(mac) = problems.take(line, text::mac(word)) {
                    // Of several in one cell the first boots.
                    let boots = *role == "boot" && nics.iter().all(|nic: &Nic| nic.role != "boot");
                    let role = if boots || *role == "ib" { role } else { "data" };
                    nics.push(Nic { line, mac, role });
                }
            }
        }
        nics.sort_by_key(|nic| nic.role != "boot");
        if self.get(&Column::Mac("boot")).is_none() {
            problems.add(line, format!("{name} has no MAC to boot from"));
            return None;
        }
        let mut node = Node::new(line, name, nics);
        node.address =
            self.get(&Column::Address).and_then(|value| problems.take(line, text::ipv4(value)));
        self.groups(&mut node, problems);
        self.words_of(&mut node, draft, problems);
        node.bmc = self.bmc(node.name.as_str(), draft, problems);
        Some(node)
    }

    fn groups(&self, node: &mut Node, problems: &mut Problems) {
        for (column, value) in self.columns.iter().zip(self.record) {
            if *column != Column::Groups {
                continue;
            }
            for word in words(value) {
                let Some(group) = problems.take(self.line, text::group_name(word)) else {
                    continue;
                };
                if !node.groups.contains(&group) {
                    node.groups.push(group);
                }
            }
        }
    }

    fn words_of(&self, node: &mut Node, draft: &mut Draft, problems: &mut Problems) {
        let line = self.line;
        if let Some(value) = self.get(&Column::KernelArgs) {
            let (kept, not) = text::kernel_args(value);
            node.kernel_args = kept;
            for word in not {
                draft.drop(format!("kernel argument {word}"), node.name.as_str());
            }
        }
        node.firmware = self.get(&Column::Firmware).and_then(|value| {
            let word = match value.to_ascii_lowercase().as_str() {
                "bios" | "legacy" | "pcbios" => Ok("bios"),
                "uefi" | "efi" => Ok("uefi"),
                _ => Err(format!("{value:?} is no firmware; expected bios or uefi")),
            };
            problems.take(line, word)
        });
        node.arch = self.get(&Column::Arch).and_then(|value| {
            let word = match value.to_ascii_lowercase().as_str() {
                "x86_64" | "amd64" | "x86-64" => Ok("x86_64"),
                "aarch64" | "arm64" => Ok("aarch64"),
                _ => Err(format!("{value:?} is no processor of haas; expected x86_64 or aarch64")),
            };
            problems.take(line, word)
        });
        for (column, value) in self.columns.iter().zip(self.record) {
            match column {
                Column::Comment if !value.is_empty() => node.remarks.push(value.to_owned()),
                Column::Label(key) if !key.is_empty() && !value.is_empty() => {
                    if text::is_label(key, value) {
                        node.labels.insert(key.clone(), value.to_owned());
                    } else {
                        problems
                            .add(line, format!("{value:?} can be no label; it must be one line"));
                    }
                }
                _ => {}
            }
        }
    }

    fn bmc(&self, node: &str, draft: &mut Draft, problems: &mut Problems) -> Option<Bmc> {
        let line = self.line;
        let driver = self.get(&Column::BmcDriver).unwrap_or("ipmi").to_ascii_lowercase();
        let address = self.get(&Column::BmcAddress)?;
        match driver.as_str() {
            "ipmi" | "lanplus" | "ipmitool" | "ipmi2" | "ipmi20" => {}
            "manual" | "none" => return None,
            other => {
                let told = format!("BMC driver {other} (written as ipmi: switch on IPMI over LAN)");
                draft.drop(told, node);
            }
        }
        let address = problems.take(line, text::bmc_address(address))?;
        let port = self.get(&Column::BmcPort).and_then(|port| {
            let wrong = || format!("{port:?} is no UDP port; expected 1 to 65535");
            let port = port.parse::<u16>().ok().filter(|port| *port > 0).ok_or_else(wrong);
            problems.take(line, port)
        });
        let mac = self.get(&Column::BmcMac).and_then(|mac| problems.take(line, text::mac(mac)));
        let account = Account {
            user: self.get(&Column::BmcUser).map(str::to_owned),
            password: self.get(&Column::BmcPassword).map(|p| Password(p.to_owned())),
        };
        Some(Bmc { line, address, port, mac, account })
    }
}

/// Several values in one cell.
fn words(cell: &str) -> impl Iterator<Item = &str> {
    cell.split([' ', ',', ';', '|']).filter(|word| !word.is_empty())
}

#[cfg(test)]
mod tests {
    use crate::import::{
        Source,
        tests::{comments, refusal, stanzas},
    };

    #[test]
    fn a_table_of_another_land_is_read() {
        let text = "\
# Rack 1
#Host Name;MAC-Address;IP;Rack;Groups;Notes;;
\"N01.lab\";5254.0077.0001;10.77.0.11/24;r1;\"gpu, big\";\"said \"\"loud\"\"\"

n02;52-54-00-77-00-02 52-54-00-77-00-12;;r1
";
        assert_eq!(
            stanzas(Source::Csv, text),
            "\
[defaults]
labels = { rack = \"r1\" }

[[group]]
name = \"gpu\"

[[group]]
name = \"big\"

[[node]]
# said \"loud\"
name = \"n01\"
mac = \"52:54:00:77:00:01\"
address = \"10.77.0.11\"
groups = [\"gpu\", \"big\"]

[[node]]
name = \"n02\"
nics = [
    { mac = \"52:54:00:77:00:02\", role = \"boot\" },
    { mac = \"52:54:00:77:00:12\", role = \"data\" },
]
"
        );
        assert!(
            comments(Source::Csv, text).contains("domain lab (haasd.toml has the network's): n01")
        );
    }

    #[test]
    fn every_mistake_is_told_with_its_line() {
        let text = "\
name,mac,ip,bmc
n01,52:54:00:77:00:01,10.77.0.11,10.77.0.101
# a comment

n02,52:54:00:77:00,10.77.0.300,
n03,,10.77.0.13,
my_node,52:54:00:77:00:04,,
n05,52:54:00:77:00:05,,,extra
n06,52:54:00:77:00:01,10.77.0.11,10.77.0.101
n01,52:54:00:77:00:07,10.77.0.101,
";
        let expected = "  \
  f:5: \"52:54:00:77:00\" is not a valid MAC address:
  f:5: \"10.77.0.300\" is no IPv4 address such as 10.77.0.11
  f:6: n03 has no MAC to boot from
  f:7: \"my_node\" is not a valid node name:
  f:8: has 5 fields, but 4 columns are named
  f:9: 52:54:00:77:00:01 of n06 is already n01's in line 2
  f:9: 10.77.0.11 of n06 is already n01's in line 2
  f:9: 10.77.0.101, n06's BMC, is already n01's in line 2
  f:10: n01 is already the node in line 2";
        let told = refusal(Source::Csv, text);
        for line in expected.lines() {
            assert!(told.lines().any(|told| told.starts_with(line)), "{line}\nis not in\n{told}");
        }
        assert!(
            told.contains("f:2: 10.77.0.101, n01's BMC, is the address of n01 in line 10"),
            "{told}"
        );
    }

    #[test]
    fn columns_without_names_are_refused() {
        let told = refusal(Source::Csv, "n01,52:54:00:77:00:01,10.77.0.11\n");
        assert!(told.contains("f:1: no column is named \"mac\""), "{told}");
        let told =
            refusal(Source::Csv, "name,mac,bmc_password\n\"n01,52:54:00:77:00:01,pw\nn02,,\n");
        assert_eq!(told, "  f:2: the name goes over several lines: is a quote not closed?");
        let told = refusal(Source::Csv, "name,mac,ip,IP\nn01,52:54:00:77:00:01,,\n");
        assert!(told.contains("f:1: the column \"IP\" is there twice"), "{told}");
    }
}
