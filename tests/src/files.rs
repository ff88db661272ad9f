//! haasd's files for a rack, as an administrator of it would write them.

use std::fmt::Write;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::bmc::{PASSWORD, USER};
use crate::hardware::Firmware;
use crate::node::Node;
use crate::rack::{Rack, target_dir};

/// A haasd.toml that serves the rack's network, with state in the rack's directory.
pub fn haasd_toml(rack: &Rack) -> Result<String> {
    let checkout = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize()?;
    Ok(format!(
        r#"state_dir = "{state}"
nodes_file = "nodes.toml"
agent_cpio = "{agent}"
templates_dir = "{templates}"

# The BMCs of the rack are in the nodes' own network.
[reachability]
check = "off"

[[network]]
name = "rack"
interface = "br0"
cidr = "10.77.0.0/24"
dhcp = "own"
pool = "10.77.0.200-10.77.0.250"
"#,
        state = rack.dir().join("state").display(),
        agent = target_dir()?.join("agent.cpio.zst").display(),
        templates = checkout.join("templates").display(),
    ))
}

/// A nodes.toml with all nodes of the rack, and the file with their BMCs' password beside it.
pub fn nodes_toml(rack: &Rack) -> Result<String> {
    let secret = rack.dir().join("bmc-password");
    fs::write(&secret, PASSWORD)?;
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o600))?;
    let mut text = format!(
        r#"[defaults]
kernel_args = ["console=ttyS0,115200"]
cache = "0"

[defaults.power]
driver = "ipmi"
user = "{USER}"
password_file = "bmc-password"
"#
    );
    for node in rack.nodes() {
        write!(
            text,
            r#"
[[node]]
name = "{}"
nics = [{}]
address = "{}"
power = {{ address = "{}" }}
"#,
            node.name,
            nics(node),
            node.address,
            node.bmc.address.ip(),
        )?;
        if node.config.firmware != Firmware::Bios {
            writeln!(text, "firmware = \"uefi\"")?;
        }
    }
    Ok(text)
}

/// A node's cards with their roles.
fn nics(node: &Node) -> String {
    let role = |mac: &str| if mac == node.mac { "boot" } else { "data" };
    let nic = |mac: &String| format!("{{ mac = \"{mac}\", role = \"{}\" }}", role(mac));
    node.config.nics.iter().map(|n| nic(&n.mac)).collect::<Vec<_>>().join(", ")
}

/// One of the Debian packages that `cargo xtask` has downloaded for the recipes.
pub fn debian_package(name: &str) -> Result<PathBuf> {
    let folder = target_dir()?.join("debs");
    let part = format!("-{name}_");
    fs::read_dir(&folder)?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.to_string_lossy().contains(&part))
        .with_context(|| format!("no package {name} in {}", folder.display()))
}
