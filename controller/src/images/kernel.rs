//! Finding an image's kernel, and making sure that kernel and modules belong together.

use std::{
    cmp::Ordering,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail, ensure};

use super::{
    manifest::{FsType, check_release},
    rootfs::{cannot, within},
    tool::{run, say, tool},
};
use crate::inventory::Arch;

/// A kernel and its modules, somewhere on disk.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Kernel {
    pub(super) vmlinuz: PathBuf,
    /// Its `lib/modules/RELEASE`.
    pub(super) modules: PathBuf,
    pub(super) release: String,
}

/// The newest kernel in a root that has its modules beside it.
pub(super) fn find(root: &Path, arch: Arch) -> anyhow::Result<Kernel> {
    let mut found: Vec<Kernel> = Vec::new();
    let mut releases = Vec::new();
    if let Some(folder) = within(root, "lib/modules") {
        for entry in fs::read_dir(&folder).with_context(|| cannot("list", &folder))? {
            let entry = entry.with_context(|| cannot("list", &folder))?;
            releases.extend(entry.file_name().into_string().ok());
        }
    }
    for release in releases {
        let at = format!("lib/modules/{release}");
        let Some(modules) = within(root, &at).filter(|m| m.is_dir()) else { continue };
        let places = [format!("boot/vmlinuz-{release}"), format!("{at}/vmlinuz")];
        let vmlinuz =
            places.iter().find_map(|place| within(root, place).filter(|file| file.is_file()));
        found.extend(vmlinuz.map(|vmlinuz| Kernel { vmlinuz, modules, release }));
    }
    found.sort_by(|a, b| compare_releases(&a.release, &b.release));
    if found.len() > 1 {
        let names: Vec<_> = found.iter().map(|kernel| kernel.release.as_str()).collect();
        say(&format!("several kernels: {}; taking the last", names.join(", ")));
    }
    let kernel = found.pop().context(
        "no kernel in the root, that is /boot/vmlinuz-RELEASE together with /lib/modules/RELEASE: \
         install a kernel package in it (Debian: linux-image-amd64), or pass a kernel file and \
         its modules folder",
    )?;
    check(&kernel, arch)?;
    Ok(kernel)
}

/// A kernel that was given, with its modules given too or found in the root.
pub(super) fn given(
    vmlinuz: &Path,
    modules: Option<&Path>,
    root: &Path,
    arch: Arch,
) -> anyhow::Result<Kernel> {
    let modules = match (modules, release_in(vmlinuz)?) {
        (Some(modules), _) => modules.to_owned(),
        (None, Some(release)) => within(root, &format!("lib/modules/{release}"))
            .filter(|folder| folder.is_dir())
            .with_context(|| {
                format!(
                    "no /lib/modules/{release} in the root for this kernel: pass its modules folder"
                )
            })?,
        (None, None) => {
            bail!("{} does not say its release: pass its modules folder too", vmlinuz.display())
        }
    };
    let release = modules
        .file_name()
        .and_then(|name| name.to_str())
        .with_context(|| format!("{} is not lib/modules/RELEASE", modules.display()))?
        .to_owned();
    let kernel = Kernel { vmlinuz: vmlinuz.to_owned(), modules, release };
    check(&kernel, arch)?;
    Ok(kernel)
}

/// Lists the modules' dependencies for modprobe on the node, where the package left that to a
/// script.
pub(super) fn depmod(root: &Path, release: &str) -> anyhow::Result<()> {
    let folder = within(root, &format!("lib/modules/{release}"))
        .with_context(|| format!("the root has no /lib/modules/{release}"))?;
    if folder.join("modules.dep").exists() {
        return Ok(());
    }
    run(tool("depmod").arg("--basedir").arg(root).arg(release))
}

/// The file system that an imported root is packed as: the better one that its kernel can mount
/// (ADR 0002). Older kernels of the Enterprise Linux family have no EROFS.
pub(super) fn root_fs(kernel: &Kernel) -> FsType {
    match can_mount(kernel, FsType::Erofs) {
        true => FsType::Erofs,
        false => FsType::Squashfs,
    }
}

/// Whether the kernel has this file system, as a module or built in.
pub(super) fn can_mount(kernel: &Kernel, fstype: FsType) -> bool {
    let module = format!("{fstype}.ko");
    let is_it = |path: &str| path.rsplit('/').next().is_some_and(|name| name.starts_with(&module));
    let builtin = fs::read_to_string(kernel.modules.join("modules.builtin")).unwrap_or_default();
    let folder = kernel.modules.join("kernel/fs").join(fstype.to_string());
    builtin.lines().any(is_it)
        || fs::read_dir(folder).is_ok_and(|mut entries| {
            entries.any(|entry| entry.is_ok_and(|e| e.file_name().to_str().is_some_and(is_it)))
        })
}

fn check(kernel: &Kernel, arch: Arch) -> anyhow::Result<()> {
    let Kernel { vmlinuz, modules, release } = kernel;
    check_release(release).map_err(anyhow::Error::msg)?;
    ensure!(modules.is_dir(), "{} is not a folder of kernel modules", modules.display());
    let head = head_of(vmlinuz)?;
    let (ok, kind) = match arch {
        Arch::X86_64 => (x86_setup(&head), "an x86 kernel (bzImage)"),
        // The plain image has its magic at byte 56; packed ones are gzip or an EFI program.
        Arch::Aarch64 => (
            head.get(56..60) == Some(b"ARM\x64")
                || head.starts_with(b"\x1f\x8b")
                || head.starts_with(b"MZ"),
            "an arm64 kernel",
        ),
    };
    ensure!(ok, "{} is not {kind}", vmlinuz.display());
    if let Some(says) = release_in(vmlinuz)? {
        ensure!(
            says == *release,
            "{} is kernel {says}, but the modules are those of {release}",
            vmlinuz.display()
        );
    }
    Ok(())
}

