//! What a BMC keeps of its own accord, by IPMI: accounts, network, firmware. What it refuses to tell is
//! left out.

use std::{collections::BTreeMap, net::Ipv4Addr, time::Duration};

use haas_api::baseline::{Facts, Part};
use ipmi_lan::{
    Error,
    command::{
        GetChannelAccess, GetLanParameter, GetOwnChannel, GetUserAccess, GetUserName, LanParameter,
        LanValue, UserAccess,
    },
    ipmi_rs_core::{app::GetDeviceId, connection::IpmiCommand},
};

use super::{super::PowerError, Ipmi, look::Gentle};

/// How long all of it may take: some dozen commands.
const LIMIT: Duration = Duration::from_secs(60);

/// The channel of a BMC that does not say over which one it is asked.
const USUAL_CHANNEL: u8 = 1;

impl Ipmi {
    /// Reads all of it.
    pub(in super::super) async fn baseline(&self) -> Result<Facts, PowerError> {
        let tried = "read its accounts and settings";
        self.gently(tried, LIMIT, |gentle| async move { read(&gentle).await }).await
    }
}

async fn read(bmc: &Gentle) -> Result<Facts, Error> {
    let device = bmc.ask(GetDeviceId).await?;
    let version = format!("{}.{:02}", device.major_fw_revision, device.minor_fw_revision);
    let channel = told(bmc, GetOwnChannel).await?.unwrap_or(USUAL_CHANNEL);
    let mut facts =
        Facts::from([(Part::BmcFirmware, BTreeMap::from([("of the BMC".to_owned(), version)]))]);
    facts.extend(users(bmc, channel).await?.map(|users| (Part::BmcUsers, users)));
    facts.extend(lan(bmc, channel).await?.map(|lan| (Part::BmcLan, lan)));
    Ok(facts)
}

async fn users(bmc: &Gentle, channel: u8) -> Result<Option<BTreeMap<String, String>>, Error> {
    let mut users = BTreeMap::new();
    let (mut number, mut room) = (1, 1);
    while number <= room {
        let Some(access) = told(bmc, GetUserAccess { channel, user: number }).await? else {
            // One that tells the first tells all, but for numbers that it has no room for.
            if number == 1 {
                return Ok(None);
            }
            break;
        };
        room = access.room;
        let name = told(bmc, GetUserName { user: number }).await?.unwrap_or_default();
        if !is_free(&name, access) {
            users.insert(number.to_string(), account(&name, access));
        }
        number += 1;
    }
    Ok(Some(users))
}

/// Whether nobody can come in by this number.
fn is_free(name: &str, access: UserAccess) -> bool {
    name.is_empty() && (access.enabled == Some(false) || matches!(access.privilege, 0 | 0x0F))
}

fn account(name: &str, access: UserAccess) -> String {
    let name = if name.is_empty() { "(without a name)" } else { name };
    let enabled = match access.enabled {
        Some(true) => ", enabled",
        Some(false) => ", disabled",
        None => "",
    };
    let messaging = if access.messaging { "" } else { ", no commands" };
    format!("{name}, {}{enabled}{messaging}", privilege(access.privilege))
}

fn privilege(level: u8) -> String {
    match level {
        0 => "unspecified".to_owned(),
        1 => "callback".to_owned(),
        2 => "user".to_owned(),
        3 => "operator".to_owned(),
        4 => "administrator".to_owned(),
        5 => "OEM".to_owned(),
        0x0F => "no access".to_owned(),
        other => format!("privilege {other}"),
    }
}

async fn lan(bmc: &Gentle, channel: u8) -> Result<Option<BTreeMap<String, String>>, Error> {
    let get = async |parameter| told(bmc, GetLanParameter { channel, parameter }).await;
    let mut lan = BTreeMap::new();
    let mut add = |name: &str, value: Option<String>| {
        lan.extend(value.map(|value| (name.to_owned(), value)));
    };
    let source = get(LanParameter::Source).await?.and_then(|value| value.source());
    add("address from", source.map(str::to_owned));
    // What DHCP gives may be another one tomorrow.
    if source != Some("DHCP") {
        for (name, parameter) in [
            ("address", LanParameter::Address),
            ("mask", LanParameter::Mask),
            ("gateway", LanParameter::Gateway),
        ] {
            let address = get(parameter).await?.and_then(|value| value.address());
            add(name, address.as_ref().map(Ipv4Addr::to_string));
        }
    }
    let vlan = get(LanParameter::Vlan).await?.and_then(|value| value.vlan());
    add("VLAN", vlan.map(|id| id.map_or_else(|| "none".to_owned(), |id| id.to_string())));
    let suites = get(LanParameter::SuitePrivileges).await?;
    add("privileges of cipher suites", suites.as_ref().and_then(suite_levels));
    let access = told(bmc, GetChannelAccess { channel }).await?;
    add(
        "who may come in",
        access.map(|access| {
            let mode = match access.mode {
                0 => "nobody",
                1 => "before the system runs",
                2 => "always",
                _ => "shared",
            };
            format!("{mode}, up to {}", privilege(access.limit))
        }),
    );
    Ok((!lan.is_empty()).then_some(lan))
}

/// One letter per suite, as tools write them: X for none, then c, u, o, a, O.
fn suite_levels(value: &LanValue) -> Option<String> {
    let letter = |level: u8| match level {
        1 => 'c',
        2 => 'u',
        3 => 'o',
        4 => 'a',
        5 => 'O',
        _ => 'X',
    };
    Some(value.suite_privileges()?.into_iter().map(letter).collect())
}

/// None where the BMC does not know the command, or does not let this account use it.
async fn told<C: IpmiCommand>(bmc: &Gentle, command: C) -> Result<Option<C::Output>, Error> {
    match bmc.ask(command).await {
        Ok(answer) => Ok(Some(answer)),
        Err(Error::Refused { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}
