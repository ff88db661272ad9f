//! `exec`: a command on many nodes at once.

use clap::Args;
use tokio::process::Command;

use super::{
    Access, Reach,
    fan_out::{Limits, show},
};
use crate::{
    cli::{Session, nodeset},
    error::Error,
};

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  haasctl exec n[01-16] -- uname -r
  haasctl exec @rack1 -l root --timeout 60 -- 'systemctl is-active sshd'
  haasctl exec @rack1 -o json -- cat /run/haas/rank")]
pub(crate) struct ExecArgs {
    /// The nodes, `n[01-16],@rack1`.
    #[arg(value_parser = nodeset)]
    nodeset: String,
    #[command(flatten)]
    reach: Reach,
    #[command(flatten)]
    limits: Limits,
    /// The command. Its words are joined by spaces and read by the shell there.
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<String>,
}

impl ExecArgs {
    pub(crate) async fn run(self, session: &Session<'_>) -> Result<(), Error> {
        let client = session.client()?;
        let access = Access::open(session, &client, &self.reach).await?;
        let nodes = client.nodes(Some(&self.nodeset)).await?;
        let jobs = nodes.iter().map(|node| {
            let command = access.options(node).map(|options| {
                let mut ssh = Command::new("ssh");
                // Nobody answers questions of many at once.
                ssh.args(["-n", "-o", "BatchMode=yes", "-o", "ConnectTimeout=10"]).args(options);
                ssh.arg("--").arg(node.name.as_str()).args(&self.command);
                ssh
            });
            (node.name.clone(), command)
        });
        show(session, self.limits.run(jobs.collect()).await?)
    }
}
