//! The login phase (RFC 7143 section 6.3): a state machine without I/O, and what was agreed.

use super::{
    chap::{Proofs, decode, encode, response_to},
    pdu::{Stage, decode_text, encode_text},
};

/// The data segment that we take, in bytes.
const MAX_RECV: u32 = 262_144;

/// A login takes a handful of exchanges; a target that asks for more is broken.
const MAX_EXCHANGES: u32 = 16;

/// Why a login failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum LoginError {
    /// The target said no.
    #[error("the target refused the login: {} (status {class:#04x}{detail:02x})", status_text(*class, *detail))]
    Refused {
        /// The class: 1 moved, 2 our fault, 3 the target's.
        class: u8,
        /// The detail.
        detail: u8,
    },
    /// The target wants a secret and the boot plan has none, or the other way round.
    #[error("the target asks for authentication by {0:?}, which the boot plan has not")]
    Method(String),
    /// The target was asked to prove itself and could not.
    #[error(
        "the target does not know the secret of this boot: something else than haasd's answers at this \
         address"
    )]
    Impostor,
    /// The target does not follow the protocol.
    #[error("the target broke the login protocol: {0}")]
    Protocol(String),
}

/// What both sides agreed upon, as the kernel takes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Agreed {
    pub max_xmit: u32,
    pub max_recv: u32,
    pub first_burst: u32,
    pub max_burst: u32,
    pub initial_r2t: bool,
    pub immediate_data: bool,
    pub portal_group: Option<String>,
}

/// What to do next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Send a request with this text.
    Send {
        /// The stage that we are in.
        stage: Stage,
        /// The stage that we want to go on to.
        next: Option<Stage>,
        /// The data segment.
        text: Vec<u8>,
    },
    /// The login is over.
    Done(Agreed),
}

/// The state of a login.
#[derive(Debug)]
pub(super) struct Login {
    target: String,
    initiator: String,
    proofs: Proofs,
    /// We have answered the target's challenge.
    has_answered: bool,
    /// The target has answered ours.
    has_proved: bool,
    /// The stage of the request that was sent last.
    stage: Stage,
    asked_for: Option<Stage>,
    exchanges: u32,
    /// Text of a response that continues in the next.
    held: Vec<u8>,
    agreed: Agreed,
}

impl Login {
    /// Begins a login; gives what to send first.
    pub(super) fn begin(target: &str, initiator: &str, proofs: Proofs) -> (Self, Next) {
        let mut login = Self {
            target: target.to_owned(),
            initiator: initiator.to_owned(),
            proofs,
            has_answered: false,
            has_proved: false,
            stage: Stage::Security,
            asked_for: None,
            exchanges: 0,
            held: Vec::new(),
            // What RFC 7143 section 13 has until something else is agreed.
            agreed: Agreed {
                max_xmit: 8192,
                max_recv: MAX_RECV,
                first_burst: 65536,
                max_burst: 262_144,
                initial_r2t: true,
                immediate_data: true,
                portal_group: None,
            },
        };
        let method = login.method();
        let pairs = [
            ("InitiatorName", login.initiator.clone()),
            ("TargetName", login.target.clone()),
            ("SessionType", "Normal".to_owned()),
            ("AuthMethod", method.to_owned()),
        ];
        let next = login.proofs.own.is_none().then_some(Stage::Operational);
        let first = login.send(Stage::Security, next, &pairs);
        (login, first)
    }

