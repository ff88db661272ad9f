//! The disk behind LUN 0: an immutable file or block device, its identity, and reads from it that
//! never hold up the runtime.

use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, FileTypeExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use md5::{Digest, Md5};
use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};

use crate::disk_waits::DiskWaits;
use crate::warm::Warm;
use crate::{sys, thin};

/// Bytes in a logical block.
pub const BLOCK: u64 = 512;

/// Distance between the bytes looked at to see whether a range is in memory: the kernel's default
/// readahead, so that what lies between two probes was most likely read with them.
const PROBE_STEP: u64 = 128 << 10;

/// Bytes read at once on the way into the page cache.
const LOAD_STEP: usize = 128 << 10;

/// What a disk says it is. It must never change for the same content, since initiators and
/// multipath find the disk by it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LunIdentity {
    /// Unit serial number (VPD page 80).
    pub serial: String,
    /// NAA name of type 3, locally assigned: the top nibble is 3 (VPD page 83).
    pub naa: u64,
    /// T10 vendor identification, 8 characters of ASCII.
    pub vendor: String,
    /// Product identification, 16 characters of ASCII.
    pub product: String,
    /// Product revision, 4 characters of ASCII.
    pub revision: String,
}

impl LunIdentity {
    /// The identity of an image known by its SHA-256: the serial is its first 32 hex digits, the NAA
    /// name its first 60 bits.
    pub fn from_sha256(digest: &[u8; 32]) -> Self {
        let serial = digest.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
        let first = digest.iter().take(8).fold(0_u64, |bits, byte| (bits << 8) | u64::from(*byte));
        Self {
            serial,
            naa: (0x3 << 60) | (first >> 4),
            vendor: "HAAS".into(),
            product: "IMAGE".into(),
            revision: "1".into(),
        }
    }

    /// A stable identity for a disk of which no digest is known: that of its full path, spread over 32
    /// bytes by MD5 with two prefixes.
    ///
    /// # Errors
    /// When there is no such path.
    pub fn from_path(path: impl AsRef<Path>) -> io::Result<Self> {
        let path = path.as_ref();
        let full = path.canonicalize().map_err(|error| {
            io::Error::new(error.kind(), format!("disk {}: {error}", path.display()))
        })?;
        let mut digest = [0; 32];
        for (prefix, half) in digest.chunks_exact_mut(16).enumerate() {
            let mut md5 = Md5::new();
            md5.update(prefix.to_be_bytes());
            md5.update(full.as_os_str().as_bytes());
            half.copy_from_slice(&md5.finalize());
        }
        Ok(Self::from_sha256(&digest))
    }

    /// The name Linux shows in `/sys/block/sdX/device/wwid`.
    pub fn wwid(&self) -> String {
        format!("naa.{:016x}", self.naa)
    }
}

/// A disk, opened read-only, of the size that it had then.
#[derive(Debug)]
pub struct Lun {
    file: File,
    path: PathBuf,
    blocks: u64,
    /// The file has holes.
    thin: bool,
    identity: LunIdentity,
    /// Cleared when the file system turns out not to know `RWF_NOWAIT`.
    can_probe: AtomicBool,
    warm: Warm,
}

impl Lun {
    /// Opens the file or block device at `path`.
    ///
    /// # Errors
    /// When it cannot be opened, is neither file nor block device, is empty, or is no multiple of
    /// 512 bytes long.
    pub fn open(path: impl AsRef<Path>, identity: LunIdentity) -> io::Result<Self> {
        let path = path.as_ref().to_owned();
        let in_path = |error: io::Error| {
            io::Error::new(error.kind(), format!("disk {}: {error}", path.display()))
        };
        let mut file = File::open(&path).map_err(in_path)?;
        let kind = file.metadata().map_err(in_path)?.file_type();
        if !kind.is_file() && !kind.is_block_device() {
            let error = io::Error::new(io::ErrorKind::InvalidInput, "not a file or block device");
            return Err(in_path(error));
        }
        let size = file.seek(SeekFrom::End(0)).map_err(in_path)?;
        if size == 0 || !size.is_multiple_of(BLOCK) {
            let text = format!("{size} bytes long, which is no positive multiple of {BLOCK}");
            return Err(in_path(io::Error::new(io::ErrorKind::InvalidData, text)));
        }
        let thin = kind.is_file() && thin::has_holes(&file, size);
        let (can_probe, warm) = (AtomicBool::new(true), Warm::new(size));
        Ok(Self { file, path, blocks: size / BLOCK, thin, identity, can_probe, warm })
    }