/// The release that an x86 kernel carries in its header (Documentation/arch/x86/boot.rst,
/// `kernel_version`), None for other kernels.
fn release_in(vmlinuz: &Path) -> anyhow::Result<Option<String>> {
    let head = head_of(vmlinuz)?;
    if !x86_setup(&head) {
        return Ok(None);
    }
    let at = usize::from(u16::from_le_bytes([head[0x20e], head[0x20f]])) + 0x200;
    let text = head.get(at..).unwrap_or_default();
    let end = text.iter().position(|b| matches!(b, 0 | b' ')).unwrap_or(0);
    Ok(std::str::from_utf8(&text[..end]).ok().filter(|r| !r.is_empty()).map(str::to_owned))
}

fn x86_setup(head: &[u8]) -> bool {
    head.get(0x202..0x206) == Some(b"HdrS") && head.len() > 0x20f
}

/// The beginning of the file: setup code is at most 64 sectors.
fn head_of(path: &Path) -> anyhow::Result<Vec<u8>> {
    use std::io::Read;
    let mut head = Vec::new();
    fs::File::open(path)
        .and_then(|file| file.take(64 * 512).read_to_end(&mut head))
        .with_context(|| cannot("read the kernel", path))?;
    Ok(head)
}

/// Numbers in releases compare as numbers: 6.1.0-9 is older than 6.1.0-10.
fn compare_releases(a: &str, b: &str) -> Ordering {
    let split = |release: &str| -> Vec<(u64, String)> {
        release
            .split(['.', '-', '_', '+', '~'])
            .map(|part| {
                let digits =
                    part.len() - part.trim_start_matches(|c: char| c.is_ascii_digit()).len();
                (part[..digits].parse().unwrap_or(0), part[digits..].to_owned())
            })
            .collect()
    };
    split(a).cmp(&split(b))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// The smallest file that is taken for an x86 kernel of this release.
    pub(in crate::images) fn bzimage(release: &str) -> Vec<u8> {
        let mut kernel = vec![0; 0x400];
        kernel[0x202..0x206].copy_from_slice(b"HdrS");
        kernel[0x20e..0x210].copy_from_slice(&0x100_u16.to_le_bytes());
        kernel[0x300..0x300 + release.len()].copy_from_slice(release.as_bytes());
        kernel
    }

    fn root_with(releases: &[&str]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("boot")).unwrap();
        for release in releases {
            fs::create_dir_all(root.path().join("lib/modules").join(release)).unwrap();
            let vmlinuz = root.path().join(format!("boot/vmlinuz-{release}"));
            fs::write(vmlinuz, bzimage(release)).unwrap();
        }
        root
    }

    #[test]
    fn the_newest_kernel_with_modules_is_taken() {
        let root = root_with(&["6.1.0-9-amd64", "6.1.0-35-amd64"]);
        fs::write(root.path().join("boot/vmlinuz-7.0"), bzimage("7.0")).unwrap();
        let kernel = find(root.path(), Arch::X86_64).unwrap();
        assert_eq!(kernel.release, "6.1.0-35-amd64");
        assert_eq!(kernel.modules, root.path().join("lib/modules/6.1.0-35-amd64"));
    }

    #[test]
    fn what_is_no_kernel_or_another_one_is_refused_with_the_way_out() {
        let root = root_with(&[]);
        let error = format!("{:#}", find(root.path(), Arch::X86_64).unwrap_err());
        assert!(error.contains("pass a kernel file"), "{error}");

        let root = root_with(&["6.1.0"]);
        let vmlinuz = root.path().join("boot/vmlinuz-6.1.0");
        assert!(find(root.path(), Arch::Aarch64).is_err());
        for (bytes, reason) in
            [(bzimage("6.2.0"), "is kernel 6.2.0"), (b"text".to_vec(), "not an x86 kernel")]
        {
            fs::write(&vmlinuz, bytes).unwrap();
            let error = format!("{:#}", find(root.path(), Arch::X86_64).unwrap_err());
            assert!(error.contains(reason), "{error}");
        }
        // A pointer behind the end, and none at all.
        let mut wild = bzimage("6.1.0");
        wild[0x20e..0x210].copy_from_slice(&[0xff, 0xff]);
        for bytes in [wild, bzimage("6.1.0")[..0x206].to_vec(), Vec::new()] {
            fs::write(&vmlinuz, bytes).unwrap();
            assert!(!matches!(release_in(&vmlinuz), Ok(Some(_))));
        }
    }

    #[test]
    fn a_given_kernel_finds_its_modules_or_says_that_it_cannot() {
        let root = root_with(&["6.1.0"]);
        let outside = tempfile::tempdir().unwrap();
        let vmlinuz = outside.path().join("bzImage");
        fs::write(&vmlinuz, bzimage("6.1.0")).unwrap();
        let kernel = given(&vmlinuz, None, root.path(), Arch::X86_64).unwrap();
        assert_eq!(kernel.modules, root.path().join("lib/modules/6.1.0"));
        fs::write(&vmlinuz, bzimage("6.9")).unwrap();
        let error = given(&vmlinuz, None, root.path(), Arch::X86_64).unwrap_err();
        assert!(error.to_string().contains("6.9"), "{error}");
    }
}
