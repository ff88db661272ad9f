//! `[node.power]`: which driver, where its BMC is, where its password is, and which certificate it has.

use std::{collections::BTreeSet, net::IpAddr, path::Path};

use haas_api::names::Mac;

use super::{
    BmcPrivilege, CipherSuite, ConsoleBy, NetworkBoot, PowerSpec, RedfishSpec, SecretRef, TlsTrust,
};
use crate::config::reader::{At, Notes, Table, Value};

/// The UDP port of IPMI over LAN (`asf-rmcp`).
pub const IPMI_PORT: u16 = 623;
/// The longest name of a user (IPMI 2.0 section 22.28).
const IPMI_USER_MAX: usize = 16;
/// The TCP port of Redfish (HTTPS).
const REDFISH_PORT: u16 = 443;
/// What `driver` may say.
const DRIVERS: &str = "\"ipmi\", \"redfish\", \"exec\" or \"manual\"";

/// Whose table a layer is: an address belongs to one node only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Level {
    /// `[defaults]` or `[[group]]`.
    Shared,
    /// `[[node]]`.
    Node,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Driver {
    Ipmi,
    Redfish,
    Exec,
    Manual,
}

impl Driver {
    fn name(self) -> &'static str {
        match self {
            Self::Ipmi => "ipmi",
            Self::Redfish => "redfish",
            Self::Exec => "exec",
            Self::Manual => "manual",
        }
    }

    fn keys(self) -> &'static [&'static str] {
        match self {
            Self::Ipmi => &[
                "address",
                "port",
                "mac",
                "user",
                "password_file",
                "password_env",
                "kg_file",
                "kg_env",
                "privilege",
                "cipher_suite",
            ],
            Self::Redfish => &[
                "address",
                "port",
                "mac",
                "user",
                "password_file",
                "password_env",
                "fingerprint",
                "ca_file",
                "server_name",
                "system",
                "network_boot",
                "console",
            ],
            Self::Exec => &["command"],
            Self::Manual => &[],
        }
    }
}

/// What one `power` table says.
#[derive(Debug, Default, Clone)]
pub(super) struct PowerLayer {
    driver: Option<Driver>,
    address: Option<At<IpAddr>>,
    port: Option<u16>,
    mac: Option<At<Mac>>,
    user: Option<String>,
    password: Option<SecretRef>,
    kg: Option<SecretRef>,
    privilege: Option<BmcPrivilege>,
    cipher_suite: Option<CipherSuite>,
    tls: Option<TlsTrust>,
    server_name: Option<String>,
    system: Option<String>,
    network_boot: Option<NetworkBoot>,
    console: Option<ConsoleBy>,
    command: Option<Vec<String>>,
    // The keys that the table of highest rank holds, to refuse those that its driver never reads.
    own: Vec<(&'static str, At<()>)>,
    // The keys that any layer holds: what was there but wrong has been told, and is not missing.
    given: BTreeSet<&'static str>,
}

impl PowerLayer {
    pub(super) fn read(table: Table<'_>, level: Level, folder: &Path) -> Self {
        let drivers = [
            ("ipmi", Driver::Ipmi),
            ("redfish", Driver::Redfish),
            ("exec", Driver::Exec),
            ("manual", Driver::Manual),
        ];
        let mut layer =
            Self { driver: table.get("driver").and_then(|v| v.word(&drivers)), ..Self::default() };
        let is_redfish = layer.driver == Some(Driver::Redfish);
        let mut get = |key: &'static str| {
            let value = table.get(key)?;
            layer.own.push((key, value.at(())));
            layer.given.insert(key);
            Some(value)
        };
        if level == Level::Node {
            layer.address = get("address").and_then(|v| Some(v.at(v.parsed("an IP address")?)));
            layer.mac = get("mac").and_then(|v| Some(v.at(v.name()?)));
            layer.system = get("system").and_then(|v| v.text().map(str::to_owned));
        }
        // A certificate is one BMC's, authorities are many's.
        let fingerprint = if level == Level::Node { get("fingerprint") } else { None };
        layer.tls = tls(fingerprint, get("ca_file"), folder);
        layer.server_name = get("server_name").and_then(|v| v.with("a DNS name", dns_name));
        let boots = [("pxe", NetworkBoot::Pxe), ("http", NetworkBoot::Http)];
        layer.network_boot = get("network_boot").and_then(|v| v.word(&boots));
        layer.console = get("console").and_then(|v| v.word(&[("ipmi", ConsoleBy::Ipmi)]));
        layer.port = get("port").and_then(|v| v.number(1..=65_535)).and_then(|n| n.try_into().ok());
        layer.user = get("user").and_then(|v| {
            if is_redfish {
                // It may go as HTTP Basic, where a colon ends it (RFC 7617).
                let good = |b: u8| b.is_ascii_graphic() && b != b':';
                return v.with("1 to 64 ASCII characters without blanks and colons", |user| {
                    (user.len() <= 64 && user.bytes().all(good)).then(|| user.to_owned())
                });
            }
            v.with("1 to 16 ASCII characters", |user| {
                (user.len() <= IPMI_USER_MAX && user.is_ascii()).then(|| user.to_owned())
            })
        });
        layer.password = secret(get("password_file"), get("password_env"), "password_file", folder);
        layer.kg = secret(get("kg_file"), get("kg_env"), "kg_file", folder);
        let privileges =
            [("operator", BmcPrivilege::Operator), ("administrator", BmcPrivilege::Administrator)];
        layer.privilege = get("privilege").and_then(|v| v.word(&privileges));
        layer.cipher_suite = get("cipher_suite").and_then(|v| cipher_suite(&v));
        layer.command = get("command").and_then(|v| v.command());
        for (key, right) in [
            ("password", "password_file = \"FILE\" or password_env = \"VARIABLE\""),
            ("kg", "kg_file = \"FILE\" or kg_env = \"VARIABLE\""),
        ] {
            if let Some(plain) = table.forbidden(key) {
                layer.given.insert(if key == "kg" { "kg_file" } else { "password_file" });
                let _: Option<()> = plain.refuse("is a secret in plain text", right);
            }
        }
        table.refuse_unknown();
        layer
    }

