//! The initramfs as a node gets it: an image's modules and haasd's agent in one file.
//!
//! Each half is a cpio archive, compressed or not; the kernel unpacks one behind the other
//! (Documentation/driver-api/early-userspace/buffer-format.rst). The joined file is kept by its
//! own digest, and a link named by the digests of both halves points to it. This is a cache: all
//! of it may be deleted while haasd is down.

use std::{
    collections::{BTreeSet, HashMap},
    fs, io,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    time::SystemTime,
};

use haas_api::names::Digest;

use super::blobs::{BlobError, digest_file, failed, sync_dir, write_whole};

/// The joined initramfs files below `STATE/cache/initramfs`.
#[derive(Debug)]
pub struct InitramfsCache {
    folder: PathBuf,
    /// What was joined since haasd started, by the halves: every boot asks three times.
    known: Mutex<HashMap<Halves, (Digest, Stamp)>>,
    /// The agent's file as it was read last, and its digest: every boot asks for it too.
    agent: Mutex<Option<(PathBuf, Stamp, Digest)>>,
}

/// The modules' blob, whose name says what is in it, and the agent's file as it is now.
type Halves = (PathBuf, PathBuf, Stamp);

/// A file's time of change and size: as long as they stay, so does what is in it.
type Stamp = (SystemTime, u64);

impl InitramfsCache {
    /// Opens the cache and clears away unfinished files.
    pub fn open(state_dir: &Path) -> Result<Self, BlobError> {
        let folder = state_dir.join("cache/initramfs");
        let cache = Self { folder, known: Mutex::default(), agent: Mutex::default() };
        let tmp = cache.tmp();
        if tmp.exists() {
            fs::remove_dir_all(&tmp).map_err(failed("clear", &tmp))?;
        }
        fs::create_dir_all(&tmp).map_err(failed("create", &tmp))?;
        Ok(cache)
    }

    /// The initramfs of these two halves: its digest and its file.
    pub fn join(&self, modules: &Path, agent: &Path) -> Result<(Digest, PathBuf), BlobError> {
        let agent_now = stamp(agent).map_err(failed("read", agent))?;
        let halves = (modules.to_owned(), agent.to_owned(), agent_now);
        // Held while joining: nodes that boot together wait for the first, and do not all join.
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((digest, seen)) = known.get(&halves) {
            let path = self.path(digest);
            if stamp(&path).is_ok_and(|now| now == *seen) {
                return Ok((digest.clone(), path));
            }
        }
        let (digest, path) = self.join_files(modules, agent)?;
        let seen = stamp(&path).map_err(failed("read", &path))?;
        known.insert(halves, (digest.clone(), seen));
        Ok((digest, path))
    }

    /// The digest of the agent in this file.
    pub fn agent(&self, path: &Path) -> Result<Digest, BlobError> {
        let now = stamp(path).map_err(failed("read", path))?;
        let mut known = self.agent.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((of, seen, digest)) = &*known
            && of == path
            && *seen == now
        {
            return Ok(digest.clone());
        }
        let digest = Digest::of(&fs::read(path).map_err(failed("read", path))?);
        *known = Some((path.to_owned(), now, digest.clone()));
        Ok(digest)
    }