    /// Takes a response whose status was success.
    pub(super) fn step(
        &mut self,
        next: Option<u8>,
        continues: bool,
        data: &[u8],
    ) -> Result<Next, LoginError> {
        self.exchanges += 1;
        if self.exchanges > MAX_EXCHANGES {
            return Err(LoginError::Protocol("it does not come to an end".to_owned()));
        }
        self.held.extend(data);
        if continues {
            return Ok(self.send(self.stage, None, &[]));
        }
        let pairs = decode_text(&std::mem::take(&mut self.held));
        for (key, value) in &pairs {
            self.take(key, value)?;
        }
        if let Some(response) = find(&pairs, "CHAP_R") {
            self.check(find(&pairs, "CHAP_N"), response)?;
        }
        match (self.stage, next) {
            (Stage::Operational, Some(3)) => Ok(Next::Done(self.agreed.clone())),
            (Stage::Security, Some(1)) => {
                self.may_go_on()?;
                Ok(self.operational())
            }
            (Stage::Security, None) => match (find(&pairs, "CHAP_C"), find(&pairs, "AuthMethod")) {
                (Some(challenge), _) => self.answer(&pairs, challenge),
                (None, Some("CHAP")) => {
                    Ok(self.send(Stage::Security, None, &[("CHAP_A", "5".to_owned())]))
                }
                (None, Some("None")) => {
                    Ok(self.send(Stage::Security, Some(Stage::Operational), &[]))
                }
                _ => Ok(self.send(self.stage, self.asked_for, &[])),
            },
            (Stage::Operational, None) => Ok(self.send(self.stage, self.asked_for, &[])),
            (stage, next) => {
                Err(LoginError::Protocol(format!("it goes from stage {stage:?} to {next:?}")))
            }
        }
    }

    fn send(&mut self, stage: Stage, next: Option<Stage>, pairs: &[(&str, String)]) -> Next {
        (self.stage, self.asked_for) = (stage, next);
        Next::Send { stage, next, text: encode_text(pairs) }
    }

    fn take(&mut self, key: &str, value: &str) -> Result<(), LoginError> {
        let bad = || LoginError::Protocol(format!("{key}={value}"));
        let number = || value.parse::<u32>().map_err(|_| bad());
        match key {
            // With a secret in the plan, a target that wants none may be a false one.
            "AuthMethod" if value != self.method() => {
                return Err(LoginError::Method(value.to_owned()));
            }
            "MaxRecvDataSegmentLength" => self.agreed.max_xmit = number()?,
            "FirstBurstLength" => self.agreed.first_burst = number()?,
            "MaxBurstLength" => self.agreed.max_burst = number()?,
            "InitialR2T" => self.agreed.initial_r2t = value == "Yes",
            "ImmediateData" => self.agreed.immediate_data = value == "Yes",
            "TargetPortalGroupTag" => self.agreed.portal_group = Some(value.to_owned()),
            "HeaderDigest" | "DataDigest" if value != "None" => return Err(bad()),
            _ => {}
        }
        Ok(())
    }

    fn answer(&mut self, pairs: &[(String, String)], challenge: &str) -> Result<Next, LoginError> {
        let Some(own) = self.proofs.own.clone() else {
            return Err(LoginError::Method("CHAP".to_owned()));
        };
        let bad = |what: &str| LoginError::Protocol(format!("{what} of its CHAP challenge"));
        if find(pairs, "CHAP_A") != Some("5") {
            return Err(bad("the algorithm"));
        }
        let id = find(pairs, "CHAP_I").and_then(|i| i.parse::<u8>().ok());
        let id = id.ok_or_else(|| bad("the identifier"))?;
        let bytes = decode(challenge).ok_or_else(|| bad("the number, which is not hexadecimal"))?;
        let response = encode(&response_to(id, &own.secret, &bytes));
        let mut pairs = vec![("CHAP_N", own.user), ("CHAP_R", response)];
        if let Some(question) = &self.proofs.target {
            pairs.push(("CHAP_I", question.id.to_string()));
            pairs.push(("CHAP_C", encode(&question.challenge)));
        }
        self.has_answered = true;
        Ok(self.send(Stage::Security, Some(Stage::Operational), &pairs))
    }

