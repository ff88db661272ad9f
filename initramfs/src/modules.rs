//! The kernel modules that a node needs before it has its root, and those of an image's kernel
//! packed for the initramfs.
//!
//! Dependencies and aliases are read from the modules themselves (section `.modinfo`) and not from
//! depmod's files, which a kernel package does not bring and which may be stale. The archive gets
//! three index files that the agent reads, all with plain module names and `_` for `-`:
//! `modules.dep` (`PATH: PATH PATH`, dependencies first to be loaded rightmost, as depmod writes
//! it), `modules.alias` (`alias PATTERN MODULE`) and `modules.builtin`.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use crate::{Archive, ArchiveError, ElfError, elf};

/// A module, and whether an image's kernel may lack it.
#[derive(Debug, Clone, Copy)]
pub struct Wanted {
    /// The module's name, with `_`.
    pub name: &'static str,
    /// Without it no node can boot, whatever its hardware.
    pub required: bool,
}

const fn need(name: &'static str) -> Wanted {
    Wanted { name, required: true }
}

const fn like(name: &'static str) -> Wanted {
    Wanted { name, required: false }
}

/// What is packed, where the kernel has it.
pub const WANTED: &[Wanted] = &[
    // The root: iSCSI over TCP, a SCSI disk, and the file systems of images.
    need("iscsi_tcp"),
    need("libiscsi"),
    need("scsi_transport_iscsi"),
    need("sd_mod"),
    // Only the image's own is needed, which is for whoever packs the image to see.
    like("erofs"),
    like("squashfs"),
    need("ext4"),
    need("overlay"),
    // The store counts each overlay's bytes.
    need("quota_v2"),
    need("crc32c_generic"),
    like("crc32c_intel"),
    like("crc32_pclmul"),
    like("loop"),
    // Virtual machines.
    like("virtio_pci"),
    like("virtio_net"),
    like("virtio_blk"),
    like("virtio_scsi"),
    like("virtio_rng"),
    like("vmxnet3"),
    like("vmw_pvscsi"),
    // Network cards.
    like("e1000"),
    like("e1000e"),
    like("igb"),
    like("igc"),
    like("ixgbe"),
    like("i40e"),
    like("ice"),
    like("bnxt_en"),
    like("bnx2x"),
    like("tg3"),
    like("mlx4_en"),
    like("mlx5_core"),
    like("qede"),
    like("r8169"),
    like("realtek"),
    like("atlantic"),
    // Disks.
    like("ahci"),
    like("ata_piix"),
    like("nvme"),
    like("megaraid_sas"),
    like("mpt3sas"),
    like("smartpqi"),
    like("hpsa"),
    like("aacraid"),
    // What the firmware starts, which is compared between tenants.
    like("efivarfs"),
    // The power button, which is how a BMC asks for an orderly end.
    like("button"),
    like("evdev"),
];

/// Why an image's modules could not be packed.
#[derive(Debug, thiserror::Error)]
pub enum ModulesError {
    /// The kernel lacks a module without which no node can boot.
    #[error(
        "kernel {kernel} lacks the module {module}, without which no node can boot: choose another kernel"
    )]
    Missing {
        /// The module.
        module: String,
        /// The kernel's release.
        kernel: String,
    },
    /// A module of this kernel is compressed, and its tool cannot unpack it.
    #[error("module {} cannot be unpacked: {cause}", path.display())]
    Compressed {
        /// The module.
        path: PathBuf,
        /// What the tool says, or that there is none.
        cause: String,
    },
    /// A file or folder cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A module is damaged or made for another kind of machine.
    #[error("module {} is damaged", path.display())]
    Elf {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: ElfError,
    },
    /// The archive could not be written.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
}

