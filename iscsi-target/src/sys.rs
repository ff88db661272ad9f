//! The system calls that no safe wrapper offers: reading a file only as far as it is in memory, and
//! asking how much of it is.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

/// Reads at `offset` without ever waiting for the disk.
///
/// Returns how many bytes were in the page cache, counted from `offset`, possibly fewer than asked;
/// `WouldBlock` when the first of them is not; `Unsupported` when the file system cannot tell.
pub(crate) fn read_cached(file: &File, buf: &mut [u8], offset: u64) -> io::Result<usize> {
    let offset = libc::off_t::try_from(offset)
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "offset beyond 2^63"))?;
    let iov = libc::iovec { iov_base: buf.as_mut_ptr().cast(), iov_len: buf.len() };
    // SAFETY: `iov` describes exactly the exclusively borrowed `buf`, which outlives the call; the
    // count of one matches the single iovec; the descriptor is open because `file` is borrowed; the
    // kernel writes at most `iov_len` bytes and keeps no pointer.
    let got =
        unsafe { libc::preadv2(file.as_raw_fd(), &raw const iov, 1, offset, libc::RWF_NOWAIT) };
    usize::try_from(got).map_err(|_| io::Error::last_os_error())
}

/// How many bytes of the file are in the page cache now, in whole pages.
pub(crate) fn resident(file: &File, len: u64) -> io::Result<u64> {
    match cached_pages(file, len) {
        Ok(pages) if pages > 0 => Ok((pages * page_size()).min(len)),
        // Kernels before 6.5 have no such call, some systems forbid what they do not know, and files of
        // an overlayfs are said to have nothing.
        Ok(_) | Err(_) => resident_by_pages(file, len),
    }
}

/// Bytes of a page.
fn page_size() -> u64 {
    // SAFETY: it touches no memory of ours.
    u64::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(4096)
}

/// Pages in the cache, counted by the kernel without a look at those that are not (`cachestat(2)`).
/// They may be on their way from the disk still, so this does not tell whether a read would wait.
fn cached_pages(file: &File, len: u64) -> io::Result<u64> {
    /// The same on all of Linux' architectures but Alpha, and not yet known to `libc` for all.
    const SYS_CACHESTAT: libc::c_long = 451;
    /// `struct cachestat` and `struct cachestat_range` of `linux/mman.h`.
    #[repr(C)]
    #[derive(Default)]
    struct Stat {
        cached: u64,
        dirty: u64,
        writeback: u64,
        evicted: u64,
        recently_evicted: u64,
    }
    #[repr(C)]
    struct Range {
        offset: u64,
        len: u64,
    }
    let (range, mut stat) = (Range { offset: 0, len }, Stat::default());
    // SAFETY: both structs are laid out as the kernel's and outlive the call, which reads the one and
    // fills in the other and keeps no pointer; the descriptor is open because `file` is borrowed;
    // no flag is known, so zero is passed.
    let done = unsafe {
        libc::syscall(SYS_CACHESTAT, file.as_raw_fd(), &raw const range, &raw mut stat, 0_u32)
    };
    if done == 0 { Ok(stat.cached) } else { Err(io::Error::last_os_error()) }
}

/// The same by a look at each page (`mincore(2)`).
fn resident_by_pages(file: &File, len: u64) -> io::Result<u64> {
    /// Mapped at once: the answer takes a byte for each page of it.
    const STEP: u64 = 1 << 30;
    const PAGE: u64 = 4096;
    let mut pages = vec![0_u8; usize::try_from(STEP / PAGE).map_err(io::Error::other)?];
    let mut resident = 0;
    let mut at = 0;
    while at < len {
        let step = STEP.min(len - at);
        let size = usize::try_from(step).map_err(io::Error::other)?;
        let offset = libc::off_t::try_from(at).map_err(io::Error::other)?;
        let (read, shared, fd) = (libc::PROT_READ, libc::MAP_SHARED, file.as_raw_fd());
        // SAFETY: a new mapping at an address of the kernel's choice touches none of ours, and it is
        // never read through, so that a file that becomes shorter cannot fault.
        let map = unsafe { libc::mmap(std::ptr::null_mut(), size, read, shared, fd, offset) };
        if map == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: `map` and `size` are those of the mapping above, and `pages` has a byte for each
        // page of it, since `size` is at most STEP and a page is at least PAGE bytes.
        let asked = unsafe { libc::mincore(map, size, pages.as_mut_ptr()) };
        let error = io::Error::last_os_error();
        // SAFETY: the mapping made above, of which no pointer is kept.
        unsafe { libc::munmap(map, size) };
        if asked != 0 {
            return Err(error);
        }
        let count = usize::try_from(step.div_ceil(PAGE)).map_err(io::Error::other)?;
        let here = pages.iter().take(count).filter(|page| **page & 1 != 0).count();
        resident += here as u64 * PAGE;
        at += step;
    }
    Ok(resident.min(len))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways_count_the_same_pages() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), vec![7; 1_000_000]).unwrap();
        // What was just written is in memory, but for what lies behind the end.
        for count in [resident, resident_by_pages] {
            assert_eq!(count(file.as_file(), 1_000_000).unwrap(), 1_000_000);
        }
        match cached_pages(file.as_file(), 1_000_000) {
            // None on an overlayfs.
            Ok(pages) => assert!(pages == 0 || pages == 1_000_000_u64.div_ceil(page_size())),
            Err(error) => {
                assert!(
                    matches!(error.raw_os_error(), Some(libc::ENOSYS | libc::EPERM)),
                    "{error}"
                );
            }
        }
    }
}
