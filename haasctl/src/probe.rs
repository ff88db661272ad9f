//! `node probe`: what a BMC speaks, what the account may do there, and what to write into nodes.toml.

use std::{net::IpAddr, time::Duration};

use clap::Args;
use haas_api::{
    bmc::{Hardware, Probe, ProbeAccount, ProbeReport, ProbeRequest, ProbeTarget},
    client::Client,
    names::NodeName,
};

use crate::{
    cli::Session,
    error::Error,
    format,
    login::PasswordFile,
    table::{Table, or_dash},
};

/// How often it is asked whether haasd has done.
const PAUSE: Duration = Duration::from_millis(500);
/// Longer than haasd takes.
const TRIES: u32 = 600;

#[derive(Debug, Args)]
pub(crate) struct ProbeArgs {
    /// A node, whose account the inventory names; or the IP address of a BMC.
    target: String,
    /// The account to try at an address. Its password is asked for, or read from `--password-file`.
    #[arg(long)]
    user: Option<String>,
    #[command(flatten)]
    password: PasswordFile,
    /// SHA-256 of the BMC's certificate, compared at the BMC: the account is sent to Redfish only then.
    #[arg(long)]
    fingerprint: Option<String>,
    /// The TCP port of Redfish at an address, 443.
    #[arg(long)]
    redfish_port: Option<u16>,
    /// The UDP port of IPMI at an address, 623.
    #[arg(long)]
    ipmi_port: Option<u16>,
}

impl ProbeArgs {
    pub(crate) async fn run(self, session: &Session<'_>) -> Result<(), Error> {
        let client = session.client()?;
        let target = match self.target.parse::<IpAddr>() {
            Ok(address) => self.address(address)?,
            Err(_) => self.node()?,
        };
        let fingerprint = self.fingerprint.clone();
        let begun = client.begin_probe(&ProbeRequest { target, fingerprint }).await?;
        let Some(report) = found(&client, &begun).await? else {
            return Err(Error::Failed(
                "haasd has not ended its look; is it overloaded?".to_owned(),
            ));
        };
        session.out.show_text(&report, || text(&report))
    }

    fn address(&self, address: IpAddr) -> Result<ProbeTarget, Error> {
        let account = match &self.user {
            Some(user) => {
                let password = self.password.read(&format!("Password of {user} at {address}: "))?;
                Some(ProbeAccount { user: user.clone(), password })
            }
            None if !self.password.is_asked() => {
                return Err(Error::Usage("a password is somebody's: give --user too".to_owned()));
            }
            None => None,
        };
        let (redfish_port, ipmi_port) = (self.redfish_port, self.ipmi_port);
        Ok(ProbeTarget::Address { address, account, redfish_port, ipmi_port })
    }

    fn node(&self) -> Result<ProbeTarget, Error> {
        let node: NodeName = self.target.parse().map_err(|e| {
            Error::Usage(format!(
                "{:?} is neither an IP address nor a node's name: {e}",
                self.target
            ))
        })?;
        let given = self.user.is_some() || !self.password.is_asked();
        if given || self.redfish_port.is_some() || self.ipmi_port.is_some() {
            return Err(Error::Usage(format!(
                "{node}'s account and ports stand in the inventory; give the BMC's address to try others"
            )));
        }
        Ok(ProbeTarget::Node { node })
    }
}

async fn found(client: &Client, begun: &Probe) -> Result<Option<ProbeReport>, Error> {
    for _ in 0..TRIES {
        if let Some(report) = client.probe(&begun.id).await?.report {
            return Ok(Some(report));
        }
        tokio::time::sleep(PAUSE).await;
    }
    Ok(None)
}

