//! The image store on disk: blobs by digest, and the manifests that name them.
//!
//! ```text
//! STATE/images/blobs/sha256/HEX     a file by its content, read-only for ever
//! STATE/images/manifests/HEX.json   an image; it exists when its manifest does
//! STATE/images/tmp/                 work that is not finished; emptied at start
//! ```
//! A blob is written elsewhere, synced and renamed, and the manifest comes last, so that after a
//! crash at any instant an image is there whole or not at all. Nothing here knows names, tags or
//! who uses an image: the caller removes only what nobody uses.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::{self, Read, Write},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use haas_api::names::Digest;
use sha2::Digest as _;
use tempfile::NamedTempFile;
use tracing::warn;

use super::manifest::{Blob, Manifest, ManifestError};

/// The store below one state directory. One process at a time opens it.
#[derive(Debug)]
pub struct BlobStore {
    blobs: PathBuf,
    manifests: PathBuf,
    tmp: PathBuf,
    /// Held while blobs and manifest of an image appear or go, so that removing one image never
    /// takes a blob that another one, just being added, is about to share.
    change: Mutex<()>,
}

/// Why the store could not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum BlobError {
    /// The disk is full. Nothing was left behind.
    #[error("no space left on the file system of {}: free some, or remove images", path.display())]
    NoSpace {
        /// What was being written.
        path: PathBuf,
    },
    /// A file or folder could not be read or written.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// The bytes are not those that were announced.
    #[error("{} has digest {found} and {found_size} bytes, expected {expected} with {expected_size} bytes", path.display())]
    Mismatch {
        /// The file.
        path: PathBuf,
        /// Its digest.
        found: Digest,
        /// Its size in bytes.
        found_size: u64,
        /// The digest that it should have.
        expected: Digest,
        /// The size that it should have, in bytes.
        expected_size: u64,
    },
    /// There is no such image.
    #[error("there is no image {0}")]
    NoImage(Digest),
    /// An image lacks one of its files: somebody deleted it by hand.
    #[error("image {image} lacks its blob {blob}: remove the image and build it again")]
    MissingBlob {
        /// The image.
        image: Digest,
        /// What it lacks.
        blob: Digest,
    },
    /// A manifest on disk is damaged.
    #[error("{} is damaged", path.display())]
    Manifest {
        /// The file.
        path: PathBuf,
        /// How.
        #[source]
        source: ManifestError,
    },
}

impl BlobStore {
    /// Opens the store, and clears away what a crash left: unfinished work, and blobs of images
    /// that were never completed or were half removed.
    pub fn open(state_dir: &Path) -> Result<Self, BlobError> {
        let images = state_dir.join("images");
        let store = Self {
            blobs: images.join("blobs/sha256"),
            manifests: images.join("manifests"),
            tmp: images.join("tmp"),
            change: Mutex::new(()),
        };
        if store.tmp.exists() {
            fs::remove_dir_all(&store.tmp).map_err(failed("clear", &store.tmp))?;
        }
        for folder in [&store.blobs, &store.manifests, &store.tmp] {
            fs::create_dir_all(folder).map_err(failed("create", folder))?;
        }
        store.sweep()?;
        Ok(store)
    }

    /// A folder for unfinished work, on the same file system as the blobs, private to haasd. It
    /// goes when it is dropped.
    pub fn work_dir(&self) -> Result<tempfile::TempDir, BlobError> {
        tempfile::Builder::new()
            .prefix("work-")
            .tempdir_in(&self.tmp)
            .map_err(failed("create a folder in", &self.tmp))
    }

    /// Adds an image: moves its files in and then writes the manifest. `files` are root, kernel
    /// and modules, on the file system of the store; their content is checked against the
    /// manifest. Adding what is there already changes nothing.
    pub fn add(&self, manifest: &Manifest, files: [&Path; 3]) -> Result<Digest, BlobError> {
        let json = manifest.canonical();
        let (digest, path) = (manifest.digest(), self.manifest_path(&manifest.digest()));
        manifest.check().map_err(|source| BlobError::Manifest { path: path.clone(), source })?;
        // Reading gigabytes comes before the lock.
        for (blob, file) in manifest.blobs().iter().zip(files) {
            verify(file, blob)?;
            fs::set_permissions(file, fs::Permissions::from_mode(0o444))
                .map_err(failed("make read-only", file))?;
            File::open(file).and_then(|f| f.sync_all()).map_err(failed("sync", file))?;
        }
        let _change = self.change.lock().unwrap_or_else(PoisonError::into_inner);
        let added =
            self.move_in(manifest, files).and_then(|()| write_whole(&self.tmp, &path, &json));
        if added.is_err() {
            self.sweep()?;
        }
        added.map(|()| digest)
    }

