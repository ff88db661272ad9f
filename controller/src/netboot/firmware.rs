//! Which program asks for a boot, and which iPXE binary it gets.
//!
//! Architectures are those of RFC 4578 as IANA keeps them. iPXE makes itself known by option 175 or
//! by the user class `iPXE`.

use std::{
    io,
    path::{Path, PathBuf},
};

use crate::config::Config;

/// iPXE for PC BIOS; it goes on using the card's own UNDI driver, so every card works.
pub const BIOS: &str = "undionly.kpxe";
/// iPXE for 64-bit x86 UEFI; it goes on using the firmware's own driver of the card.
pub const UEFI_X86_64: &str = "snponly.efi";
/// The same for 64-bit Arm.
pub const UEFI_AARCH64: &str = "snponly-arm64.efi";

/// The program signed by Microsoft's key that a UEFI with Secure Boot loads, on 64-bit x86. It loads
/// [`GRUB`] from where it came from itself, and knows the key that signed it.
pub const SHIM: &str = "shimx64.efi";
/// The GRUB that shim loads; it goes on to [`GRUB_CONFIG`].
pub const GRUB: &str = "grubx64.efi";
/// Where a GRUB that came over the network looks for what to do: its built-in `prefix`, in Debian's
/// and Ubuntu's signed builds.
pub const GRUB_CONFIG: &str = "grub/grub.cfg";

/// No binary is larger than this; a wrong file in the directory must not fill our memory.
const MAX_SIZE: u64 = 16 << 20;

/// The program that sent a DHCP message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Client {
    /// A network card's or mainboard's PXE, with option 93's architecture.
    Pxe(u16),
    /// UEFI's HTTP boot, with option 93's architecture.
    Http(u16),
    /// iPXE.
    Ipxe,
    /// Anything else: an operating system, a BMC, a switch.
    Other,
}

impl Client {
    /// Whether a boot file means anything to it.
    pub fn boots(self) -> bool {
        self != Self::Other
    }

    /// The binary that it must load, or none for an architecture that we have nothing for.
    pub fn binary(self) -> Option<&'static str> {
        match self {
            Self::Pxe(0) => Some(BIOS),
            Self::Pxe(7 | 9) | Self::Http(16) => Some(UEFI_X86_64),
            Self::Pxe(11) | Self::Http(19) => Some(UEFI_AARCH64),
            Self::Pxe(_) | Self::Http(_) | Self::Ipxe | Self::Other => None,
        }
    }
}

/// The maker whose BMC sends this vendor class, as far as it can be told.
pub fn bmc_maker(vendor_class: &str) -> Option<&'static str> {
    const KNOWN: [(&str, &str); 10] = [
        ("idrac", "Dell iDRAC"),
        ("cpqrib", "HPE iLO"),
        ("ilo", "HPE iLO"),
        ("xclarity", "Lenovo XCC"),
        ("lenovo xcc", "Lenovo XCC"),
        ("cimc", "Cisco CIMC"),
        ("megarac", "AMI MegaRAC"),
        ("openbmc", "OpenBMC"),
        ("ipmi", "unknown"),
        ("bmc", "unknown"),
    ];
    let class = vendor_class.to_ascii_lowercase();
    KNOWN.iter().find(|(part, _)| class.contains(part)).map(|(_, maker)| *maker)
}

/// The programs for firmware: those of iPXE's directory, and shim and GRUB. They are served by name,
/// and only those that firmware can run: no paths, no sub-folders.
#[derive(Debug, Clone)]
pub struct Binaries {
    /// iPXE's, usually `/usr/lib/ipxe`.
    pub ipxe_dir: PathBuf,
    /// What is served as [`SHIM`].
    pub shim: PathBuf,
    /// What is served as [`GRUB`].
    pub grub: PathBuf,
}

