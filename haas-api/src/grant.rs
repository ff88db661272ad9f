//! Grants: what somebody may do beyond what is their own. `/v1/grants`.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::names::{
    GroupName, ImageName, NameError, NodeGroupName, OverlayLabel, QueueName, UserName,
    string_schema,
};

/// To whom something is granted: `NAME` of a user or project, or `group:NAME`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Subject {
    /// A user, or all members of a project, each as far as its role goes.
    Account(UserName),
    /// All users of a group.
    Group(GroupName),
}

/// Of what: `node-group:NAME`, `image:NAME`, `overlay:OWNER/NAME` or `queue:NAME`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum GrantObject {
    /// The nodes that are in a node group, now or later.
    NodeGroup(NodeGroupName),
    /// All tags of an image's name.
    Image(ImageName),
    /// An overlay.
    Overlay(UserName, OverlayLabel),
    /// A queue.
    Queue(QueueName),
}

/// What is granted. Each includes the ones before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum GrantRole {
    /// Look at it.
    View,
    /// Boot it; of a node group: switch and power its nodes that nobody else has; of a queue: reserve
    /// nodes through it.
    Use,
    /// Change and remove it, and grant it to others; of a node group: also take nodes that somebody
    /// else has; of a queue: extend and release whatever was reserved through it.
    Manage,
}

/// Who may do what with something.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Grant {
    /// Its id.
    pub id: String,
    /// Who.
    pub subject: Subject,
    /// With what.
    pub object: GrantObject,
    /// What.
    pub role: GrantRole,
    /// Who granted it.
    pub actor: String,
    /// When.
    pub created_at: String,
}

/// `POST /v1/grants`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewGrant {
    /// To whom.
    pub subject: Subject,
    /// Of what.
    pub object: GrantObject,
    /// What.
    pub role: GrantRole,
}

impl FromStr for Subject {
    type Err = NameError;
    fn from_str(s: &str) -> Result<Self, NameError> {
        match s.strip_prefix("group:") {
            Some(group) => Ok(Self::Group(group.parse()?)),
            None => s.parse().map(Self::Account).map_err(|_: NameError| NameError {
                what: "user, project or group",
                value: s.to_owned(),
                expected: "NAME of a user or project, or group:NAME",
            }),
        }
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Account(name) => write!(f, "{name}"),
            Self::Group(name) => write!(f, "group:{name}"),
        }
    }
}

impl FromStr for GrantObject {
    type Err = NameError;
    fn from_str(s: &str) -> Result<Self, NameError> {
        let refuse = || NameError {
            what: "object of a grant",
            value: s.to_owned(),
            expected: "node-group:NAME, image:NAME, overlay:OWNER/NAME or queue:NAME",
        };
        let (kind, name) = s.split_once(':').ok_or_else(refuse)?;
        match kind {
            "node-group" => Ok(Self::NodeGroup(name.parse()?)),
            "image" => Ok(Self::Image(name.parse()?)),
            "queue" => Ok(Self::Queue(name.parse()?)),
            "overlay" => {
                let (owner, label) = name.split_once('/').ok_or_else(refuse)?;
                Ok(Self::Overlay(owner.parse()?, label.parse()?))
            }
            _ => Err(refuse()),
        }
    }
}

impl fmt::Display for GrantObject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NodeGroup(name) => write!(f, "node-group:{name}"),
            Self::Image(name) => write!(f, "image:{name}"),
            Self::Overlay(owner, label) => write!(f, "overlay:{owner}/{label}"),
            Self::Queue(name) => write!(f, "queue:{name}"),
        }
    }
}

macro_rules! as_text {
    ($($name:ident),*) => {$(
        impl TryFrom<String> for $name {
            type Error = NameError;
            fn try_from(s: String) -> Result<Self, NameError> {
                s.parse()
            }
        }
        impl From<$name> for String {
            fn from(value: $name) -> String {
                value.to_string()
            }
        }
    )*};
}
as_text!(Subject, GrantObject);
string_schema!(Subject, GrantObject);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back_and_nonsense_is_refused() {
        for text in ["alice", "group:staff"] {
            assert_eq!(text.parse::<Subject>().unwrap().to_string(), text);
        }
        for text in ["node-group:rack1", "image:debian-12", "overlay:alice/dev", "queue:gpu"] {
            assert_eq!(text.parse::<GrantObject>().unwrap().to_string(), text);
        }
        for bad in ["", "group:", "user:alice", "Alice"] {
            assert!(bad.parse::<Subject>().is_err(), "{bad}");
        }
        for bad in ["", "rack1", "node-group:", "queue:root", "overlay:dev", "overlay:alice/none"] {
            assert!(bad.parse::<GrantObject>().is_err(), "{bad}");
        }
    }
}