    /// The manifest of an image.
    pub fn manifest(&self, image: &Digest) -> Result<Manifest, BlobError> {
        let path = self.manifest_path(image);
        let json = match fs::read(&path) {
            Ok(json) => json,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                return Err(BlobError::NoImage(image.clone()));
            }
            Err(e) => return Err(failed("read", &path)(e)),
        };
        let manifest = Manifest::parse(&json)
            .map_err(|source| BlobError::Manifest { path: path.clone(), source })?;
        if manifest.digest() != *image {
            return Err(BlobError::Mismatch {
                path,
                found: manifest.digest(),
                found_size: json.len() as u64,
                expected: image.clone(),
                expected_size: json.len() as u64,
            });
        }
        for blob in manifest.blobs() {
            if !self.blob_path(&blob.digest).exists() {
                return Err(BlobError::MissingBlob { image: image.clone(), blob: blob.digest });
            }
        }
        Ok(manifest)
    }

    /// Every image, by digest.
    pub fn list(&self) -> Result<Vec<Digest>, BlobError> {
        let mut images = Vec::new();
        for name in names_in(&self.manifests)? {
            // Files that no image could have are somebody else's and stay.
            let digest =
                name.strip_suffix(".json").and_then(|h| format!("sha256:{h}").parse().ok());
            images.extend(digest);
        }
        images.sort();
        Ok(images)
    }

    /// Where a blob is, or would be.
    pub fn blob_path(&self, blob: &Digest) -> PathBuf {
        self.blobs.join(blob.hex())
    }

    /// Removes an image and the blobs that no other image shares. Whoever has one of them open
    /// may read on; who opens it later gets nothing, so the caller asks first who uses it.
    pub fn remove(&self, image: &Digest) -> Result<(), BlobError> {
        let _change = self.change.lock().unwrap_or_else(PoisonError::into_inner);
        let path = self.manifest_path(image);
        match fs::remove_file(&path) {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                return Err(BlobError::NoImage(image.clone()));
            }
            Err(e) => return Err(failed("remove", &path)(e)),
        }
        // From here on the image is gone; a crash leaves blobs that the next start sweeps.
        sync_dir(&self.manifests)?;
        self.sweep()
    }

    /// The blobs that any image uses. A manifest that cannot be read stops it: what the manifest
    /// names is unknown, so nothing may be removed.
    fn used(&self) -> Result<BTreeSet<Digest>, BlobError> {
        let mut used = BTreeSet::new();
        for image in self.list()? {
            let path = self.manifest_path(&image);
            let json = fs::read(&path).map_err(failed("read", &path))?;
            let manifest =
                Manifest::parse(&json).map_err(|source| BlobError::Manifest { path, source })?;
            used.extend(manifest.blobs().map(|blob| blob.digest));
        }
        Ok(used)
    }

    fn move_in(&self, manifest: &Manifest, files: [&Path; 3]) -> Result<(), BlobError> {
        for (blob, file) in manifest.blobs().iter().zip(files) {
            let to = self.blob_path(&blob.digest);
            if !to.exists() {
                fs::rename(file, &to).map_err(failed("move in", &to))?;
            }
        }
        sync_dir(&self.blobs)
    }

    /// Removes blobs that no image uses. One damaged manifest must not keep haasd from serving
    /// the other images, but until a person has removed it, nothing is swept.
    fn sweep(&self) -> Result<(), BlobError> {
        let used = match self.used() {
            Ok(used) => used,
            Err(BlobError::Manifest { path, source }) => {
                warn!(path = %path.display(), error = %source, "damaged manifest: no blob is freed");
                return Ok(());
            }
            Err(e) => return Err(e),
        };
        for name in names_in(&self.blobs)? {
            let Ok(digest) = format!("sha256:{name}").parse::<Digest>() else { continue };
            if !used.contains(&digest) {
                let path = self.blob_path(&digest);
                fs::remove_file(&path).map_err(failed("remove", &path))?;
            }
        }
        sync_dir(&self.blobs)
    }

    fn manifest_path(&self, image: &Digest) -> PathBuf {
        self.manifests.join(format!("{}.json", image.hex()))
    }
}

/// Digest and size in bytes of a file.
pub(super) fn digest_file(path: &Path) -> io::Result<Blob> {
    let mut file = File::open(path)?;
    let (mut hash, mut size, mut buffer) = (sha2::Sha256::new(), 0, vec![0; 1 << 20]);
    loop {
        match file.read(&mut buffer)? {
            0 => break,
            n => {
                hash.update(&buffer[..n]);
                size += n as u64;
            }
        }
    }
    Ok(Blob { digest: Digest::from_sha256(hash.finalize().into()), size })
}

