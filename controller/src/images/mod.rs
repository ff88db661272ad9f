//! Images: built or imported once, immutable from then on, known by digest.
//!
//! [`Images`] is what the rest of haasd sees. Making an image is the work of a child process
//! ([`worker`]); keeping it is the work of the store ([`blobs`]). Names and tags, and who uses an
//! image, are rows of the database and not known here.

pub mod blobs;
pub mod cache;
pub mod manifest;
pub mod recipe;
pub mod worker;

mod build;
mod debs;
mod hold;
mod import;
mod kernel;
mod pack;
mod rootfs;
mod selinux;
mod tool;

#[cfg(test)]
mod tests;

use std::{
    collections::BTreeSet,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::Arc,
};

pub use build::prefetch;
use haas_api::names::Digest;
use tokio::sync::mpsc;
pub(crate) use tool::package_of;

use self::{
    blobs::{BlobError, BlobStore},
    cache::InitramfsCache,
    manifest::{FsType, Manifest},
    recipe::{Recipe, RecipeError},
    worker::{Job, Order, WorkerCommand, WorkerError},
};
use crate::inventory::Arch;

/// The images of this controller.
#[derive(Debug, Clone)]
pub struct Images {
    store: Arc<BlobStore>,
    cache: Arc<InitramfsCache>,
    debs: PathBuf,
    worker: WorkerCommand,
    changes: Arc<tokio::sync::Mutex<()>>,
}

/// What to import.
#[derive(Debug)]
pub struct Import {
    /// Where the system is.
    pub source: ImportSource,
    /// Its kernel, where it is not in the system's /boot.
    pub kernel: Option<PathBuf>,
    /// That kernel's `lib/modules/RELEASE`, where the system does not have it.
    pub modules: Option<PathBuf>,
    /// The processor that it is for.
    pub arch: Arch,
    /// The file system that the root gets; none: the best one that the kernel can mount.
    pub fstype: Option<FsType>,
    /// Arguments for the kernel command line.
    pub cmdline: Vec<String>,
}

/// Where a system to be imported is.
#[derive(Debug)]
pub enum ImportSource {
    /// A folder with its root; other file systems mounted in it are left out.
    Directory(PathBuf),
    /// A tar archive of its root: plain, gzip, bzip2, xz or zstd.
    Tar(PathBuf),
    /// The same, read from a pipe to its end.
    TarStream(OwnedFd),
    /// A raw image of a disk or of one file system.
    RawDisk(PathBuf),
}

