//! Random and derived secrets, and the SHA-256 under which the store knows them.

use std::{io::Write, os::unix::fs::OpenOptionsExt, path::Path};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use hmac::{Hmac, Mac};
use rand::RngCore;
use sha2::{Digest, Sha256};

use crate::secret::Secret;

/// The key that boot tokens, the secrets of boots and those of webhooks are derived with. It is made at the first start and is a file in the
/// state directory, so that boots under way go on when haasd is restarted, though the store has only
/// the tokens' hashes, and nothing of the secrets.
#[derive(Debug, Clone)]
pub struct MasterKey(Secret<[u8; 32]>);

impl MasterKey {
    /// Reads the key from `path`, or makes it there, readable by the owner alone.
    pub fn open(path: &Path) -> std::io::Result<Self> {
        match std::fs::read(path) {
            Ok(bytes) => bytes.try_into().map(|key| Self(Secret::new(key))).map_err(|_| {
                std::io::Error::other(format!("{} is not a key of 32 bytes", path.display()))
            }),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let mut key = [0; 32];
                rand::rng().fill_bytes(&mut key);
                write_private(path, &key)?;
                Ok(Self(Secret::new(key)))
            }
            Err(error) => Err(error),
        }
    }

    /// The boot token of an attempt: 43 letters, digits, `-` and `_`.
    pub fn boot_token(&self, attempt: &str) -> Secret<String> {
        self.derived("boot token of ", attempt)
    }

    /// By what the node of an attempt proves itself to the iSCSI target, in the same form.
    pub fn node_chap(&self, attempt: &str) -> Secret<String> {
        self.derived("CHAP secret of the node of ", attempt)
    }

    /// By what the iSCSI target proves itself to the node of an attempt, in the same form.
    pub fn target_chap(&self, attempt: &str) -> Secret<String> {
        self.derived("CHAP secret of the target for ", attempt)
    }

    /// What the requests of a webhook are signed with.
    pub fn webhook_key(&self, id: &str) -> Secret<[u8; 32]> {
        Secret::new(self.mac("key of the webhook ", id))
    }

    fn derived(&self, label: &str, attempt: &str) -> Secret<String> {
        Secret::new(URL_SAFE_NO_PAD.encode(self.mac(label, attempt)))
    }

    /// The labels are of different length or letters up to the id, so that no two uses meet.
    fn mac(&self, label: &str, id: &str) -> [u8; 32] {
        let mut mac = Hmac::<Sha256>::new_from_slice(self.0.expose()).expect("HMAC takes any key");
        mac.update(label.as_bytes());
        mac.update(id.as_bytes());
        mac.finalize().into_bytes().into()
    }
}

/// A new random secret of 256 bits, 43 letters, digits, `-` and `_`.
pub fn random() -> Secret<String> {
    let mut bytes = [0; 32];
    rand::rng().fill_bytes(&mut bytes);
    Secret::new(URL_SAFE_NO_PAD.encode(bytes))
}

/// The SHA-256 under which the store knows a secret. The secrets have 256 random bits, so a plain
/// hash cannot be searched.
pub fn hash(secret: &str) -> String {
    hex::encode(Sha256::digest(secret.as_bytes()))
}

/// Writes a file that only its owner can read; it is there whole or not at all.
pub fn write_private(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let temp = path.with_extension("new");
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&temp)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(&temp, path)?;
    if let Some(folder) = path.parent() {
        std::fs::File::open(folder)?.sync_all()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn each_secret_of_each_attempt_is_its_own_and_stays_so_over_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let all = || {
            let key = MasterKey::open(&dir.path().join("master.key")).unwrap();
            let of = |id| [key.boot_token(id), key.node_chap(id), key.target_chap(id)];
            [of("01A"), of("01B")].concat()
        };
        let secrets = all();
        assert_eq!(secrets, all());
        let distinct: BTreeSet<_> = secrets.iter().map(Secret::expose).collect();
        assert_eq!(distinct.len(), 6);
        // RFC 7143 wants 96 bits, and initiators take at most 255 characters.
        assert!(secrets.iter().all(|secret| secret.expose().len() == 43));
        assert_eq!(format!("{:?}", secrets[1]), "***");
    }
}
