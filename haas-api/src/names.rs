//! Names and addresses, checked when they are parsed and trusted afterwards.
//!
//! Every type here is a newtype whose only way in is [`std::str::FromStr`] (serde uses it too), so
//! a value that exists is a value that is valid.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Why a name was refused: what it was meant to be, what it said, and what would be right.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{value:?} is not a valid {what}: {expected}")]
pub struct NameError {
    /// The kind of name, for example "node name".
    pub what: &'static str,
    /// What was given.
    pub value: String,
    /// What would be right.
    pub expected: &'static str,
}

macro_rules! name_type {
    ($(#[$doc:meta])* $name:ident, $what:literal, $expected:literal, $check:expr) => {
        $(#[$doc])*
        #[derive(
            Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema,
        )]
        #[serde(try_from = "String", into = "String")]
        #[schema(value_type = String)]
        pub struct $name(String);

        impl $name {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = NameError;
            fn from_str(s: &str) -> Result<Self, NameError> {
                let check: fn(&str) -> bool = $check;
                if check(s) {
                    Ok(Self(s.to_owned()))
                } else {
                    Err(NameError { what: $what, value: s.to_owned(), expected: $expected })
                }
            }
        }

        impl TryFrom<String> for $name {
            type Error = NameError;
            fn try_from(s: String) -> Result<Self, NameError> {
                s.parse()
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name_type!(
    /// A node's name: one DNS label (RFC 1123), since it becomes the node's host name.
    NodeName,
    "node name",
    "1 to 63 letters, digits and hyphens, in lower case, beginning and ending with a letter or digit",
    is_dns_label
);
name_type!(
    /// A node group's name, as it stands behind `@` in a node set.
    NodeGroupName,
    "node group name",
    "1 to 63 letters, digits, '-' and '_', beginning with a letter",
    |s| is_label(s, 63, |b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
        && s.as_bytes()[0].is_ascii_alphabetic()
);
name_type!(
    /// A user's name, which is also the Unix name on the nodes.
    UserName,
    "user name",
    "1 to 32 lower-case letters, digits, '-' and '_', beginning with a letter",
    |s| is_label(s, 32, is_unix_byte) && s.as_bytes()[0].is_ascii_lowercase()
);
name_type!(
    /// A group of users.
    GroupName,
    "group name",
    "1 to 32 lower-case letters, digits, '-' and '_', beginning with a letter",
    |s| is_label(s, 32, is_unix_byte) && s.as_bytes()[0].is_ascii_lowercase()
);
name_type!(
    /// A webhook's name.
    WebhookName,
    "webhook name",
    "1 to 32 lower-case letters, digits, '-' and '_', beginning with a letter",
    |s| is_label(s, 32, is_unix_byte) && s.as_bytes()[0].is_ascii_lowercase()
);
name_type!(
    /// A queue's name. `root` is the top of the tree, which is no queue.
    QueueName,
    "queue name",
    "1 to 32 lower-case letters, digits, '-' and '_', beginning with a letter; not 'root'",
    |s| is_label(s, 32, is_unix_byte) && s.as_bytes()[0].is_ascii_lowercase() && s != "root"
);
name_type!(
    /// An overlay's own name, without its owner. `none` is kept for "in RAM".
    OverlayLabel,
    "overlay name",
    "1 to 64 lower-case letters, digits, '-', '_' and '.', beginning with a letter or digit; not 'none'",
    |s| is_label(s, 64, |b| is_unix_byte(b) || b == b'.')
        && s.as_bytes()[0].is_ascii_alphanumeric()
        && s != "none"
);
name_type!(
    /// An image's name, without its tag.
    ImageName,
    "image name",
    "1 to 64 lower-case letters, digits, '-', '_' and '.', beginning with a letter",
    |s| is_label(s, 64, |b| is_unix_byte(b) || b == b'.') && s.as_bytes()[0].is_ascii_lowercase()
);
name_type!(
    /// An image's tag. `latest` is meant where none is given.
    ImageTag,
    "image tag",
    "1 to 64 letters, digits, '-', '_' and '.', beginning with a letter or digit",
    |s| is_label(s, 64, |b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
        && s.as_bytes()[0].is_ascii_alphanumeric()
);
name_type!(
    /// A SHA-256 digest as `sha256:` and 64 lower-case hexadecimal digits.
    Digest,
    "digest",
    "'sha256:' and 64 lower-case hexadecimal digits",
    |s| s.strip_prefix("sha256:").is_some_and(|hex| {
        hex.len() == 64 && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
    })
);

impl Digest {
    /// The digest of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        use sha2::Digest as _;
        Self::from_sha256(sha2::Sha256::digest(bytes).into())
    }

    /// The digest from its 32 raw bytes.
    pub fn from_sha256(raw: [u8; 32]) -> Self {
        Self(format!("sha256:{}", hex::encode(raw)))
    }

    /// The 64 hexadecimal digits.
    pub fn hex(&self) -> &str {
        &self.0["sha256:".len()..]
    }

    /// The first 12 hexadecimal digits, for people.
    pub fn short(&self) -> &str {
        &self.hex()[..12]
    }
}

fn is_label(s: &str, max: usize, ok: impl Fn(u8) -> bool) -> bool {
    !s.is_empty() && s.len() <= max && s.bytes().all(ok)
}

fn is_unix_byte(b: u8) -> bool {
    b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_'
}

fn is_dns_label(s: &str) -> bool {
    is_label(s, 63, |b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && !s.starts_with('-')
        && !s.ends_with('-')
}

/// An Ethernet address, printed as `52:54:00:77:00:01`; also read with hyphens.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(try_from = "String", into = "String")]
#[schema(value_type = String)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// The form that PXELINUX and `BOOTIF=` use behind the `01-`: hyphens, lower case.
    pub fn hyphened(&self) -> String {
        self.0.map(|b| format!("{b:02x}")).join("-")
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.map(|b| format!("{b:02x}")).join(":"))
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Mac {
    type Err = NameError;
    fn from_str(s: &str) -> Result<Self, NameError> {
        let refuse = || NameError {
            what: "MAC address",
            value: s.to_owned(),
            expected: "six pairs of hexadecimal digits such as 52:54:00:77:00:01, not a multicast address",
        };
        let mut mac = [0; 6];
        let mut parts = s.split([':', '-']);
        for byte in &mut mac {
            let part = parts.next().filter(|p| p.len() == 2).ok_or_else(refuse)?;
            *byte = u8::from_str_radix(part, 16).map_err(|_| refuse())?;
        }
        if parts.next().is_some() || mac[0] & 1 == 1 || mac == [0; 6] {
            return Err(refuse());
        }
        Ok(Self(mac))
    }
}

impl TryFrom<String> for Mac {
    type Error = NameError;
    fn try_from(s: String) -> Result<Self, NameError> {
        s.parse()
    }
}

impl From<Mac> for String {
    fn from(mac: Mac) -> String {
        mac.to_string()
    }
}

/// An image as a person names it: `name`, `name:tag` or `sha256:…`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum ImageRef {
    /// A name and the tag that stands behind it, `latest` where none was given.
    Tag(ImageName, ImageTag),
    /// Exactly this manifest.
    Digest(Digest),
}

impl FromStr for ImageRef {
    type Err = NameError;
    fn from_str(s: &str) -> Result<Self, NameError> {
        if s.starts_with("sha256:") {
            return Ok(Self::Digest(s.parse()?));
        }
        let (name, tag) = s.split_once(':').unwrap_or((s, "latest"));
        Ok(Self::Tag(name.parse()?, tag.parse()?))
    }
}

impl TryFrom<String> for ImageRef {
    type Error = NameError;
    fn try_from(s: String) -> Result<Self, NameError> {
        s.parse()
    }
}

impl From<ImageRef> for String {
    fn from(image: ImageRef) -> String {
        image.to_string()
    }
}

impl fmt::Display for ImageRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tag(name, tag) => write!(f, "{name}:{tag}"),
            Self::Digest(digest) => write!(f, "{digest}"),
        }
    }
}

/// An overlay as a person names it: `none` (in RAM, lost at power-off), `name` (mine) or
/// `owner/name`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum OverlayRef {
    /// No overlay: the writable layer is in RAM and is lost at power-off.
    None,
    /// An overlay of the caller's own.
    Mine(OverlayLabel),
    /// An overlay with its owner said.
    Owned(UserName, OverlayLabel),
}

impl FromStr for OverlayRef {
    type Err = NameError;
    fn from_str(s: &str) -> Result<Self, NameError> {
        if s == "none" {
            return Ok(Self::None);
        }
        let read = || match s.split_once('/') {
            Some((owner, label)) => Ok(Self::Owned(owner.parse()?, label.parse()?)),
            None => Ok(Self::Mine(s.parse()?)),
        };
        read().map_err(|_: NameError| NameError {
            what: "overlay",
            value: s.to_owned(),
            expected: "NAME (your own), OWNER/NAME or none; a name is 1 to 64 lower-case letters, \
                       digits, '-', '_' and '.', beginning with a letter or digit",
        })
    }
}

impl TryFrom<String> for OverlayRef {
    type Error = NameError;
    fn try_from(s: String) -> Result<Self, NameError> {
        s.parse()
    }
}

impl From<OverlayRef> for String {
    fn from(overlay: OverlayRef) -> String {
        overlay.to_string()
    }
}

impl fmt::Display for OverlayRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("none"),
            Self::Mine(label) => write!(f, "{label}"),
            Self::Owned(owner, label) => write!(f, "{owner}/{label}"),
        }
    }
}