    pub(super) fn over(self, below: Self) -> Self {
        Self {
            driver: self.driver.or(below.driver),
            address: self.address.or(below.address),
            port: self.port.or(below.port),
            mac: self.mac.or(below.mac),
            user: self.user.or(below.user),
            password: self.password.or(below.password),
            kg: self.kg.or(below.kg),
            privilege: self.privilege.or(below.privilege),
            cipher_suite: self.cipher_suite.or(below.cipher_suite),
            tls: self.tls.or(below.tls),
            server_name: self.server_name.or(below.server_name),
            system: self.system.or(below.system),
            network_boot: self.network_boot.or(below.network_boot),
            console: self.console.or(below.console),
            command: self.command.or(below.command),
            own: self.own,
            given: self.given.union(&below.given).copied().collect(),
        }
    }

    /// The whole that the layers give for a node whose table begins at `node`, and where its BMC
    /// is written.
    pub(super) fn finish(self, notes: &Notes<'_>, node: &Table<'_>) -> Option<PowerSpec> {
        let Some(driver) = self.driver else {
            if let Some((_, place)) = self.own.first() {
                notes.add(place.span.clone(), "node.power.driver", "is missing", DRIVERS);
            }
            return Some(PowerSpec::Manual);
        };
        for (key, place) in &self.own {
            if !driver.keys().contains(key) {
                let right = match driver.keys() {
                    [] => "no other key".to_owned(),
                    keys => format!("one of {}", keys.join(", ")),
                };
                let wrong = format!("is not read by the driver {:?}", driver.name());
                notes.add(place.span.clone(), &format!("node.power.{key}"), wrong, right);
            }
        }
        let missing = |key: &str, right: &str| {
            if self.given.contains(key) {
                return;
            }
            let wrong = format!("is missing, and the driver {:?} needs it", driver.name());
            node.refuse(&format!("node.power.{key}"), wrong, right);
        };
        match driver {
            Driver::Manual => Some(PowerSpec::Manual),
            Driver::Exec => {
                if self.command.is_none() {
                    missing("command", "a program and its arguments");
                }
                Some(PowerSpec::Exec { command: self.command? })
            }
            Driver::Redfish => {
                self.refuse_missing_account(&missing);
                if self.tls.is_none() && !self.given.contains("ca_file") {
                    missing(
                        "fingerprint",
                        "the SHA-256 of the BMC's certificate, which `haasctl node probe ADDRESS` shows, or \
                         ca_file = \"FILE\"",
                    );
                }
                let long = self.user.as_ref().is_some_and(|user| user.len() > IPMI_USER_MAX);
                if self.console == Some(ConsoleBy::Ipmi) && long {
                    let wrong = "is \"ipmi\", and IPMI takes no user of that length";
                    node.refuse("node.power.console", wrong, "a user of at most 16 characters");
                }
                Some(PowerSpec::Redfish(RedfishSpec {
                    address: self.address?.value,
                    port: self.port.unwrap_or(REDFISH_PORT),
                    mac: self.mac.map(|mac| mac.value),
                    user: self.user?,
                    password: self.password?,
                    tls: self.tls?,
                    server_name: self.server_name,
                    system: self.system,
                    network_boot: self.network_boot.unwrap_or_default(),
                    console: self.console.unwrap_or_default(),
                }))
            }
            Driver::Ipmi => {
                self.refuse_missing_account(&missing);
                Some(PowerSpec::Ipmi {
                    address: self.address?.value,
                    port: self.port.unwrap_or(IPMI_PORT),
                    mac: self.mac.map(|mac| mac.value),
                    user: self.user?,
                    password: self.password?,
                    kg: self.kg,
                    privilege: self.privilege.unwrap_or_default(),
                    cipher_suite: self.cipher_suite,
                })
            }
        }
    }

