//! What is right and wrong around haasd. `/v1/doctor`.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Something that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Finding {
    /// `interfaces`, `ports`, `BMCs` and so on.
    pub topic: String,
    /// How it is.
    pub state: FindingState,
    /// What was found.
    pub what: String,
    /// Why it matters, where it is not good.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// What to type or to do, where it is not good.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
}

/// How something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum FindingState {
    /// As it should be.
    Good,
    /// It may become wrong, or only some things do not work.
    Warning,
    /// Nodes do not boot, or are about to.
    Wrong,
}

impl Finding {
    /// All is well.
    pub fn good(topic: &str, what: impl Into<String>) -> Self {
        let state = FindingState::Good;
        Self { topic: topic.to_owned(), state, what: what.into(), why: None, remedy: None }
    }

    /// Something may become wrong.
    pub fn warning(topic: &str, what: impl Into<String>, why: &str, remedy: String) -> Self {
        let (why, remedy) = (Some(why.to_owned()), Some(remedy));
        let state = FindingState::Warning;
        Self { topic: topic.to_owned(), state, what: what.into(), why, remedy }
    }

    /// Something is wrong.
    pub fn wrong(topic: &str, what: impl Into<String>, why: &str, remedy: String) -> Self {
        let state = FindingState::Wrong;
        Self { state, ..Self::warning(topic, what, why, remedy) }
    }

    /// The finding for people, in lines without an end.
    pub fn lines(&self) -> Vec<String> {
        let word = match self.state {
            FindingState::Good => "good",
            FindingState::Warning => "warning",
            FindingState::Wrong => "wrong",
        };
        let mut lines = vec![format!("{word:<8} {}: {}", self.topic, self.what)];
        lines.extend(self.why.iter().map(|why| format!("         why: {why}")));
        lines.extend(self.remedy.iter().map(|remedy| format!("         do:  {remedy}")));
        lines
    }
}

/// What all findings come to, in one line.
pub fn summary(findings: &[Finding]) -> String {
    let count = |state| findings.iter().filter(|f| f.state == state).count();
    let of = |count: usize, word: &str| match count {
        1 => format!("1 {word}"),
        several => format!("{several} {word}s"),
    };
    let wrong = match count(FindingState::Wrong) {
        0 => "nothing is wrong".to_owned(),
        1 => "1 thing is wrong".to_owned(),
        several => format!("{several} things are wrong"),
    };
    format!(
        "{wrong}, {}, {} good",
        of(count(FindingState::Warning), "warning"),
        count(FindingState::Good)
    )
}

/// Whether something is wrong.
pub fn has_wrong(findings: &[Finding]) -> bool {
    findings.iter().any(|f| f.state == FindingState::Wrong)
}
