//! `node`: what there is, how it booted, and the inventory.

use std::path::PathBuf;

use clap::Subcommand;
use haas_api::{
    List,
    check::CheckReport,
    client::Client,
    console::plain,
    names::NodeName,
    node::{
        ApplyRequest, ApplyResult, Discovered, DrainRequest, DrainState, ManageRequest, Node,
        ResumeRequest,
    },
    operation::{BootReport, PowerVerb},
};

use crate::{
    baseline, checks,
    cli::{Session, nodeset},
    confirm::Yes,
    error::{Error, io_error},
    export, format, hardware, import,
    out::Format,
    power, probe, report, status,
    table::{Table, number, or_dash},
};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List nodes.
    #[command(after_help = "\
Examples:
  haasctl node list
  haasctl node list @rack1 -o json
  haasctl node list --where 'memory>=64G and rack==r1'
  haasctl node list --where 'health==critical or disk.smart!=ok'
  haasctl node list --where 'watts>300 and state==idle'")]
    List {
        /// The nodes; all of them where none are given.
        #[arg(value_parser = nodeset)]
        nodeset: Option<String>,
        /// Only nodes for which this holds: FIELD==VALUE, with and, or, not and parentheses.
        #[arg(long = "where", value_name = "CONDITION")]
        condition: Option<String>,
    },
    /// Show all that is known of a node: what is wanted and seen, its hardware, how well it is.
    #[command(after_help = "Examples:\n  haasctl node show n01")]
    Show {
        /// The node.
        node: NodeName,
    },
    /// Show what a node's BMC measured when it was asked last: temperatures, fans, power supplies.
    #[command(
        after_help = "Examples:\n  haasctl node sensors n01\n  haasctl node sensors n01 -o json"
    )]
    Sensors {
        /// The node.
        node: NodeName,
    },
    /// Show the log of a node's BMC (SEL), as it was when it was read last.
    #[command(after_help = "\
Examples:
  haasctl node sel n01
  haasctl node sel n01 --clear --yes")]
    Sel {
        /// The node.
        node: NodeName,
        /// Have the log cleared, as soon as the BMC can be asked. Asks first; only for admins.
        #[arg(long)]
        clear: bool,
        #[command(flatten)]
        yes: Yes,
    },
    /// List the node groups, which node sets name as @NAME.
    #[command(after_help = "Examples:\n  haasctl node groups")]
    Groups,
    /// Show a node's boot attempts: where their seconds went, and why they failed.
    #[command(after_help = "Examples:\n  haasctl node boots n01\n  haasctl node boots n01 -o json")]
    Boots {
        /// The node.
        node: NodeName,
    },
    /// Boot nodes into their firmware's setup or from their disk, once. What runs is shut down in order.
    ///
    /// The nodes are out of haasd's hands until they boot from the network again, or are switched.
    #[command(after_help = "\
Examples:
  haasctl node boot n01 bios
  haasctl node boot n01 disk --wait
  haasctl power cycle n01 --force")]
    Boot {
        #[command(flatten)]
        args: power::PowerArgs,
        /// What they boot.
        #[arg(value_enum)]
        device: Device,
    },
    /// Let haasd have nodes. Until then it reads them and changes nothing.
    #[command(after_help = "Examples:\n  haasctl node manage n[01-16]")]
    Manage {
        /// The nodes.
        #[arg(value_parser = nodeset)]
        nodeset: String,
    },
    /// Take nodes away from haasd. They keep running as they are.
    #[command(after_help = "Examples:\n  haasctl node unmanage n03")]
    Unmanage {
        /// The nodes.
        #[arg(value_parser = nodeset)]
        nodeset: String,
    },
    /// Take nodes out of service: nobody new gets them. What runs there goes on.
    ///
    /// With --maintenance or --quarantine also who has them may only switch them off, admins may have
    /// them run something for a test, and haasd does nothing with them by itself.
    #[command(after_help = "\