    fn join_files(&self, modules: &Path, agent: &Path) -> Result<(Digest, PathBuf), BlobError> {
        let read = |path: &Path| fs::read(path).map_err(failed("read", path));
        let (mut bytes, agent) = (read(modules)?, read(agent)?);
        let pair = format!("{}-{}", Digest::of(&bytes).hex(), Digest::of(&agent).hex());
        let link = self.folder.join(pair);
        if let Some(found) = self.follow(&link) {
            return Ok(found);
        }
        // The kernel looks for the next archive at a multiple of 4 bytes and skips zeros.
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes.extend_from_slice(&agent);
        let digest = Digest::of(&bytes);
        let path = self.path(&digest);
        write_whole(&self.tmp(), &path, &bytes)?;
        match symlink(path.file_name().expect("just joined"), &link) {
            Ok(()) => {}
            // Another request was first, or the link points to a file that is not whole.
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                fs::remove_file(&link).map_err(failed("replace", &link))?;
                symlink(path.file_name().expect("just joined"), &link)
                    .or_else(|e| match e.kind() {
                        io::ErrorKind::AlreadyExists => Ok(()),
                        _ => Err(e),
                    })
                    .map_err(failed("link", &link))?;
            }
            Err(e) => return Err(failed("link", &link)(e)),
        }
        sync_dir(&self.folder)?;
        Ok((digest, path))
    }

    /// Where the initramfs with this digest is, or would be.
    pub fn path(&self, digest: &Digest) -> PathBuf {
        self.folder.join(format!("{}.img", digest.hex()))
    }

    /// Forgets what was joined from modules other than these, which belong to images that are
    /// gone.
    pub fn keep_only(&self, modules: &BTreeSet<Digest>) -> Result<(), BlobError> {
        let mut keep = BTreeSet::new();
        let mut files = Vec::new();
        for entry in fs::read_dir(&self.folder).map_err(failed("list", &self.folder))? {
            let entry = entry.map_err(failed("list", &self.folder))?;
            let name = entry.file_name().to_string_lossy().into_owned();
            match name.split_once('-') {
                Some((hex, _)) if modules.iter().any(|m| m.hex() == hex) => {
                    keep.extend(fs::read_link(entry.path()).ok());
                }
                Some(_) => {
                    fs::remove_file(entry.path()).map_err(failed("remove", &entry.path()))?;
                }
                None if name.ends_with(".img") => files.push(PathBuf::from(name)),
                None => {}
            }
        }
        for file in files.iter().filter(|file| !keep.contains(*file)) {
            let path = self.folder.join(file);
            fs::remove_file(&path).map_err(failed("remove", &path))?;
        }
        Ok(())
    }

    /// What the link points to, if that is what its name says.
    fn follow(&self, link: &Path) -> Option<(Digest, PathBuf)> {
        let name = fs::read_link(link).ok()?;
        let hex = name.to_str()?.strip_suffix(".img")?;
        let digest = format!("sha256:{hex}").parse::<Digest>().ok()?;
        let path = self.path(&digest);
        (digest_file(&path).ok()?.digest == digest).then_some((digest, path))
    }

    fn tmp(&self) -> PathBuf {
        self.folder.join("tmp")
    }
}

fn stamp(path: &Path) -> io::Result<Stamp> {
    let meta = fs::metadata(path)?;
    Ok((meta.modified()?, meta.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_halves_are_joined_at_a_multiple_of_four_and_kept() {
        let state = tempfile::tempdir().unwrap();
        let cache = InitramfsCache::open(state.path()).unwrap();
        let (modules, agent) = (state.path().join("m"), state.path().join("a"));
        fs::write(&modules, b"modul").unwrap();
        fs::write(&agent, b"agent").unwrap();
        let (digest, path) = cache.join(&modules, &agent).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"modul\0\0\0agent");
        assert_eq!(digest, Digest::of(b"modul\0\0\0agent"));
        let inode = |p: &Path| std::os::unix::fs::MetadataExt::ino(&fs::metadata(p).unwrap());
        let first = inode(&path);
        assert_eq!(cache.join(&modules, &agent).unwrap(), (digest, path.clone()));
        assert_eq!(inode(&path), first, "the second time it comes from the cache");

        fs::write(&agent, b"newer").unwrap();
        let (newer, _) = cache.join(&modules, &agent).unwrap();
        assert_eq!(newer, Digest::of(b"modul\0\0\0newer"));
    }

    #[test]
    fn a_damaged_file_is_made_anew_and_those_of_removed_images_go() {
        let state = tempfile::tempdir().unwrap();
        let cache = InitramfsCache::open(state.path()).unwrap();
        let (modules, agent) = (state.path().join("m"), state.path().join("a"));
        fs::write(&modules, b"modules!").unwrap();
        fs::write(&agent, b"agent").unwrap();
        let (digest, path) = cache.join(&modules, &agent).unwrap();
        fs::remove_file(&path).unwrap();
        fs::write(&path, b"damaged").unwrap();
        assert_eq!(cache.join(&modules, &agent).unwrap(), (digest, path.clone()));
        assert_eq!(fs::read(&path).unwrap(), b"modules!agent");

        cache.keep_only(&BTreeSet::from([Digest::of(b"modules!")])).unwrap();
        assert!(path.exists());
        cache.keep_only(&BTreeSet::new()).unwrap();
        let left: Vec<_> =
            fs::read_dir(&cache.folder).unwrap().map(|e| e.unwrap().path()).collect();
        assert_eq!(left, [cache.tmp()]);
    }
}