/// The archive of the modules in `folder` (an image's `lib/modules/RELEASE`), compressed.
pub fn module_cpio(folder: &Path, release: &str) -> Result<Vec<u8>, ModulesError> {
    let available = find_modules(folder)?;
    let builtin = read_builtin(folder)?;
    let mut packed: BTreeMap<String, Module> = BTreeMap::new();
    let mut waiting: Vec<String> = Vec::new();
    for wanted in WANTED {
        if available.contains_key(wanted.name) {
            waiting.push(wanted.name.to_owned());
        } else if wanted.required && !builtin.contains(wanted.name) {
            return Err(ModulesError::Missing {
                module: wanted.name.to_owned(),
                kernel: release.to_owned(),
            });
        }
    }
    while let Some(name) = waiting.pop() {
        if packed.contains_key(&name) {
            continue;
        }
        let Some(path) = available.get(&name) else {
            // A dependency that is nowhere: the kernel would refuse the module that needs it.
            if builtin.contains(&name) {
                continue;
            }
            return Err(ModulesError::Missing { module: name, kernel: release.to_owned() });
        };
        let module = Module::read(path)?;
        waiting.extend(module.depends.iter().cloned());
        // Soft dependencies are a wish: crypto implementations that a kernel may or may not have.
        waiting.extend(module.softdeps.iter().filter(|n| available.contains_key(*n)).cloned());
        packed.insert(name, module);
    }

    let mut archive = Archive::default();
    let base = format!("lib/modules/{release}");
    let (mut dep, mut alias) = (String::new(), String::new());
    for (name, module) in &packed {
        archive.file(&format!("{base}/{name}.ko"), 0o644, module.data.clone());
        dep.push_str(&format!("{name}.ko:"));
        for other in load_order(name, &packed) {
            dep.push_str(&format!(" {other}.ko"));
        }
        dep.push('\n');
        for pattern in &module.aliases {
            alias.push_str(&format!("alias {pattern} {name}\n"));
        }
    }
    archive.file(&format!("{base}/modules.dep"), 0o644, dep.into_bytes());
    archive.file(&format!("{base}/modules.alias"), 0o644, alias.into_bytes());
    let builtin: String = builtin.iter().map(|n| format!("{n}\n")).collect();
    archive.file(&format!("{base}/modules.builtin"), 0o644, builtin.into_bytes());
    Ok(archive.compressed()?)
}

/// Everything that must be loaded before the module, the first to be loaded last.
fn load_order(name: &str, packed: &BTreeMap<String, Module>) -> Vec<String> {
    fn visit(name: &str, packed: &BTreeMap<String, Module>, order: &mut Vec<String>) {
        let Some(module) = packed.get(name) else { return };
        for other in module.depends.iter().chain(&module.softdeps) {
            if packed.contains_key(other) && !order.contains(other) {
                // Entered before its own dependencies are looked at, so that a circle of soft
                // dependencies ends; it is moved behind them below.
                order.push(other.clone());
                visit(other, packed, order);
                order.retain(|n| n != other);
                order.push(other.clone());
            }
        }
    }
    let mut order = vec![name.to_owned()];
    visit(name, packed, &mut order);
    order.retain(|n| n != name);
    order.reverse();
    order
}

struct Module {
    data: Vec<u8>,
    depends: Vec<String>,
    softdeps: Vec<String>,
    aliases: Vec<String>,
}

impl Module {
    fn read(path: &Path) -> Result<Self, ModulesError> {
        let raw = fs::read(path)
            .map_err(|source| ModulesError::Read { path: path.to_owned(), source })?;
        let data = match path.extension().and_then(|e| e.to_str()) {
            Some("ko") => raw,
            Some("zst") => zstd::decode_all(&raw[..])
                .map_err(|source| ModulesError::Read { path: path.to_owned(), source })?,
            // As the Enterprise Linux family has them.
            Some("xz") => unpack("xz", path)?,
            _ => unpack("gzip", path)?,
        };
        let info = elf::section(&data, ".modinfo")
            .and_then(|s| s.map(<[u8]>::to_vec).ok_or(ElfError))
            .map_err(|source| ModulesError::Elf { path: path.to_owned(), source })?;
        let mut module =
            Self { data, depends: Vec::new(), softdeps: Vec::new(), aliases: Vec::new() };
        for entry in info.split(|b| *b == 0) {
            let Some((key, value)) =
                std::str::from_utf8(entry).ok().and_then(|text| text.split_once('='))
            else {
                continue;
            };
            match key {
                "depends" => module
                    .depends
                    .extend(value.split(',').filter(|n| !n.is_empty()).map(plain_name)),
                "softdep" => module
                    .softdeps
                    .extend(value.split_whitespace().filter(|w| !w.ends_with(':')).map(plain_name)),
                "alias" if !value.contains(char::is_whitespace) => {
                    module.aliases.push(value.to_owned());
                }
                _ => {}
            }
        }
        Ok(module)
    }
}

