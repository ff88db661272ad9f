//! The files that haasd lives on, all of them read in one go, so that one mistake hides no other.

use std::{collections::BTreeMap, fs, path::Path};

use haas_api::doctor::Finding;

use crate::{
    config::{Config, DhcpMode},
    errors::chain,
    inventory::{Arch, Firmware, Inventory, InventoryErrors, NodeSpec},
    netboot::{
        firmware::{BIOS, Binaries, GRUB, SHIM, UEFI_AARCH64, UEFI_X86_64},
        script::Templates,
    },
};

/// What the files say.
#[derive(Debug)]
pub struct Files {
    /// The configuration, where it can be used.
    pub config: Option<Config>,
    /// The nodes of the inventory, where it can be used.
    pub nodes: Vec<NodeSpec>,
    /// Everything that is wrong in haasd.toml, nodes.toml and the templates, one line for each.
    pub mistakes: Vec<String>,
}

/// Reads haasd.toml and what it names.
pub fn read(path: &Path) -> Files {
    let mut mistakes = Vec::new();
    let (config, is_good) = match Config::load_all(path) {
        Ok((config, None)) => (config, true),
        Ok((config, Some(problems))) => {
            mistakes.push(problems.to_string());
            (config, false)
        }
        Err(error) => {
            let mistakes = vec![chain(&error)];
            return Files { config: None, nodes: Vec::new(), mistakes };
        }
    };
    // Whether an address is in a network cannot be said while networks are wrong.
    let networks = if is_good { config.networks.as_slice() } else { &[] };
    let mut nodes = Vec::new();
    if config.nodes_file.exists() {
        match Inventory::load(&config.nodes_file, networks) {
            Ok(inventory) => nodes = inventory.nodes,
            Err(InventoryErrors::Invalid(problems)) => mistakes.push(problems.to_string()),
            Err(error @ InventoryErrors::Read { .. }) => mistakes.push(chain(&error)),
        }
    }
    if let Err(error) = Templates::load(&config.templates_dir) {
        mistakes.push(chain(&error));
    }
    Files { config: is_good.then_some(config), nodes, mistakes }
}

/// Files that are needed and not there.
pub(super) fn findings(config: &Config, nodes: &[NodeSpec]) -> Vec<Finding> {
    const TOPIC: &str = "files";
    let mut findings = Vec::new();
    if let Err(error) = needed(&config.agent_cpio) {
        findings.push(Finding::wrong(
            TOPIC,
            format!("agent_cpio = {}: {error}", config.agent_cpio.display()),
            "it is a half of the initramfs: no node can boot without it",
            "`cargo xtask agent` makes target/agent.cpio.zst; copy it there".to_owned(),
        ));
    }
    if config.networks.iter().any(|network| network.dhcp != DhcpMode::Off) {
        let served = Binaries::of(config);
        for (binary, node) in binaries(nodes) {
            let Some(path) = served.path(&binary) else { continue };
            let (key, help) = match binary.as_str() {
                SHIM => ("shim", "apt-get install shim-signed, or set shim"),
                GRUB => ("grub", "apt-get install grub-efi-amd64-signed, or set grub"),
                _ => ("ipxe_dir", "apt-get install ipxe, or set ipxe_dir or the node's ipxe"),
            };
            if let Err(error) = needed(&path) {
                findings.push(Finding::wrong(
                    TOPIC,
                    format!("{key}: {}: {error}", path.display()),
                    &format!("the firmware of {node} loads it first, and stops without it"),
                    help.to_owned(),
                ));
            }
        }
    }
    if findings.is_empty() {
        findings.push(Finding::good(TOPIC, "the agent's archive and the boot programs are there"));
    }
    findings
}

fn needed(path: &Path) -> Result<(), String> {
    match fs::File::open(path).and_then(|file| file.metadata()) {
        Err(error) => Err(error.to_string()),
        Ok(metadata) if !metadata.is_file() => Err("it is no file".to_owned()),
        Ok(metadata) if metadata.len() == 0 => Err("it is empty".to_owned()),
        Ok(_) => Ok(()),
    }
}

/// The programs that these nodes load, each with one of the nodes.
fn binaries(nodes: &[NodeSpec]) -> BTreeMap<String, String> {
    let of = |node: &NodeSpec| match (node.boot_program(), node.firmware, node.arch) {
        (Some(name), _, _) => name,
        (None, Firmware::Bios, _) => BIOS.to_owned(),
        (None, Firmware::Uefi, Arch::X86_64) => UEFI_X86_64.to_owned(),
        (None, Firmware::Uefi, Arch::Aarch64) => UEFI_AARCH64.to_owned(),
    };
    let mut all: BTreeMap<_, _> =
        nodes.iter().map(|node| (of(node), node.name.to_string())).collect();
    if let Some(node) = all.get(SHIM).cloned() {
        all.insert(GRUB.to_owned(), node);
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mistakes_of_all_files_are_told_at_once() {
        let folder = tempfile::tempdir().expect("a folder");
        let put = |name: &str, text: &str| fs::write(folder.path().join(name), text).expect(name);
        let nodes = "[[node]]\nname='N 1'\nmac='52:54:00:77:00:01'\naddress='10.9.9.9'\n";
        put("haasd.toml", "colour = 1\ntemplates_dir = 'none'\n");
        put("nodes.toml", nodes);
        let files = read(&folder.path().join("haasd.toml"));
        let told = files.mistakes.join("\n");
        for part in ["haasd.toml:1:", "at least one [[network]]", "nodes.toml:2:", "cmdline.tera"] {
            assert!(told.contains(part), "{part} is missing in: {told}");
        }
        assert!(!told.contains("is in no [[network]]"), "nobody knows: {told}");
        assert!(files.config.is_none());
        let gone = read(Path::new("/nonexistent/haasd.toml"));
        assert!(gone.mistakes[0].contains("cannot read the configuration"), "{gone:?}");
    }
}
