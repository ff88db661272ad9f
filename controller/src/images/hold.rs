//! Holds a root's kernel packages.
//!
//! A node starts the kernel of its image, which haasd serves. A newer one that an upgrade brings into
//! an overlay would take much space, call itself the node's kernel and never run; and removing the old
//! one would take the running kernel's modules away. So the root's own package manager is told to leave
//! kernels alone, in the way that its administrators know and can undo.

use std::{fs, path::Path};

use anyhow::Context as _;

use super::{
    rootfs::{cannot, within},
    tool::say,
};

const APT: &str = "haas-kernel";
const APT_TEXT: &str = "\
Explanation: This node boots the kernel of its image, over the network. A kernel that is
Explanation: installed here never runs. Remove this file to install one all the same.
Package: linux-image-* linux-modules-*
Pin: version *
Pin-Priority: -1
";

/// Kernels and their modules as the Enterprise Linux family names them; headers may be installed.
const DNF: &str = "kernel kernel-core kernel-modules* kernel-rt* kernel-uek*";

/// Tells apt and dnf, where they are, to leave kernels alone. What the root says of this itself stays.
pub(super) fn hold_kernel(root: &Path) -> anyhow::Result<()> {
    if let Some(folder) = within(root, "etc/apt/preferences.d").filter(|f| f.is_dir()) {
        let file = folder.join(APT);
        if file.symlink_metadata().is_err() {
            say("holding the kernel's packages by /etc/apt/preferences.d/haas-kernel");
            fs::write(&file, APT_TEXT).with_context(|| cannot("write", &file))?;
        }
    }
    if let Some(file) = within(root, "etc/dnf/dnf.conf").filter(|f| f.is_file()) {
        let old = fs::read_to_string(&file).with_context(|| cannot("read", &file))?;
        if let Some(new) = with_excluded_kernels(&old) {
            say("holding the kernel's packages by excludepkgs in /etc/dnf/dnf.conf");
            fs::write(&file, new).with_context(|| cannot("write", &file))?;
        }
    }
    Ok(())
}

/// dnf.conf with kernels left out; none where it says something about kernels already, or is none.
fn with_excluded_kernels(conf: &str) -> Option<String> {
    let is_exclude = |line: &&str| {
        let key = line.split_once('=').map(|(key, _)| key.trim());
        matches!(key, Some("exclude" | "excludepkgs"))
    };
    if let Some(line) = conf.lines().find(is_exclude) {
        if line.contains("kernel") {
            return None;
        }
        return Some(conf.replacen(line, &format!("{} {DNF}", line.trim_end()), 1));
    }
    let main = "[main]\n";
    conf.contains(main).then(|| conf.replacen(main, &format!("{main}excludepkgs={DNF}\n"), 1))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn dnf_leaves_kernels_alone_and_what_the_root_says_stays() {
        let plain = "[main]\ngpgcheck=1\n";
        let held = with_excluded_kernels(plain).unwrap();
        assert!(held.starts_with("[main]\nexcludepkgs=kernel kernel-core "), "{held}");
        assert!(held.ends_with("gpgcheck=1\n"), "{held}");
        assert_eq!(with_excluded_kernels(&held), None);
        assert_eq!(with_excluded_kernels("[main]\nexclude = kernel*\n"), None);
        let more = with_excluded_kernels("[main]\nexclude=nginx\n").unwrap();
        assert!(more.starts_with("[main]\nexclude=nginx kernel "), "{more}");
        assert_eq!(with_excluded_kernels(""), None);
    }

    /// A root with an old kernel and an old editor, and a mirror that has newer ones.
    fn system() -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for folder in [
            "etc/apt/preferences.d",
            "etc/apt/apt.conf.d",
            "etc/apt/trusted.gpg.d",
            "mirror",
            "var/lib/apt/lists/partial",
            "var/lib/dpkg",
            "var/cache/apt/archives/partial",
        ] {
            fs::create_dir_all(root.path().join(folder)).unwrap();
        }
        let package = |name: &str, version: &str, rest: &str| {
            format!(
                "Package: {name}\nVersion: {version}\nArchitecture: all\nMaintainer: n <n@example.org>\n\
                 Description: test\n{rest}\n"
            )
        };
        let installed = "Status: install ok installed\n";
        let status = [
            package("linux-image-amd64", "1", installed),
            package("linux-image-6.1.0-1-amd64", "1", installed),
            package("nano", "1", installed),
        ];
        fs::write(root.path().join("var/lib/dpkg/status"), status.concat()).unwrap();
        let offered = |name: &str, version: &str, depends: &str| {
            let file = format!("Filename: ./{name}.deb\nSize: 1\nSHA256: {}\n", "0".repeat(64));
            package(name, version, &format!("{depends}{file}"))
        };
        let packages = [
            offered("linux-image-amd64", "2", "Depends: linux-image-6.1.0-2-amd64\n"),
            offered("linux-image-6.1.0-2-amd64", "1", ""),
            offered("linux-image-6.1.0-1-amd64", "2", ""),
            offered("nano", "2", ""),
        ];
        fs::write(root.path().join("mirror/Packages"), packages.concat()).unwrap();
        let mirror = root.path().join("mirror");
        let source = format!("deb [trusted=yes] copy://{} ./\n", mirror.display());
        fs::write(root.path().join("etc/apt/sources.list"), source).unwrap();
        root
    }

    /// What the root's apt says.
    fn apt(root: &Path, args: &[&str]) -> String {
        let mut apt = Command::new("apt-get");
        apt.env_remove("APT_CONFIG").arg("-o").arg(format!("Dir={}", root.display()));
        for option in [
            format!("Dir::State::status={}/var/lib/dpkg/status", root.display()),
            "Dir::Bin::methods=/usr/lib/apt/methods".to_owned(),
            "APT::Sandbox::User=root".to_owned(),
        ] {
            apt.arg("-o").arg(option);
        }
        let output = apt.args(args).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "apt-get {args:?}: {said}{error}");
        said
    }

    #[test]
    fn an_upgrade_leaves_the_kernel_alone_and_takes_the_rest() {
        let root = system();
        let root = root.path();
        apt(root, &["update"]);
        let upgrade = ["--simulate", "dist-upgrade"];
        let free = apt(root, &upgrade);
        for package in ["linux-image-6.1.0-2-amd64", "linux-image-6.1.0-1-amd64", "nano"] {
            assert!(free.contains(&format!("Inst {package} ")), "without a hold: {free}");
        }

        hold_kernel(root).unwrap();
        let held = apt(root, &upgrade);
        assert!(held.contains("Inst nano "), "{held}");
        assert!(!held.contains("Inst linux-image"), "{held}");
        assert!(!held.contains("Remv "), "{held}");

        // An administrator who wants kernels empties the file, here or in the recipe.
        fs::write(root.join("etc/apt/preferences.d").join(APT), "").unwrap();
        hold_kernel(root).unwrap();
        assert_eq!(apt(root, &upgrade), free);
    }
}