/// What a module holds, as the tool that compressed it says.
fn unpack(tool: &str, path: &Path) -> Result<Vec<u8>, ModulesError> {
    let fail = |cause| ModulesError::Compressed { path: path.to_owned(), cause };
    let output = Command::new(tool)
        .args(["--decompress", "--stdout", "--"])
        .arg(path)
        .stdin(Stdio::null())
        .output()
        .map_err(|error| fail(format!("cannot run {tool}: {error}")))?;
    if !output.status.success() {
        return Err(fail(String::from_utf8_lossy(&output.stderr).trim().to_owned()));
    }
    Ok(output.stdout)
}

/// A module's name as the kernel has it: `_` and never `-`.
fn plain_name(name: &str) -> String {
    name.replace('-', "_")
}

fn module_name(file: &str) -> Option<String> {
    let at = file.find(".ko")?;
    matches!(&file[at..], ".ko" | ".ko.zst" | ".ko.xz" | ".ko.gz").then(|| plain_name(&file[..at]))
}

fn find_modules(folder: &Path) -> Result<BTreeMap<String, PathBuf>, ModulesError> {
    let mut found = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        let fail = |source| ModulesError::Read { path: folder.clone(), source };
        for entry in fs::read_dir(&folder).map_err(fail)? {
            let entry = entry.map_err(fail)?;
            // `build` and `source` are links out of the folder: not followed.
            let kind = entry.file_type().map_err(fail)?;
            if kind.is_dir() {
                folders.push(entry.path());
            } else if let Some(name) = entry.file_name().to_str().and_then(module_name) {
                found.insert(name, entry.path());
            }
        }
    }
    Ok(found)
}

