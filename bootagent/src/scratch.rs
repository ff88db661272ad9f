//! Scratch disks that another tenant has written on are erased before anybody else's code runs, and then
//! read back.

use std::{
    fs::{File, OpenOptions},
    io,
    os::{
        fd::AsFd as _,
        unix::fs::{FileExt as _, OpenOptionsExt as _},
    },
    thread,
    time::{Duration, Instant},
};

use haas_api::agent::DiskName;
use nix::{
    errno::Errno,
    fcntl::{FallocateFlags, PosixFadviseAdvice, fallocate, posix_fadvise},
};

use crate::{
    disk::{self, Candidate},
    fault::{Fault, OrFault as _},
    log, sys,
};

const MIB: u64 = 1 << 20;
/// What is erased at a time.
const STEP: u64 = 256 * MIB;
/// How long a disk may take to show up.
const FOUND_WITHIN: Duration = Duration::from_secs(20);
/// How often it is told how far it is.
const TOLD_EACH: Duration = Duration::from_secs(10);
/// What is read back whole at either end, and samples between.
const ENDS: u64 = 64 * MIB;
const SAMPLES: u64 = 1000;
const SAMPLE: u64 = 4096;

/// Erases all disks of these names that the node has, and answers which those are. `tell` hears of a disk
/// how many bytes of how many are erased.
pub(crate) fn erase(
    names: &[DiskName],
    mut tell: impl FnMut(&str, u64, u64),
) -> Result<Vec<String>, Fault> {
    let mut erased = Vec::new();
    for disk in &all_of(names)? {
        let told = disk.told();
        if let Some(why) = not_ours_to_erase(disk) {
            let cause = format!("the scratch disk {told} is {why}, which is never written to");
            return Err(Fault::hold("scratch-erase", cause));
        }
        log::info(&format!("erases the scratch disk {told}: another tenant had it"));
        let what = format!("cannot erase the scratch disk {told}");
        // Exclusive, so that it is nothing that the kernel has put to use.
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(nix::libc::O_EXCL)
            .open(disk.device())
            .or_hold("scratch-erase", &what)?;
        zero(&file, disk.size, |done| tell(&told, done, disk.size))
            .or_hold("scratch-erase", &what)?;
        if let Some(at) = first_that_is_not_zero(&file, disk.size, ENDS)
            .or_hold("scratch-erase", &format!("cannot read the scratch disk {told} back"))?
        {
            let cause =
                format!("the scratch disk {told} was erased, and still holds data at byte {at}");
            return Err(Fault::hold("scratch-erase", cause));
        }
        // What it was divided into is gone; the kernel looks again when nobody has it open.
        if let Err(error) = sys::reread_partitions(&file) {
            log::info(&format!("the kernel does not look for partitions on {told}: {error}"));
        }
        erased.push(told);
    }
    Ok(erased)
}

/// The disks of these names. One that comes later would be read as it is.
fn all_of(names: &[DiskName]) -> Result<Vec<Candidate>, Fault> {
    let until = Instant::now() + FOUND_WITHIN;
    loop {
        let disks = disk::list();
        let missing = names.iter().find(|name| !disks.iter().any(|disk| disk.is(name)));
        let Some(missing) = missing else {
            let is_one = |disk: &Candidate| names.iter().any(|name| disk.is(name));
            return Ok(disks.into_iter().filter(is_one).collect());
        };
        if Instant::now() > until {
            let cause = format!(
                "another tenant had the scratch disk {missing}, which is not there to be erased; put it \
                 back, or take it out of scratch_disks"
            );
            return Err(Fault::retry("scratch-missing", cause));
        }
        thread::sleep(Duration::from_millis(200));
    }
}

/// A disk that several nodes may have, or that a person has put in, is not one node's scratch.
fn not_ours_to_erase(disk: &Candidate) -> Option<&str> {
    disk.unusable.as_deref().filter(|why| !why.starts_with("smaller"))
}

