//! Writes a draft as nodes.toml, with comments for what it could not take over, and says what a
//! person has to do beside it.

use std::fmt::Write;

use toml::Value;

use super::{
    draft::{Draft, Node},
    layers::{Layer, Layers},
    text,
};
use crate::format;

/// For BMCs whose account the file does not name.
const USER: &str = "haas";

/// The text of nodes.toml, and what to tell the caller on standard error.
pub(super) fn nodes_toml(draft: &Draft, file: &str, title: &str) -> (String, String) {
    let layers = Layers::of(draft);
    let mut out = head(draft, file, title);
    layers.print_defaults(&mut out, file);
    for (group, layer) in &layers.groups {
        out.push_str("\n[[group]]\n");
        if let Some(remark) = draft.said.get(group).and_then(|said| said.remark.as_ref()) {
            let _ = writeln!(out, "# {}", text::comment(remark));
        }
        let _ = writeln!(out, "name = {}", quoted(group.as_str()));
        layer.print(&mut out);
        if let Some(account) = layer.account {
            let power = layers.account(account);
            let _ = writeln!(out, "power = {{ {power} }}{}", layers.user_comment(account, file));
        }
    }
    for (node, own) in draft.nodes.iter().zip(&layers.nodes) {
        layers.print_node(&mut out, node, own, file);
    }
    (out, notes(draft, &layers, file, title))
}

fn head(draft: &Draft, file: &str, title: &str) -> String {
    let file = text::comment(file);
    let mut out = format!(
        "# Taken over from {file} ({title}). Look through it, then see what haasd makes of it:\n\
         #   haasctl node apply nodes.toml --dry-run\n"
    );
    let mut list = |title: &str, lines: Vec<String>| {
        if !lines.is_empty() {
            let _ = write!(out, "#\n# {title}:\n");
            for line in lines {
                // A control character would end the comment, or the file's being TOML.
                let line: String = line.replace(char::is_control, " ");
                let _ = writeln!(out, "#   {line}");
            }
        }
    };
    list("Of the whole file", draft.remarks.clone());
    list("Left out", draft.left_out.iter().map(|(_, left)| left.clone()).collect());
    let dropped = draft.dropped().iter();
    let dropped =
        dropped.map(|(what, nodes)| format!("{}: {}", text::comment(what), format::fold(nodes)));
    list("Not taken over, since nodes.toml has no place for it", dropped.collect());
    out
}

fn notes(draft: &Draft, layers: &Layers, file: &str, title: &str) -> String {
    let nodes = draft.nodes.len();
    let plural = if nodes == 1 { "" } else { "s" };
    let mut text = format!("{nodes} node{plural} taken over from {file} ({title})");
    let left = match draft.left_out.len() {
        0 => String::new(),
        1 => ", 1 entry left out".to_owned(),
        n => format!(", {n} entries left out"),
    };
    text.push_str(&left);
    if draft.left_out.len() + draft.dropped().len() + draft.remarks.len() > 0 {
        text.push_str("; the comments at its top say what was not taken over");
    }
    text.push('.');
    if !layers.accounts.is_empty() {
        text.push_str(
            "\nPasswords are not copied. Write them beside nodes.toml, each on one line of a file \
             with mode 600:",
        );
    }
    for (index, account) in layers.accounts.iter().enumerate() {
        let of = |node: &&Node| node.bmc.as_ref().is_some_and(|bmc| bmc.account == *account);
        let nodes: Vec<_> = draft.nodes.iter().filter(of).map(|node| node.name.as_str()).collect();
        let user = match &account.user {
            Some(user) => format!("the user {user}"),
            None => format!("the user {USER} (change it: {file} names none)"),
        };
        let known = match account.password {
            Some(_) => format!("as it stands in {file}"),
            None => format!("{file} does not have it"),
        };
        let _ = write!(
            text,
            "\n  {}: the password of {user} on the BMCs of {}; {known}",
            password_file(index),
            format::fold(&nodes)
        );
    }
    text
}

fn password_file(index: usize) -> String {
    match index {
        0 => "secrets/bmc".to_owned(),
        more => format!("secrets/bmc-{}", more + 1),
    }
}

impl Layer {
    fn is_empty(&self) -> bool {
        self.firmware.is_none()
            && self.arch.is_none()
            && self.labels.is_empty()
            && self.kernel_args.is_empty()
    }

