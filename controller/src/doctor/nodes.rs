//! The nodes' BMCs and the passwords for them, as far as the inventory and the store tell.

use haas_api::doctor::Finding;

use crate::{
    errors::chain,
    inventory::{NodeSpec, PowerSpec, SecretRef},
    model::Node,
    nodeset,
};

const TOPIC: &str = "BMCs";

/// Passwords and keys that cannot be read. `inside`: this is haasd, whose environment counts.
pub(super) fn secrets(nodes: &[NodeSpec], inside: bool) -> Vec<Finding> {
    let mut told: Vec<(String, Vec<&str>)> = Vec::new();
    for node in nodes {
        for secret in node.power.secrets() {
            if matches!(secret, SecretRef::Env(_)) && !inside {
                continue;
            }
            let Err(error) = secret.read() else { continue };
            let error = chain(&error);
            match told.iter_mut().find(|(known, _)| *known == error) {
                Some((_, names)) => names.push(node.name.as_str()),
                None => told.push((error, vec![node.name.as_str()])),
            }
        }
    }
    let finding = |(error, names): (String, Vec<&str>)| {
        let what = format!("{}: {error}", nodeset::fold(names));
        let remedy = "write the BMC's secret there, mode 600: see power in nodes.toml".to_owned();
        Finding::wrong(TOPIC, what, CANNOT_SWITCH, remedy)
    };
    told.into_iter().map(finding).collect()
}

const CANNOT_SWITCH: &str = "haasd cannot switch these nodes on or off";

/// What the BMCs of managed nodes said when they were last asked, which is every minute.
pub(super) fn bmcs(nodes: &[Node]) -> Vec<Finding> {
    let mut findings = Vec::new();
    let (mut well, mut waiting, mut unmanaged) = (Vec::new(), Vec::new(), Vec::new());
    for node in nodes.iter().filter(|node| node.spec.power != PowerSpec::Manual) {
        let name = node.name.as_str();
        if !node.managed {
            unmanaged.push(name);
        } else if let Some(error) = &node.power_error {
            findings.push(Finding::wrong(
                TOPIC,
                format!("{name}: {error}"),
                CANNOT_SWITCH,
                format!("mend what it says; haasctl power status {name} shows it a minute later"),
            ));
        } else if node.power_at.is_some() {
            well.push(name);
        } else {
            waiting.push(name);
        }
    }
    for (names, words) in [
        (well, "answer, and take the account"),
        (waiting, "have not been asked yet"),
        (unmanaged, "are not asked: the nodes are unmanaged"),
    ] {
        if !names.is_empty() {
            findings
                .push(Finding::good(TOPIC, format!("those of {} {words}", nodeset::fold(names))));
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use haas_api::doctor::FindingState;

    use super::*;
    use crate::testing::Bench;

    #[tokio::test]
    async fn what_bmcs_said_is_told_of_managed_nodes() {
        let bench = Bench::new().await;
        bench.add_nodes([1, 2, 3, 4]).await;
        let mut tx = bench.context.store.write().await.unwrap();
        let mut nodes = tx.nodes().await.unwrap();
        nodes[0].managed = false;
        tx.set_power(&nodes[1].id, Err("wrong password".into()), 5).await.unwrap();
        tx.set_power(&nodes[2].id, Ok(crate::model::Power::Off), 5).await.unwrap();
        for at in [1, 2] {
            nodes[at] = tx.node_by_id(&nodes[at].id).await.unwrap().unwrap();
        }
        let told = bmcs(&nodes);
        let wrong: Vec<_> = told.iter().filter(|f| f.state == FindingState::Wrong).collect();
        assert_eq!(wrong.len(), 1, "{told:?}");
        assert_eq!(wrong[0].what, "n02: wrong password");
        let all = told.iter().map(|f| f.what.as_str()).collect::<Vec<_>>().join("\n");
        for part in ["n03 answer", "n04 have not been asked", "n01 are not asked"] {
            assert!(all.contains(part), "{part}: {all}");
        }
    }

    #[test]
    fn a_password_that_cannot_be_read_is_told_once_for_all_its_nodes() {
        let spec = |number: u8| {
            let text = format!(
                "[[node]]\nname='n{number:02}'\nmac='52:54:00:00:00:{number:02x}'\n[node.power]\n\
                 driver='ipmi'\naddress='10.0.0.{number}'\nuser='haas'\npassword_file='/none/bmc'\n"
            );
            let parsed = crate::inventory::Inventory::parse(&text, "nodes.toml", &[]);
            parsed.expect("it is right").nodes.remove(0)
        };
        let told = secrets(&[spec(1), spec(2)], false);
        assert_eq!(told.len(), 1, "{told:?}");
        assert!(
            told[0].what.starts_with("n[01-02]: cannot read the secret in /none/bmc"),
            "{told:?}"
        );
    }
}