    /// How we want to be known.
    fn method(&self) -> &'static str {
        if self.proofs.own.is_some() { "CHAP" } else { "None" }
    }

    /// The target's answer to our challenge, which goes out with our own answer.
    fn check(&mut self, user: Option<&str>, response: &str) -> Result<(), LoginError> {
        let Some(question) = &self.proofs.target else { return Ok(()) };
        if !self.has_answered || !question.is_answered(user, response) {
            return Err(LoginError::Impostor);
        }
        self.has_proved = true;
        Ok(())
    }

    /// Whether all that the plan asks for was proved, now that the target ends the security stage.
    fn may_go_on(&self) -> Result<(), LoginError> {
        if self.proofs.own.is_some() && !self.has_answered {
            return Err(LoginError::Method("None".to_owned()));
        }
        if self.proofs.target.is_some() && !self.has_proved {
            return Err(LoginError::Impostor);
        }
        Ok(())
    }

    fn operational(&mut self) -> Next {
        let pairs = [
            ("HeaderDigest", "None".to_owned()),
            ("DataDigest", "None".to_owned()),
            ("MaxConnections", "1".to_owned()),
            ("InitialR2T", "Yes".to_owned()),
            ("ImmediateData", "Yes".to_owned()),
            ("MaxRecvDataSegmentLength", MAX_RECV.to_string()),
            ("MaxBurstLength", "16776192".to_owned()),
            ("FirstBurstLength", "65536".to_owned()),
            ("DefaultTime2Wait", "2".to_owned()),
            ("DefaultTime2Retain", "0".to_owned()),
            ("MaxOutstandingR2T", "1".to_owned()),
            ("DataPDUInOrder", "Yes".to_owned()),
            ("DataSequenceInOrder", "Yes".to_owned()),
            ("ErrorRecoveryLevel", "0".to_owned()),
        ];
        self.send(Stage::Operational, Some(Stage::FullFeature), &pairs)
    }
}

fn find<'a>(pairs: &'a [(String, String)], key: &str) -> Option<&'a str> {
    pairs.iter().find(|(k, _)| k == key).map(|(_, v)| v.as_str())
}

fn status_text(class: u8, detail: u8) -> &'static str {
    match (class, detail) {
        (1, _) => "the target has moved",
        (2, 1) => "authentication failed",
        (2, 2) => "this initiator may not log in",
        (2, 3) => "there is no such target",
        (2, 4) => "the target was removed",
        (2, _) => "the request was in error",
        (3, 1) => "the service is not available",
        (3, 2) => "it is out of resources",
        _ => "an error of the target",
    }
}

#[cfg(test)]
mod tests {
    use haas_api::agent::Chap;

    use super::{super::chap::Question, *};

    fn chap(user: &str, secret: &str) -> Chap {
        Chap { user: user.to_owned(), secret: secret.to_owned() }
    }

    /// With a secret of our own only.
    fn one_way() -> Proofs {
        Proofs { own: Some(chap("n01", "secretsecret")), target: None }
    }

    /// A login in which both sides prove themselves, after our answer was sent.
    fn answered() -> Login {
        let question = Question { chap: chap("iqn.t", "its secret"), id: 5, challenge: [0xab; 16] };
        let proofs = Proofs { target: Some(question), ..one_way() };
        let (mut login, _) = Login::begin("iqn.t", "iqn.i", proofs);
        login.step(None, false, b"AuthMethod=CHAP\0").expect("algorithm");
        let third = login.step(None, false, b"CHAP_A=5\0CHAP_I=7\0CHAP_C=0x0102\0");
        let sent = text(&third.expect("answer"));
        assert!(sent.contains(&format!("CHAP_I=5 CHAP_C=0x{}", "ab".repeat(16))), "{sent}");
        login
    }

    fn text(next: &Next) -> String {
        match next {
            Next::Send { text, .. } => String::from_utf8_lossy(text).replace('\0', " "),
            Next::Done(_) => "done".to_owned(),
        }
    }

    #[test]
    fn a_login_without_secret_goes_through_both_stages() {
        let (mut login, first) = Login::begin("iqn.t", "iqn.i", Proofs::default());
        assert!(text(&first).contains("InitiatorName=iqn.i TargetName=iqn.t"));
        let second = login.step(Some(1), false, b"AuthMethod=None\0").expect("operational");
        assert!(matches!(second, Next::Send { next: Some(Stage::FullFeature), .. }));
        let answer = b"MaxRecvDataSegmentLength=1048576\0InitialR2T=Yes\0ImmediateData=No\0";
        let Next::Done(agreed) = login.step(Some(3), false, answer).expect("done") else {
            panic!("the login is not over")
        };
        assert_eq!(agreed.max_xmit, 1_048_576);
        assert!(!agreed.immediate_data);
    }