/// Makes the first `size` bytes zeros, on the medium.
fn zero(file: &File, size: u64, mut tell: impl FnMut(u64)) -> io::Result<()> {
    let flags = FallocateFlags::FALLOC_FL_ZERO_RANGE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
    let (mut done, mut told) = (0, Instant::now());
    while done < size {
        let step = STEP.min(size - done);
        // By the disk's own command where it has one, which takes seconds; else by writing.
        match fallocate(file.as_fd(), flags, offset(done)?, offset(step)?) {
            Ok(()) => {}
            Err(Errno::EOPNOTSUPP | Errno::ENOSYS) => write_zeros(file, done, step)?,
            Err(error) => return Err(error.into()),
        }
        done += step;
        if told.elapsed() >= TOLD_EACH || done == size {
            tell(done);
            told = Instant::now();
        }
    }
    file.sync_all()?;
    // What is read back shall come from the medium.
    posix_fadvise(file.as_fd(), 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED)?;
    Ok(())
}

fn write_zeros(file: &File, from: u64, length: u64) -> io::Result<()> {
    let zeros = vec![0; usize::try_from(MIB).map_err(io::Error::other)?];
    let mut at = from;
    while at < from + length {
        let part = MIB.min(from + length - at);
        let part = usize::try_from(part).map_err(io::Error::other)?;
        file.write_all_at(&zeros[..part], at)?;
        at += part as u64;
    }
    Ok(())
}

/// Where something else than a zero stands, as far as is looked: both ends whole, and samples between.
fn first_that_is_not_zero(file: &File, size: u64, ends: u64) -> io::Result<Option<u64>> {
    let ends = [(0, ends.min(size)), (size.saturating_sub(ends), size)];
    let samples = (0..SAMPLES).map(|n| {
        let at = u128::from(size) * u128::from(n) / u128::from(SAMPLES);
        let at = u64::try_from(at).unwrap_or(u64::MAX) / SAMPLE * SAMPLE;
        (at, (at + SAMPLE).min(size))
    });
    let mut buffer = vec![0; usize::try_from(MIB).map_err(io::Error::other)?];
    for (from, to) in ends.into_iter().chain(samples) {
        let mut at = from;
        while at < to {
            let part = usize::try_from(MIB.min(to - at)).map_err(io::Error::other)?;
            let read = &mut buffer[..part];
            file.read_exact_at(read, at)?;
            if let Some(place) = read.iter().position(|byte| *byte != 0) {
                return Ok(Some(at + place as u64));
            }
            at += part as u64;
        }
    }
    Ok(None)
}

fn offset(bytes: u64) -> io::Result<i64> {
    i64::try_from(bytes).map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file of this size that is full of sevens.
    fn full(size: u64) -> File {
        let file = tempfile::tempfile().expect("a file");
        for at in (0..size).step_by(4096) {
            let part = usize::try_from(4096.min(size - at)).expect("small");
            file.write_all_at(&vec![7; part], at).expect("written");
        }
        file
    }

    #[test]
    fn what_was_there_is_read_no_more() {
        let size = 3 * MIB + 512;
        let file = full(size);
        assert_eq!(first_that_is_not_zero(&file, size, MIB).expect("read"), Some(0));
        let mut told = Vec::new();
        zero(&file, size, |done| told.push(done)).expect("erased");
        assert_eq!(told, [size]);
        assert_eq!(first_that_is_not_zero(&file, size, MIB).expect("read"), None);
        assert_eq!(file.metadata().expect("metadata").len(), size);
        let other = full(size);
        write_zeros(&other, 0, size).expect("the way of disks that have no command for it");
        assert_eq!(first_that_is_not_zero(&other, size, MIB).expect("read"), None);
    }

    #[test]
    fn what_was_left_over_is_found_at_the_ends_and_between() {
        let size = 16 * MIB;
        for left in [0, 5, MIB - 1, size / 2, size - MIB, size - 1] {
            let file = tempfile::tempfile().expect("a file");
            file.set_len(size).expect("it is long");
            file.write_all_at(b"x", left).expect("written");
            assert_eq!(first_that_is_not_zero(&file, size, MIB).expect("read"), Some(left));
        }
    }

    #[test]
    fn only_a_disk_of_the_node_itself_is_erased() {
        let with = |why: Option<&str>| Candidate {
            unusable: why.map(str::to_owned),
            ..Candidate::fake("sdb", "B")
        };
        assert_eq!(not_ours_to_erase(&with(None)), None);
        assert_eq!(not_ours_to_erase(&with(Some("smaller than 256 MiB"))), None);
        let shared = with(Some("a disk of a storage network"));
        assert!(not_ours_to_erase(&shared).is_some());
    }
}