    /// Size in blocks of 512 bytes.
    pub fn blocks(&self) -> u64 {
        self.blocks
    }

    /// Whether the file has holes: blocks that are not stored and read as zeros. Initiators are told
    /// that the disk is thinly provisioned, and which blocks those are.
    pub fn is_thin(&self) -> bool {
        self.thin
    }

    /// What the disk says it is.
    pub fn identity(&self) -> &LunIdentity {
        &self.identity
    }

    /// Where the disk was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes of it that are in memory now, or on their way there. Waits for no disk, but may look at each
    /// page.
    ///
    /// # Errors
    /// When the file cannot be mapped.
    pub fn resident(&self) -> io::Result<u64> {
        sys::resident(&self.file, self.blocks * BLOCK)
    }

    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    /// Asks the kernel to read a range soon, without waiting for it.
    pub(crate) fn prefetch(&self, offset: u64, len: u64) {
        if let (Ok(offset), Ok(len)) = (i64::try_from(offset), i64::try_from(len)) {
            // Only a hint; nothing is lost when it is not taken.
            let _ = posix_fadvise(&self.file, offset, len, PosixFadviseAdvice::POSIX_FADV_WILLNEED);
        }
    }

    /// Fills `buf` from `offset` on, from memory if possible, else on a blocking thread.
    pub(crate) async fn read(
        self: &Arc<Self>,
        buf: &mut [u8],
        offset: u64,
        waits: &DiskWaits,
    ) -> io::Result<()> {
        let cached = self.read_cached(buf, offset);
        let Some(rest) = buf.get_mut(cached..).filter(|rest| !rest.is_empty()) else {
            return Ok(());
        };
        let (lun, len, offset) = (Arc::clone(self), rest.len(), offset + cached as u64);
        let loaded = waits
            .run(move || {
                let mut loaded = vec![0; len];
                lun.file.read_exact_at(&mut loaded, offset)?;
                Ok(loaded)
            })
            .await?;
        rest.copy_from_slice(&loaded);
        Ok(())
    }

    /// Sees to it that a range is in the page cache, so that sending it does not wait for the disk.
    pub(crate) async fn load(
        self: &Arc<Self>,
        offset: u64,
        len: u64,
        waits: &DiskWaits,
    ) -> io::Result<()> {
        let now = Instant::now();
        if self.warm.holds(offset, len, now) {
            return Ok(());
        }
        if self.is_cached(offset, len) {
            self.warm.note(offset, len, now);
            return Ok(());
        }
        self.read_in(offset, len, waits).await
    }

    /// Sees to it that a range can be read, and that nobody takes that for a look at all of its pages.
    pub(crate) async fn read_through(
        self: &Arc<Self>,
        offset: u64,
        len: u64,
        waits: &DiskWaits,
    ) -> io::Result<()> {
        if self.is_cached(offset, len) { Ok(()) } else { self.read_in(offset, len, waits).await }
    }

    /// Reads a range into the page cache, on a blocking thread.
    async fn read_in(self: &Arc<Self>, offset: u64, len: u64, waits: &DiskWaits) -> io::Result<()> {
        let lun = Arc::clone(self);
        waits
            .run(move || {
                lun.prefetch(offset, len);
                let mut scratch = vec![0; LOAD_STEP];
                let mut at = offset;
                while at < offset + len {
                    let step = (offset + len - at).min(LOAD_STEP as u64);
                    let Some(part) = usize::try_from(step).ok().and_then(|n| scratch.get_mut(..n))
                    else {
                        break;
                    };
                    lun.file.read_exact_at(part, at)?;
                    at += step;
                }
                Ok(())
            })
            .await
    }

