//! An image's manifest: what the image is made of, by digest.
//!
//! The digest of an image is the SHA-256 of its manifest's canonical JSON, so a manifest that was
//! changed in any byte is another image. Canonical means: UTF-8, no white space, the fields in the
//! order in which they stand here. This module reads and writes no files.

use std::fmt;

use haas_api::{check::ReadyCheck, names::Digest};
use serde::{Deserialize, Serialize};

use crate::inventory::Arch;

/// The version of the manifest's form. A reader refuses others.
pub const SCHEMA: u32 = 1;

/// Everything that an image consists of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// [`SCHEMA`].
    pub schema: u32,
    /// The processor that it is for.
    pub arch: Arch,
    /// The root disk, exported over iSCSI.
    pub root: RootBlob,
    /// The kernel, loaded by iPXE.
    pub kernel: KernelBlob,
    /// The kernel's half of the initramfs: modules, and nothing else.
    pub modules: Blob,
    /// What the image wants on the kernel command line, one argument each.
    pub cmdline: Vec<String>,
    /// What must succeed in the running image before a node is ready. An image without any has the
    /// digest that it had before there were checks.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ready_checks: Vec<ReadyCheck>,
}

/// A file by its content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Blob {
    /// SHA-256 of the whole file.
    pub digest: Digest,
    /// Bytes.
    pub size: u64,
}

/// The root disk: a file system and behind it its dm-verity tree.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RootBlob {
    /// SHA-256 of the whole disk, tree included.
    pub digest: Digest,
    /// Bytes of the whole disk, a multiple of 4096.
    pub size: u64,
    /// The file system at its beginning.
    pub fstype: FsType,
    /// Bytes of the file system, a multiple of the verity data block.
    pub data_size: u64,
    /// How the tree is read.
    pub verity: Verity,
}

/// The parameters of the dm-verity tree (format 1, SHA-256).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Verity {
    /// The tree's root: 64 hexadecimal digits.
    pub root_hash: String,
    /// The salt: 64 hexadecimal digits.
    pub salt: String,
    /// Byte at which veritysetup's superblock lies; the tree itself begins one hash block later.
    pub hash_offset: u64,
    /// Bytes of a block of data.
    pub data_block_size: u32,
    /// Bytes of a block of the tree.
    pub hash_block_size: u32,
}

/// The kernel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KernelBlob {
    /// SHA-256 of the file.
    pub digest: Digest,
    /// Bytes.
    pub size: u64,
    /// What `uname -r` will say, which is also the name of its module folder.
    pub release: String,
}

/// The file systems that a root disk may have (ADR 0002).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FsType {
    /// EROFS with LZ4HC.
    Erofs,
    /// SquashFS with zstd.
    Squashfs,
}

impl fmt::Display for FsType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Erofs => "erofs",
            Self::Squashfs => "squashfs",
        })
    }
}

/// Why a manifest was refused.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// It is no JSON, or a field is missing, unknown or of the wrong kind.
    #[error("the manifest cannot be read")]
    Json(#[source] serde_json::Error),
    /// Written by a newer haasd.
    #[error("the manifest has schema {found}, this haasd reads {SCHEMA}: upgrade haasd")]
    Schema {
        /// What it says.
        found: u32,
    },
    /// White space, or fields in another order.
    #[error("the manifest is not in canonical form, so its digest would not be the image's")]
    NotCanonical,
    /// A value that contradicts itself or another one.
    #[error("{field} in the manifest is wrong: {problem}")]
    Value {
        /// The field, with dots.
        field: &'static str,
        /// What is wrong with it.
        problem: String,
    },
}

impl Manifest {
    /// Reads and checks a manifest.
    pub fn parse(json: &[u8]) -> Result<Self, ManifestError> {
        // Only the schema first: a newer form may have fields that are unknown here.
        #[derive(Deserialize)]
        struct Schema {
            schema: u32,
        }
        let Schema { schema } = serde_json::from_slice(json).map_err(ManifestError::Json)?;
        if schema != SCHEMA {
            return Err(ManifestError::Schema { found: schema });
        }
        let manifest: Self = serde_json::from_slice(json).map_err(ManifestError::Json)?;
        manifest.check()?;
        if manifest.canonical() != json {
            return Err(ManifestError::NotCanonical);
        }
        Ok(manifest)
    }