/// Why a binary cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum BinaryError {
    /// The name is not that of a program for firmware.
    #[error("not the name of a boot program")]
    Name,
    /// It is not there, or is not a file that could be one.
    #[error("cannot read the boot program {path}")]
    Read {
        /// Where it was looked for.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

impl Binaries {
    /// Those that the configuration names.
    pub fn of(config: &Config) -> Self {
        let Config { ipxe_dir, shim, grub, .. } = config.clone();
        Self { ipxe_dir, shim, grub }
    }

    /// Where the binary `name` is, or none for a name that is not served.
    pub fn path(&self, name: &str) -> Option<PathBuf> {
        match name {
            SHIM => Some(self.shim.clone()),
            GRUB => Some(self.grub.clone()),
            name => is_binary_name(name).then(|| self.ipxe_dir.join(name)),
        }
    }

    /// Reads the binary `name`.
    pub async fn read(&self, name: &str) -> Result<Vec<u8>, BinaryError> {
        let path = self.path(name).ok_or(BinaryError::Name)?;
        read_small(&path).await.map_err(|source| BinaryError::Read { path, source })
    }

    /// All in one directory.
    #[cfg(test)]
    pub(crate) fn in_one(dir: &Path) -> Self {
        Self { ipxe_dir: dir.into(), shim: dir.join("shim.signed"), grub: dir.join("grub.signed") }
    }
}

async fn read_small(path: &Path) -> io::Result<Vec<u8>> {
    let meta = tokio::fs::metadata(path).await?;
    if !meta.is_file() || meta.len() > MAX_SIZE {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("not a regular file of at most {MAX_SIZE} bytes"),
        ));
    }
    tokio::fs::read(path).await
}

fn is_binary_name(name: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
    let known = |ext| ["kpxe", "kkpxe", "kkkpxe", "pxe", "efi", "lkrn"].contains(&ext);
    name.len() <= 128
        && name.bytes().all(plain)
        && !name.starts_with('.')
        && name.rsplit_once('.').is_some_and(|(_, ext)| known(ext))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_architecture_gets_its_binary_or_none() {
        assert_eq!(Client::Pxe(0).binary(), Some("undionly.kpxe"));
        assert_eq!(Client::Pxe(7).binary(), Some("snponly.efi"));
        assert_eq!(Client::Pxe(9).binary(), Some("snponly.efi"));
        assert_eq!(Client::Http(16).binary(), Some("snponly.efi"));
        assert_eq!(Client::Pxe(11).binary(), Some("snponly-arm64.efi"));
        assert_eq!(Client::Http(19).binary(), Some("snponly-arm64.efi"));
        // 32-bit x86 and Arm: no kernel of ours runs there.
        for none in [Client::Pxe(6), Client::Pxe(10), Client::Http(15), Client::Http(18)] {
            assert_eq!(none.binary(), None, "{none:?}");
        }
    }

    #[test]
    fn bmcs_are_told_from_nodes() {
        assert_eq!(bmc_maker("iDRAC"), Some("Dell iDRAC"));
        assert_eq!(bmc_maker("CPQRIB3"), Some("HPE iLO"));
        for node in ["PXEClient:Arch:00000:UNDI:002001", "udhcp 1.36.1", "MSFT 5.0", ""] {
            assert_eq!(bmc_maker(node), None, "{node}");
        }
    }

    #[tokio::test]
    async fn only_binaries_of_the_directory_are_read() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("a.efi"), b"MZ").unwrap();
        std::fs::write(dir.path().join("secret.txt"), b"no").unwrap();
        std::fs::create_dir(dir.path().join("d.efi")).unwrap();
        std::fs::write(dir.path().join("grub.signed"), b"GR").unwrap();
        let binaries = Binaries::in_one(dir.path());
        assert_eq!(binaries.read("a.efi").await.unwrap(), b"MZ");
        assert_eq!(binaries.read(GRUB).await.unwrap(), b"GR");
        for bad in ["secret.txt", "../a.efi", "/a.efi", "./a.efi", ".efi", "", "a.efi\0", "d/a.efi"]
        {
            assert!(matches!(binaries.read(bad).await, Err(BinaryError::Name)), "{bad:?}");
        }
        for missing in ["b.efi", "d.efi", SHIM] {
            let error = binaries.read(missing).await.unwrap_err();
            assert!(matches!(error, BinaryError::Read { .. }), "{missing}");
        }
    }
}
