//! What a caller names on the command line to be read.

use std::{
    io::{self, Read},
    path::Path,
};

use crate::error::{Error, io_error};

/// The text of a file, or of standard input for `-`, of which at most 1 MiB is read.
pub(crate) fn read(file: &Path) -> Result<String, Error> {
    if file.as_os_str() == "-" {
        let mut text = String::new();
        let read = io::stdin().lock().take(1 << 20).read_to_string(&mut text);
        read.map_err(io_error("standard input cannot be read"))?;
        return Ok(text);
    }
    std::fs::read_to_string(file).map_err(io_error(format!("{} cannot be read", file.display())))
}
