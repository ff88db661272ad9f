//! `switch` and `rollback`: move nodes in one step, and back.

use clap::Args;
use haas_api::{
    client::Submitted,
    names::{ImageRef, OverlayRef, UserName},
    operation::{MinSuccess, Operation, Plan, RollbackRequest, Strategy, SwitchRequest},
};

use crate::{
    cli::{Session, nodeset},
    error::Error,
    table::{Table, or_dash},
    wait::{self, WaitArgs},
};

#[derive(Debug, Args)]
#[command(group(clap::ArgGroup::new("what").args(["image", "overlay", "rescue"]).multiple(true).required(true)))]
#[command(after_help = "\
Examples:
  haasctl switch n[01-16] --image minimal --overlay dev --wait
  haasctl switch @rack1 --overlay alice/debug --dry-run
  haasctl switch @rack1 --image rocky:9.5 --min-success 95% --at-most 16 --wait
  haasctl switch n03 --image rocky:9.4 --overlay none --force --wait --timeout 900
  haasctl switch n[01-16] --image minimal:next --fast --wait
  haasctl switch n03 --rescue --wait")]
pub(crate) struct SwitchArgs {
    /// The nodes, `n[01-16],@rack1`. Where the overlay is new, their order is the rank.
    #[arg(value_parser = nodeset)]
    nodeset: String,
    /// The image, `name`, `name:tag` or `sha256:...`; the present one stays where none is given.
    #[arg(short, long)]
    image: Option<ImageRef>,
    /// The overlay, `name` (mine), `owner/name`, or `none` (in RAM); the present one stays where
    /// none is given.
    #[arg(long)]
    overlay: Option<OverlayRef>,
    /// The project that the nodes are for, where you are in several.
    #[arg(short = 'A', long)]
    project: Option<UserName>,
    /// Run without the overlay, which is mounted at /overlay to be mended.
    #[arg(long)]
    rescue: bool,
    /// Leave the nodes to nobody: on, without an overlay, for whoever is given them next. For admins.
    #[arg(long, conflicts_with_all = ["project", "rescue"])]
    spare: bool,
    /// Boot at most this many nodes at once.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    at_most: Option<u32>,
    /// In which order nodes have their turn: `all` at once, as far as --at-most lets them, or
    /// `rolling`, one after the other, which stops at the first that fails.
    #[arg(long, default_value = "all")]
    strategy: Strategy,
    /// Make it one transaction: `95%` of the nodes, or so many of them, must get there before users
    /// are let in on any, or all go back to what they ran before.
    #[arg(long, value_name = "SHARE|N")]
    min_success: Option<MinSuccess>,
    /// Boot also nodes that run this image and overlay already.
    #[arg(long)]
    reboot: bool,
    /// Skip the firmware: start the next kernel from what runs (kexec). Only on nodes that stay with
    /// whom they run for; the others are booted as ever, and --dry-run says why.
    #[arg(long, conflicts_with_all = ["rescue", "spare"])]
    fast: bool,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  haasctl rollback n[01-16] --wait
  haasctl rollback @rack1 --dry-run")]
pub(crate) struct RollbackArgs {
    /// The nodes, `n[01-16],@rack1`.
    #[arg(value_parser = nodeset)]
    nodeset: String,
    #[command(flatten)]
    common: Common,
}

/// What all requests that change nodes take.
#[derive(Debug, Args)]
pub(crate) struct Common {
    /// Also nodes with logins, with a silent agent or a request under way, or that run something else.
    #[arg(long)]
    pub(crate) force: bool,
    /// Say what would happen, change nothing.
    #[arg(long, conflicts_with = "wait")]
    pub(crate) dry_run: bool,
    #[command(flatten)]
    pub(crate) wait: WaitArgs,
}

impl SwitchArgs {
    pub(crate) async fn run(self, session: &Session<'_>) -> Result<(), Error> {
        let client = session.client()?;
        let request = SwitchRequest {
            nodeset: self.nodeset,
            image: self.image,
            overlay: self.overlay,
            project: self.project,
            rescue: self.rescue,
            spare: self.spare,
            at_most: self.at_most,
            strategy: self.strategy,
            min_success: self.min_success,
            reboot: self.reboot,
            fast: self.fast,
            force: self.common.force,
            dry_run: self.common.dry_run,
        };
        let submitted = client.switch(&request).await?;
        finish(session, &client, submitted, &self.common.wait).await
    }
}

impl RollbackArgs {
    pub(crate) async fn run(self, session: &Session<'_>) -> Result<(), Error> {
        let client = session.client()?;
        let request = RollbackRequest {
            nodeset: self.nodeset,
            force: self.common.force,
            dry_run: self.common.dry_run,
        };
        let submitted = client.rollback(&request).await?;
        finish(session, &client, submitted, &self.common.wait).await
    }
}

/// Shows the plan of a dry run, or follows the operation, or says how to.
pub(crate) async fn finish(
    session: &Session<'_>,
    client: &haas_api::client::Client,
    submitted: Submitted,
    wait: &WaitArgs,
) -> Result<(), Error> {
    match submitted {
        Submitted::Plan(plan) => session.out.show(&plan, || plan_table(&plan)),
        Submitted::Operation(operation) if wait.wait => {
            wait::follow(session, client, *operation, wait.timeout()).await
        }
        Submitted::Operation(operation) => {
            session.out.show_text(&*operation, || accepted(&operation))
        }
    }
}

fn accepted(operation: &Operation) -> String {
    format!("{}\nFollow it: haasctl operation wait {}", operation.summary, operation.id)
}

fn plan_table(plan: &Plan) -> Table {
    let mut table = Table::new(["NODE", "FROM", "TO", "RANK", "ACTION", "NOTES"]);
    for node in &plan.nodes {
        table.row([
            (&node.node).into(),
            (&node.from).into(),
            (&node.to).into(),
            or_dash(node.rank),
            (&node.action).into(),
            node.notes.join(", ").into(),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use haas_api::operation::PlannedNode;

    use super::*;

    #[test]
    fn a_plan_shows_each_node() {
        let plan = Plan {
            nodes: vec![PlannedNode {
                node: "n01".to_owned(),
                from: "off".to_owned(),
                to: "minimal:latest + alice/dev".to_owned(),
                rank: Some(0),
                action: "boot".to_owned(),
                notes: vec!["new shard".to_owned()],
            }],
        };
        assert_eq!(
            plan_table(&plan).render(None, false),
            "NODE  FROM  TO                          RANK  ACTION  NOTES\n\
             n01   off   minimal:latest + alice/dev  0     boot    new shard\n"
        );
    }
}
