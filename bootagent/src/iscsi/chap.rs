//! CHAP with MD5 (RFC 1994, RFC 7143 section 12.1.3), for both sides of a session: what we answer the
//! target, and what the target must answer us.

use std::{fs::File, io};

use haas_api::agent::{Chap, RootPlan};
use md5::{Digest as _, Md5};

/// What is to be proved in a login, as the plan has it.
#[derive(Debug, Clone, Default)]
pub(super) struct Proofs {
    /// By what we prove ourselves.
    pub own: Option<Chap>,
    /// What we ask the target.
    pub target: Option<Question>,
}

/// A challenge, and who knows the answer.
#[derive(Debug, Clone)]
pub(super) struct Question {
    pub chap: Chap,
    pub id: u8,
    pub challenge: [u8; 16],
}

impl Proofs {
    /// Those of a login to this root, with a challenge that was never used.
    pub(super) fn of(root: &RootPlan) -> io::Result<Self> {
        let mut random = [0; 17];
        io::Read::read_exact(&mut File::open("/dev/urandom")?, &mut random)?;
        let [id, challenge @ ..] = random;
        let question = |chap| Question { chap, id, challenge };
        Ok(Self { own: root.chap.clone(), target: root.target_chap.clone().map(question) })
    }
}

impl Question {
    /// Whether this name and this response are the target's.
    pub(super) fn is_answered(&self, user: Option<&str>, response: &str) -> bool {
        let expected = response_to(self.id, &self.chap.secret, &self.challenge);
        user == Some(&self.chap.user) && decode(response).is_some_and(|bytes| bytes == expected)
    }
}

/// MD5 over identifier, secret and challenge (RFC 1994 section 4.1).
pub(super) fn response_to(id: u8, secret: &str, challenge: &[u8]) -> [u8; 16] {
    Md5::new().chain_update([id]).chain_update(secret).chain_update(challenge).finalize().into()
}

/// A binary value as text.
pub(super) fn encode(bytes: &[u8]) -> String {
    format!("0x{}", hex::encode(bytes))
}

/// A binary value of hexadecimal text, which every target can write.
pub(super) fn decode(text: &str) -> Option<Vec<u8>> {
    let digits = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X"))?;
    hex::decode(digits).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_right_name_and_response_answer_a_question() {
        let chap = Chap { user: "t".into(), secret: "its secret".into() };
        let question = Question { chap, id: 9, challenge: [7; 16] };
        let right = encode(&response_to(9, "its secret", &[7; 16]));
        assert!(question.is_answered(Some("t"), &right));
        assert!(!question.is_answered(Some("u"), &right));
        assert!(!question.is_answered(None, &right));
        let other = encode(&response_to(9, "our secret", &[7; 16]));
        for wrong in [&other, &right[..20], "0x", "", &right[2..]] {
            assert!(!question.is_answered(Some("t"), wrong), "{wrong}");
        }
    }

    #[test]
    fn no_challenge_is_used_twice() {
        let mut root = crate::channel::fake::plan(0).root;
        root.target_chap = Some(Chap { user: "t".into(), secret: "s".into() });
        let challenge = || Proofs::of(&root).unwrap().target.unwrap().challenge;
        assert_ne!(challenge(), challenge());
    }
}