Examples:
  haasctl node drain n03 --reason 'DIMM A3 fails'
  haasctl node drain @rack1 --maintenance --reason 'new switch until noon'
  haasctl node resume n03 --reason 'DIMM A3 is new'")]
    Drain {
        /// The nodes.
        #[arg(value_parser = nodeset)]
        nodeset: String,
        /// Why, for everybody who would use them.
        #[arg(long)]
        reason: String,
        /// People work on them.
        #[arg(long)]
        maintenance: bool,
        /// They are not to be trusted.
        #[arg(long, conflicts_with = "maintenance")]
        quarantine: bool,
    },
    /// Take nodes back into service. What is wanted of them is in force again.
    #[command(after_help = "Examples:\n  haasctl node resume n03 --reason 'DIMM A3 is new'")]
    Resume {
        /// The nodes.
        #[arg(value_parser = nodeset)]
        nodeset: String,
        /// Why, for the events and the audit log.
        #[arg(long)]
        reason: Option<String>,
    },
    /// Compare machines with what they were before their last tenants: BMC users and network, firmware, boot
    /// entries and boot code. haasd does so when a node goes from one tenant to another.
    #[command(subcommand)]
    Baseline(baseline::Command),
    /// Show what a node would be given if it booted now: script and kernel command line.
    #[command(after_help = "Examples:\n  haasctl node render n01")]
    Render {
        /// The node.
        node: NodeName,
    },
    /// Look at a BMC: who answers, IPMI or Redfish, and what the account may do. Says what to write into nodes.toml.
    ///
    /// haasd does the looking, and changes nothing. By Redfish the account is sent only to a certificate that the
    /// inventory or `--fingerprint` names: look once without, compare the fingerprint at the BMC, and look again.
    #[command(after_help = "\
Examples:
  haasctl node probe n01
  haasctl node probe 10.0.1.7
  haasctl node probe 10.0.1.7 --user haas --password-file bmc.password --fingerprint 9f86d0...")]
    Probe(probe::ProbeArgs),
    /// Take an inventory file, whole or not at all. Shows the changes and asks first.
    #[command(after_help = "\
Examples:
  haasctl node apply nodes.toml
  haasctl node apply nodes.toml --dry-run
  haasctl node apply nodes.toml --yes")]
    Apply {
        /// The inventory, nodes.toml.
        file: PathBuf,
        /// Show what would change, change nothing.
        #[arg(long)]
        dry_run: bool,
        #[command(flatten)]
        yes: Yes,
    },
    /// List what was seen on the network and is in no inventory, with stanzas to paste.
    #[command(after_help = "Examples:\n  haasctl node discovered")]
    Discovered,
    /// Make an inventory of another system's file. Prints it; asks and changes nothing.
    ///
    /// Takes over names, NICs, addresses, BMCs, groups, labels and kernel arguments. Passwords are
    /// not copied: standard error says which file to write each one to. What cannot be taken over
    /// is named in comments.
    #[command(after_help = "\
Examples:
  haasctl node import hosts.csv > nodes.toml
  haasctl node import /etc/dnsmasq.d/cluster.conf --from dnsmasq > nodes.toml
  haasctl node import /etc/dhcp/dhcpd.conf > nodes.toml
  haasctl node import /etc/warewulf/nodes.conf > nodes.toml
  haasctl node apply nodes.toml --dry-run")]
    Import(import::ImportArgs),
    /// Write the nodes as a file of another program: hosts, genders, ClusterShell, Slurm, MPI, ssh.
    #[command(after_help = "\
Examples:
  haasctl node export --to hosts >> /etc/hosts
  haasctl node export --to genders > /etc/genders
  haasctl node export --to clustershell > /etc/clustershell/groups.d/haas.cfg
  haasctl node export --to slurm @rack1 > nodes.conf
  haasctl node export --to hostfile n[01-16] > hosts
  haasctl node export --to known-hosts >> ~/.ssh/known_hosts")]
    Export(export::ExportArgs),
}

/// What a node boots once.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
pub(crate) enum Device {
    /// The setup of its firmware.
    Bios,
    /// Its first disk.
    Disk,
}

