//! What stays on a machine when its tenant goes, though no disk holds it: accounts of the BMC, its way
//! into networks, firmware, and what the machine starts from. It is compared with what it was before.
//!
//! Everything is text by name, in parts, so that what differs can be said in words whoever has told it.
//! A part that nobody could tell is left out, and not compared. No password is ever among it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::hardware::tame;

/// What was told, by part and by name.
pub type Facts = BTreeMap<Part, BTreeMap<String, String>>;

/// Names in all parts together: firmware may say without end.
const MOST: usize = 512;

/// Of a disk from which nothing can be started.
pub const NOTHING: &str = "nothing to start";

/// A part of what is compared.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema,
)]
#[serde(rename_all = "kebab-case")]
pub enum Part {
    /// Who has an account at the BMC, and what it may do.
    BmcUsers,
    /// How the BMC is in its network.
    BmcLan,
    /// The BMC's firmware, and that of the machine where the BMC knows it.
    BmcFirmware,
    /// The machine's firmware, as it says itself.
    Firmware,
    /// What the firmware starts: entries and their order.
    EfiBoot,
    /// What could be started from the node's disks.
    BootCode,
}

/// Who tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// The BMC, while the node is off.
    Bmc,
    /// The node's agent, before anything of its tenant's is there.
    Agent,
}

impl Part {
    /// All of them.
    const ALL: [Self; 6] = [
        Self::BmcUsers,
        Self::BmcLan,
        Self::BmcFirmware,
        Self::Firmware,
        Self::EfiBoot,
        Self::BootCode,
    ];

    /// As JSON has it.
    fn as_str(self) -> &'static str {
        match self {
            Self::BmcUsers => "bmc-users",
            Self::BmcLan => "bmc-lan",
            Self::BmcFirmware => "bmc-firmware",
            Self::Firmware => "firmware",
            Self::EfiBoot => "efi-boot",
            Self::BootCode => "boot-code",
        }
    }

    /// Who tells it.
    pub fn source(self) -> Source {
        match self {
            Self::BmcUsers | Self::BmcLan | Self::BmcFirmware => Source::Bmc,
            Self::Firmware | Self::EfiBoot | Self::BootCode => Source::Agent,
        }
    }

    /// In words.
    pub fn words(self) -> &'static str {
        match self {
            Self::BmcUsers => "BMC user",
            Self::BmcLan => "BMC network",
            Self::BmcFirmware | Self::Firmware => "firmware",
            Self::EfiBoot => "EFI",
            Self::BootCode => "disk",
        }
    }
}

/// A value on an agent's channel, where a later version may tell parts that are not known yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fact {
    /// The part, as JSON has it.
    pub part: String,
    /// What of it.
    pub name: String,
    /// What it is.
    pub value: String,
}

/// Facts as they are told on an agent's channel.
pub fn listed(facts: &Facts) -> Vec<Fact> {
    let of_part = |(part, told): (&Part, &BTreeMap<String, String>)| {
        let part = part.as_str();
        let fact = move |(name, value): (&String, &String)| Fact {
            part: part.to_owned(),
            name: name.clone(),
            value: value.clone(),
        };
        told.iter().map(fact).collect::<Vec<_>>()
    };
    facts.iter().flat_map(of_part).collect()
}

/// What an agent has told, fit to be kept and shown. Parts that are not known are left out.
pub fn told(facts: Vec<Fact>) -> Facts {
    let mut by_part = Facts::new();
    for fact in facts.into_iter().take(MOST) {
        let part = Part::ALL.into_iter().find(|part| part.as_str() == fact.part);
        if let Some(part) = part.filter(|part| part.source() == Source::Agent) {
            by_part.entry(part).or_default().insert(tame(&fact.name), tame(&fact.value));
        }
    }
    by_part
}

/// Something that is not as it was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Difference {
    /// The part.
    pub part: Part,
    /// What of it.
    pub what: String,
    /// What it was; none: it was not there.
    pub was: Option<String>,
    /// What it is; none: it is not there any more.
    pub is: Option<String>,
}

impl std::fmt::Display for Difference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (part, what) = (self.part.words(), &self.what);
        let [was, is] = [&self.was, &self.is].map(|v| v.as_deref().unwrap_or("not there"));
        write!(f, "{part} {what}: was {was}, is {is}")
    }
}

/// How a node was when its baseline was recorded, how it was seen last, and what differs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct NodeBaseline {
    /// The node.
    pub node: String,
    /// What is recorded, by part and by name. Parts that nobody could tell are left out.
    #[schema(value_type = BTreeMap<String, BTreeMap<String, String>>)]
    pub recorded: Facts,
    /// When something of it was recorded last.
    pub recorded_at: Option<String>,
    /// Who did that: a user's name, or `haasd`.
    pub recorded_by: Option<String>,
    /// What was seen last.
    #[schema(value_type = BTreeMap<String, BTreeMap<String, String>>)]
    pub seen: Facts,
    /// When the BMC was last asked, whatever came of it.
    pub asked_at: Option<String>,
    /// Why it told nothing then.
    pub error: Option<String>,
    /// What was seen otherwise than it is recorded.
    pub differences: Vec<Difference>,
}

/// Which nodes a request about baselines means.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct BaselineRequest {
    /// The nodes.
    pub nodeset: String,
}

/// What a BMC has told, fit to be kept and shown.
pub fn bounded(facts: Facts) -> Facts {
    let mut left = MOST;
    let mut kept = Facts::new();
    for (part, told) in facts {
        let told: BTreeMap<_, _> =
            told.iter().take(left).map(|(name, value)| (tame(name), tame(value))).collect();
        left -= told.len();
        kept.insert(part, told);
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_is_a_sentence() {
        let difference = |was: Option<&str>, is: Option<&str>| Difference {
            part: Part::BmcUsers,
            what: "3".to_owned(),
            was: was.map(str::to_owned),
            is: is.map(str::to_owned),
        };
        assert_eq!(
            difference(None, Some("mallory, administrator, enabled")).to_string(),
            "BMC user 3: was not there, is mallory, administrator, enabled"
        );
        assert_eq!(difference(Some("a"), None).to_string(), "BMC user 3: was a, is not there");
    }

    #[test]
    fn what_firmware_says_is_bounded() {
        let many = (0..2 * MOST).map(|n| (n.to_string(), "x\n".repeat(1_000))).collect();
        let facts = Facts::from([(Part::BmcUsers, many), (Part::EfiBoot, BTreeMap::new())]);
        let kept = bounded(facts);
        assert_eq!(kept.values().map(BTreeMap::len).sum::<usize>(), MOST);
        assert!(kept.contains_key(&Part::EfiBoot), "it was told, and holds nothing");
        let mut values = kept.values().flat_map(BTreeMap::values);
        assert!(values.all(|value| value.len() < 1_000 && !value.contains('\n')));
    }

    #[test]
    fn an_agents_facts_come_over_its_channel_and_those_of_others_do_not() {
        let value = |value: &str| BTreeMap::from([("mode".to_owned(), value.to_owned())]);
        let facts = Facts::from([(Part::Firmware, value("BIOS")), (Part::EfiBoot, value("x"))]);
        let mut wire = listed(&facts);
        for part in ["bmc-users", "of-a-later-version"] {
            wire.push(Fact { part: part.to_owned(), ..wire[0].clone() });
        }
        assert_eq!(told(wire), facts);
        assert!(told(vec![]).is_empty());
    }

    #[test]
    fn parts_are_words_on_the_wire() {
        for part in Part::ALL {
            assert_eq!(serde_json::to_value(part).unwrap(), part.as_str());
        }
    }
}
