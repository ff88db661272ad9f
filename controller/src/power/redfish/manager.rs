//! The BMC itself, which Redfish calls a manager: which one is a system's, and starting it anew.

use serde_json::{Value, json};

use super::{
    fault::RedfishFault,
    orders::{offered, target},
    parts::{Ask, linked, page, path, resolve},
    session::Link,
};

const RESET: &str = "Manager.Reset";
/// What it is asked for: each BMC knows one of them, and some know only the first.
const KINDS: [&str; 2] = ["GracefulRestart", "ForceRestart"];

/// The manager of a system: the one that the system names, or the first that there is.
pub(super) async fn of(ask: &mut impl Ask, system: &Value) -> Result<Option<Value>, RedfishFault> {
    let named = system.pointer("/Links/ManagedBy/0").unwrap_or(&Value::Null);
    if let Some(manager) = linked(ask, named).await? {
        return Ok(Some(manager));
    }
    let root = ask.root().await?.body;
    let Some(path) = path(&root["Managers"]) else { return Ok(None) };
    let Some(page) = page(ask, &path).await? else { return Ok(None) };
    let mut first: Vec<_> = page.members.into_iter().take(1).collect();
    resolve(ask, &mut first).await?;
    Ok(first.pop())
}

/// Starts it anew. The system that it switches is not touched. Its answer may be lost, since it starts at
/// once.
pub(super) async fn reset(link: &mut Link, name: Option<&str>) -> Result<(), RedfishFault> {
    const WANTED: &str = "to be started anew";
    let (_, system) = link.system(name).await?;
    let manager = of(link, &system.body).await?;
    let missing =
        || RedfishFault::NotOffered { wanted: WANTED, offered: vec!["nothing".to_owned()] };
    let manager = manager.ok_or_else(missing)?;
    let path = manager["@odata.id"].as_str().map(str::to_owned).ok_or_else(missing)?;
    if manager["Actions"][format!("#{RESET}")].is_null() {
        return Err(missing());
    }
    let offered = offered(link, &manager, RESET).await?;
    let kind = match offered.as_slice() {
        [] => KINDS.first(),
        offered => KINDS.iter().find(|kind| offered.iter().any(|word| word == *kind)),
    };
    let Some(kind) = kind else {
        return Err(RedfishFault::NotOffered { wanted: WANTED, offered });
    };
    match link.order(&target(&manager, &path, RESET), json!({ "ResetType": kind })).await {
        Ok(()) | Err(RedfishFault::Unanswered) => Ok(()),
        Err(fault) => Err(fault),
    }
}
