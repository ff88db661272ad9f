//! The one system call that no safe wrapper offers: reading a file only as far as it is in memory.
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