/// Writes a file so that it is there whole or not at all, even after a crash.
pub(super) fn write_whole(tmp: &Path, path: &Path, bytes: &[u8]) -> Result<(), BlobError> {
    let mut file = NamedTempFile::new_in(tmp).map_err(failed("create a file in", tmp))?;
    file.write_all(bytes)
        .and_then(|()| file.as_file().set_permissions(fs::Permissions::from_mode(0o444)))
        .and_then(|()| file.as_file().sync_all())
        .map_err(failed("write", path))?;
    file.persist(path).map_err(|e| failed("write", path)(e.error))?;
    sync_dir(path.parent().expect("a file in the store has a folder"))
}

pub(super) fn sync_dir(folder: &Path) -> Result<(), BlobError> {
    File::open(folder).and_then(|f| f.sync_all()).map_err(failed("sync", folder))
}

/// Turns an I/O error into ours, telling a full disk apart.
pub(super) fn failed<'a>(
    action: &'static str,
    path: &'a Path,
) -> impl FnOnce(io::Error) -> BlobError + 'a {
    move |source| match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            BlobError::NoSpace { path: path.to_owned() }
        }
        _ => BlobError::Io { action, path: path.to_owned(), source },
    }
}

fn verify(file: &Path, expected: &Blob) -> Result<(), BlobError> {
    let found = digest_file(file).map_err(failed("read", file))?;
    if found != *expected {
        return Err(BlobError::Mismatch {
            path: file.to_owned(),
            found: found.digest,
            found_size: found.size,
            expected: expected.digest.clone(),
            expected_size: expected.size,
        });
    }
    Ok(())
}