/// In OpenAPI these are plain strings.
macro_rules! string_schema {
    ($($name:ident),*) => {$(
        impl utoipa::PartialSchema for $name {
            fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
                <String as utoipa::PartialSchema>::schema()
            }
        }
        impl utoipa::ToSchema for $name {}
    )*};
}
string_schema!(ImageRef, OverlayRef);
pub(crate) use string_schema;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_would_escape_a_folder_or_a_line_are_refused() {
        for bad in ["..", "../etc", "a/b/c", "a b", "a\nb", "", ".hidden", "Ä", "a\0"] {
            assert!(bad.parse::<OverlayLabel>().is_err(), "{bad:?}");
            assert!(bad.parse::<OverlayRef>().is_err(), "{bad:?}");
            assert!(bad.parse::<ImageName>().is_err(), "{bad:?}");
            assert!(bad.parse::<NodeName>().is_err(), "{bad:?}");
        }
        assert!("none".parse::<OverlayLabel>().is_err());
    }

    #[test]
    fn references_say_what_they_mean() {
        assert_eq!("none".parse(), Ok(OverlayRef::None));
        assert_eq!("dev".parse(), Ok(OverlayRef::Mine("dev".parse().unwrap())));
        assert_eq!("alice/dev".parse::<OverlayRef>().unwrap().to_string(), "alice/dev");
        let wrong = "../dev".parse::<OverlayRef>().unwrap_err();
        assert_eq!((wrong.what, wrong.value.as_str()), ("overlay", "../dev"));
        assert_eq!("minimal".parse::<ImageRef>().unwrap().to_string(), "minimal:latest");
        let digest = Digest::of(b"x").to_string();
        assert_eq!(digest.parse::<ImageRef>().unwrap().to_string(), digest);
    }

    #[test]
    fn a_mac_reads_both_forms_and_no_multicast() {
        let mac: Mac = "52-54-00-77-00-01".parse().unwrap();
        assert_eq!(mac.to_string(), "52:54:00:77:00:01");
        for bad in ["01:00:5e:00:00:01", "52:54:00:77:00", "52:54:00:77:00:1", "00:00:00:00:00:00"]
        {
            assert!(bad.parse::<Mac>().is_err(), "{bad}");
        }
    }
}
