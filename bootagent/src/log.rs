//! What the agent says on the node's console: lines in the kernel's log, which the console shows.

use std::{fs, io::Write as _};

/// Says something that went as it should.
pub(crate) fn info(text: &str) {
    write(5, text);
}

/// Says something that a person at the console must see, also with `quiet`.
pub(crate) fn error(text: &str) {
    write(2, text);
}

/// The last lines of the kernel's log, oldest first.
pub(crate) fn last_lines(count: usize) -> Vec<String> {
    use std::os::unix::fs::OpenOptionsExt as _;
    let mut lines = std::collections::VecDeque::new();
    let file = fs::OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open("/dev/kmsg");
    let Ok(mut file) = file else { return Vec::new() };
    let mut record = [0; 8192];
    // One read gives one record, `PRIORITY,NUMBER,TIME,FLAGS;TEXT\n KEY=VALUE…`.
    loop {
        match std::io::Read::read(&mut file, &mut record) {
            Ok(len) if len > 0 => {
                let text = String::from_utf8_lossy(&record[..len]);
                let Some((_, text)) = text.split_once(';') else { continue };
                lines.push_back(text.lines().next().unwrap_or_default().to_owned());
                if lines.len() > count {
                    lines.pop_front();
                }
            }
            // The record was overwritten while we read; the next read goes on behind it.
            Err(error) if error.raw_os_error() == Some(libc::EPIPE) => {}
            _ => return lines.into(),
        }
    }
}

fn write(level: u8, text: &str) {
    let text = text.replace('\n', " ");
    let to_kernel = fs::OpenOptions::new()
        .write(true)
        .open("/dev/kmsg")
        // One write is one line in the log.
        .and_then(|mut kmsg| kmsg.write_all(format!("<{level}>haas: {text}\n").as_bytes()));
    if to_kernel.is_err() {
        eprintln!("haas: {text}");
    }
}
