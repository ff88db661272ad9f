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

#[cfg(test)]
mod tests {
    use super::*;

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