    /// The canonical JSON.
    pub fn canonical(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a manifest holds only strings and numbers")
    }

    /// The image's digest.
    pub fn digest(&self) -> Digest {
        Digest::of(&self.canonical())
    }

    /// The three blobs that it names: root, kernel, modules.
    pub fn blobs(&self) -> [Blob; 3] {
        let blob = |digest: &Digest, size| Blob { digest: digest.clone(), size };
        [
            blob(&self.root.digest, self.root.size),
            blob(&self.kernel.digest, self.kernel.size),
            self.modules.clone(),
        ]
    }

    /// Refuses values that contradict each other. [`Self::parse`] has called it.
    pub fn check(&self) -> Result<(), ManifestError> {
        let refuse = |field, problem: String| Err(ManifestError::Value { field, problem });
        let (root, verity) = (&self.root, &self.root.verity);
        for (field, bytes) in [
            ("root.verity.data_block_size", verity.data_block_size),
            ("root.verity.hash_block_size", verity.hash_block_size),
        ] {
            if !(512..=65536).contains(&bytes) || !bytes.is_power_of_two() {
                return refuse(field, format!("{bytes} is no power of two from 512 to 65536"));
            }
        }
        for (field, hash) in
            [("root.verity.root_hash", &verity.root_hash), ("root.verity.salt", &verity.salt)]
        {
            if hash.len() != 64 || !hash.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
                return refuse(field, format!("{hash:?} is not 64 lower-case hexadecimal digits"));
            }
        }
        if root.size % 4096 != 0 {
            return refuse("root.size", format!("{} is no multiple of 4096", root.size));
        }
        if root.data_size == 0 || root.data_size % u64::from(verity.data_block_size) != 0 {
            return refuse("root.data_size", format!("{} is no whole blocks", root.data_size));
        }
        if verity.hash_offset < root.data_size || verity.hash_offset >= root.size {
            return refuse(
                "root.verity.hash_offset",
                format!("{} is not between the data and the end", verity.hash_offset),
            );
        }
        check_release(&self.kernel.release).or_else(|problem| refuse("kernel.release", problem))?;
        self.cmdline
            .iter()
            .try_for_each(|argument| check_argument(argument))
            .or_else(|problem| refuse("cmdline", problem))?;
        match self.ready_checks.iter().find_map(ReadyCheck::problem) {
            Some(problem) => refuse("ready_checks", problem.to_owned()),
            None => Ok(()),
        }
    }
}

/// The iSCSI name under which an image is exported, for ever (RFC 3720 3.2.6.3.1).
pub fn target_name(image: &Digest) -> String {
    format!("iqn.2026-11.org.haas:image.{}", image.hex())
}

/// A release becomes the name of a folder.
pub(super) fn check_release(release: &str) -> Result<(), String> {
    let ok = |b: u8| b.is_ascii_alphanumeric() || b"-_.+~".contains(&b);
    if release.is_empty()
        || release.len() > 64
        || release.starts_with('.')
        || !release.bytes().all(ok)
    {
        return Err(format!("{release:?} is not the release of a kernel"));
    }
    Ok(())
}

