//! What a node boots from the next time, and only then: the override of ComputerSystem's `Boot`. The
//! persistent boot order is never touched, nor the mode unless it is the wrong one.

use serde_json::{Map, Value, json};

use super::{
    super::BootDevice,
    fault::RedfishFault,
    http::{Answer, path_of},
    orders::words,
    quirks::Quirk,
    session::Link,
};
use crate::inventory::NetworkBoot;

/// What is wanted.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted {
    pub(super) device: BootDevice,
    /// Whether the node's firmware is UEFI.
    pub(super) efi: bool,
    /// How it boots from the network.
    pub(super) by: NetworkBoot,
}

impl Wanted {
    fn target(self) -> &'static str {
        match (self.device, self.by) {
            (BootDevice::Pxe, NetworkBoot::Pxe) => "Pxe",
            (BootDevice::Pxe, NetworkBoot::Http) => "UefiHttp",
            (BootDevice::Disk, _) => "Hdd",
            (BootDevice::Bios, _) => "BiosSetup",
        }
    }

    fn words(self) -> &'static str {
        match (self.device, self.by) {
            (BootDevice::Pxe, NetworkBoot::Pxe) => "to boot once by PXE",
            (BootDevice::Pxe, NetworkBoot::Http) => "to boot once by UEFI HTTP",
            (BootDevice::Disk, _) => "to boot once from the disk",
            (BootDevice::Bios, _) => "to boot once into the firmware's setup",
        }
    }

    fn mode(self) -> &'static str {
        if self.efi { "UEFI" } else { "Legacy" }
    }
}

/// Sets the override for the next boot.
pub(super) async fn set(
    link: &mut Link,
    name: Option<&str>,
    wanted: Wanted,
) -> Result<(), RedfishFault> {
    let (path, system) = link.system(name).await?;
    let (path, seen) = place(link, path, system).await?;
    let boot = &seen.body["Boot"];
    if is_so_for_good(boot, wanted) {
        return Ok(());
    }
    is_offered(boot, "BootSourceOverrideTarget", wanted.target(), wanted.words())?;
    is_offered(boot, "BootSourceOverrideEnabled", "Once", "a boot override for one time")?;
    let has_mode = link.root().await?.quirks.contains(&Quirk::ModeWithOverride);
    let change = change(boot, wanted, has_mode);
    let is_mode_told = change.contains_key("BootSourceOverrideMode");
    match link.patch(&path, &seen, &json!({ "Boot": change })).await {
        Err(RedfishFault::Rejected(told)) if is_mode_told && !has_mode => {
            tracing::warn!(
                bmc = %link.bmc(), mode = wanted.mode(), told,
                "a BMC refuses to change the boot mode; the firmware's setup has to have the right one"
            );
            let mut change = change;
            change.remove("BootSourceOverrideMode");
            link.patch(&path, &seen, &json!({ "Boot": change })).await?;
        }
        outcome => outcome?,
    }
    let now = link.get(&path).await?.body["Boot"].clone();
    if now["BootSourceOverrideTarget"].as_str().is_some_and(|target| target != wanted.target()) {
        tracing::warn!(bmc = %link.bmc(), wanted = wanted.target(), boot = %now, "BMC reads back another boot source");
    }
    Ok(())
}

/// Where the override is written: in the settings resource if that has it, else in the system. Some
/// systems have a settings resource without it.
async fn place(
    link: &mut Link,
    path: String,
    system: Answer,
) -> Result<(String, Answer), RedfishFault> {
    let settings = system.body.pointer("/@Redfish.Settings/SettingsObject/@odata.id");
    let Some(settings) = settings.and_then(Value::as_str).and_then(path_of) else {
        return Ok((path, system));
    };
    let mut answer = link.get(&settings).await?;
    if answer.body.pointer("/Boot/BootSourceOverrideTarget").is_none() {
        return Ok((path, system));
    }
    // What may be written often stands beside what is now only.
    for key in ["BootSourceOverrideTarget", "BootSourceOverrideEnabled"] {
        let key = format!("{key}@Redfish.AllowableValues");
        if answer.body["Boot"].get(&key).is_none() {
            answer.body["Boot"][&key] = system.body["Boot"][&key].clone();
        }
    }
    Ok((settings, answer))
}