impl Command {
    pub(crate) async fn run(self, session: &Session<'_>) -> Result<(), Error> {
        // Neither haasd nor a context is there yet when one moves in.
        if let Self::Import(args) = self {
            return args.run(session);
        }
        let client = session.client()?;
        let out = session.out;
        match self {
            Self::List { nodeset, condition } => {
                let nodes = match condition {
                    Some(condition) => client.nodes_where(nodeset.as_deref(), &condition).await?,
                    None => client.nodes(nodeset.as_deref()).await?,
                };
                let list = List::whole(nodes);
                out.show(&list, || list_table(&list.items))
            }
            Self::Show { node } => {
                let node = client.node(&node).await?;
                out.show(&node, || show_table(&node))?;
                show_checks(session, &node.observed.checks)?;
                hardware::show(session, &node)?;
                show_console(session, &node.console)
            }
            Self::Sensors { node } => hardware::sensors(session, &client.sensors(&node).await?),
            Self::Sel { node, clear: false, yes: _ } => {
                hardware::sel(session, &client.sel(&node).await?)
            }
            Self::Sel { node, clear: true, yes } => {
                yes.ask(session, &format!("Clear the log of {node}'s BMC?"))?;
                let sel = client.clear_sel(&node).await?;
                out.show_text(&sel, || {
                    format!("The log of {node}'s BMC is cleared as soon as it can be asked; then there is \
                             an event sel-cleared.")
                })
            }
            Self::Groups => {
                let list = List::whole(client.node_groups().await?);
                out.show(&list, || {
                    let mut table = Table::new(["GROUP", "COUNT", "NODES"]);
                    for group in &list.items {
                        let count = number(group.nodes.len());
                        table.row([(&group.name).into(), count, format::fold(&group.nodes).into()]);
                    }
                    table
                })
            }
            Self::Boots { node } => {
                let list = List::whole(client.boots(&node).await?);
                out.show(&list, || boots_table(&list.items))
            }
            Self::Manage { nodeset } => manage(session, &client, nodeset, true).await,
            Self::Unmanage { nodeset } => manage(session, &client, nodeset, false).await,
            Self::Drain { nodeset, reason, maintenance, quarantine } => {
                let state = match (maintenance, quarantine) {
                    (true, _) => DrainState::Maintenance,
                    (false, true) => DrainState::Quarantine,
                    (false, false) => DrainState::Drain,
                };
                let request = DrainRequest { nodeset, state, reason };
                let list = List::whole(client.drain(&request).await?);
                out.show(&list, || list_table(&list.items))
            }
            Self::Resume { nodeset, reason } => {
                let request = ResumeRequest { nodeset, reason };
                let list = List::whole(client.resume(&request).await?);
                out.show(&list, || list_table(&list.items))
            }
            Self::Render { node } => {
                let rendered = client.render(&node).await?;
                out.show_text(&rendered, || {
                    format!(
                        "# script\n{}\n\n# kernel command line\n{}",
                        rendered.script.trim_end(),
                        rendered.cmdline
                    )
                })
            }
            Self::Apply { file, dry_run, yes } => {
                apply(session, &client, file, dry_run, &yes).await
            }
            Self::Discovered => {
                let list = List::whole(client.discovered().await?);
                out.show_text(&list, || discovered_text(&list.items))
            }
            Self::Import(args) => args.run(session),
            Self::Baseline(command) => command.run(session).await,
            Self::Probe(args) => args.run(session).await,
            Self::Boot { args, device: Device::Bios } => {
                args.run(session, PowerVerb::BootBios).await
            }
            Self::Boot { args, device: Device::Disk } => {
                args.run(session, PowerVerb::BootDisk).await
            }
            Self::Export(args) => args.run(session).await,
        }
    }
}

async fn manage(
    session: &Session<'_>,
    client: &Client,
    nodeset: String,
    managed: bool,
) -> Result<(), Error> {
    let list = List::whole(client.manage(&ManageRequest { nodeset, managed }).await?);
    session.out.show(&list, || list_table(&list.items))
}

