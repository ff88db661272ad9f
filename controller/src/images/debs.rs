//! Debian packages for a recipe: downloaded by apt from the mirrors that the controller is
//! configured for, which checks their signatures, and kept, so that a rebuild needs no network
//! beyond apt's lists. A whole system is installed from what was kept by mmdebstrap.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, bail, ensure};

use super::{
    blobs::{digest_file, sync_dir},
    rootfs::cannot,
    tool::{cannot_start, check, output, run, say, tool},
};
use crate::inventory::Arch;

/// A package as apt would download it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Candidate {
    /// Its name, without the architecture.
    package: String,
    /// The file's name: package, version and architecture.
    file: String,
    /// SHA-256, 64 hexadecimal digits.
    sha256: String,
}

/// The files of these packages, in the same order. `cache` keeps them, `work` is for downloads.
pub(super) fn fetch(
    packages: &[String],
    arch: Arch,
    cache: &Path,
    work: &Path,
) -> anyhow::Result<Vec<PathBuf>> {
    let arch = debian_arch(arch);
    let names: Vec<String> = packages.iter().map(|package| format!("{package}:{arch}")).collect();
    let listed = output(apt(work).args(["download", "--print-uris"]).args(&names))
        .context(UNKNOWN_PACKAGES)?;
    let candidates = listed.lines().map(parse_uri).collect::<anyhow::Result<Vec<_>>>()?;
    keep(&candidates, arch, cache, work)?;
    packages
        .iter()
        .map(|package| {
            candidates
                .iter()
                .find(|candidate| candidate.package == *package)
                .map(|candidate| candidate.place(cache))
                .with_context(|| format!("apt offers no file for package {package}"))
        })
        .collect()
}

/// The files of a whole system: these packages, what they depend on, apt, and what Debian calls
/// essential.
pub(super) fn fetch_system(
    packages: &[String],
    arch: Arch,
    cache: &Path,
    work: &Path,
) -> anyhow::Result<Vec<PathBuf>> {
    let arch = debian_arch(arch);
    let mut command = apt(work);
    // As if nothing were installed yet, so that nothing is left out.
    command.args(["-o", "Dir::State::status=/dev/null", "-o", "Acquire::ForceHash=SHA256"]);
    command.arg("-o").arg(format!("APT::Architecture={arch}"));
    command.args(["--print-uris", "--quiet", "--yes", "--no-install-recommends"]);
    command.args(["install", "?essential", "apt"]);
    let listed = output(command.args(packages)).context(UNKNOWN_PACKAGES)?;
    let candidates = listed
        .lines()
        .filter(|line| line.starts_with('\''))
        .map(parse_uri)
        .collect::<anyhow::Result<Vec<_>>>()?;
    keep(&candidates, arch, cache, work)?;
    Ok(candidates.iter().map(|candidate| candidate.place(cache)).collect())
}

/// Installs a whole system from the files of [`fetch_system`] into the folder `root`, which it
/// makes. Needs no network.
pub(super) fn install_system(
    packages: &[String],
    files: &[PathBuf],
    arch: Arch,
    root: &Path,
    work: &Path,
) -> anyhow::Result<()> {
    let mirror = work.join("mirror");
    fs::create_dir(&mirror).with_context(|| cannot("create", &mirror))?;
    for file in files {
        let name = file.file_name().with_context(|| cannot("name", file))?;
        // The cache may lie on another file system.
        fs::hard_link(file, mirror.join(name))
            .or_else(|_| fs::copy(file, mirror.join(name)).map(drop))
            .with_context(|| cannot("take", file))?;
    }
    let index = mirror.join("Packages");
    let index = File::create(&index).with_context(|| cannot("write", &index))?;
    run(tool("apt-ftparchive").current_dir(&mirror).args(["packages", "."]).stdout(index))?;
    // apt has checked the signatures when the files were fetched.
    let source = format!("deb [trusted=yes] copy://{} ./", mirror.display());
    let mut command = tool("mmdebstrap");
    command.args(["--mode=root", "--format=directory", "--variant=apt", "--quiet"]);
    command.arg(format!("--architectures={}", debian_arch(arch)));
    if !packages.is_empty() {
        command.arg(format!("--include={}", packages.join(",")));
    }
    // What names the mirror that is gone in a moment.
    command.arg("--customize-hook=rm -f \"$1\"/etc/apt/sources.list.d/*");
    // The codename is for mmdebstrap's own defaults; what is installed is what lies in the mirror.
    run(command.arg("bookworm").arg(root).arg(source))?;
    fs::remove_dir_all(&mirror).with_context(|| cannot("remove", &mirror))
}

const UNKNOWN_PACKAGES: &str =
    "apt does not know all these packages: run apt-get update, and check the names in the recipe";

fn debian_arch(arch: Arch) -> &'static str {
    match arch {
        Arch::X86_64 => "amd64",
        Arch::Aarch64 => "arm64",
    }
}

