//! The only module with `unsafe`: system calls that nix has no safe form of. One small function
//! for each, with nothing else in it.
#![allow(unsafe_code)]

use std::{ffi::CString, io, os::fd::AsRawFd as _, path::Path};

/// `_IO(0x12, 95)`.
const BLKRRPART: libc::Ioctl = 0x125f;
/// `_IO(0x12, 93)`.
const BLKROSET: libc::Ioctl = 0x125d;
/// `_IOR('X', 31, struct fsxattr)` and `_IOW('X', 32, struct fsxattr)`.
const FS_IOC_FSGETXATTR: libc::Ioctl = 0x801c_581f;
const FS_IOC_FSSETXATTR: libc::Ioctl = 0x401c_5820;
/// New files take the project of their folder.
const FS_XFLAG_PROJINHERIT: u32 = 0x200;
/// `QCMD(Q_GETQUOTA, PRJQUOTA)`.
const GET_PROJECT_QUOTA: libc::c_int = 0x80_0007 << 8 | 2;

/// Makes the kernel read a disk's partition table anew.
pub(crate) fn reread_partitions(disk: &std::fs::File) -> io::Result<()> {
    // SAFETY: the descriptor is open for the whole call, and this request takes no argument.
    check(unsafe { libc::ioctl(disk.as_raw_fd(), BLKRRPART) })
}

/// Lets nobody write to a disk or partition until this is lifted.
pub(crate) fn set_read_only(device: &std::fs::File) -> io::Result<()> {
    let on: libc::c_int = 1;
    // SAFETY: the descriptor is open for the whole call, and this request only reads one number, which
    // lives on this stack frame.
    check(unsafe { libc::ioctl(device.as_raw_fd(), BLKROSET, &raw const on) })
}

/// `struct fsxattr` of linux/fs.h.
#[repr(C)]
#[derive(Default)]
struct FsXattr {
    xflags: u32,
    extsize: u32,
    nextents: u32,
    projid: u32,
    cowextsize: u32,
    pad: [u8; 8],
}

/// Puts a folder, and whatever will be made in it, into a quota project.
pub(crate) fn set_project(folder: &Path, project: u32) -> io::Result<()> {
    let folder = std::fs::File::open(folder)?;
    let mut attributes = FsXattr::default();
    // SAFETY: the descriptor is open for the whole call, and the request writes a `struct fsxattr`,
    // whose size stands in the request's number, into one that lives on this stack frame.
    check(unsafe { libc::ioctl(folder.as_raw_fd(), FS_IOC_FSGETXATTR, &raw mut attributes) })?;
    attributes.projid = project;
    attributes.xflags |= FS_XFLAG_PROJINHERIT;
    // SAFETY: as above; this request only reads the structure.
    check(unsafe { libc::ioctl(folder.as_raw_fd(), FS_IOC_FSSETXATTR, &raw const attributes) })
}

/// Bytes used by a quota project of the file system on this block device.
pub(crate) fn project_usage(device: &Path, project: u32) -> io::Result<u64> {
    let device = CString::new(device.as_os_str().as_encoded_bytes())?;
    // SAFETY: `dqblk` is plain numbers, for which all zeroes is a value.
    let mut quota: libc::dqblk = unsafe { std::mem::zeroed() };
    // SAFETY: the path is a C string and the structure is a `dqblk`, which this command fills;
    // both live beyond the call.
    let result = unsafe {
        libc::quotactl(
            GET_PROJECT_QUOTA,
            device.as_ptr(),
            project as libc::c_int,
            (&raw mut quota).cast(),
        )
    };
    check(result).map(|()| quota.dqb_curspace)
}

/// Sends a signal by its number: systemd's are real-time signals, which nix does not know.
pub(crate) fn signal(pid: libc::pid_t, number: libc::c_int) -> io::Result<()> {
    // SAFETY: `kill` takes two numbers and touches no memory of ours.
    check(unsafe { libc::kill(pid, number) })
}

/// The extended attribute that holds a file's SELinux label.
const LABEL: &std::ffi::CStr = c"security.selinux";

/// The SELinux label of a file itself, not of what a link leads to.
pub(crate) fn label(path: &Path) -> Option<String> {
    let path = CString::new(path.as_os_str().as_encoded_bytes()).ok()?;
    let mut value = [0_u8; 4096];
    // SAFETY: both names are C strings, and the kernel writes at most as many bytes as it is told
    // that the buffer has; all three live beyond the call.
    let len = unsafe {
        libc::lgetxattr(path.as_ptr(), LABEL.as_ptr(), value.as_mut_ptr().cast(), value.len())
    };
    let label = value.get(..usize::try_from(len).ok()?)?;
    Some(String::from_utf8_lossy(label).trim_end_matches('\0').to_owned())
}

/// Sets the SELinux label of a file itself.
pub(crate) fn set_label(path: &Path, label: &str) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_encoded_bytes())?;
    let label = CString::new(label)?;
    let label = label.as_bytes_with_nul();
    // SAFETY: both names are C strings, and the kernel reads as many bytes of the value as it is
    // told that it has; all three live beyond the call.
    check(unsafe {
        libc::lsetxattr(path.as_ptr(), LABEL.as_ptr(), label.as_ptr().cast(), label.len(), 0)
    })
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