    /// Whether a range seems to be in memory, judged by a byte here and there.
    fn is_cached(&self, offset: u64, len: u64) -> bool {
        let last = offset + len.saturating_sub(1);
        let mut at = offset;
        loop {
            if self.read_cached(&mut [0], at) == 0 {
                return false;
            }
            if at >= last {
                return true;
            }
            at = (at + PROBE_STEP).min(last);
        }
    }

    /// How many bytes could be had from memory at once.
    fn read_cached(&self, buf: &mut [u8], offset: u64) -> usize {
        if !self.can_probe.load(Ordering::Relaxed) {
            return 0;
        }
        match sys::read_cached(&self.file, buf, offset) {
            Ok(got) => got,
            Err(error) => {
                let code = error.raw_os_error();
                if matches!(code, Some(libc::EOPNOTSUPP | libc::ENOSYS | libc::EINVAL)) {
                    self.can_probe.store(false, Ordering::Relaxed);
                }
                0
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn identity() -> LunIdentity {
        let mut digest = [0; 32];
        digest[..8].copy_from_slice(&[0x12, 0x34, 0x56, 0x78, 0x9a, 0xbc, 0xde, 0xf0]);
        LunIdentity::from_sha256(&digest)
    }

    #[test]
    fn identity_comes_from_the_digest() {
        assert_eq!(identity().serial, "123456789abcdef00000000000000000");
        assert_eq!(identity().wwid(), "naa.3123456789abcdef");
    }

    #[test]
    fn a_size_that_is_no_multiple_of_a_block_is_refused() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        assert!(Lun::open(file.path(), identity()).is_err(), "empty");
        file.write_all(&[0; 513]).unwrap();
        let error = Lun::open(file.path(), identity()).unwrap_err();
        assert!(error.to_string().contains("513"), "{error}");
        assert!(Lun::open("/dev/null", identity()).is_err(), "not a disk");
    }

    #[tokio::test]
    async fn reads_are_right_cold_and_warm() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        let content: Vec<u8> = (0..1_048_576_u32).map(|i| (i / 512) as u8).collect();
        file.write_all(&content).unwrap();
        file.as_file().sync_all().unwrap();
        let lun = Arc::new(Lun::open(file.path(), identity()).unwrap());
        let cold = PosixFadviseAdvice::POSIX_FADV_DONTNEED;
        posix_fadvise(lun.file(), 0, 0, cold).unwrap();
        let mut buf = vec![0; 300_000];
        lun.read(&mut buf, 1000, &DiskWaits::default()).await.unwrap();
        assert_eq!(buf, content[1000..301_000]);
        lun.load(0, 1_048_576, &DiskWaits::default()).await.unwrap();
        assert_eq!(lun.resident().unwrap(), lun.blocks() * BLOCK);
        lun.read(&mut buf, 512, &DiskWaits::default()).await.unwrap();
        assert_eq!(buf, content[512..300_512]);
    }

    #[tokio::test]
    async fn what_was_in_memory_just_now_is_not_looked_at_again() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(&[7; 1 << 20]).unwrap();
        let lun = Arc::new(Lun::open(file.path(), identity()).unwrap());
        let begun = Instant::now();
        lun.load(65536, 65536, &DiskWaits::default()).await.unwrap();
        // Whatever became of the file meanwhile, nobody asks.
        file.as_file().set_len(0).unwrap();
        let again = lun.load(65536, 65536, &DiskWaits::default()).await;
        assert!(again.is_ok() || begun.elapsed().as_secs() > 0, "it was looked at");
        assert!(lun.load(0, 65536, &DiskWaits::default()).await.is_err(), "this was not known");
    }

    #[tokio::test]
    async fn a_disk_cut_short_is_an_error_not_zeros() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(&[7; 65536]).unwrap();
        let lun = Arc::new(Lun::open(file.path(), identity()).unwrap());
        file.as_file().set_len(4096).unwrap();
        assert!(lun.read(&mut [0; 8192], 0, &DiskWaits::default()).await.is_err());
        assert!(lun.load(0, 65536, &DiskWaits::default()).await.is_err());
    }
}