fn read_builtin(folder: &Path) -> Result<BTreeSet<String>, ModulesError> {
    let path = folder.join("modules.builtin");
    match fs::read_to_string(&path) {
        Ok(text) => {
            let names = text.lines().filter_map(|l| module_name(l.rsplit('/').next()?));
            Ok(names.collect())
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(BTreeSet::new()),
        Err(source) => Err(ModulesError::Read { path, source }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::read_back;

    /// The smallest ELF file with a section `.modinfo`.
    fn fake_module(info: &[&str]) -> Vec<u8> {
        let info: Vec<u8> = info.iter().flat_map(|s| [s.as_bytes(), &[0]].concat()).collect();
        let names = b"\0.modinfo\0.shstrtab\0";
        let mut file = vec![0; 0x40];
        file[..6].copy_from_slice(b"\x7fELF\x02\x01");
        let (at_info, at_names) = (0x40, 0x40 + info.len());
        let table = at_names + names.len();
        file[0x28..0x30].copy_from_slice(&(table as u64).to_le_bytes());
        file[0x3a..0x3c].copy_from_slice(&0x40_u16.to_le_bytes());
        file[0x3c..0x3e].copy_from_slice(&2_u16.to_le_bytes());
        file[0x3e..0x40].copy_from_slice(&1_u16.to_le_bytes());
        file.extend(&info);
        file.extend(names);
        for (name, at, len) in [(1_u32, at_info, info.len()), (10, at_names, names.len())] {
            let mut header = [0; 0x40];
            header[..4].copy_from_slice(&name.to_le_bytes());
            header[0x18..0x20].copy_from_slice(&(at as u64).to_le_bytes());
            header[0x20..0x28].copy_from_slice(&(len as u64).to_le_bytes());
            file.extend(header);
        }
        file
    }

    fn kernel() -> tempfile::TempDir {
        let folder = tempfile::tempdir().expect("folder");
        let drivers = folder.path().join("kernel/drivers");
        fs::create_dir_all(&drivers).expect("folders");
        for wanted in WANTED.iter().filter(|w| w.required) {
            let info: &[&str] = match wanted.name {
                "iscsi_tcp" => &["depends=libiscsi,scsi_transport_iscsi"],
                "libiscsi" => &["depends=scsi_transport_iscsi,scsi-mod"],
                "ext4" => &["softdep=pre: crc32c", "alias=fs-ext4"],
                _ => &["license=GPL"],
            };
            fs::write(drivers.join(format!("{}.ko", wanted.name)), fake_module(info)).expect("ko");
        }
        fs::write(drivers.join("scsi_mod.ko"), fake_module(&[])).expect("ko");
        folder
    }

    #[test]
    fn dependencies_are_packed_and_listed_in_the_order_of_loading() {
        let kernel = kernel();
        let found = read_back(&module_cpio(kernel.path(), "6.1").expect("archive"));
        let dep = String::from_utf8(found["lib/modules/6.1/modules.dep"].1.clone()).expect("text");
        assert!(found.contains_key("lib/modules/6.1/scsi_mod.ko"), "a dependency is packed");
        let line = dep.lines().find(|l| l.starts_with("iscsi_tcp.ko:")).expect("line");
        let mut rest: Vec<_> = line.split_whitespace().skip(1).collect();
        assert_eq!(rest[0], "libiscsi.ko", "needs the other two, so it is loaded last");
        rest.sort_unstable();
        assert_eq!(rest, ["libiscsi.ko", "scsi_mod.ko", "scsi_transport_iscsi.ko"]);
        let alias = &found["lib/modules/6.1/modules.alias"].1;
        assert!(alias.windows(18).any(|w| w == b"alias fs-ext4 ext4"));
    }

    #[test]
    fn a_kernel_without_a_required_module_is_refused_by_name() {
        let kernel = kernel();
        fs::remove_file(kernel.path().join("kernel/drivers/overlay.ko")).expect("remove");
        let error = module_cpio(kernel.path(), "6.1").expect_err("overlay is missing");
        assert!(matches!(&error, ModulesError::Missing { module, .. } if module == "overlay"));
        fs::write(kernel.path().join("modules.builtin"), "kernel/fs/overlayfs/overlay.ko\n")
            .expect("builtin");
        module_cpio(kernel.path(), "6.1").expect("built in counts as present");
    }

    #[test]
    fn compressed_modules_are_unpacked_and_damaged_ones_refused() {
        let kernel = kernel();
        let overlay = kernel.path().join("kernel/drivers/overlay.ko");
        let plain = fs::read(&overlay).expect("read");
        for (tool, suffix) in [("zstd", "zst"), ("xz", "xz"), ("gzip", "gz")] {
            let packed = Command::new(tool).args(["--stdout", "--"]).arg(&overlay).output();
            let packed = packed.expect(tool).stdout;
            fs::rename(&overlay, kernel.path().join("kept")).expect("rename");
            let compressed = overlay.with_extension(format!("ko.{suffix}"));
            fs::write(&compressed, &packed).expect("write");
            let found = read_back(&module_cpio(kernel.path(), "6.1").expect("archive"));
            assert_eq!(found["lib/modules/6.1/overlay.ko"].1, plain, "{tool}");

            fs::write(&compressed, &packed[..packed.len() / 2]).expect("write");
            let error = module_cpio(kernel.path(), "6.1").expect_err("cut off").to_string();
            assert!(error.contains(&format!("overlay.ko.{suffix}")), "{error}");
            fs::remove_file(compressed).expect("remove");
            fs::rename(kernel.path().join("kept"), &overlay).expect("rename");
        }
    }
}