impl Candidate {
    fn place(&self, cache: &Path) -> PathBuf {
        cache.join(format!("{}-{}", &self.sha256[..16], self.file))
    }

    fn is_whole(&self, path: &Path) -> bool {
        digest_file(path).is_ok_and(|blob| blob.digest.hex() == self.sha256)
    }
}

/// Downloads what the cache does not hold.
fn keep(candidates: &[Candidate], arch: &str, cache: &Path, work: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(cache).with_context(|| cannot("create", cache))?;
    let (kept, missing): (Vec<_>, Vec<_>) =
        candidates.iter().partition(|candidate| candidate.is_whole(&candidate.place(cache)));
    let (all, kept) = (candidates.len(), kept.len());
    say(&format!("{all} packages: {kept} kept, {} to download", missing.len()));
    if missing.is_empty() {
        return Ok(());
    }
    let folder = work.join("debs");
    fs::create_dir_all(&folder).with_context(|| cannot("create", &folder))?;
    let names = missing.iter().map(|candidate| match candidate.file.ends_with("_all.deb") {
        true => candidate.package.clone(),
        false => format!("{}:{arch}", candidate.package),
    });
    run(apt(&folder).args(["--quiet", "download"]).args(names))?;
    for candidate in &missing {
        let path = folder.join(&candidate.file);
        ensure!(candidate.is_whole(&path), "apt downloaded another {}", candidate.file);
        // The work folder may be on another file system than the cache.
        let temporary = cache.join(format!(".{}", candidate.sha256));
        fs::copy(&path, &temporary)
            .and_then(|_| fs::rename(&temporary, candidate.place(cache)))
            .with_context(|| cannot("keep", &path))?;
    }
    Ok(sync_dir(cache)?)
}

/// Unpacks a package; its scripts do not run. `dpkg-deb --extract` would put folders in the place
/// of the links that make /usr merged; tar is told to keep them.
pub(super) fn unpack(deb: &Path, root: &Path) -> anyhow::Result<()> {
    let mut dpkg = tool("dpkg-deb");
    dpkg.arg("--fsys-tarfile").arg(deb).stdout(Stdio::piped());
    let mut child = dpkg.spawn().with_context(|| cannot_start(&dpkg))?;
    let archive = child.stdout.take().expect("its output is a pipe");
    let unpacked = run(tool("tar")
        .args(["--extract", "--file=-", "--keep-directory-symlink", "--numeric-owner"])
        .args(["--same-owner", "--same-permissions", "--directory"])
        .arg(root)
        .stdin(archive));
    check(&dpkg, child.wait().context("cannot wait for dpkg-deb")?)?;
    unpacked
}

/// The first kernel package that a meta package depends on; none for a kernel itself.
pub(super) fn kernel_dependency(deb: &Path) -> anyhow::Result<Option<String>> {
    let depends = output(tool("dpkg-deb").arg("--field").arg(deb).arg("Depends"))?;
    Ok(depends
        .split([',', '|'])
        .filter_map(|dependency| dependency.split_whitespace().next())
        .find(|name| name.starts_with("linux-image-"))
        .map(str::to_owned))
}

fn apt(folder: &Path) -> Command {
    let mut command = tool("apt-get");
    // The user _apt may not enter haasd's folders, and the worker is alone in its namespaces.
    command.current_dir(folder).args(["-o", "APT::Sandbox::User=root"]);
    command
}

/// A line of `--print-uris`: `'URI' FILE SIZE SHA256:HASH`.
fn parse_uri(line: &str) -> anyhow::Result<Candidate> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let [_, file, _, hash] = fields.as_slice() else { bail!("apt printed {line:?}") };
    let sha256 = hash.strip_prefix("SHA256:").filter(|h| {
        h.len() == 64 && h.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
    });
    let sha256 = sha256.with_context(|| format!("apt knows no SHA-256 of {file}"))?;
    ensure!(!file.contains('/'), "apt printed {line:?}");
    let package = file.split('_').next().unwrap_or_default();
    Ok(Candidate {
        package: package.to_owned(),
        file: (*file).to_owned(),
        sha256: sha256.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_of_apt_is_read_and_a_weak_hash_refused() {
        let hash = "ab".repeat(32);
        let line =
            format!("'http://m/p/less_590-2_amd64.deb' less_590-2_amd64.deb 1 SHA256:{hash}");
        let candidate = parse_uri(&line).unwrap();
        assert_eq!((candidate.package.as_str(), candidate.sha256), ("less", hash));
        for bad in ["", "'u' f 1", "'u' f 1 MD5Sum:00", "'u' ../f 1 SHA256:00", "a b c d e"] {
            assert!(parse_uri(bad).is_err(), "{bad}");
        }
        assert!(parse_uri(&line.replace("less_590", "../less")).is_err());
    }
}
