//! Writing files into a root that is the user's: by renaming, never through what lies there.

use std::{
    fs,
    io::{self, Write as _},
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::Path,
};

/// Writes a file beside and renames it over the old one, whatever that was. A file that is right
/// already is left alone, so that most boots write nothing into the overlay.
pub(crate) fn replace(path: &Path, mode: u32, text: &str) -> io::Result<()> {
    if let Ok(metadata) = fs::symlink_metadata(path)
        && metadata.is_file()
        && metadata.permissions().mode() & 0o7777 == mode
        && fs::read(path)? == text.as_bytes()
    {
        return Ok(());
    }
    let folder = path.parent().unwrap_or(Path::new("/"));
    if !folder.exists() {
        fs::create_dir_all(folder)?;
    }
    let mut name = std::ffi::OsString::from(".haas-new-");
    name.push(path.file_name().unwrap_or_default());
    let new = folder.join(name);
    if fs::symlink_metadata(&new).is_ok() {
        fs::remove_file(&new)?;
    }
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&new)?;
    file.write_all(text.as_bytes())?;
    file.set_permissions(fs::Permissions::from_mode(mode))?;
    file.sync_all()?;
    fs::rename(&new, path)
}

const BEGIN: &str = "# haas begin: written at each boot";
const END: &str = "# haas end";

/// A file that is its owner's but for our lines, which stand at its end between two marks: with these
/// in place of those that are in it.
pub(crate) fn block(old: &str, lines: &[String]) -> String {
    let mut inside = false;
    let mut text = String::new();
    for line in old.lines() {
        if line == BEGIN {
            inside = true;
        }
        if !inside {
            add_line(&mut text, line);
        }
        if line == END {
            inside = false;
        }
    }
    if !lines.is_empty() {
        add_line(&mut text, BEGIN);
        for line in lines.iter().filter(|line| !line.contains('\n')) {
            add_line(&mut text, line);
        }
        add_line(&mut text, END);
    }
    text
}

/// Adds a line to a file that may lack the end of its last one.
pub(crate) fn add_line(text: &mut String, line: &str) {
    if !text.is_empty() && !text.ends_with('\n') {
        text.push('\n');
    }
    text.push_str(line);
    text.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_lines_replace_our_lines_and_leave_the_owners() {
        let first = block("ssh-ed25519 mine", &["ssh-ed25519 A".to_owned()]);
        assert_eq!(first, format!("ssh-ed25519 mine\n{BEGIN}\nssh-ed25519 A\n{END}\n"));
        let second = block(&first, &["ssh-ed25519 B".to_owned()]);
        assert!(!second.contains("ssh-ed25519 A") && second.contains("ssh-ed25519 B"));
        assert_eq!(block(&second, &[]), "ssh-ed25519 mine\n");
        assert_eq!(block("", &["two\nlines".to_owned()]), format!("{BEGIN}\n{END}\n"));
    }

    #[test]
    fn a_link_is_replaced_and_not_followed() {
        let root = tempfile::tempdir().expect("root");
        let victim = root.path().join("victim");
        fs::write(&victim, "safe").expect("victim");
        let file = root.path().join("etc/hostname");
        fs::create_dir(root.path().join("etc")).expect("etc");
        std::os::unix::fs::symlink(&victim, &file).expect("link");
        replace(&file, 0o644, "n01\n").expect("replace");
        assert_eq!(fs::read_to_string(&victim).expect("victim"), "safe");
        assert_eq!(fs::read_to_string(&file).expect("file"), "n01\n");
    }
}
