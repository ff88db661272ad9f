//! Building an image from a recipe, inside the image worker.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    time::SystemTime,
};

use anyhow::Context as _;
use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, unshare},
};

use super::{
    debs,
    kernel::{self, Kernel},
    manifest::Manifest,
    pack::{Parts, pack},
    recipe::{Method, Recipe, RootModules},
    rootfs::{cannot, copy_over, make_skeleton, within},
    tool::{run, say, tool},
    worker::PackModules,
};

/// Builds the recipe in `folder`; the image's files are left in `work`.
pub(super) fn build(
    folder: &Path,
    cache: &Path,
    work: &Path,
    pack_modules: PackModules,
) -> anyhow::Result<Manifest> {
    let start = SystemTime::now();
    let recipe = Recipe::load(folder)?;
    say(&format!("building {}: {}", recipe.name, recipe.description));
    let root = work.join("root");
    let packages = fetch_packages(&recipe, cache, work)?;
    let kernel = unpack_kernel(&recipe, cache, work)?;
    // From here on nothing comes from the network, so that neither packages' scripts nor commands
    // can fetch what no recipe names and no signature covers.
    unshare(CloneFlags::CLONE_NEWNET).context("cannot leave the network")?;
    match recipe.method {
        Method::Unpack => {
            make_skeleton(&root)?;
            for deb in &packages {
                debs::unpack(deb, &root)?;
            }
        }
        Method::Install => {
            say(&format!("installing {} packages", packages.len()));
            debs::install_system(&recipe.packages, &packages, recipe.arch, &root, work)?;
        }
    }
    if recipe.root_modules == RootModules::All {
        copy_modules(&kernel, &root)?;
    }
    for layer in &recipe.layers {
        if let Some(files) = &layer.files {
            copy_over(files, &root, "")?;
        }
        if !layer.commands.is_empty() {
            let chroot = Chroot::enter(&root)?;
            for command in &layer.commands {
                say(&format!("running {}", command.join(" ")));
                run(tool("chroot").arg(&root).args(command))
                    .with_context(|| format!("{} in the root", command.join(" ")))?;
            }
            chroot.leave()?;
        }
    }
    let parts = Parts {
        kernel,
        arch: recipe.arch,
        fstype: recipe.fstype,
        cmdline: &recipe.cmdline,
        ready_checks: &recipe.ready_checks,
        start,
    };
    pack(&root, parts, work, pack_modules)
}

fn fetch_packages(recipe: &Recipe, cache: &Path, work: &Path) -> anyhow::Result<Vec<PathBuf>> {
    match recipe.method {
        Method::Unpack => debs::fetch(&recipe.packages, recipe.arch, cache, work),
        Method::Install => debs::fetch_system(&recipe.packages, recipe.arch, cache, work),
    }
}

/// Copies a kernel's modules into the root and lists their dependencies.
pub(super) fn copy_modules(kernel: &Kernel, root: &Path) -> anyhow::Result<()> {
    let folder = within(root, "lib").context("the root has no /lib")?.join("modules");
    fs::create_dir_all(&folder).with_context(|| cannot("create", &folder))?;
    run(tool("cp").args(["--archive", "--"]).arg(&kernel.modules).arg(&folder))?;
    kernel::depmod(root, &kernel.release)
}

/// Downloads what a build of the recipe in `folder` needs into `cache`, so that the build itself
/// needs no network.
pub fn prefetch(folder: &Path, cache: &Path) -> anyhow::Result<()> {
    let recipe = Recipe::load(folder)?;
    let work = tempfile::tempdir().context("cannot make a work folder")?;
    fetch_packages(&recipe, cache, work.path())?;
    fetch_kernel(&recipe, cache, work.path()).map(drop)
}

/// The recipe's kernel package and, where that only stands for another, the other one.
fn fetch_kernel(recipe: &Recipe, cache: &Path, work: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let fetch = |package: &str| -> anyhow::Result<PathBuf> {
        let mut found = debs::fetch(&[package.to_owned()], recipe.arch, cache, work)?;
        found.pop().with_context(|| format!("apt offers no package {package}"))
    };
    let deb = fetch(&recipe.kernel_package)?;
    match debs::kernel_dependency(&deb)? {
        Some(package) => Ok(vec![deb, fetch(&package)?]),
        None => Ok(vec![deb]),
    }
}

/// Unpacks the recipe's kernel beside the root.
fn unpack_kernel(recipe: &Recipe, cache: &Path, work: &Path) -> anyhow::Result<Kernel> {
    let folder = work.join("kernel");
    fs::create_dir(&folder).with_context(|| cannot("create", &folder))?;
    for deb in fetch_kernel(recipe, cache, work)? {
        debs::unpack(&deb, &folder)?;
    }
    kernel::find(&folder, recipe.arch)
}

/// What a command in the root finds mounted: /proc, and a /dev with the few devices that every
/// program expects. The namespaces take it away should the worker end early.
struct Chroot {
    mounts: [PathBuf; 2],
}

impl Chroot {
    fn enter(root: &Path) -> anyhow::Result<Self> {
        let folder = |name: &str| {
            within(root, name).with_context(|| format!("the root has no /{name} to mount on"))
        };
        let chroot = Self { mounts: [folder("proc")?, folder("dev")?] };
        for (kind, at) in ["proc", "tmpfs"].into_iter().zip(&chroot.mounts) {
            mount(Some(kind), at, Some(kind), MsFlags::empty(), None::<&str>)
                .with_context(|| cannot("mount on", at))?;
        }
        for name in ["null", "zero", "full", "random", "urandom"] {
            // The controller's own: nobody can make one in a user namespace, as of a container.
            let (own, path) = (Path::new("/dev").join(name), chroot.mounts[1].join(name));
            File::create(&path).with_context(|| cannot("create", &path))?;
            mount(Some(&own), &path, None::<&str>, MsFlags::MS_BIND, None::<&str>)
                .with_context(|| cannot("mount on", &path))?;
        }
        Ok(chroot)
    }

    fn leave(self) -> anyhow::Result<()> {
        for at in &self.mounts {
            umount2(at, MntFlags::MNT_DETACH).with_context(|| cannot("unmount", at))?;
        }
        Ok(())
    }
}
