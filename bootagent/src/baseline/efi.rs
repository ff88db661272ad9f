//! The EFI variables that say what the firmware starts: UEFI specification, section 3.3.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use nix::mount::{MsFlags, mount, umount};

use super::{EFI, start::short_digest};

/// The vendor of the variables that the specification itself names.
const GLOBAL: &str = "8be4df61-93ca-11d2-aa0d-00e098032b8c";
/// What the firmware starts by itself: boot options, drivers, and what prepares the system.
const KINDS: [&str; 3] = ["Boot", "Driver", "SysPrep"];
/// An entry is switched on.
const ACTIVE: u32 = 1;

/// Reads them by name, through a mount of our own that nobody else sees.
pub(super) fn read() -> io::Result<BTreeMap<String, String>> {
    let at = Path::new(EFI).join("efivars");
    let flags = MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("efivarfs"), &at, Some("efivarfs"), flags, None::<&str>)?;
    let found = read_in(&at);
    umount(&at)?;
    found
}

fn read_in(folder: &Path) -> io::Result<BTreeMap<String, String>> {
    let mut found = BTreeMap::new();
    // Told though it is not there, so that it is known when it is.
    found.insert("BootNext".to_owned(), "none".to_owned());
    for entry in fs::read_dir(folder)?.flatten() {
        let file = entry.file_name().to_string_lossy().into_owned();
        let Some(name) = file.strip_suffix(GLOBAL).and_then(|name| name.strip_suffix('-')) else {
            continue;
        };
        if let Some(value) = value(name, entry.path())? {
            found.insert(name.to_owned(), value);
        }
    }
    Ok(found)
}

/// What a variable says, if it is one of those.
fn value(name: &str, path: PathBuf) -> io::Result<Option<String>> {
    let is_number = |rest: &str| rest.len() == 4 && rest.bytes().all(|b| b.is_ascii_hexdigit());
    let rest = KINDS.iter().find_map(|kind| name.strip_prefix(kind));
    let read = || -> io::Result<Vec<u8>> {
        // Four bytes of attributes go before each variable.
        let bytes = fs::read(&path)?;
        Ok(bytes.get(4..).unwrap_or_default().to_vec())
    };
    Ok(match (name, rest) {
        ("SecureBoot" | "SetupMode", _) => {
            Some(if read()?.first() == Some(&1) { "on" } else { "off" }.to_owned())
        }
        ("BootNext", _) | (_, Some("Order")) => Some(numbers(&read()?)),
        (_, Some(rest)) if is_number(rest) => Some(option(&read()?)),
        _ => None,
    })
}

fn numbers(bytes: &[u8]) -> String {
    let (numbers, _) = bytes.as_chunks::<2>();
    let words: Vec<_> =
        numbers.iter().map(|pair| format!("{:04X}", u16::from_le_bytes(*pair))).collect();
    if words.is_empty() { "none".to_owned() } else { words.join(", ") }
}

/// A load option: its name, whether it is on, and a digest of all of it.
fn option(bytes: &[u8]) -> String {
    let digest = short_digest(bytes);
    let Some((head, rest)) = bytes.split_first_chunk::<6>() else { return digest };
    let [a0, a1, a2, a3, _, _] = *head;
    let is_on = u32::from_le_bytes([a0, a1, a2, a3]) & ACTIVE != 0;
    let (units, _) = rest.as_chunks::<2>();
    let units = units.iter().map(|pair| u16::from_le_bytes(*pair)).take_while(|unit| *unit != 0);
    let name: String = char::decode_utf16(units)
        .map(|c| c.unwrap_or(char::REPLACEMENT_CHARACTER))
        .take(48)
        .collect();
    format!("\"{name}\", {}, {digest}", if is_on { "on" } else { "off" })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn utf16(text: &str) -> Vec<u8> {
        text.encode_utf16().chain([0]).flat_map(u16::to_le_bytes).collect()
    }

    fn load_option(attributes: u32, name: &str, path: &[u8]) -> Vec<u8> {
        let length = u16::try_from(path.len()).unwrap();
        [&attributes.to_le_bytes()[..], &length.to_le_bytes(), &utf16(name), path].concat()
    }

    fn folder(variables: &[(&str, &[u8])]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (name, value) in variables {
            let bytes = [&[7, 0, 0, 0][..], value].concat();
            fs::write(folder.path().join(name), bytes).unwrap();
        }
        folder
    }

    #[test]
    fn entries_their_order_and_what_comes_next_are_read() {
        let disk = load_option(1, "debian", b"path");
        let off = load_option(0, "shell", b"path");
        let global = |name: &str| format!("{name}-{GLOBAL}");
        let found = read_in(
            folder(&[
                (&global("BootOrder"), &[1, 0, 0, 0]),
                (&global("Boot0001"), &disk),
                (&global("Boot000A"), &off),
                (&global("SecureBoot"), &[1]),
                (&global("BootCurrent"), &[1, 0]),
                (&global("Timeout"), &[5, 0]),
                ("Boot0001-11111111-93ca-11d2-aa0d-00e098032b8c", &disk),
            ])
            .path(),
        )
        .unwrap();
        let names: Vec<_> = found.keys().map(String::as_str).collect();
        assert_eq!(names, ["Boot0001", "Boot000A", "BootNext", "BootOrder", "SecureBoot"]);
        assert_eq!(found["BootOrder"], "0001, 0000");
        assert_eq!((found["BootNext"].as_str(), found["SecureBoot"].as_str()), ("none", "on"));
        assert!(found["Boot0001"].starts_with("\"debian\", on, "), "{found:?}");
        assert!(found["Boot000A"].starts_with("\"shell\", off, "), "{found:?}");
    }

    #[test]
    fn an_entry_that_leads_elsewhere_is_another_one() {
        let was = option(&load_option(1, "debian", b"one disk"));
        assert_ne!(was, option(&load_option(1, "debian", b"another")));
        assert_eq!(was, option(&load_option(1, "debian", b"one disk")));
        // What is no entry is known by its bytes all the same.
        assert_ne!(option(b"x"), option(b"y"));
        assert_eq!(numbers(&[]), "none");
    }
}
