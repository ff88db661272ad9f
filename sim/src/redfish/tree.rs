//! Mockups: resources in folders, as DMTF publishes them.

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::{Context, Result};
use serde_json::Value;

/// Whose BMC it is like. What each does otherwise, and where that was learnt: `sim/mockups/README.md`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Vendor {
    /// HPE iLO 5.
    Ilo,
    /// Dell iDRAC 9.
    Idrac,
    /// OpenBMC's bmcweb.
    OpenBmc,
    /// Supermicro's own firmware.
    Supermicro,
    /// AMI MegaRAC.
    Ami,
}

impl Vendor {
    fn folder(self) -> &'static str {
        match self {
            Self::Ilo => "ilo",
            Self::Idrac => "idrac",
            Self::OpenBmc => "openbmc",
            Self::Supermicro => "supermicro",
            Self::Ami => "ami",
        }
    }

    /// Its resources by path, without a slash at the end.
    pub(super) fn tree(self) -> Result<BTreeMap<String, Value>> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("mockups").join(self.folder());
        let mut tree = BTreeMap::new();
        read(&root, "", &mut tree)?;
        Ok(tree)
    }
}

fn read(folder: &Path, path: &str, tree: &mut BTreeMap<String, Value>) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| format!("no mockup {}", folder.display()))? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if entry.file_type()?.is_dir() {
            read(&entry.path(), &format!("{path}/{name}"), tree)?;
        } else if name == "index.json" {
            let text = fs::read(entry.path())?;
            let value = serde_json::from_slice(&text);
            tree.insert(
                path.to_owned(),
                value.with_context(|| format!("{} is no JSON", entry.path().display()))?,
            );
        }
    }
    Ok(())
}