/// Why there is no image.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// The recipe is wrong.
    #[error(transparent)]
    Recipe(#[from] RecipeError),
    /// The store failed, or has no such image.
    #[error(transparent)]
    Store(#[from] BlobError),
    /// The build or import was refused or failed.
    #[error(transparent)]
    Worker(#[from] WorkerError),
}

impl Images {
    /// Opens the images below the state directory and clears away what a crash left. `worker`
    /// starts the image worker.
    pub fn open(state_dir: &Path, worker: WorkerCommand) -> Result<Self, BlobError> {
        let store = BlobStore::open(state_dir)?;
        let cache = InitramfsCache::open(state_dir)?;
        Ok(Self {
            store: Arc::new(store),
            cache: Arc::new(cache),
            debs: state_dir.join("cache/debs"),
            worker,
            changes: Arc::default(),
        })
    }

    /// Builds the recipe in `recipe`. Lines of the log go to `log`. Dropping the future ends the
    /// build and everything that it started.
    pub async fn build(
        &self,
        recipe: &Path,
        log: mpsc::Sender<String>,
    ) -> Result<(Digest, Manifest), ImageError> {
        // A wrong recipe is told before anything is started. The worker's folder is another.
        Recipe::load(recipe)?;
        let recipe = std::path::absolute(recipe)
            .map_err(|source| RecipeError::Read { path: recipe.to_owned(), source })?;
        self.make(Job::Build { recipe }, None, log).await
    }

    /// Imports a system. Log and cancelling are those of [`Self::build`].
    pub async fn import(
        &self,
        import: Import,
        log: mpsc::Sender<String>,
    ) -> Result<(Digest, Manifest), ImageError> {
        let Import { source, kernel, modules, arch, fstype, cmdline } = import;
        let (source, stdin) = match source {
            ImportSource::Directory(path) => (import::Source::Directory(path), None),
            ImportSource::Tar(path) => (import::Source::Tar(path), None),
            ImportSource::TarStream(fd) => (import::Source::TarStream, Some(fd)),
            ImportSource::RawDisk(path) => (import::Source::RawDisk(path), None),
        };
        let order = import::Order { source, kernel, modules, arch, fstype, cmdline };
        self.make(Job::Import(order), stdin, log).await
    }

    /// The manifest of an image, all of whose blobs are there.
    pub fn manifest(&self, image: &Digest) -> Result<Manifest, BlobError> {
        self.store.manifest(image)
    }

    /// Every image.
    pub fn list(&self) -> Result<Vec<Digest>, BlobError> {
        self.store.list()
    }

    /// The file of a blob that a manifest names.
    pub fn blob_path(&self, blob: &Digest) -> PathBuf {
        self.store.blob_path(blob)
    }

    /// The initramfs of an image with the agent in `agent_cpio`: its digest and its file. Reads
    /// and hashes some megabytes, so call it where blocking is allowed.
    pub fn initramfs(
        &self,
        manifest: &Manifest,
        agent_cpio: &Path,
    ) -> Result<(Digest, PathBuf), BlobError> {
        self.cache.join(&self.store.blob_path(&manifest.modules.digest), agent_cpio)
    }

    /// The digest of the agent in `agent_cpio`. May read and hash some megabytes, as [`Self::initramfs`].
    pub fn agent(&self, agent_cpio: &Path) -> Result<Digest, BlobError> {
        self.cache.agent(agent_cpio)
    }

    /// The file of an initramfs that [`Self::initramfs`] has made.
    pub fn initramfs_path(&self, digest: &Digest) -> PathBuf {
        self.cache.path(digest)
    }

    /// Held while an image's files and its row in the store are brought together or taken apart, so
    /// that the same image is not removed and made at once.
    pub async fn change(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.changes.lock().await
    }

    /// Removes the images that are not among `known`: a crash came before their row was written, or
    /// after it was removed.
    pub fn keep_only(&self, known: &BTreeSet<Digest>) -> Result<(), BlobError> {
        for image in self.list()?.into_iter().filter(|image| !known.contains(image)) {
            tracing::warn!(%image, "removes the files of an image that nobody knows");
            self.remove(&image)?;
        }
        Ok(())
    }

    /// Removes an image that nobody uses, which the caller has made sure of.
    pub fn remove(&self, image: &Digest) -> Result<(), BlobError> {
        self.store.remove(image)?;
        let mut modules = BTreeSet::new();
        for image in self.store.list()? {
            match self.store.manifest(&image) {
                Ok(manifest) => drop(modules.insert(manifest.modules.digest)),
                // Its initramfs is made again when the image is mended.
                Err(BlobError::Manifest { .. } | BlobError::MissingBlob { .. }) => {}
                Err(e) => return Err(e),
            }
        }
        self.cache.keep_only(&modules)
    }

    async fn make(
        &self,
        job: Job,
        stdin: Option<OwnedFd>,
        log: mpsc::Sender<String>,
    ) -> Result<(Digest, Manifest), ImageError> {
        let work = self.store.work_dir()?;
        let order = Order { worker: self.worker.clone(), debs: self.debs.clone(), job };
        let store = self.store.clone();
        worker::run(work, order, stdin, log, move |result, work| {
            let manifest = result.map_err(|e| store.explain(e, work))?;
            let [root, kernel, modules] = worker::output(work);
            let image = store.add(&manifest, [&root, &kernel, &modules])?;
            Ok((image, manifest))
        })
        .await
    }
}

impl BlobStore {
    /// A worker that failed while the disk was full failed because of it, whatever tool stumbled.
    fn explain(&self, error: WorkerError, work: &Path) -> ImageError {
        /// Less than this and the next block or inode could not be written.
        const FULL: u64 = 64 << 10;
        match nix::sys::statvfs::statvfs(work) {
            Ok(vfs) if vfs.blocks_available() * vfs.fragment_size() < FULL => {
                BlobError::NoSpace { path: work.to_owned() }.into()
            }
            _ => error.into(),
        }
    }
}
