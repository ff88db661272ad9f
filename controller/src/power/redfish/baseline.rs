//! What a BMC keeps of its own accord, by Redfish: accounts, network, firmware. What it does not let be
//! seen is left out.

use std::collections::BTreeMap;

use haas_api::baseline::{Facts, Part};
use serde_json::Value;

use super::{
    fault::RedfishFault,
    parts::{is_there, path, text},
    session::{Link, id},
};

/// Resources of one kind that are read at most.
const MOST: usize = 64;

type Named = BTreeMap<String, String>;

/// Reads all of it.
pub(super) async fn read(link: &mut Link, name: Option<&str>) -> Result<Facts, RedfishFault> {
    let root = link.root().await?.body;
    let (_, system) = link.system(name).await?;
    let mut firmware = Named::new();
    firmware.extend(
        text(&system.body["BiosVersion"]).map(|version| ("of the machine".to_owned(), version)),
    );
    let mut lan = Named::new();
    for manager in parts(link, &root["Managers"]).await? {
        let of = name_of(&manager);
        firmware.extend(text(&manager["FirmwareVersion"]).map(|v| (format!("of {of}"), v)));
        for interface in parts(link, &manager["EthernetInterfaces"]).await? {
            lan.insert(format!("{of} {}", name_of(&interface)), network(&interface));
        }
    }
    let mut facts = Facts::new();
    facts.extend(users(link, &root["AccountService"]).await?.map(|users| (Part::BmcUsers, users)));
    facts.extend((!lan.is_empty()).then_some((Part::BmcLan, lan)));
    facts.extend((!firmware.is_empty()).then_some((Part::BmcFirmware, firmware)));
    Ok(facts)
}

/// None where they are not shown: there is at least the account that asks.
async fn users(link: &mut Link, service: &Value) -> Result<Option<Named>, RedfishFault> {
    let Some(service) = path(service) else { return Ok(None) };
    let Some(service) = part(link, &service).await? else { return Ok(None) };
    let mut users = Named::new();
    for account in parts(link, &service["Accounts"]).await? {
        // Some list every place that an account could have.
        let Some(name) = text(&account["UserName"]) else { continue };
        let role = text(&account["RoleId"]).unwrap_or_else(|| "no role".to_owned());
        let enabled = match account["Enabled"].as_bool() {
            Some(true) => ", enabled",
            Some(false) => ", disabled",
            None => "",
        };
        users.insert(name_of(&account), format!("{name}, {role}{enabled}"));
    }
    Ok((!users.is_empty()).then_some(users))
}

/// How an interface is in its network. What another machine gives it may be another one tomorrow.
fn network(interface: &Value) -> String {
    let mut words = Vec::new();
    for address in interface["IPv4Addresses"].as_array().into_iter().flatten() {
        let origin = text(&address["AddressOrigin"]).unwrap_or_else(|| "unknown".to_owned());
        if matches!(origin.as_str(), "DHCP" | "BOOTP" | "IPv4LinkLocal") {
            words.push(format!("address by {origin}"));
            continue;
        }
        let get = |key: &str| text(&address[key]).unwrap_or_else(|| "none".to_owned());
        let (at, mask, gateway) = (get("Address"), get("SubnetMask"), get("Gateway"));
        words.push(format!("{at}/{mask} via {gateway} ({origin})"));
    }
    let vlan = &interface["VLAN"];
    if vlan["VLANEnable"].as_bool() == Some(true) {
        words.push(format!("VLAN {}", vlan["VLANId"]));
    }
    if interface["InterfaceEnabled"].as_bool() == Some(false) {
        words.push("disabled".to_owned());
    }
    if words.is_empty() { "no address".to_owned() } else { words.join(", ") }
}

/// The members of the collection that a resource links to; none where it is not shown.
async fn parts(link: &mut Link, collection: &Value) -> Result<Vec<Value>, RedfishFault> {
    let Some(collection) = path(collection) else { return Ok(Vec::new()) };
    let Some(members) = shown(link.members(&collection).await)? else { return Ok(Vec::new()) };
    let mut parts = Vec::new();
    for path in members.into_iter().take(MOST) {
        parts.extend(part(link, &path).await?);
    }
    Ok(parts)
}

async fn part(link: &mut Link, path: &str) -> Result<Option<Value>, RedfishFault> {
    Ok(shown(link.get(path).await)?.map(|answer| answer.body).filter(is_there))
}

/// None where this is not for the account to see. Whatever may be another time is a fault, or it would
/// look as if it had gone.
fn shown<T>(answer: Result<T, RedfishFault>) -> Result<Option<T>, RedfishFault> {
    match answer {
        Ok(answer) => Ok(Some(answer)),
        Err(RedfishFault::Rejected(_) | RedfishFault::TooLittle(_)) => Ok(None),
        Err(fault) => Err(fault),
    }
}

fn name_of(part: &Value) -> String {
    let last = part["@odata.id"].as_str().map(id).map(str::to_owned);
    text(&part["Id"]).or(last).unwrap_or_else(|| "one".to_owned())
}
