//! What may be fetched by TFTP:
//!
//! | Name | What |
//! |---|---|
//! | `FILE` | a program for firmware |
//! | `grub/grub.cfg` | the script of the node at the asking address, for the GRUB of Secure Boot |
//! | `boot/TOKEN/kernel`, `boot/TOKEN/initrd` | the attempt's files: signed builds of GRUB speak no HTTP |

use std::{fs::File, io, net::IpAddr, os::unix::fs::FileExt as _, path::Path, sync::Arc};

use super::packet::ErrorCode;
use crate::netboot::{
    Serving,
    boot_target::{BootResource, BootTarget, BootTargets, Refusal, Served},
    firmware::{BinaryError, GRUB_CONFIG},
    script::{Loader, ScriptError},
};

/// Something that is served.
#[derive(Debug)]
pub struct Content {
    /// Its bytes.
    pub source: Source,
    /// Its name for the log, without a token.
    pub shown: String,
    /// What is to be noted when all of it was sent.
    pub served: Served,
}

/// Why a file is not sent.
#[derive(Debug, thiserror::Error)]
pub enum ContentError {
    #[error(transparent)]
    Binary(#[from] BinaryError),
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error(transparent)]
    Script(#[from] ScriptError),
    #[error("cannot read a file of the image")]
    File(#[source] io::Error),
}

impl ContentError {
    /// The answer to the peer, who may be anybody.
    pub fn answer(&self) -> (ErrorCode, &'static str) {
        match self {
            Self::Binary(BinaryError::Name) => {
                (ErrorCode::Access, "only boot programs are served here")
            }
            Self::Binary(BinaryError::Read { .. }) => (ErrorCode::NotFound, "file not found"),
            Self::Refused(_) => (ErrorCode::Access, "nothing is to boot here now"),
            Self::Script(_) | Self::File(_) => (ErrorCode::NotDefined, "see the controller's log"),
        }
    }
}

impl Content {
    /// What the peer may have by this name.
    pub async fn open<T: BootTargets>(
        name: &str,
        peer: IpAddr,
        serving: &Serving<T>,
    ) -> Result<Self, ContentError> {
        // Programs for firmware write names from the root, and some two slashes.
        let name = name.trim_start_matches('/');
        if name == GRUB_CONFIG {
            let target = serving.targets.boot_by_address(peer).await?;
            let script = serving.templates.render(&target, Loader::Grub)?.script;
            let source = Source::Bytes(script.into_bytes());
            return Ok(Self::of_boot(&target, BootResource::Script, source));
        }
        if let Some((token, resource)) = of_boot(name) {
            let target = serving.targets.boot_by_token(token, peer, resource).await?;
            let path = match resource {
                BootResource::Initrd => &target.initrd,
                BootResource::Kernel | BootResource::Script => &target.kernel,
            };
            let source = Source::open(path).await.map_err(ContentError::File)?;
            return Ok(Self::of_boot(&target, resource, source));
        }
        let bytes = serving.binaries.read(name).await?;
        let size = bytes.len() as u64;
        let file = name.to_owned();
        Ok(Self {
            source: Source::Bytes(bytes),
            shown: file.clone(),
            served: Served::Firmware { peer, file, bytes: size },
        })
    }

    fn of_boot(target: &Arc<BootTarget>, resource: BootResource, source: Source) -> Self {
        let bytes = source.size() as u64;
        let boot = target.boot.clone();
        let shown = format!("{resource} of {} for {}", target.boot, target.node);
        Self { source, shown, served: Served::Boot { boot, resource, bytes, complete: true } }
    }
}

/// `boot/TOKEN/kernel` or `boot/TOKEN/initrd`. The script is GRUB's, by its own name.
fn of_boot(name: &str) -> Option<(&str, BootResource)> {
    let (token, resource) = name.strip_prefix("boot/")?.split_once('/')?;
    let resource = BootResource::from_path(resource)?;
    (resource != BootResource::Script).then_some((token, resource))
}

/// Where the bytes of a transfer come from.
#[derive(Debug)]
pub enum Source {
    /// All in memory.
    Bytes(Vec<u8>),
    /// A file of an image; a part of it is in memory.
    File { file: Arc<File>, size: usize, part: Vec<u8>, at: usize },
}

impl Source {
    /// Bytes of a file that are in memory at a time; more than a window of blocks.
    const PART: usize = 256 << 10;

    async fn open(path: &Path) -> io::Result<Self> {
        let path = path.to_owned();
        let open = move || {
            let file = File::open(path)?;
            let size = usize::try_from(file.metadata()?.len()).map_err(io::Error::other)?;
            Ok(Self::File { file: Arc::new(file), size, part: Vec::new(), at: 0 })
        };
        tokio::task::spawn_blocking(open).await?
    }

    /// Bytes in all.
    pub fn size(&self) -> usize {
        match self {
            Self::Bytes(bytes) => bytes.len(),
            Self::File { size, .. } => *size,
        }
    }

    /// Up to `most` bytes from `start` on, fewer only at the end.
    pub async fn read(&mut self, start: usize, most: usize) -> io::Result<&[u8]> {
        let (bytes, start) = match self {
            Self::Bytes(bytes) => (bytes, start),
            Self::File { file, size, part, at } => {
                let end = start.saturating_add(most).min(*size);
                if start < *at || end > *at + part.len() {
                    let length = Self::PART.min(size.saturating_sub(start));
                    let (file, mut buffer) = (file.clone(), std::mem::take(part));
                    let read = move || {
                        buffer.resize(length, 0);
                        file.read_exact_at(&mut buffer, start as u64)?;
                        Ok::<_, io::Error>(buffer)
                    };
                    *part = tokio::task::spawn_blocking(read).await??;
                    *at = start;
                }
                (part, start - *at)
            }
        };
        let rest = bytes.get(start..).unwrap_or_default();
        Ok(&rest[..rest.len().min(most)])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_file_is_read_in_parts_from_anywhere() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("kernel");
        let content: Vec<u8> = (0..300_000u32).flat_map(u32::to_le_bytes).collect();
        std::fs::write(&path, &content).unwrap();
        let mut source = Source::open(&path).await.unwrap();
        assert_eq!(source.size(), content.len());
        for start in [0, 1468, 262_000, 1000, 1_199_999, 1_200_000] {
            let end = (start + 1468).min(content.len());
            assert_eq!(source.read(start, 1468).await.unwrap(), &content[start..end], "{start}");
        }
    }

    #[test]
    fn a_token_opens_the_two_files_and_no_path() {
        let opens = |name| of_boot(name).map(|(token, resource)| (token, resource.as_str()));
        assert_eq!(opens("boot/abc/kernel"), Some(("abc", "kernel")));
        assert_eq!(opens("boot/abc/initrd"), Some(("abc", "initrd")));
        for other in ["boot/abc/script", "boot/abc", "boot/abc/../kernel", "kernel", "boot"] {
            assert_eq!(opens(other), None, "{other}");
        }
    }
}
