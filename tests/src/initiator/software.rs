//! What such a computer runs: Debian's packages, unpacked into one root, and an initramfs of it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

use crate::files::debian_package;
use crate::haasd::Output;
use crate::rack::target_dir;

const RECIPE: &str = include_str!("../../images/initiator/recipe.toml");
const MODULES: &str = include_str!("../../images/initiator/files/etc/modules");
/// The recipe's own files: where, permissions, content.
const FILES: [(&str, u32, &str); 6] = [
    ("init", 0o755, include_str!("../../images/initiator/files/init")),
    ("bin/answer", 0o755, include_str!("../../images/initiator/files/bin/answer")),
    ("etc/modules", 0o644, MODULES),
    ("etc/multipath.conf", 0o644, include_str!("../../images/initiator/files/etc/multipath.conf")),
    ("etc/passwd", 0o644, include_str!("../../images/initiator/files/etc/passwd")),
    ("etc/group", 0o644, include_str!("../../images/initiator/files/etc/group")),
];
const FOLDERS: [&str; 7] = ["dev", "proc", "root", "run", "sys", "tmp", "var/lib"];
/// Of no use to a computer that is up for minutes: nothing of it goes into the initramfs.
const LEFT_OUT: &str =
    "-path ./usr/share -o -path ./usr/lib/grub -o -name gconv -o -name 'grub-*' -o -path ./output";

/// The unpacked packages, in cargo's target folder, where they stay for the next test.
#[derive(Clone, Debug)]
pub struct Software {
    folder: PathBuf,
}

impl Software {
    /// Unpacks the recipe's packages, if they have changed since the last time.
    pub fn unpack() -> Result<Software> {
        let recipe: toml::Table = RECIPE.parse()?;
        let names = recipe["packages"].as_array().context("the recipe has a list of packages")?;
        let names = names.iter().map(|name| name.as_str().context("a package's name is text"));
        let packages = names.map(|name| debian_package(name?)).collect::<Result<Vec<_>>>();
        let packages = packages.context(
            "the packages come by: haasd fetch --into target/debs tests/images/initiator",
        )?;
        let kernel = kernel_package()?;

        let mut key = Sha256::new();
        for path in packages.iter().chain([&kernel]) {
            key.update(path.as_os_str().as_encoded_bytes());
        }
        for (path, _, content) in FILES {
            key.update(path);
            key.update(content);
        }
        let key = hex::encode(key.finalize());
        let folder = target_dir()?.join("initiator");
        let software = Software { folder };
        // Written last, so that what is half unpacked counts for nothing.
        let done = software.folder.join("key");
        if !fs::read_to_string(&done).is_ok_and(|unpacked| unpacked == key) {
            fs::create_dir_all(&software.folder)?;
            fs::write(&done, "")?;
            software.unpack_anew(&packages, &kernel)?;
            fs::write(done, key)?;
        }
        Ok(software)
    }

    pub(super) fn kernel(&self) -> PathBuf {
        self.folder.join("vmlinuz")
    }

    pub(super) fn initramfs(&self) -> PathBuf {
        self.folder.join("initramfs")
    }

    /// The packages' files, GRUB among them.
    pub(super) fn root(&self) -> PathBuf {
        self.folder.join("root")
    }

    fn unpack_anew(&self, packages: &[PathBuf], kernel: &Path) -> Result<()> {
        let (root, linux) = (self.root(), self.folder.join("linux"));
        for folder in [&root, &linux] {
            if folder.exists() {
                fs::remove_dir_all(folder)?;
            }
            fs::create_dir_all(folder)?;
        }
        for package in packages {
            unpack(package, &root)?;
        }
        unpack(kernel, &linux)?;
        self.take_kernel(&linux)?;
        fs::remove_dir_all(&linux)?;

        for folder in FOLDERS {
            fs::create_dir_all(root.join(folder))?;
        }
        for (path, mode, content) in FILES {
            let path = root.join(path);
            fs::write(&path, content)?;
            fs::set_permissions(&path, fs::Permissions::from_mode(mode))?;
        }
        run(Command::new("chroot").arg(&root).args(["/bin/busybox", "--install", "-s", "/bin"]))?;
        let pack = format!(
            "find . '(' {LEFT_OUT} ')' -prune -o -print | cpio --quiet -o -H newc -R 0:0 | zstd -q -3"
        );
        let out = fs::File::create(self.initramfs())?;
        run(Command::new("sh").args(["-c", &pack]).current_dir(root).stdout(out))
    }

    /// The kernel, and of its modules those on our list with what they need.
    fn take_kernel(&self, linux: &Path) -> Result<()> {
        let modules = linux.join("lib/modules");
        let release = fs::read_dir(&modules)?.next().context("the kernel has modules")??;
        let release = release.file_name().into_string().ok().context("a release is plain text")?;
        fs::copy(linux.join(format!("boot/vmlinuz-{release}")), self.kernel())?;
        run(Command::new("depmod").arg("-b").arg(linux).arg(&release))?;

        let mut show = Command::new("modprobe");
        show.arg("-d").arg(linux).args(["-S", &release, "--show-depends", "-a"]);
        let shown = Output::of(show.args(MODULES.lines()))?.ok()?.stdout;
        let there = self.root().join("lib/modules").join(&release);
        fs::create_dir_all(&there)?;
        for line in shown.lines() {
            // `insmod PATH`, or `builtin NAME`.
            let Some(path) = line.trim().strip_prefix("insmod ") else { continue };
            let path = Path::new(path.trim());
            fs::copy(path, there.join(path.file_name().context("a module is a file")?))?;
        }
        for index in ["modules.builtin", "modules.builtin.modinfo", "modules.order"] {
            fs::copy(modules.join(&release).join(index), there.join(index))?;
        }
        run(Command::new("depmod").arg("-b").arg(self.root()).arg(&release))
    }
}

/// The kernel that `linux-image-amd64` stands for.
fn kernel_package() -> Result<PathBuf> {
    let stands = debian_package("linux-image-amd64")?;
    let mut show = Command::new("dpkg-deb");
    let depends = Output::of(show.arg("-f").arg(stands).arg("Depends"))?.ok()?.stdout;
    // `NAME (= VERSION)`.
    debian_package(depends.split_whitespace().next().context("it depends on a kernel")?)
}

fn unpack(package: &Path, folder: &Path) -> Result<()> {
    run(Command::new("dpkg-deb").arg("-x").arg(package).arg(folder))
}

/// Runs a command that must succeed.
pub(super) fn run(command: &mut Command) -> Result<()> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.output().with_context(|| format!("cannot run {program}"))?;
    anyhow::ensure!(
        output.status.success(),
        "{program} ended with {}: {}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}
