//! Secrets that cannot be printed by accident, and the reading of those that the inventory refers
//! to.

use std::{
    collections::BTreeSet,
    fmt, fs,
    io::{BufRead, BufReader, Read},
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    sync::Mutex,
};

use crate::inventory::SecretRef;

/// A value that must not stand in logs, errors or JSON: `Debug` and `Display` print `***`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret<T>(T);

impl<T> Secret<T> {
    /// Wraps a value.
    pub fn new(value: T) -> Self {
        Self(value)
    }

    /// The value itself, for the one place that must send or compare it.
    pub fn expose(&self) -> &T {
        &self.0
    }
}

impl<T> fmt::Debug for Secret<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl<T> fmt::Display for Secret<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// Why a secret could not be read. What was read of it is never part of the text.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The file could not be opened or read.
    #[error("cannot read the secret in {path}; it must be a text file that haasd may read")]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The variable is not set, or is not UTF-8.
    #[error(
        "haasd's environment has no variable {name} with the secret; set it where haasd is started"
    )]
    Variable {
        /// The variable.
        name: String,
    },
    /// There is nothing in it.
    #[error("the secret in {place} is empty; write it on the first line")]
    Empty {
        /// The file or the variable.
        place: String,
    },
}

/// No secret is longer, in bytes.
const MOST: u64 = 4096;

impl SecretRef {
    /// Reads the secret, anew each time, so that a password that was changed is used at once.
    /// Of a file it is the first line. A file that others may read is used, and warned about once.
    ///
    /// # Errors
    /// When it is not there or is empty.
    pub fn read(&self) -> Result<Secret<String>, SecretError> {
        let secret = match self {
            Self::File(path) => {
                let fail = |source| SecretError::File { path: path.clone(), source };
                let file = fs::File::open(path).map_err(fail)?;
                let mode = file.metadata().map_err(fail)?.permissions().mode();
                if mode & 0o077 != 0 {
                    warn_once(path, mode);
                }
                let mut line = String::new();
                BufReader::new(file.take(MOST)).read_line(&mut line).map_err(fail)?;
                line.truncate(line.trim_end_matches(['\n', '\r']).len());
                line
            }
            Self::Env(name) => {
                std::env::var(name).map_err(|_| SecretError::Variable { name: name.clone() })?
            }
        };
        if secret.is_empty() {
            return Err(SecretError::Empty { place: self.to_string() });
        }
        Ok(Secret::new(secret))
    }
}

impl fmt::Display for SecretRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "file {}", path.display()),
            Self::Env(name) => write!(f, "variable {name}"),
        }
    }
}

fn warn_once(path: &std::path::Path, mode: u32) {
    static WARNED: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());
    let mut warned = WARNED.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    if warned.insert(path.to_owned()) {
        let mode = format!("{:o}", mode & 0o777);
        tracing::warn!(path = %path.display(), mode, "others may read this secret; chmod 600 it");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_of_the_file_is_the_secret() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("bmc");
        let secret = SecretRef::File(path.clone());
        let told = secret.read().unwrap_err().to_string();
        assert!(told.contains("cannot read the secret in /"), "{told}");
        fs::write(&path, "hunter2\r\nnot this\n").unwrap();
        let read = secret.read().unwrap();
        assert_eq!(read.expose(), "hunter2");
        assert_eq!(format!("{read:?} {read}"), "*** ***");
        fs::write(&path, "\n").unwrap();
        let told = secret.read().unwrap_err().to_string();
        assert!(told.contains("is empty"), "{told}");
        fs::write(&path, b"\xff\xfe").unwrap();
        assert!(secret.read().is_err());
    }

    #[test]
    fn a_variable_that_is_not_set_is_named() {
        let told = SecretRef::Env("HAAS_TEST_UNSET".to_owned()).read().unwrap_err().to_string();
        assert!(told.contains("no variable HAAS_TEST_UNSET"), "{told}");
        assert!(SecretRef::Env("PATH".to_owned()).read().is_ok());
    }
}