async fn apply(
    session: &Session<'_>,
    client: &Client,
    file: PathBuf,
    dry_run: bool,
    yes: &Yes,
) -> Result<(), Error> {
    let text = std::fs::read_to_string(&file)
        .map_err(io_error(format!("{} cannot be read", file.display())))?;
    // haasd looks for what the file names beside it, from wherever haasd was started.
    let file = std::path::absolute(&file)
        .map_err(io_error(format!("{} cannot be found", file.display())))?;
    let mut request = ApplyRequest { file: file.display().to_string(), text, dry_run: true };
    let planned = client.apply(&request).await?;
    let nothing = planned.added.len() + planned.removed.len() + planned.changed.len() == 0;
    if dry_run || (nothing && planned.diff.trim().is_empty()) {
        return session.out.show_text(&planned, || apply_text(&planned));
    }
    session.out.note(&apply_text(&planned))?;
    yes.ask(session, "Make these changes?")?;
    request.dry_run = false;
    let result = client.apply(&request).await?;
    session.out.show_text(&result, || apply_summary(&result))
}

fn apply_text(result: &ApplyResult) -> String {
    format!("{}\n{}", result.diff.trim_end(), apply_summary(result)).trim_start().to_owned()
}

fn apply_summary(result: &ApplyResult) -> String {
    let parts: Vec<String> =
        [("added", &result.added), ("changed", &result.changed), ("removed", &result.removed)]
            .into_iter()
            .filter(|(_, nodes)| !nodes.is_empty())
            .map(|(word, nodes)| format!("{} {word} ({})", nodes.len(), format::fold(nodes)))
            .collect();
    match (parts.is_empty(), result.applied) {
        (true, _) => "The inventory is as the file says; nothing changes.".to_owned(),
        (false, true) => format!("Done: {}.", parts.join(", ")),
        (false, false) => format!("Would be: {}.", parts.join(", ")),
    }
}

fn list_table(nodes: &[Node]) -> Table {
    let columns =
        ["NODE", "STATE", "HEALTH", "CORES", "MEMORY", "ADDRESS", "MAC", "GROUPS", "POWER"];
    // Who has taken them out of service is shown where any of them is.
    let drained = nodes.iter().any(|node| node.drain.is_some());
    let more: &[&str] = if drained { &["BY", "SINCE", "REASON"] } else { &[] };
    let mut table = Table::new(columns.iter().chain(more).copied());
    for node in nodes {
        let groups: Vec<_> = node.groups.iter().map(|group| group.as_str()).collect();
        let summary = node.summary.as_ref();
        let mut row = vec![
            (&node.name).into(),
            status::state(node),
            hardware::level(node.health.level),
            or_dash(summary.map(|summary| summary.cores)),
            or_dash(summary.map(|summary| format::bytes(summary.memory))),
            or_dash(node.address.as_deref()),
            node.mac.into(),
            groups.join(",").into(),
            (&node.power_driver).into(),
        ];
        if drained {
            let drain = node.drain.as_ref();
            row.extend([
                or_dash(drain.map(|drain| &drain.actor)),
                or_dash(drain.map(|drain| format::time(&drain.since))),
                or_dash(drain.map(|drain| &drain.reason)),
            ]);
        }
        table.row(row);
    }
    table
}

