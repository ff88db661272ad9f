//! Loads kernel modules: a fixed list, whatever the hardware asks for by its `modalias` files
//! (coldplug), and what the kernel itself asks for by calling `/sbin/modprobe`.
//!
//! Reads the three index files that package `initramfs` writes beside the modules.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use nix::kmod::{ModuleInitFlags, finit_module};

use crate::log;

/// Loaded on every node, hardware or not.
const ALWAYS: [&str; 12] = [
    "crc32c_intel",
    "crc32c_generic",
    "virtio_pci",
    "sd_mod",
    "iscsi_tcp",
    "erofs",
    "squashfs",
    "quota_v2",
    "ext4",
    "overlay",
    "button",
    "evdev",
];

/// Module to what it needs, in the order of loading, itself last.
type Order = BTreeMap<String, Vec<String>>;
/// Pattern to module.
type Aliases = Vec<(String, String)>;

/// The modules in the initramfs and what is loaded of them.
#[derive(Debug, Default)]
pub(crate) struct Modules {
    folder: PathBuf,
    order: Order,
    aliases: Aliases,
    loaded: BTreeSet<String>,
    seen: BTreeSet<String>,
}

impl Modules {
    /// Reads the index of `/lib/modules/RELEASE`. An initramfs without modules is an empty index:
    /// the kernel may have everything built in.
    pub(crate) fn open() -> Self {
        let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let folder = Path::new("/lib/modules").join(release.trim());
        let read = |name: &str| fs::read_to_string(folder.join(name)).unwrap_or_default();
        let (order, aliases) = parse(&read("modules.dep"), &read("modules.alias"));
        Self { folder, order, aliases, ..Self::default() }
    }

    /// Loads the fixed list.
    pub(crate) fn load_always(&mut self) {
        for name in ALWAYS {
            self.load(name);
        }
    }

    /// One pass over the hardware that is there now; buses found by one pass show their devices to
    /// the next. Says whether anything new was seen.
    pub(crate) fn coldplug(&mut self) -> bool {
        let mut found = BTreeSet::new();
        find_modaliases(Path::new("/sys/devices"), &mut found);
        let new: Vec<_> = found.difference(&self.seen).cloned().collect();
        for modalias in &new {
            self.load_alias(modalias);
        }
        self.seen.extend(found);
        !new.is_empty()
    }

    /// Loads what answers to an alias or a module's name.
    pub(crate) fn load_alias(&mut self, alias: &str) {
        let name = alias.replace('-', "_");
        if self.order.contains_key(&name) {
            self.load(&name);
        }
        let matching = self.aliases.iter().filter(|(pattern, _)| matches(pattern, alias));
        for module in matching.map(|(_, m)| m.clone()).collect::<Vec<_>>() {
            self.load(&module);
        }
    }

    fn load(&mut self, name: &str) {
        for module in self.order.get(name).cloned().unwrap_or_default() {
            if !self.loaded.insert(module.clone()) {
                continue;
            }
            let result = fs::File::open(self.folder.join(format!("{module}.ko")))
                .map_err(|e| e.to_string())
                .and_then(|file| {
                    match finit_module(file, c"", ModuleInitFlags::empty()) {
                        // ENODEV: a driver for a processor that this one is not.
                        Ok(()) | Err(nix::Error::EEXIST | nix::Error::ENODEV) => Ok(()),
                        Err(error) => Err(error.to_string()),
                    }
                });
            if let Err(error) = result {
                log::error(&format!("module {module} cannot be loaded: {error}"));
            }
        }
    }
}

fn parse(dep: &str, alias: &str) -> (Order, Aliases) {
    let name = |file: &str| file.trim_end_matches(".ko").to_owned();
    let order = dep.lines().filter_map(|line| {
        let (module, needs) = line.split_once(':')?;
        let mut order: Vec<_> = needs.split_whitespace().map(name).collect();
        order.reverse();
        order.push(name(module));
        Some((name(module), order))
    });
    let aliases = alias.lines().filter_map(|line| {
        let mut words = line.split_whitespace().skip(1);
        Some((words.next()?.to_owned(), words.next()?.to_owned()))
    });
    (order.collect(), aliases.collect())
}

fn find_modaliases(folder: &Path, found: &mut BTreeSet<String>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let Ok(kind) = entry.file_type() else { continue };
        if kind.is_dir() {
            find_modaliases(&entry.path(), found);
        } else if kind.is_file() && entry.file_name() == "modalias" {
            let text = fs::read_to_string(entry.path()).unwrap_or_default();
            found.extend(text.lines().map(str::to_owned).filter(|l| !l.is_empty()));
        }
    }
}

/// Whether a text matches a shell pattern with `*`, `?` and `[…]`.
fn matches(pattern: &str, text: &str) -> bool {
    let (p, t) = (pattern.as_bytes(), text.as_bytes());
    // The place behind the last star, and the text from which that star was tried last.
    let (mut pi, mut ti, mut star) = (0, 0, None);
    while ti < t.len() {
        if p.get(pi) == Some(&b'*') {
            star = Some((pi + 1, ti));
            pi += 1;
        } else if let Some(next) = match_one(p, pi, t[ti]) {
            (pi, ti) = (next, ti + 1);
        } else if let Some((behind, from)) = star {
            (pi, ti) = (behind, from + 1);
            star = Some((behind, ti));
        } else {
            return false;
        }
    }
    p[pi..].iter().all(|b| *b == b'*')
}

/// Where the pattern goes on if its element at `at` matches the byte.
fn match_one(pattern: &[u8], at: usize, byte: u8) -> Option<usize> {
    match *pattern.get(at)? {
        b'?' => Some(at + 1),
        b'[' => {
            let end = at + pattern[at..].iter().position(|b| *b == b']')?;
            let set = &pattern[at + 1..end];
            let mut inside = false;
            let mut i = 0;
            while i < set.len() {
                if i + 2 < set.len() && set[i + 1] == b'-' {
                    inside |= (set[i]..=set[i + 2]).contains(&byte);
                    i += 3;
                } else {
                    inside |= set[i] == byte;
                    i += 1;
                }
            }
            inside.then_some(end + 1)
        }
        b if b == byte => Some(at + 1),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_of_modules_alias() {
        let virtio = "virtio:d00000001v*";
        assert!(matches(virtio, "virtio:d00000001v00001AF4"));
        assert!(!matches(virtio, "virtio:d00000002v00001AF4"));
        let e1000 = "pci:v00008086d0000100Esv*sd*bc*sc*i*";
        assert!(matches(e1000, "pci:v00008086d0000100Esv00001AF4sd00001100bc02sc00i00"));
        assert!(matches("acpi*:PNP0C0C:*", "acpi:PNP0C0C:"));
        assert!(matches("input:b*-e*1,*k*7[0-9A]*", "input:b0019v0000-e0,1,kr74,lsfw"));
        assert!(!matches("cpu:type:x86,ven0000fam*", "cpu:type:x86,ven0002fam000F"));
        assert!(!matches("a[b", "ab"), "an open set matches nothing");
        assert!(matches("*", "") && !matches("?", ""));
    }

    #[test]
    fn what_a_module_needs_is_loaded_first() {
        let (order, aliases) =
            parse("a.ko: b.ko c.ko\nc.ko:\nb.ko: c.ko\nbroken\n", "alias fs-a a\nalias x\n");
        assert_eq!(order["a"], ["c", "b", "a"]);
        assert_eq!(order["c"], ["c"]);
        assert_eq!(aliases, [("fs-a".to_owned(), "a".to_owned())]);
    }
}