fn names_in(folder: &Path) -> Result<Vec<String>, BlobError> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).map_err(failed("list", folder))? {
        let entry = entry.map_err(failed("list", folder))?;
        names.extend(entry.file_name().into_string().ok());
    }
    Ok(names)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::images::manifest::tests::example;

    /// Adds an image whose three files hold these bytes, the first padded to blocks.
    pub(in crate::images) fn add(
        store: &BlobStore,
        root: &[u8],
        kernel: &[u8],
        modules: &[u8],
    ) -> Result<Digest, BlobError> {
        let work = store.work_dir()?;
        let mut padded = root.to_vec();
        padded.resize(3 * 4096, 0);
        let mut manifest = example();
        manifest.root.digest = Digest::of(&padded);
        manifest.kernel.digest = Digest::of(kernel);
        manifest.kernel.size = kernel.len() as u64;
        manifest.modules = Blob { digest: Digest::of(modules), size: modules.len() as u64 };
        let files = ["root", "kernel", "modules"].map(|name| work.path().join(name));
        for (file, bytes) in files.iter().zip([&padded[..], kernel, modules]) {
            fs::write(file, bytes).map_err(failed("write", file))?;
        }
        store.add(&manifest, [&files[0], &files[1], &files[2]])
    }

    fn blob_count(store: &BlobStore) -> usize {
        names_in(&store.blobs).unwrap().len()
    }

    #[test]
    fn an_image_is_kept_whole_and_read_only() {
        let state = tempfile::tempdir().unwrap();
        let store = BlobStore::open(state.path()).unwrap();
        let image = add(&store, b"root", b"kernel", b"modules").unwrap();
        let manifest = store.manifest(&image).unwrap();
        assert_eq!(store.list().unwrap(), std::slice::from_ref(&image));
        let kernel = store.blob_path(&manifest.kernel.digest);
        assert_eq!(fs::read(&kernel).unwrap(), b"kernel");
        assert_eq!(fs::metadata(&kernel).unwrap().permissions().mode() & 0o777, 0o444);
        assert_eq!(add(&store, b"root", b"kernel", b"modules").unwrap(), image);
        assert!(names_in(&store.tmp).unwrap().is_empty());
    }

    #[test]
    fn bytes_that_are_not_those_announced_are_refused_and_leave_nothing() {
        let state = tempfile::tempdir().unwrap();
        let store = BlobStore::open(state.path()).unwrap();
        let work = store.work_dir().unwrap();
        let files = ["root", "kernel", "modules"].map(|name| work.path().join(name));
        files.iter().for_each(|f| fs::write(f, b"something else").unwrap());
        let error = store.add(&example(), [&files[0], &files[1], &files[2]]).unwrap_err();
        assert!(matches!(error, BlobError::Mismatch { .. }), "{error}");
        assert_eq!((blob_count(&store), store.list().unwrap().len()), (0, 0));
    }

    #[test]
    fn removing_an_image_keeps_what_another_one_shares() {
        let state = tempfile::tempdir().unwrap();
        let store = BlobStore::open(state.path()).unwrap();
        let one = add(&store, b"one", b"kernel", b"modules").unwrap();
        let two = add(&store, b"two", b"kernel", b"modules").unwrap();
        assert_eq!(blob_count(&store), 4);
        store.remove(&one).unwrap();
        assert_eq!(blob_count(&store), 3);
        store.manifest(&two).unwrap();
        assert!(matches!(store.manifest(&one), Err(BlobError::NoImage(_))));
        assert!(matches!(store.remove(&one), Err(BlobError::NoImage(_))));
        store.remove(&two).unwrap();
        assert_eq!(blob_count(&store), 0);
    }

    /// Each state in which a crash can leave the folders, made by hand.
    #[test]
    fn a_start_after_a_crash_finds_whole_images_only() {
        let state = tempfile::tempdir().unwrap();
        let store = BlobStore::open(state.path()).unwrap();
        let image = add(&store, b"root", b"kernel", b"modules").unwrap();
        // A build was cut off, then an image between its blobs and its manifest.
        std::mem::forget(store.work_dir().unwrap());
        fs::write(store.tmp.join("half"), b"x").unwrap();
        fs::write(store.blob_path(&Digest::of(b"orphan")), b"orphan").unwrap();
        let store = BlobStore::open(state.path()).unwrap();
        assert_eq!(store.list().unwrap(), std::slice::from_ref(&image));
        store.manifest(&image).unwrap();
        assert_eq!((blob_count(&store), names_in(&store.tmp).unwrap().len()), (3, 0));
    }

    #[test]
    fn damage_on_disk_is_seen_and_a_damaged_manifest_removes_nothing() {
        let state = tempfile::tempdir().unwrap();
        let store = BlobStore::open(state.path()).unwrap();
        let image = add(&store, b"root", b"kernel", b"modules").unwrap();
        let kernel = store.blob_path(&Digest::of(b"kernel"));
        fs::rename(&kernel, state.path().join("away")).unwrap();
        assert!(matches!(store.manifest(&image), Err(BlobError::MissingBlob { .. })));
        fs::rename(state.path().join("away"), &kernel).unwrap();

        let path = store.manifest_path(&image);
        fs::remove_file(&path).unwrap();
        fs::write(&path, b"{").unwrap();
        assert!(matches!(store.manifest(&image), Err(BlobError::Manifest { .. })));
        // The other images are served, and the blobs of the damaged one are still there.
        let store = BlobStore::open(state.path()).unwrap();
        assert_eq!(blob_count(&store), 3);
        let mut other = example();
        other.cmdline.clear();
        fs::write(&path, other.canonical()).unwrap();
        assert!(matches!(store.manifest(&image), Err(BlobError::Mismatch { .. })));
    }

    /// A file system of one MiB, unmounted when dropped.
    struct SmallDisk(tempfile::TempDir);

    impl SmallDisk {
        fn mount() -> Self {
            let folder = tempfile::tempdir().unwrap();
            nix::mount::mount(
                Some("tmpfs"),
                folder.path(),
                Some("tmpfs"),
                nix::mount::MsFlags::empty(),
                Some("size=1m"),
            )
            .expect("this test mounts a small file system and needs root");
            Self(folder)
        }
    }

    impl Drop for SmallDisk {
        fn drop(&mut self) {
            nix::mount::umount2(self.0.path(), nix::mount::MntFlags::MNT_DETACH).unwrap();
        }
    }

    #[test]
    fn a_full_disk_is_said_and_leaves_nothing_behind() {
        let disk = SmallDisk::mount();
        let store = BlobStore::open(disk.0.path()).unwrap();
        let image = add(&store, b"root", b"kernel", b"modules").unwrap();
        let error = add(&store, b"other", &vec![7; 2 << 20], b"modules").unwrap_err();
        assert!(matches!(error, BlobError::NoSpace { .. }), "{error}");
        let filler = disk.0.path().join("filler");
        let _ = fs::write(&filler, vec![1; 2 << 20]);
        let path = store.manifests.join("x.json");
        let error = write_whole(&store.tmp, &path, &[1; 8192]).unwrap_err();
        assert!(matches!(error, BlobError::NoSpace { .. }), "{error}");
        assert!(!path.exists());
        assert_eq!((blob_count(&store), names_in(&store.tmp).unwrap().len()), (3, 0));
        store.manifest(&image).unwrap();
    }
}