fn show_table(node: &Node) -> Table {
    let mut table = Table::pairs();
    table.pair("name", &node.name);
    table.pair("id", &node.id);
    table.pair("state", status::state(node));
    table.pair("reason", &node.reason);
    table.pair("health", hardware::level(node.health.level));
    for reason in &node.health.reasons {
        table.pair("", reason);
    }
    if let Some(drain) = &node.drain {
        let (state, since) = (drain.state.as_str(), format::time(&drain.since));
        table.pair("out of service", format!("{state}: {}", drain.reason));
        table.pair("out since", format!("{since} by {}", drain.actor));
    }
    if let Some(fault) = &node.fault {
        table.pair("fault", format!("{}, {}", fault.code, format::time(&fault.at)));
        let stages: Vec<_> = fault
            .stages
            .iter()
            .map(|time| format!("{} {:.1} s", time.stage, time.seconds))
            .collect();
        table.pair("last boot", stages.join(", "));
        for tried in &fault.tried {
            let error = tried.error.as_deref().map(|error| format!(": {error}"));
            let what = format!("{}{}", tried.what, error.unwrap_or_default());
            table.pair("tried", format!("{} {what}", format::time(&tried.at)));
        }
    }
    table.pair("managed", if node.managed { "yes" } else { "no" });
    table.pair("address", or_dash(node.address.as_deref()));
    table.pair("mac", node.mac);
    let groups: Vec<_> = node.groups.iter().map(|group| group.as_str()).collect();
    table.pair("groups", groups.join(", "));
    let labels: Vec<_> = node.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
    table.pair("labels", labels.join(", "));
    if let Some(desired) = &node.desired {
        table.pair("wanted power", if desired.on { "on" } else { "off" });
        table.pair("wanted image", or_dash(desired.image.as_deref()));
        table.pair("image digest", or_dash(desired.image_digest.as_deref()));
        table.pair("wanted overlay", status::overlay_of(desired));
        table.pair("rank", desired.rank);
        table.pair("generation", desired.generation);
        let since = format::time(&desired.since);
        table.pair("wanted since", format!("{since} by {}", desired.actor));
    }
    let seen = &node.observed;
    table.pair("power driver", &node.power_driver);
    table.pair("power", &seen.power);
    table.pair("power seen", or_dash(seen.power_at.as_deref().map(format::time)));
    if let Some(error) = &seen.power_error {
        table.pair("power error", error);
    }
    if let Some(watts) = seen.watts {
        table.pair("draws", format!("{watts} W"));
    }
    if let Some(idle) = status::idle_off(std::slice::from_ref(node)) {
        table.pair("off while idle", idle);
    }
    table.pair("boot stage", or_dash(seen.stage));
    table.pair("agent heard", or_dash(seen.agent_at.as_deref().map(format::time)));
    table.pair("logins", seen.logins.join(", "));
    let attached = seen.root_attached.map(|attached| if attached { "yes" } else { "no" });
    table.pair("root attached", or_dash(attached));
    if let Some(lease) = &seen.lease {
        let server = lease.server.map_or_else(|| "nobody yet".to_owned(), |s| s.to_string());
        table.pair("address lease", format!("{} s more, from {server}", lease.left_s));
        table.pair("lease trouble", or_dash(lease.trouble.as_deref()));
    }
    table.pair("store free", or_dash(seen.store_free.map(format::bytes)));
    for key in &seen.host_keys {
        let kind = key.key.split(' ').next().unwrap_or_default();
        let until = match &key.certified_until {
            Some(until) => format!("{kind}, certificate until {}", format::time(until)),
            None => format!("{kind}, no certificate"),
        };
        table.pair("ssh host key", until);
    }
    table
}

/// For people; programs have them in the node.
fn show_checks(session: &Session<'_>, checks: &[CheckReport]) -> Result<(), Error> {
    let out = session.out;
    if checks.is_empty() || out.format != Format::Table {
        return Ok(());
    }
    out.text("")?;
    out.table(&checks::table(checks))?;
    match checks::output(checks).as_str() {
        "" => Ok(()),
        text => out.text(text),
    }
}

/// For people; programs have it in the node.
fn show_console(session: &Session<'_>, lines: &[String]) -> Result<(), Error> {
    if lines.is_empty() || session.out.format != Format::Table {
        return Ok(());
    }
    session.out.text("\nits console before the fault:")?;
    lines.iter().try_for_each(|line| session.out.text(&format!("  {}", plain(line))))
}