    #[test]
    fn chap_is_answered() {
        let (mut login, first) = Login::begin("iqn.t", "iqn.i", one_way());
        assert!(text(&first).contains("AuthMethod=CHAP"));
        let second = login.step(None, false, b"AuthMethod=CHAP\0").expect("algorithm");
        assert_eq!(text(&second), "CHAP_A=5 ");
        let third =
            login.step(None, false, b"CHAP_A=5\0CHAP_I=7\0CHAP_C=0x0102\0").expect("answer");
        let expected = encode(&response_to(7, "secretsecret", &[1, 2]));
        assert_eq!(text(&third), format!("CHAP_N=n01 CHAP_R={expected} "));
        // It may not be asked to prove itself, and need not.
        assert!(login.step(Some(1), false, b"").is_ok());
    }

    #[test]
    fn a_target_that_skips_the_secret_is_not_trusted() {
        for answer in [&b"AuthMethod=None\0"[..], b""] {
            let (mut login, _) = Login::begin("iqn.t", "iqn.i", one_way());
            let error = login.step(Some(1), false, answer).expect_err("no secret");
            assert_eq!(error, LoginError::Method("None".to_owned()));
        }
        let (mut login, _) = Login::begin("iqn.t", "iqn.i", one_way());
        let error = login.step(Some(3), false, b"").expect_err("no stage is left out");
        assert!(matches!(error, LoginError::Protocol(_)));
    }

    #[test]
    fn a_target_that_knows_its_secret_is_trusted() {
        let response = encode(&response_to(5, "its secret", &[0xab; 16]));
        let proof = format!("CHAP_N=iqn.t\0CHAP_R={response}\0");
        let next = answered().step(Some(1), false, proof.as_bytes()).expect("operational");
        assert!(matches!(next, Next::Send { stage: Stage::Operational, .. }));
        // It may end the stage with a later answer.
        let mut login = answered();
        let asks = login.step(None, false, proof.as_bytes()).expect("it goes on");
        assert!(matches!(asks, Next::Send { stage: Stage::Security, .. }));
        assert!(login.step(Some(1), false, b"").is_ok());
    }

    #[test]
    fn a_target_that_does_not_know_its_secret_is_refused() {
        let with = |secret: &str| encode(&response_to(5, secret, &[0xab; 16]));
        for proof in [
            String::new(),
            format!("CHAP_N=iqn.t\0CHAP_R={}\0", with("secretsecret")),
            format!("CHAP_N=another\0CHAP_R={}\0", with("its secret")),
            format!("CHAP_R={}\0", with("its secret")),
        ] {
            let error = answered().step(Some(1), false, proof.as_bytes()).expect_err("false");
            assert_eq!(error, LoginError::Impostor, "{proof}");
        }
        // An answer before the question was sent is none.
        let question = Question { chap: chap("t", "s"), id: 5, challenge: [1; 16] };
        let proofs = Proofs { target: Some(question), ..one_way() };
        let (mut login, _) = Login::begin("iqn.t", "iqn.i", proofs);
        let early = format!("CHAP_N=t\0CHAP_R={}\0", encode(&response_to(5, "s", &[1; 16])));
        let error = login.step(None, false, early.as_bytes()).expect_err("nobody asked");
        assert_eq!(error, LoginError::Impostor);
    }

    #[test]
    fn text_may_come_in_parts_but_not_for_ever() {
        let (mut login, _) = Login::begin("iqn.t", "iqn.i", Proofs::default());
        let more = login.step(None, true, b"AuthMeth").expect("more");
        assert_eq!(text(&more), "");
        login.step(Some(1), false, b"od=None\0").expect("operational");
        let error = (0..20).find_map(|_| login.step(None, false, b"").err());
        assert!(matches!(error, Some(LoginError::Protocol(_))));
    }

    #[test]
    fn broken_challenges_are_refused() {
        for data in [
            &b"CHAP_A=7\0CHAP_I=1\0CHAP_C=0x00\0"[..],
            b"CHAP_A=5\0CHAP_I=999\0CHAP_C=0x00\0",
            b"CHAP_A=5\0CHAP_I=1\0CHAP_C=0xzz\0",
        ] {
            let (mut login, _) = Login::begin("iqn.t", "iqn.i", one_way());
            assert!(matches!(login.step(None, false, data), Err(LoginError::Protocol(_))));
        }
    }
}
