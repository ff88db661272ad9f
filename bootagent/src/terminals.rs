//! The terminals of who is logged in. What haasd has to tell them is written there, as wall(1) does.

use std::{
    fs::{self, OpenOptions},
    io::Write as _,
    os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _},
    path::Path,
};

/// Where the kernel has pseudo-terminals, one file each.
const PTS: &str = "/dev/pts";

/// Writes a line to every terminal. One that is stopped, or is none, is left out.
pub(crate) fn tell(text: &str) {
    tell_in(Path::new(PTS), text);
}

fn tell_in(folder: &Path, text: &str) {
    let line: String = text.chars().filter(|c| !c.is_control()).collect();
    let line = format!("\r\n\x07Message from haas: {line}\r\n");
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let is_terminal = entry.file_name().to_string_lossy().bytes().all(|b| b.is_ascii_digit());
        if !is_terminal {
            continue;
        }
        // Whoever has root here can put anything there.
        let flags = libc::O_NOCTTY | libc::O_NONBLOCK | libc::O_NOFOLLOW;
        let opened = OpenOptions::new().write(true).custom_flags(flags).open(entry.path());
        let Ok(mut terminal) = opened else { continue };
        if terminal.metadata().is_ok_and(|found| found.file_type().is_char_device()) {
            let _ = terminal.write_all(line.as_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{io::Read as _, path::PathBuf};

    use nix::{
        fcntl::OFlag,
        pty::{grantpt, posix_openpt, ptsname_r, unlockpt},
    };

    use super::*;

    #[test]
    fn a_line_is_on_every_terminal_and_nowhere_else() {
        let mut master = posix_openpt(OFlag::O_RDWR | OFlag::O_NOCTTY).expect("a terminal");
        grantpt(&master).expect("it is ours");
        unlockpt(&master).expect("it is ours");
        let ours = PathBuf::from(ptsname_r(&master).expect("it has a name"));
        // A terminal that nobody has open takes nothing.
        let _held = OpenOptions::new().read(true).write(true).open(&ours).expect("it opens");
        let folder = tempfile::tempdir().expect("a folder");
        fs::write(folder.path().join("7"), "mine").expect("a file");
        std::os::unix::fs::symlink(folder.path().join("7"), folder.path().join("8"))
            .expect("a link");
        tell_in(folder.path(), "hello");
        assert_eq!(fs::read_to_string(folder.path().join("7")).expect("it is there"), "mine");

        tell_in(ours.parent().expect("it lies in a folder"), "it ends\x1b[2J soon");
        let mut said = [0; 200];
        let length = master.read(&mut said).expect("it was told");
        let said = String::from_utf8_lossy(&said[..length]).into_owned();
        assert!(said.contains("Message from haas: it ends[2J soon"), "{said:?}");
    }
}
