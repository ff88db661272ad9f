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

/// Its number: libc does not name it for every machine.
#[cfg(target_arch = "x86_64")]
const KEXEC_FILE_LOAD: libc::c_long = libc::SYS_kexec_file_load;
/// That of the generic table.
#[cfg(not(target_arch = "x86_64"))]
const KEXEC_FILE_LOAD: libc::c_long = 294;

/// Loads the kernel that `reboot` starts by kexec, in place of any that was loaded before.
pub(crate) fn kexec_file_load(
    kernel: &std::fs::File,
    initrd: &std::fs::File,
    cmdline: &std::ffi::CStr,
) -> io::Result<()> {
    let cmdline = cmdline.to_bytes_with_nul();
    // SAFETY: both descriptors are open for the whole call, and the kernel reads as many bytes of the
    // command line as it is told that there are, the closing NUL among them.
    let result = unsafe {
        libc::syscall(
            KEXEC_FILE_LOAD,
            kernel.as_raw_fd(),
            initrd.as_raw_fd(),
            cmdline.len(),
            cmdline.as_ptr(),
            0 as libc::c_ulong,
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
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

/// `_IOWR('N', 0x41, struct nvme_passthru_cmd)`.
const NVME_IOCTL_ADMIN_CMD: libc::Ioctl = 0xC048_4E41;

/// `struct nvme_passthru_cmd` of linux/nvme_ioctl.h.
#[repr(C)]
#[derive(Default)]
struct NvmeCommand {
    opcode: u8,
    flags: u8,
    reserved: u16,
    nsid: u32,
    cdw2: u32,
    cdw3: u32,
    metadata: u64,
    addr: u64,
    metadata_len: u32,
    data_len: u32,
    cdw10: u32,
    cdw11: u32,
    cdw12: u32,
    cdw13: u32,
    cdw14: u32,
    cdw15: u32,
    timeout_ms: u32,
    result: u32,
}

/// The first 512 bytes of a log page of an NVMe disk (Get Log Page).
pub(crate) fn nvme_log(disk: &std::fs::File, page: u8) -> io::Result<[u8; 512]> {
    let mut log = [0_u8; 512];
    let mut command = NvmeCommand {
        opcode: 0x02,
        nsid: u32::MAX,
        addr: log.as_mut_ptr() as u64,
        data_len: 512,
        // Double words, less one, and the page.
        cdw10: (512 / 4 - 1) << 16 | u32::from(page),
        timeout_ms: COMMAND_MS,
        ..NvmeCommand::default()
    };
    // SAFETY: the structure is the one that this request takes, whose size stands in the request's
    // number; `addr` and `data_len` are those of `log`, which lives beyond the call.
    let result = unsafe { libc::ioctl(disk.as_raw_fd(), NVME_IOCTL_ADMIN_CMD, &raw mut command) };
    match result {
        0 => Ok(log),
        1.. => Err(io::Error::other(format!("NVMe status {result:#x}"))),
        _ => Err(io::Error::last_os_error()),
    }
}

const SG_IO: libc::Ioctl = 0x2285;
const SG_DXFER_NONE: libc::c_int = -1;
const SG_DXFER_FROM_DEV: libc::c_int = -3;
/// How long a disk may take for one command.
const COMMAND_MS: u32 = 3_000;

/// `struct sg_io_hdr` of scsi/sg.h.
#[repr(C)]
struct SgIo {
    interface_id: libc::c_int,
    dxfer_direction: libc::c_int,
    cmd_len: u8,
    mx_sb_len: u8,
    iovec_count: u16,
    dxfer_len: u32,
    dxferp: *mut libc::c_void,
    cmdp: *const u8,
    sbp: *mut u8,
    timeout: u32,
    flags: u32,
    pack_id: libc::c_int,
    usr_ptr: *mut libc::c_void,
    status: u8,
    masked_status: u8,
    msg_status: u8,
    sb_len_wr: u8,
    host_status: u16,
    driver_status: u16,
    resid: libc::c_int,
    duration: u32,
    info: u32,
}

/// Sends a SCSI command that reads into `data`, and answers its status and sense data.
fn scsi(disk: &std::fs::File, command: &[u8], data: &mut [u8]) -> io::Result<(u8, [u8; 32])> {
    let mut sense = [0_u8; 32];
    let mut io = SgIo {
        interface_id: libc::c_int::from(b'S'),
        dxfer_direction: if data.is_empty() { SG_DXFER_NONE } else { SG_DXFER_FROM_DEV },
        cmd_len: u8::try_from(command.len()).map_err(io::Error::other)?,
        mx_sb_len: 32,
        iovec_count: 0,
        dxfer_len: u32::try_from(data.len()).map_err(io::Error::other)?,
        dxferp: data.as_mut_ptr().cast(),
        cmdp: command.as_ptr(),
        sbp: sense.as_mut_ptr(),
        timeout: COMMAND_MS,
        flags: 0,
        pack_id: 0,
        usr_ptr: std::ptr::null_mut(),
        status: 0,
        masked_status: 0,
        msg_status: 0,
        sb_len_wr: 0,
        host_status: 0,
        driver_status: 0,
        resid: 0,
        duration: 0,
        info: 0,
    };
    // SAFETY: the structure is the one that this request takes; its pointers and lengths are those of
    // `command`, `data` and `sense`, which all live beyond the call.
    check(unsafe { libc::ioctl(disk.as_raw_fd(), SG_IO, &raw mut io) })?;
    if io.host_status != 0 {
        return Err(io::Error::other(format!("the disk's bus says {:#x}", io.host_status)));
    }
    Ok((io.status, sense))
}

/// A log page of a SCSI disk (LOG SENSE), its first 64 bytes.
pub(crate) fn scsi_log(disk: &std::fs::File, page: u8) -> io::Result<[u8; 64]> {
    let mut data = [0; 64];
    // Cumulative values.
    let (status, _) = scsi(disk, &[0x4D, 0, 0x40 | page, 0, 0, 0, 0, 0, 64, 0], &mut data)?;
    match status {
        0 => Ok(data),
        status => Err(io::Error::other(format!("SCSI status {status:#x}"))),
    }
}

/// A SMART command of an ATA disk, in ATA PASS-THROUGH (16); `protocol` and `flags` are its bytes 1
/// and 2.
fn ata_smart(feature: u8, protocol: u8, flags: u8, blocks: u8) -> [u8; 16] {
    [0x85, protocol << 1, flags, 0, feature, 0, blocks, 0, 0, 0, 0x4F, 0, 0xC2, 0, 0xB0, 0]
}

/// Whether an ATA disk says that it will fail (SMART RETURN STATUS).
pub(crate) fn ata_smart_status(disk: &std::fs::File) -> io::Result<bool> {
    // No data; the registers come back as sense data.
    let (_, sense) = scsi(disk, &ata_smart(0xDA, 3, 0x20, 0), &mut [])?;
    // In descriptor format with an ATA status return descriptor, or in fixed format.
    let registers = match (sense[0] & 0x7F, sense[8], sense[13]) {
        (0x72 | 0x73, 0x09, _) => (sense[17], sense[19]),
        (0x70 | 0x71, _, 0x1D) => (sense[10], sense[11]),
        _ => (0, 0),
    };
    match registers {
        (0x4F, 0xC2) => Ok(false),
        (0xF4, 0x2C) => Ok(true),
        _ => Err(io::Error::other("the disk does not say how it is")),
    }
}

/// What an ATA disk has counted (SMART READ DATA).
pub(crate) fn ata_smart_data(disk: &std::fs::File) -> io::Result<[u8; 512]> {
    let mut data = [0; 512];
    // One block is read; its count stands in the register of that name.
    let (status, _) = scsi(disk, &ata_smart(0xD0, 4, 0x0E, 1), &mut data)?;
    match status {
        0 => Ok(data),
        status => Err(io::Error::other(format!("SCSI status {status:#x}"))),
    }
}

/// `struct ethtool_drvinfo` of linux/ethtool.h.
#[repr(C)]
struct DriverInfo {
    cmd: u32,
    driver: [u8; 32],
    version: [u8; 32],
    fw_version: [u8; 32],
    bus_info: [u8; 32],
    erom_version: [u8; 32],
    reserved: [u8; 12],
    numbers: [u32; 5],
}

/// The version of a network card's firmware (`ETHTOOL_GDRVINFO`).
pub(crate) fn nic_firmware(name: &str) -> io::Result<Option<String>> {
    const SIOCETHTOOL: libc::Ioctl = 0x8946;
    const GET_DRIVER_INFO: u32 = 3;
    let socket = std::net::UdpSocket::bind("0.0.0.0:0")?;
    let mut info = DriverInfo {
        cmd: GET_DRIVER_INFO,
        driver: [0; 32],
        version: [0; 32],
        fw_version: [0; 32],
        bus_info: [0; 32],
        erom_version: [0; 32],
        reserved: [0; 12],
        numbers: [0; 5],
    };
    // SAFETY: `ifreq` is plain numbers, for which all zeroes is a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    let room = request.ifr_name.len() - 1;
    for (place, byte) in request.ifr_name.iter_mut().zip(name.bytes().take(room)) {
        *place = byte as libc::c_char;
    }
    request.ifr_ifru.ifru_data = (&raw mut info).cast();
    // SAFETY: the name ends with a NUL, and the pointer leads to the structure that this command
    // fills; both live beyond the call.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL, &raw mut request) })?;
    let text: Vec<u8> = info.fw_version.iter().copied().take_while(|byte| *byte != 0).collect();
    let text = String::from_utf8_lossy(&text).trim().to_owned();
    Ok(Some(text).filter(|text| !text.is_empty() && text != "N/A"))
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
