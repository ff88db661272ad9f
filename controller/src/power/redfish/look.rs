//! A look at a BMC of which little is known: who answers, with which certificate, and what the account may do.
//! Reads only. The account is sent only if the certificate is one that was named before.

use std::{net::SocketAddr, sync::Arc, time::Instant};

use haas_api::bmc::RedfishProbe;
use serde_json::Value;
use tokio::sync::Semaphore;

use super::{
    FLEET, HARDWARE_LIMIT, LIMIT, Options,
    fault::RedfishFault,
    hardware,
    http::path_of,
    orders::{RESET, offered, words},
    session::{Link, Login, id},
    trust::Trust,
};
use crate::secret::Secret;

/// Accounts that are looked through for the one that is used.
const ACCOUNTS_MAX: usize = 32;

/// What is known before.
#[derive(Debug)]
pub(in super::super) struct Look {
    pub(in super::super) bmc: SocketAddr,
    /// The account, and the certificate to which it may be sent.
    pub(in super::super) login: Option<Login>,
    pub(in super::super) system: Option<String>,
}

/// Looks.
pub(in super::super) async fn look(wanted: Look) -> RedfishProbe {
    let mut probe = RedfishProbe::default();
    if let Err(fault) = all(&mut probe, wanted).await {
        probe.error = Some(fault.to_string());
    }
    probe
}

async fn all(probe: &mut RedfishProbe, wanted: Look) -> Result<(), RedfishFault> {
    let Look { bmc, login, system } = wanted;
    let name = login.as_ref().and_then(|login| login.server_name.clone());
    // First the certificate alone, then what anybody may see behind it.
    let mut first = stranger(bmc, Trust::Look, name.clone())?;
    let fault = first.root().await.err();
    let Some(fingerprint) = first.fingerprint() else {
        return Err(fault.unwrap_or(RedfishFault::Silent));
    };
    probe.fingerprint = Some(fingerprint.clone());
    let root = stranger(bmc, Trust::Fingerprint(fingerprint), name)?.root().await?.body;
    probe.answers = true;
    let text =
        |key: &str| root[key].as_str().map(|text| text.chars().take(100).collect::<String>());
    probe.vendor = text("Vendor");
    probe.product = text("Product");
    probe.version = text("RedfishVersion");

    let Some(login) = login else { return Ok(()) };
    let user = login.user.clone();
    let mut call = FLEET.call(login, Instant::now() + HARDWARE_LIMIT).await?;
    let outcome = inside(probe, call.link(), &root, &user, system.as_deref()).await;
    call.end(outcome)
}

/// A link without an account.
fn stranger(
    bmc: SocketAddr,
    trust: Trust,
    server_name: Option<String>,
) -> Result<Link, RedfishFault> {
    let login = Login {
        bmc,
        user: String::new(),
        password: Secret::new(String::new()),
        trust,
        server_name,
    };
    let deadline = Instant::now() + LIMIT;
    Link::new(login, Options::default(), Arc::new(Semaphore::new(1)), deadline)
}

/// What the account may see and do.
async fn inside(
    probe: &mut RedfishProbe,
    link: &mut Link,
    root: &Value,
    user: &str,
    name: Option<&str>,
) -> Result<(), RedfishFault> {
    let systems = root.pointer("/Systems/@odata.id").and_then(Value::as_str).and_then(path_of);
    let systems =
        link.members(&systems.unwrap_or_else(|| "/redfish/v1/Systems".to_owned())).await?;
    // The certificate was accepted, and the account too.
    probe.verified = true;
    probe.systems = systems.iter().map(|path| id(path).to_owned()).collect();
    if let Some((role, may_switch)) = role(link, root, user).await {
        probe.role = Some(role);
        probe.may_switch = may_switch;
    }
    let (_, system) = link.system(name).await?;
    probe.resets = offered(link, &system.body, RESET).await?;
    let key = "BootSourceOverrideTarget@Redfish.AllowableValues";
    probe.boot_targets = words(&system.body["Boot"][key]);
    probe.hardware = Some(hardware::read(link, name).await?);
    Ok(())
}

/// The account's role, and whether it may switch power (DSP0266, "Privilege model": a reset needs
/// ConfigureComponents). None if the BMC does not let it be seen.
async fn role(link: &mut Link, root: &Value, user: &str) -> Option<(String, Option<bool>)> {
    let service = path_of(root.pointer("/AccountService/@odata.id")?.as_str()?)?;
    let service = link.get(&service).await.ok()?.body;
    let accounts = path_of(service.pointer("/Accounts/@odata.id")?.as_str()?)?;
    for path in link.members(&accounts).await.ok()?.into_iter().take(ACCOUNTS_MAX) {
        // Others' accounts may be none of ours to see.
        let Ok(account) = link.get(&path).await else { continue };
        if account.body["UserName"] != user {
            continue;
        }
        let role = account.body["RoleId"].as_str()?.to_owned();
        let may_switch = match role.as_str() {
            "Administrator" | "Operator" => Some(true),
            "ReadOnly" | "NoAccess" | "None" => Some(false),
            _ => {
                let link_to = account.body.pointer("/Links/Role/@odata.id");
                match link_to.and_then(Value::as_str).and_then(path_of) {
                    Some(path) => link.get(&path).await.ok().map(|role| {
                        words(&role.body["AssignedPrivileges"])
                            .iter()
                            .any(|p| p == "ConfigureComponents")
                    }),
                    None => None,
                }
            }
        };
        return Some((role, may_switch));
    }
    None
}
