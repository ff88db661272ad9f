//! What stays on the machine when a tenant goes and could start something of his: the firmware's version,
//! its boot entries, and what stands on disks where firmware looks. haasd compares it with what it was.
//!
//! It is read before the root is attached. Nothing here fails a boot: what cannot be read is left out, and
//! then not compared.

mod efi;
mod start;

use std::{
    fs::{self, File},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use haas_api::{agent::DiskName, baseline::Fact};

use crate::{
    disk::{self, Candidate},
    hardware, log,
};

/// Where the kernel says that the machine's firmware is EFI.
const EFI: &str = "/sys/firmware/efi";

/// Disks are there when no new one has come for so long; and so long it is waited at most.
const QUIET: Duration = Duration::from_millis(500);
const DISKS_WITHIN: Duration = Duration::from_secs(5);
/// How long all disks together may take to be read.
const READ_WITHIN: Duration = Duration::from_secs(60);

/// Looks. Disks in `scratch` are the tenants', and erased between them.
pub(crate) fn look(scratch: &[DiskName]) -> Vec<Fact> {
    let is_efi = Path::new(EFI).exists();
    let mode = if is_efi { "UEFI" } else { "BIOS" };
    let mut facts = vec![fact("firmware", "mode", mode)];
    facts.extend(hardware::firmware().map(|version| fact("firmware", "version", version)));
    if is_efi {
        match efi::read() {
            Ok(entries) => {
                facts.extend(entries.into_iter().map(|(name, value)| fact("efi-boot", name, value)))
            }
            Err(error) => log::info(&format!("the firmware's boot entries are not read: {error}")),
        }
    }
    facts.extend(disks(scratch));
    facts
}

fn fact(part: &str, name: impl Into<String>, value: impl Into<String>) -> Fact {
    Fact { part: part.to_owned(), name: name.into(), value: value.into() }
}

/// What could be started from each disk. One that does not answer is left out.
fn disks(scratch: &[DiskName]) -> Vec<Fact> {
    let disks: Vec<_> = settled()
        .into_iter()
        .filter(hardware::is_own)
        .filter(|disk| !scratch.iter().any(|name| disk.is(name)))
        .collect();
    let (say, said) = mpsc::channel();
    for disk in disks {
        let say = say.clone();
        let spawned =
            thread::Builder::new().name("start".into()).stack_size(256 * 1024).spawn(move || {
                let found = File::options()
                    .read(true)
                    .custom_flags(nix::libc::O_NONBLOCK)
                    .open(disk.device())
                    .and_then(|file| start::what_starts(&file, disk.size));
                let _ = say.send((disk, found));
            });
        if let Err(error) = spawned {
            log::error(&format!("no thread to read a disk: {error}"));
        }
    }
    drop(say);
    let until = Instant::now() + READ_WITHIN;
    let mut facts = Vec::new();
    while let Ok((disk, found)) = said.recv_timeout(until.saturating_duration_since(Instant::now()))
    {
        match found {
            Ok(found) => facts.push(fact("boot-code", name_of(&disk), found)),
            Err(error) => log::error(&format!("{} cannot be read: {error}", disk.told())),
        }
    }
    facts
}

fn name_of(disk: &Candidate) -> String {
    disk.serial.clone().unwrap_or_else(|| disk.name.clone())
}

/// The disks, once no more come.
fn settled() -> Vec<Candidate> {
    let begun = Instant::now();
    let names = || {
        let entries = fs::read_dir("/sys/block").into_iter().flatten().flatten();
        let mut names: Vec<_> = entries.map(|entry| entry.file_name()).collect();
        names.sort();
        names
    };
    let (mut known, mut since) = (names(), Instant::now());
    while since.elapsed() < QUIET && begun.elapsed() < DISKS_WITHIN {
        thread::sleep(Duration::from_millis(50));
        let now = names();
        if now != known {
            (known, since) = (now, Instant::now());
        }
    }
    disk::list()
}