/// One argument of the kernel command line: it must neither split nor add a line.
pub(super) fn check_argument(argument: &str) -> Result<(), String> {
    if argument.is_empty() || !argument.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(format!("{argument:?} is not one argument: printable ASCII without spaces"));
    }
    if argument.starts_with("haas.") {
        return Err(format!("{argument:?} begins with haas., which only haasd may set"));
    }
    Ok(())
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::images) fn example() -> Manifest {
        Manifest {
            schema: SCHEMA,
            arch: Arch::X86_64,
            root: RootBlob {
                digest: Digest::of(b"root"),
                size: 3 * 4096,
                fstype: FsType::Erofs,
                data_size: 4096,
                verity: Verity {
                    root_hash: "ab".repeat(32),
                    salt: "01".repeat(32),
                    hash_offset: 4096,
                    data_block_size: 4096,
                    hash_block_size: 4096,
                },
            },
            kernel: KernelBlob {
                digest: Digest::of(b"kernel"),
                size: 6,
                release: "6.1.0-35-amd64".into(),
            },
            modules: Blob { digest: Digest::of(b"modules"), size: 7 },
            cmdline: vec!["console=ttyS0".into()],
            ready_checks: Vec::new(),
        }
    }

    #[test]
    fn what_is_written_is_read_back_with_the_same_digest() {
        let manifest = example();
        let json = manifest.canonical();
        assert_eq!(Manifest::parse(&json).unwrap(), manifest);
        assert_eq!(Digest::of(&json), manifest.digest());
    }

    #[test]
    fn the_form_of_the_json_never_changes_since_the_digest_depends_on_it() {
        let json = String::from_utf8(example().canonical()).unwrap();
        let expected = format!(
            concat!(
                r#"{{"schema":1,"arch":"x86_64","root":{{"digest":"{root}","size":12288,"#,
                r#""fstype":"erofs","data_size":4096,"verity":{{"root_hash":"{hash}","#,
                r#""salt":"{salt}","hash_offset":4096,"data_block_size":4096,"#,
                r#""hash_block_size":4096}}}},"kernel":{{"digest":"{kernel}","size":6,"#,
                r#""release":"6.1.0-35-amd64"}},"modules":{{"digest":"{modules}","size":7}},"#,
                r#""cmdline":["console=ttyS0"]}}"#
            ),
            root = Digest::of(b"root"),
            kernel = Digest::of(b"kernel"),
            modules = Digest::of(b"modules"),
            hash = "ab".repeat(32),
            salt = "01".repeat(32),
        );
        assert_eq!(json, expected);
    }

    #[test]
    fn ready_checks_stand_at_the_end_of_the_json() {
        let check = ReadyCheck { command: vec!["nvidia-smi".into(), "-L".into()], within_s: 60 };
        let manifest = Manifest { ready_checks: vec![check], ..example() };
        let json = manifest.canonical();
        let end = r#","ready_checks":[{"command":["nvidia-smi","-L"],"within_s":60}]}"#;
        assert!(json.ends_with(end.as_bytes()), "{}", String::from_utf8_lossy(&json));
        assert_eq!(Manifest::parse(&json).unwrap(), manifest);
        let wrong = String::from_utf8(json).unwrap().replace(":60}", ":0}");
        assert!(
            Manifest::parse(wrong.as_bytes()).unwrap_err().to_string().contains("ready_checks")
        );
    }

    #[test]
    fn a_manifest_that_is_not_exactly_right_is_refused_with_the_reason() {
        let json = String::from_utf8(example().canonical()).unwrap();
        for (from, to, reason) in [
            (r#"{"schema":1"#, r#"{"schema":2"#, "schema 2"),
            (r#"{"schema":1"#, r#"{ "schema":1"#, "canonical"),
            (r#""arch""#, r#""more":1,"arch""#, "cannot be read"),
            (r#""fstype":"erofs""#, r#""fstype":"ntfs""#, "cannot be read"),
            (r#""size":12288"#, r#""size":12289"#, "root.size"),
            (r#""hash_offset":4096"#, r#""hash_offset":0"#, "hash_offset"),
            (r#""data_block_size":4096"#, r#""data_block_size":0"#, "data_block_size"),
            ("abababab", "ABabab..", "root_hash"),
            ("6.1.0-35-amd64", "../x", "release"),
            ("console=ttyS0", "a b", "cmdline"),
            ("console=ttyS0", "haas.token=1", "cmdline"),
            (r#"{"schema""#, r#"["schema""#, "cannot be read"),
        ] {
            let error = Manifest::parse(json.replacen(from, to, 1).as_bytes()).unwrap_err();
            assert!(error.to_string().contains(reason), "{from} -> {to}: {error}");
        }
    }

    #[test]
    fn the_target_name_is_an_iqn_of_legal_length() {
        let name = target_name(&Digest::of(b"x"));
        assert!(name.starts_with("iqn.2026-11.org.haas:image.2d711642"), "{name}");
        assert!(name.len() <= 223);
    }
}
