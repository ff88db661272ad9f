//! What does a BMC speak, and what may the account do there? Reads only, and says what to write into
//! nodes.toml.

use std::{
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use haas_api::bmc::{IpmiProbe, ProbeReport, RedfishProbe};
use ipmi_lan::{Account, Error, Fleet, Options, Privilege, Suites, command::GetChassisStatus};

use super::{
    PowerError,
    ipmi::{BmcFault, suites},
    redfish::{self, Login, Look, Trust},
};
use crate::{
    errors::chain,
    inventory::{PowerSpec, SecretRef},
    secret::Secret,
};

/// How long an answer to IPMI's first question may take.
const PING: Duration = Duration::from_secs(4);
/// How long each try of a privilege may take.
const LIMIT: Duration = Duration::from_secs(15);

/// What is looked at.
#[derive(Debug)]
pub struct Wanted {
    /// The BMC.
    pub address: IpAddr,
    /// Its UDP port for IPMI.
    pub ipmi_port: u16,
    /// Its TCP port for Redfish.
    pub redfish_port: u16,
    /// Whom to try.
    pub account: Option<Known>,
    /// The SHA-256 of its certificate, to which the account may be sent by Redfish.
    pub fingerprint: Option<String>,
}

/// An account, and where its password was found.
#[derive(Debug)]
pub struct Known {
    /// Its name.
    pub user: String,
    /// Its password.
    pub password: Secret<String>,
    /// Where nodes.toml has it, if it has it.
    pub place: Option<SecretRef>,
    /// K_g, for IPMI.
    pub kg: Option<Secret<String>>,
    /// The only cipher suite that the account may be shown to, for IPMI.
    suites: Suites,
    /// What the inventory says of the certificate, and for which name.
    tls: Option<(Trust, Option<String>)>,
    /// The Id of the node's system.
    system: Option<String>,
}

/// What cannot be looked at.
#[derive(Debug, thiserror::Error)]
pub enum Unknown {
    /// There is no address.
    #[error(
        "its power driver is {0:?}, which names no BMC; give the BMC's address in place of the node"
    )]
    NoBmc(&'static str),
    /// Its secrets.
    #[error(transparent)]
    Secret(#[from] PowerError),
}

impl Known {
    /// An account that somebody has typed.
    pub fn typed(user: String, password: Secret<String>) -> Self {
        let suites = Suites::Best;
        Self { user, password, place: None, kg: None, suites, tls: None, system: None }
    }
}

impl Wanted {
    /// The BMC of a node, with the account that its inventory names.
    ///
    /// # Errors
    /// When it names none, or the password cannot be read.
    pub fn of_node(spec: &PowerSpec, fingerprint: Option<String>) -> Result<Self, Unknown> {
        let secret = |bmc, secret: &SecretRef| {
            secret.read().map_err(|error| PowerError::Secret { bmc, error })
        };
        match spec {
            PowerSpec::Ipmi { address, port, user, password, kg, cipher_suite, .. } => {
                let bmc = SocketAddr::new(*address, *port);
                let account = Known {
                    user: user.clone(),
                    password: secret(bmc, password)?,
                    place: Some(password.clone()),
                    kg: kg.as_ref().map(|kg| secret(bmc, kg)).transpose()?,
                    suites: suites(*cipher_suite),
                    tls: None,
                    system: None,
                };
                let (ipmi_port, redfish_port) = (*port, 443);
                let account = Some(account);
                Ok(Self { address: *address, ipmi_port, redfish_port, account, fingerprint })
            }
            PowerSpec::Redfish(spec) => {
                let trust = spec.tls.read().map_err(|fault| PowerError::Redfish {
                    bmc: spec.bmc(),
                    tried: "look at it",
                    fault,
                })?;
                let account = Known {
                    user: spec.user.clone(),
                    password: secret(spec.bmc(), &spec.password)?,
                    place: Some(spec.password.clone()),
                    kg: None,
                    suites: Suites::Best,
                    tls: Some((trust, spec.server_name.clone())),
                    system: spec.system.clone(),
                };
                Ok(Self {
                    address: spec.address,
                    ipmi_port: 623,
                    redfish_port: spec.port,
                    account: Some(account),
                    fingerprint,
                })
            }
            PowerSpec::Exec { .. } | PowerSpec::Manual => Err(Unknown::NoBmc(spec.driver())),
        }
    }
}

/// Looks, which takes some seconds.
pub async fn probe(wanted: Wanted) -> ProbeReport {
    let (ipmi, redfish) = tokio::join!(ipmi(&wanted), look(&wanted));
    let (advice, stanza) = conclude(&wanted, &ipmi, &redfish);
    ProbeReport { address: wanted.address, ipmi, redfish, advice, stanza }
}

async fn look(wanted: &Wanted) -> RedfishProbe {
    let bmc = SocketAddr::new(wanted.address, wanted.redfish_port);
    let login = wanted.account.as_ref().and_then(|account| {
        let pinned = wanted.fingerprint.clone().map(|pinned| (Trust::Fingerprint(pinned), None));
        let (trust, server_name) = pinned.or_else(|| account.tls.clone())?;
        let (user, password) = (account.user.clone(), account.password.clone());
        Some(Login { bmc, user, password, trust, server_name })
    });
    let system = wanted.account.as_ref().and_then(|account| account.system.clone());
    redfish::look(Look { bmc, login, system }).await
}

async fn ipmi(wanted: &Wanted) -> IpmiProbe {
    let bmc = SocketAddr::new(wanted.address, wanted.ipmi_port);
    let mut probe = IpmiProbe::default();
    match ipmi_lan::answers(bmc, PING).await {
        Ok(true) => probe.answers = true,
        Ok(false) => {
            probe.error = Some("no answer".to_owned());
            return probe;
        }
        Err(error) => {
            probe.error = Some(error.to_string());
            return probe;
        }
    }
    let Some(known) = &wanted.account else { return probe };
    let account = Account::new(&known.user, known.password.expose());
    let account = account.map(|account| account.with_suites(known.suites));
    let account = account.and_then(|account| match &known.kg {
        Some(kg) => account.with_kg(kg.expose()),
        None => Ok(account),
    });
    let account = match account {
        Ok(account) => account,
        Err(error) => {
            probe.error = Some(error.to_string());
            return probe;
        }
    };
    // Sessions of its own: those that switch power keep theirs.
    let fleet = Fleet::new(Options::default());
    for (privilege, name) in [
        (Privilege::Administrator, "administrator"),
        (Privilege::Operator, "operator"),
        (Privilege::User, "user"),
    ] {
        let account = account.clone().with_privilege(privilege);
        let asked = fleet.bmc(bmc, &account).ask(GetChassisStatus, Instant::now() + LIMIT).await;
        match asked {
            Ok(_) => {
                probe.privilege = Some(name.to_owned());
                probe.error = None;
                break;
            }
            Err(error) => {
                let is_privilege = matches!(error, Error::Privilege(_));
                probe.error = Some(chain(&BmcFault::of(error, LIMIT)));
                if !is_privilege {
                    break;
                }
            }
        }
    }
    fleet.close().await;
    probe
}

/// What follows from what was found, and what to write into nodes.toml.
fn conclude(
    wanted: &Wanted,
    ipmi: &IpmiProbe,
    redfish: &RedfishProbe,
) -> (Vec<String>, Option<String>) {
    let mut advice = Vec::new();
    let offers = |kind: &str| redfish.resets.iter().any(|reset| reset == kind);
    let redfish_works = redfish.verified
        && redfish.error.is_none()
        && redfish.may_switch != Some(false)
        && (redfish.resets.is_empty()
            || (offers("ForceOff") && (offers("On") || offers("ForceOn"))));
    let ipmi_works = matches!(ipmi.privilege.as_deref(), Some("administrator" | "operator"));
    if !ipmi.answers && !redfish.answers {
        advice.push(
            "Nothing answers: check address, cable and VLAN, and that the BMC has IPMI over LAN or Redfish \
             enabled."
                .to_owned(),
        );
    }
    if wanted.account.is_none() && (ipmi.answers || redfish.answers) {
        advice.push(
            "Give an account to see what it may do: --user NAME --password-file FILE.".to_owned(),
        );
    }
    if let (true, Some(fingerprint)) = (redfish.answers, &redfish.fingerprint) {
        if !redfish.verified && redfish.error.is_none() {
            advice.push(format!(
                "The certificate is not verified, so no account was sent to Redfish. Compare its fingerprint at the \
                 BMC itself (its web page, or its console); if it is the same, look again with --fingerprint \
                 {fingerprint}"
            ));
        }
        if redfish.may_switch == Some(false) {
            advice.push(
                "By Redfish the account may only look; give it the role Operator.".to_owned(),
            );
        }
        if redfish.verified && redfish.systems.len() > 1 {
            advice.push(format!(
                "The BMC has several systems ({}): `system` says which one is the node.",
                redfish.systems.join(", ")
            ));
        }
    }
    if ipmi.privilege.as_deref() == Some("user") {
        advice.push(
            "By IPMI the account may only look; raise its privilege limit on the LAN channel to OPERATOR."
                .to_owned(),
        );
    }
    if redfish_works && ipmi_works {
        advice.push(
            "Both work. Redfish is the better protected one; IPMI is faster and puts less load on the BMC.".to_owned(),
        );
    }
    let stanza = match (redfish_works, ipmi_works) {
        (true, _) => Some(redfish_stanza(wanted, redfish)),
        (false, true) => Some(ipmi_stanza(wanted, ipmi)),
        (false, false) => None,
    };
    (advice, stanza)
}

fn redfish_stanza(wanted: &Wanted, redfish: &RedfishProbe) -> String {
    let mut lines = head("redfish", wanted, wanted.redfish_port, 443);
    if let Some(fingerprint) = &redfish.fingerprint {
        lines.push(format!("fingerprint = {fingerprint:?}"));
    }
    let known = wanted.account.as_ref().and_then(|account| account.system.as_ref());
    match (known, redfish.systems.as_slice()) {
        (Some(system), _) => lines.push(format!("system = {system:?}")),
        (None, [_, _, ..]) => lines.push(format!("system = {:?}", redfish.systems[0])),
        (None, _) => {}
    }
    lines.join("\n") + "\n"
}

fn ipmi_stanza(wanted: &Wanted, ipmi: &IpmiProbe) -> String {
    let mut lines = head("ipmi", wanted, wanted.ipmi_port, 623);
    if ipmi.privilege.as_deref() == Some("operator") {
        lines.push("privilege = \"operator\"".to_owned());
    }
    lines.join("\n") + "\n"
}

fn head(driver: &str, wanted: &Wanted, port: u16, usual: u16) -> Vec<String> {
    let mut lines = vec![
        "[node.power]".to_owned(),
        format!("driver = {driver:?}"),
        format!("address = \"{}\"", wanted.address),
    ];
    if port != usual {
        lines.push(format!("port = {port}"));
    }
    if let Some(account) = &wanted.account {
        lines.push(format!("user = {:?}", account.user));
        lines.push(match &account.place {
            Some(SecretRef::Env(name)) => format!("password_env = {name:?}"),
            Some(SecretRef::File(path)) => {
                format!("password_file = {:?}", path.display().to_string())
            }
            None => "password_file = \"/etc/haas/secrets/bmc\"".to_owned(),
        });
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted() -> Wanted {
        let account = Known::typed("haas".to_owned(), Secret::new("hunter2".to_owned()));
        Wanted {
            address: "10.9.0.5".parse().expect("an address"),
            ipmi_port: 623,
            redfish_port: 443,
            account: Some(account),
            fingerprint: None,
        }
    }

    fn verified() -> RedfishProbe {
        RedfishProbe {
            answers: true,
            verified: true,
            fingerprint: Some("ab".repeat(32)),
            may_switch: Some(true),
            systems: vec!["1".to_owned()],
            resets: ["On", "ForceOff"].map(str::to_owned).to_vec(),
            ..RedfishProbe::default()
        }
    }

    #[test]
    fn what_works_is_what_is_to_be_written_and_it_is_an_inventory() {
        let operator = IpmiProbe {
            answers: true,
            privilege: Some("operator".to_owned()),
            ..IpmiProbe::default()
        };
        let nothing = IpmiProbe::default();
        for (ipmi, redfish, driver) in [
            (&nothing, verified(), "redfish"),
            (&operator, verified(), "redfish"),
            (&operator, RedfishProbe::default(), "ipmi"),
            (&operator, RedfishProbe { may_switch: Some(false), ..verified() }, "ipmi"),
            (&operator, RedfishProbe { resets: vec!["On".to_owned()], ..verified() }, "ipmi"),
        ] {
            let (_, stanza) = conclude(&wanted(), ipmi, &redfish);
            let stanza = stanza.expect("one works");
            let text = format!("[[node]]\nname='n1'\nmac='52:54:00:00:00:01'\n{stanza}");
            let parsed = crate::inventory::Inventory::parse(&text, "/x/nodes.toml", &[]);
            let nodes = parsed.unwrap_or_else(|e| panic!("{stanza}: {e}")).nodes;
            assert_eq!(nodes[0].power.driver(), driver);
            assert!(!stanza.contains("hunter2"));
        }
    }

    #[test]
    fn a_certificate_that_is_not_verified_is_to_be_compared_and_nothing_to_be_written() {
        let redfish = RedfishProbe { verified: false, resets: Vec::new(), ..verified() };
        let (advice, stanza) = conclude(&wanted(), &IpmiProbe::default(), &redfish);
        assert_eq!(stanza, None);
        assert!(advice[0].contains(&format!("--fingerprint {}", "ab".repeat(32))), "{advice:?}");
    }
}