fn text(report: &ProbeReport) -> String {
    let mut table = Table::pairs();
    let answers = |answers| if answers { "answers" } else { "does not answer" };
    let ProbeReport { ipmi, redfish, .. } = report;
    table.pair("bmc", report.address);
    table.pair("ipmi", answers(ipmi.answers));
    table.pair("ipmi privilege", or_dash(ipmi.privilege.as_deref()));
    if let Some(error) = &ipmi.error {
        table.pair("ipmi error", error);
    }
    table.pair("redfish", answers(redfish.answers));
    table.pair("fingerprint", or_dash(redfish.fingerprint.as_deref()));
    table.pair("verified", if redfish.verified { "yes" } else { "no" });
    for (name, value) in [
        ("vendor", &redfish.vendor),
        ("product", &redfish.product),
        ("redfish version", &redfish.version),
        ("role", &redfish.role),
    ] {
        if let Some(value) = value {
            table.pair(name, value);
        }
    }
    let rights =
        redfish.may_switch.map(|may| if may { "may switch power" } else { "may only look" });
    if let Some(rights) = rights {
        table.pair("rights", rights);
    }
    for (name, values) in [
        ("systems", &redfish.systems),
        ("resets", &redfish.resets),
        ("boot targets", &redfish.boot_targets),
    ] {
        if !values.is_empty() {
            table.pair(name, values.join(", "));
        }
    }
    if let Some(hardware) = &redfish.hardware {
        show_hardware(&mut table, hardware);
    }
    if let Some(error) = &redfish.error {
        table.pair("redfish error", error);
    }
    let mut text = table.render(None, false);
    for advice in &report.advice {
        text.push_str(&format!("\n{advice}\n"));
    }
    if let Some(stanza) = &report.stanza {
        text.push_str(&format!("\n# For nodes.toml:\n{stanza}"));
    }
    text.trim_end().to_owned()
}

fn show_hardware(table: &mut Table, hardware: &Hardware) {
    let words = [&hardware.manufacturer, &hardware.model, &hardware.serial];
    let words: Vec<_> = words.into_iter().flatten().map(String::as_str).collect();
    table.pair("system", words.join(" "));
    for cpu in &hardware.cpus {
        let cores = cpu.cores.map(|cores| format!(", {cores} cores")).unwrap_or_default();
        let model = cpu.model.as_deref().unwrap_or("?");
        table.pair("cpu", format!("{}: {model}{cores}", cpu.socket));
    }
    let total: u64 = hardware.memory.iter().filter_map(|module| module.size).sum();
    if total > 0 {
        let modules = hardware.memory.len();
        table.pair("memory", format!("{} in {modules} modules", format::bytes(total)));
    }
    for drive in &hardware.drives {
        let size = drive.size.map(format::bytes).unwrap_or_default();
        let words = [drive.model.as_deref(), drive.serial.as_deref(), Some(size.as_str())];
        let words: Vec<_> = words.into_iter().flatten().filter(|word| !word.is_empty()).collect();
        table.pair("drive", format!("{}: {}", drive.name, words.join(" ")));
    }
    for nic in &hardware.nics {
        table.pair("nic", format!("{}: {}", nic.name, nic.mac));
    }
}

#[cfg(test)]
mod tests {
    use haas_api::bmc::{IpmiProbe, RedfishProbe};

    use super::*;

    #[test]
    fn a_look_ends_with_what_to_write() {
        let report = ProbeReport {
            address: "10.9.0.5".parse().expect("an address"),
            ipmi: IpmiProbe { answers: true, privilege: Some("operator".to_owned()), error: None },
            redfish: RedfishProbe {
                error: Some("no answer".to_owned()),
                ..RedfishProbe::default()
            },
            advice: vec!["Do this.".to_owned()],
            stanza: Some("[node.power]\ndriver = \"ipmi\"\n".to_owned()),
        };
        let text = text(&report);
        assert!(text.starts_with("bmc             10.9.0.5\n"), "{text}");
        assert!(text.contains("ipmi privilege  operator\n"), "{text}");
        assert!(text.contains("redfish error   no answer\n"), "{text}");
        assert!(
            text.ends_with("\nDo this.\n\n# For nodes.toml:\n[node.power]\ndriver = \"ipmi\""),
            "{text}"
        );
    }
}