fn boots_table(boots: &[BootReport]) -> Table {
    let mut table = Table::new([
        "STARTED", "BOOT", "CAUSE", "STATE", "WHAT", "TOTAL s", "STAGES", "KERNEL", "ISCSI",
        "FAILURE",
    ]);
    for boot in boots {
        let stages: Vec<_> =
            boot.stages.iter().map(|time| format!("{} {:.1}", time.stage, time.seconds)).collect();
        table.row([
            format::time(&boot.started_at).into(),
            (&boot.attempt).into(),
            (&boot.cause).into(),
            (&boot.state).into(),
            (&boot.what).into(),
            number(format!("{:.1}", report::total(boot))),
            stages.join(", ").into(),
            number(format::signed_bytes(boot.boot_bytes)),
            number(format::signed_bytes(boot.root_bytes)),
            or_dash(boot.failure.as_deref()),
        ]);
    }
    table
}

fn discovered_text(found: &[Discovered]) -> String {
    let mut table = Table::new(["MAC", "KIND", "NETWORK", "FIRST SEEN", "LAST SEEN", "SAYS"]);
    for one in found {
        table.row([
            one.mac.into(),
            (&one.kind).into(),
            (&one.network).into(),
            format::time(&one.first_seen).into(),
            format::time(&one.last_seen).into(),
            (&one.description).into(),
        ]);
    }
    let mut text = table.render(None, false);
    let stanzas: Vec<_> = found.iter().filter_map(|one| one.stanza.as_deref()).collect();
    if !stanzas.is_empty() {
        text.push_str("\n# For nodes.toml, to be completed:\n");
        text.push_str(&stanzas.join("\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_listed_and_shown() {
        let node = status::tests::sample();
        assert_eq!(
            list_table(std::slice::from_ref(&node)).render(None, false),
            "NODE  STATE  HEALTH  CORES  MEMORY  ADDRESS    MAC                GROUPS  POWER\n\
             n01   ready  -       -      -       10.0.0.11  52:54:00:77:00:01  rack1   ipmi\n"
        );
        let mut drained = node.clone();
        drained.drain = serde_json::from_value(serde_json::json!({
            "state": "drain", "reason": "bad DIMM", "actor": "bob", "since": "2026-11-21T00:00:00Z"
        }))
        .unwrap();
        assert_eq!(
            list_table(&[node.clone(), drained]).render(None, false),
            "NODE  STATE        HEALTH  CORES  MEMORY  ADDRESS    MAC                GROUPS  POWER  BY   SINCE                 REASON\n\
             n01   ready        -       -      -       10.0.0.11  52:54:00:77:00:01  rack1   ipmi   -    -                     -\n\
             n01   ready+drain  -       -      -       10.0.0.11  52:54:00:77:00:01  rack1   ipmi   bob  2026-11-21 00:00:00Z  bad DIMM\n"
        );
        let shown = show_table(&node).render(None, false);
        assert!(shown.contains("wanted overlay  alice/dev\n"), "{shown}");
        assert!(shown.contains("wanted since    2026-11-21 00:00:00Z by alice\n"), "{shown}");
        assert!(!shown.contains("draws") && !shown.contains("off while idle"), "{shown}");
        let mut metered = node.clone();
        (metered.observed.watts, metered.observed.idle_off_hours) = (Some(212), 10.0);
        metered.observed.idle_saved_kwh = 1.26;
        let shown = show_table(&metered).render(None, false);
        assert!(shown.contains("draws           212 W\n"), "{shown}");
        assert!(shown.contains("off while idle  10.0 h, which saved 1.3 kWh\n"), "{shown}");
    }

    #[test]
    fn an_inventory_change_is_summed_up() {
        let mut result = ApplyResult {
            added: vec!["n01".to_owned(), "n02".to_owned()],
            removed: vec!["n09".to_owned()],
            changed: Vec::new(),
            diff: "+ n[01-02]\n- n09\n".to_owned(),
            applied: false,
        };
        assert_eq!(
            apply_text(&result),
            "+ n[01-02]\n- n09\nWould be: 2 added (n[01-02]), 1 removed (n09)."
        );
        result.applied = true;
        assert_eq!(apply_summary(&result), "Done: 2 added (n[01-02]), 1 removed (n09).");
    }
}
