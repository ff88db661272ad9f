//! Switching power by the action ComputerSystem.Reset, with what the BMC offers for it.

use serde_json::{Value, json};

use super::{
    super::{Power, PowerAction},
    fault::RedfishFault,
    http::path_of,
    session::Link,
};

/// The action that switches a system's power.
pub(super) const RESET: &str = "ComputerSystem.Reset";
/// How often an order is given whose answer does not come and which was not obeyed.
const ORDERS: usize = 3;

/// Whether the system is on.
pub(super) async fn state(link: &mut Link, system: Option<&str>) -> Result<Power, RedfishFault> {
    Ok(power(&link.system(system).await?.1.body))
}

/// Switches it. What is so already is no error.
pub(super) async fn set(
    link: &mut Link,
    name: Option<&str>,
    action: PowerAction,
) -> Result<(), RedfishFault> {
    let wanted = match action {
        PowerAction::On => Power::On,
        PowerAction::Off | PowerAction::Soft => Power::Off,
    };
    let mut wait = link.first_wait();
    let mut orders = 1;
    loop {
        let (path, system) = link.system(name).await?;
        let offered = offered(link, &system.body, RESET).await?;
        let kind = reset_type(action, power(&system.body), &offered)?;
        let target = target(&system.body, &path, RESET);
        match link.order(&target, json!({ "ResetType": kind })).await {
            Ok(()) => return Ok(()),
            // It may have been obeyed, and only its answer was lost; or come in a bad moment.
            Err(fault @ (RedfishFault::Unanswered | RedfishFault::Overloaded(_))) => {
                if orders == ORDERS || !link.pause(&mut wait).await {
                    return Err(fault);
                }
                if state(link, name).await? == wanted {
                    return Ok(());
                }
                orders += 1;
            }
            // Some BMCs refuse to switch off what is off (goldyfruit/ansible-ilo#1).
            Err(refusal @ (RedfishFault::NotNow(_) | RedfishFault::Rejected(_))) => {
                return if state(link, name).await? == wanted { Ok(()) } else { Err(refusal) };
            }
            Err(fault) => return Err(fault),
        }
    }
}

/// On until it is said to be off: what is on its way up or down has power (Resource.PowerState).
fn power(system: &Value) -> Power {
    match system["PowerState"].as_str() {
        Some("Off") => Power::Off,
        Some("On" | "PoweringOn" | "PoweringOff" | "Paused") => Power::On,
        Some(_) | None => Power::Unknown,
    }
}

/// Where an action of a resource is asked for.
pub(super) fn target(resource: &Value, path: &str, action: &str) -> String {
    let target = resource["Actions"][format!("#{action}")]["target"].as_str();
    target
        .and_then(path_of)
        .unwrap_or_else(|| format!("{}/Actions/{action}", path.trim_end_matches('/')))
}

/// The kinds of reset that a resource says it has; none if it does not say.
pub(super) async fn offered(
    link: &mut Link,
    resource: &Value,
    action: &str,
) -> Result<Vec<String>, RedfishFault> {
    let action = &resource["Actions"][format!("#{action}")];
    let listed = words(&action["ResetType@Redfish.AllowableValues"]);
    let Some(info) = action["@Redfish.ActionInfo"].as_str().and_then(path_of) else {
        return Ok(listed);
    };
    if !listed.is_empty() {
        return Ok(listed);
    }
    let info = link.get(&info).await?.body;
    let parameters = info["Parameters"].as_array().into_iter().flatten();
    let mut kinds = parameters.filter(|parameter| parameter["Name"] == "ResetType");
    Ok(kinds.next().map(|kind| words(&kind["AllowableValues"])).unwrap_or_default())
}

/// The texts of a list.
pub(super) fn words(list: &Value) -> Vec<String> {
    let list = list.as_array().into_iter().flatten();
    list.filter_map(|word| word.as_str().map(str::to_owned)).collect()
}

/// What to ask for. The power button does what is wanted only if the system is in the other state.
fn reset_type(
    action: PowerAction,
    power: Power,
    offered: &[String],
) -> Result<&'static str, RedfishFault> {
    const BUTTON: &str = "PushPowerButton";
    let (names, wanted): (&[&'static str], _) = match (action, power) {
        (PowerAction::On, Power::Off) => (&["On", "ForceOn", BUTTON], "to switch power on"),
        (PowerAction::On, Power::On | Power::Unknown) => (&["On", "ForceOn"], "to switch power on"),
        (PowerAction::Off, _) => (&["ForceOff"], "to cut the power"),
        (PowerAction::Soft, Power::On) => (&["GracefulShutdown", BUTTON], "a soft shutdown"),
        (PowerAction::Soft, Power::Off | Power::Unknown) => {
            (&["GracefulShutdown"], "a soft shutdown")
        }
    };
    let found = match offered {
        [] => names.first(),
        offered => names.iter().find(|name| offered.iter().any(|kind| kind == *name)),
    };
    found.copied().ok_or_else(|| RedfishFault::NotOffered { wanted, offered: offered.to_vec() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_for_is_what_is_offered() {
        let all = ["On", "ForceOff", "GracefulShutdown", "ForceRestart", "Nmi", "PushPowerButton"];
        let ilo = ["On", "ForceOff", "ForceRestart", "Nmi", "PushPowerButton"];
        let button = ["ForceOff", "PushPowerButton"];
        use PowerAction::{Off, On, Soft};
        for (action, power, offered, expected) in [
            (On, Power::Off, &all[..], Some("On")),
            (Off, Power::On, &all[..], Some("ForceOff")),
            (Soft, Power::On, &all[..], Some("GracefulShutdown")),
            (Soft, Power::On, &ilo[..], Some("PushPowerButton")),
            // The button would switch it on.
            (Soft, Power::Off, &ilo[..], None),
            (Soft, Power::Unknown, &ilo[..], None),
            (On, Power::Off, &button[..], Some("PushPowerButton")),
            (On, Power::On, &button[..], None),
            (On, Power::Off, &["ForceOn"][..], Some("ForceOn")),
            (Off, Power::On, &["GracefulShutdown"][..], None),
            (Off, Power::On, &[][..], Some("ForceOff")),
        ] {
            let offered: Vec<String> = offered.iter().map(|&word| word.to_owned()).collect();
            let kind = reset_type(action, power, &offered).ok();
            assert_eq!(kind, expected, "{action:?} while {power:?} of {offered:?}");
        }
    }

    #[test]
    fn only_off_is_off() {
        for (told, is) in [
            (json!("Off"), Power::Off),
            (json!("On"), Power::On),
            (json!("PoweringOff"), Power::On),
            (json!("PoweringOn"), Power::On),
            (json!("off"), Power::Unknown),
            (json!(0), Power::Unknown),
            (Value::Null, Power::Unknown),
        ] {
            assert_eq!(power(&json!({ "PowerState": told })), is, "{told}");
        }
    }
}