    fn refuse_missing_account(&self, missing: &dyn Fn(&str, &str)) {
        if self.address.is_none() {
            missing("address", "the BMC's IP address");
        }
        if self.user.is_none() {
            missing("user", "the BMC's account, here or in a group or in [defaults]");
        }
        if self.password.is_none() && !self.given.contains("password_env") {
            missing("password_file", "password_file = \"FILE\" or password_env = \"VARIABLE\"");
        }
    }

    /// Where this table names the BMC's MAC.
    pub(super) fn mac(&self) -> Option<&At<Mac>> {
        self.mac.as_ref()
    }

    /// Where this table names the BMC's address.
    pub(super) fn address(&self) -> Option<&At<IpAddr>> {
        self.address.as_ref()
    }
}

fn secret(
    file: Option<Value<'_>>,
    variable: Option<Value<'_>>,
    file_key: &str,
    folder: &Path,
) -> Option<SecretRef> {
    match (file, variable) {
        (None, None) => None,
        (Some(file), None) => Some(SecretRef::File(folder.join(file.text()?))),
        (None, Some(variable)) => variable.with("the name of an environment variable", |name| {
            let good = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
            name.bytes().all(good).then(|| SecretRef::Env(name.to_owned()))
        }),
        (Some(_), Some(variable)) => {
            variable.refuse(format!("stands beside {file_key}"), "one of the two")
        }
    }
}

fn tls(fingerprint: Option<Value<'_>>, file: Option<Value<'_>>, folder: &Path) -> Option<TlsTrust> {
    match (fingerprint, file) {
        (None, None) => None,
        (Some(value), None) => value.with("a SHA-256, 64 hexadecimal digits", |text| {
            let digits = text.replace(':', "").to_ascii_lowercase();
            let is_one = digits.len() == 64 && digits.bytes().all(|b| b.is_ascii_hexdigit());
            is_one.then_some(TlsTrust::Fingerprint(digits))
        }),
        (None, Some(file)) => Some(TlsTrust::CaFile(folder.join(file.text()?))),
        (Some(_), Some(file)) => file.refuse("stands beside fingerprint", "one of the two"),
    }
}

fn dns_name(text: &str) -> Option<String> {
    let good = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'.';
    let is_name = text.len() <= 253 && text.bytes().all(good) && !text.starts_with(['-', '.']);
    is_name.then(|| text.to_owned())
}

fn cipher_suite(value: &Value<'_>) -> Option<CipherSuite> {
    match value.number(3..=17)? {
        3 => Some(CipherSuite::Three),
        17 => Some(CipherSuite::Seventeen),
        other => value.refuse(format!("is {other}"), "3 or 17: the others are not safe"),
    }
}