/// Whether somebody has set what is wanted for every boot: then it is left as it is.
fn is_so_for_good(boot: &Value, wanted: Wanted) -> bool {
    boot["BootSourceOverrideEnabled"] == "Continuous"
        && boot["BootSourceOverrideTarget"] == wanted.target()
        && boot["BootSourceOverrideMode"].as_str().is_none_or(|mode| mode == wanted.mode())
}

fn is_offered(
    boot: &Value,
    key: &str,
    value: &str,
    wanted: &'static str,
) -> Result<(), RedfishFault> {
    let offered = words(&boot[&format!("{key}@Redfish.AllowableValues")]);
    if offered.is_empty() || offered.iter().any(|word| word == value) {
        return Ok(());
    }
    Err(RedfishFault::NotOffered { wanted, offered })
}

fn change(boot: &Value, wanted: Wanted, is_mode_always_told: bool) -> Map<String, Value> {
    let mut change = Map::new();
    change.insert("BootSourceOverrideEnabled".to_owned(), json!("Once"));
    change.insert("BootSourceOverrideTarget".to_owned(), json!(wanted.target()));
    let mode = boot["BootSourceOverrideMode"].as_str();
    // Those that do not report it refuse it (ironcore-dev/metal-operator#939).
    if is_mode_always_told || mode.is_some_and(|mode| mode != wanted.mode()) {
        change.insert("BootSourceOverrideMode".to_owned(), json!(wanted.mode()));
    }
    // DHCP says which URL; one that somebody left there would win over it.
    if wanted.target() == "UefiHttp" && boot["HttpBootUri"].as_str().is_some_and(|u| !u.is_empty())
    {
        change.insert("HttpBootUri".to_owned(), Value::Null);
    }
    change
}

#[cfg(test)]
mod tests {
    use super::*;

    const PXE: Wanted = Wanted { device: BootDevice::Pxe, efi: true, by: NetworkBoot::Pxe };

    #[test]
    fn no_more_is_changed_than_must_be() {
        let text = |boot: Value, wanted, always| Value::from(change(&boot, wanted, always));
        let once = |target: &str| json!({ "BootSourceOverrideEnabled": "Once", "BootSourceOverrideTarget": target });
        assert_eq!(text(json!({ "BootSourceOverrideMode": "UEFI" }), PXE, false), once("Pxe"));
        assert_eq!(text(json!({}), PXE, false), once("Pxe"));
        let mut with_mode = once("Pxe");
        with_mode["BootSourceOverrideMode"] = json!("UEFI");
        assert_eq!(text(json!({ "BootSourceOverrideMode": "Legacy" }), PXE, false), with_mode);
        assert_eq!(text(json!({}), PXE, true), with_mode);
        let http = Wanted { by: NetworkBoot::Http, ..PXE };
        assert_eq!(text(json!({ "HttpBootUri": "" }), http, false), once("UefiHttp"));
        let mut without_uri = once("UefiHttp");
        without_uri["HttpBootUri"] = Value::Null;
        assert_eq!(text(json!({ "HttpBootUri": "http://x/" }), http, false), without_uri);
    }

    #[test]
    fn what_is_so_for_every_boot_is_left_as_it_is() {
        let boot = |enabled: &str, mode: &str| json!({ "BootSourceOverrideEnabled": enabled, "BootSourceOverrideTarget": "Pxe", "BootSourceOverrideMode": mode });
        assert!(is_so_for_good(&boot("Continuous", "UEFI"), PXE));
        assert!(!is_so_for_good(&boot("Continuous", "Legacy"), PXE));
        // It may be one that was used up, and is only not yet shown as such.
        assert!(!is_so_for_good(&boot("Once", "UEFI"), PXE));
    }
}
