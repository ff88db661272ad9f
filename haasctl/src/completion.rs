//! `completion`: scripts that complete commands in shells.

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use crate::{
    cli::{Cli, Session},
    error::Error,
};

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  haasctl completion bash > /etc/bash_completion.d/haasctl
  haasctl completion zsh > ~/.zfunc/_haasctl
  haasctl completion fish > ~/.config/fish/completions/haasctl.fish")]
pub(crate) struct CompletionArgs {
    /// The shell.
    shell: Shell,
}

impl CompletionArgs {
    pub(crate) fn run(self, session: &Session<'_>) -> Result<(), Error> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut Cli::command(), "haasctl", &mut script);
        session.out.text(&String::from_utf8_lossy(&script))
    }
}