    fn print(&self, out: &mut String) {
        for (key, value) in [("firmware", self.firmware), ("arch", self.arch)] {
            if let Some(value) = value {
                let _ = writeln!(out, "{key} = {}", quoted(value));
            }
        }
        if !self.labels.is_empty() {
            let pairs = self.labels.iter().map(|(k, v)| format!("{} = {}", key(k), quoted(v)));
            let _ = writeln!(out, "labels = {{ {} }}", pairs.collect::<Vec<_>>().join(", "));
        }
        if !self.kernel_args.is_empty() {
            let args = self.kernel_args.iter().map(|arg| quoted(arg)).collect::<Vec<_>>();
            let _ = writeln!(out, "kernel_args = [{}]", args.join(", "));
        }
    }
}

impl Layers {
    /// The keys of `power` that say who logs in.
    fn account(&self, index: usize) -> String {
        let user = self.accounts[index].user.as_deref().unwrap_or(USER);
        let file = quoted(&password_file(index));
        format!("driver = \"ipmi\", user = {}, password_file = {file}", quoted(user))
    }

    /// Stands behind a user whom the file did not name.
    fn user_comment(&self, index: usize, file: &str) -> String {
        match self.accounts[index].user {
            Some(_) => String::new(),
            None => format!("  # {} names no account: put the BMCs' here", text::comment(file)),
        }
    }

    fn print_defaults(&self, out: &mut String, file: &str) {
        if !self.defaults.is_empty() {
            out.push_str("\n[defaults]\n");
            self.defaults.print(out);
        }
        let Some(account) = self.accounts.first() else { return };
        let user = quoted(account.user.as_deref().unwrap_or(USER)) + &self.user_comment(0, file);
        let file = quoted(&password_file(0));
        let _ = write!(
            out,
            "\n[defaults.power]\ndriver = \"ipmi\"\nuser = {user}\npassword_file = {file}\n"
        );
    }

    fn print_node(&self, out: &mut String, node: &Node, own: &Layer, file: &str) {
        out.push_str("\n[[node]]\n");
        for remark in &node.remarks {
            let _ = writeln!(out, "# {}", text::comment(remark));
        }
        let _ = writeln!(out, "name = {}", quoted(node.name.as_str()));
        match &node.nics[..] {
            [nic] => {
                let _ = writeln!(out, "mac = \"{}\"", nic.mac);
            }
            nics => {
                out.push_str("nics = [\n");
                for nic in nics {
                    let _ =
                        writeln!(out, "    {{ mac = \"{}\", role = \"{}\" }},", nic.mac, nic.role);
                }
                out.push_str("]\n");
            }
        }
        if let Some(address) = node.address {
            let _ = writeln!(out, "address = \"{address}\"");
        }
        if !node.groups.is_empty() {
            let names: Vec<_> = node.groups.iter().map(|group| quoted(group.as_str())).collect();
            let _ = writeln!(out, "groups = [{}]", names.join(", "));
        }
        own.print(out);
        self.print_power(out, node, own, file);
    }

    fn print_power(&self, out: &mut String, node: &Node, own: &Layer, file: &str) {
        let of_group = self.groups.iter().filter(|(name, _)| node.groups.contains(name));
        let inherited = of_group.filter_map(|(_, layer)| layer.account).next_back().or(Some(0));
        let Some(bmc) = &node.bmc else {
            if !self.accounts.is_empty() {
                out.push_str("power = { driver = \"manual\" }\n");
            }
            return;
        };
        let mut keys = vec![format!("address = \"{}\"", bmc.address)];
        keys.extend(bmc.port.map(|port| format!("port = {port}")));
        keys.extend(bmc.mac.map(|mac| format!("mac = \"{mac}\"")));
        let mut remark = String::new();
        if let Some(account) = own.account.filter(|_| own.account != inherited) {
            keys.push(self.account(account));
            remark = self.user_comment(account, file);
        }
        let _ = writeln!(out, "power = {{ {} }}{remark}", keys.join(", "));
    }
}

fn quoted(text: &str) -> String {
    Value::from(text).to_string()
}

fn key(text: &str) -> String {
    let bare = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
    if text.bytes().all(bare) { text.to_owned() } else { quoted(text) }
}
