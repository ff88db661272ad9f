//! `context`: which haasd to speak to, and as whom.

use std::{
    io::{self, Read},
    path::PathBuf,
};

use clap::Subcommand;
use serde::Serialize;

use crate::{
    cli::Session,
    config::{self, Context},
    error::{Error, io_error},
    table::Table,
};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List the contexts; the current one is marked.
    #[command(after_help = "Examples:\n  haasctl context list")]
    List,
    /// Make a context the current one.
    #[command(name = "use", after_help = "Examples:\n  haasctl context use lab")]
    Use {
        /// The context.
        name: String,
    },
    /// Add a context, or replace one.
    ///
    /// The fingerprint is the SHA-256 of haasd's certificate; haasd logs it when it starts. Tokens
    /// are never taken from the command line, where others could see them.
    #[command(after_help = "\
Examples:
  haasctl context add lab --url https://10.0.0.1:8443 --fingerprint 9f86d0... --token-file lab.token
  ssh ctl cat /var/lib/haasd/admin.token | haasctl context add lab --url https://10.0.0.1:8443 --fingerprint 9f86d0... --token-stdin")]
    Add(AddArgs),
    /// Show a context without its token.
    #[command(after_help = "Examples:\n  haasctl context show\n  haasctl context show lab")]
    Show {
        /// The context; the one in use where none is given.
        name: Option<String>,
    },
}

#[derive(Debug, clap::Args)]
pub(crate) struct AddArgs {
    /// The context's name.
    name: String,
    /// Where haasd is, `https://ADDRESS:8443`.
    #[arg(long)]
    url: String,
    /// SHA-256 of haasd's certificate, 64 hexadecimal digits.
    #[arg(long)]
    fingerprint: String,
    /// The file that holds the token.
    #[arg(long, value_name = "FILE", required_unless_present_any = ["token_stdin", "no_token"])]
    token_file: Option<PathBuf>,
    /// Read the token from standard input and keep it in the configuration file.
    #[arg(long, conflicts_with = "token_file")]
    token_stdin: bool,
    /// There is none: haasd runs on this machine, with `[auth] mode = "off"`.
    #[arg(long, conflicts_with_all = ["token_file", "token_stdin"])]
    no_token: bool,
    /// Make it the current context.
    #[arg(long = "use")]
    make_current: bool,
}

/// A context as it may be shown.
#[derive(Debug, Serialize)]
struct Shown<'a> {
    name: &'a str,
    current: bool,
    url: &'a str,
    fingerprint: &'a str,
    /// Where the token stands, never the token.
    token: String,
}

impl Command {
    pub(crate) fn run(self, session: &Session<'_>) -> Result<(), Error> {
        let mut config = config::load()?;
        match self {
            Self::List => {
                let shown: Vec<_> = config
                    .contexts()
                    .iter()
                    .map(|(name, context)| shown(name, context, config.current()))
                    .collect();
                session.out.show(&shown, || {
                    let mut table = Table::new(["", "NAME", "URL", "TOKEN"]);
                    for context in &shown {
                        let mark = if context.current { "*" } else { "" };
                        table.row([
                            mark.into(),
                            context.name.into(),
                            context.url.into(),
                            (&context.token).into(),
                        ]);
                    }
                    table
                })
            }
            Self::Use { name } => {
                config.make_current(&name)?;
                session.out.note(&format!("The current context is {name}."))
            }
            Self::Add(args) => {
                let replaced = config.contexts().contains_key(&args.name);
                let name = args.name.clone();
                let make_current = args.make_current;
                config.add(&name, args.into_context()?, make_current)?;
                let did = if replaced { "replaced" } else { "added" };
                session.out.note(&format!("Context {name} {did} in {}.", config.path.display()))
            }
            Self::Show { name } => {
                let (name, context) = config.pick(name.as_deref().or(session.context()))?;
                let shown = shown(name, context, config.current());
                session.out.show(&shown, || {
                    let mut table = Table::pairs();
                    table.pair("name", shown.name);
                    table.pair("current", if shown.current { "yes" } else { "no" });
                    table.pair("url", shown.url);
                    table.pair("fingerprint", shown.fingerprint);
                    table.pair("token", &shown.token);
                    table
                })
            }
        }
    }
}

impl AddArgs {
    fn into_context(self) -> Result<Context, Error> {
        // Absolute, since the file is looked up from wherever haasctl is called later.
        let token_file = self
            .token_file
            .map(|file| {
                let what = format!("{} cannot be found", file.display());
                std::path::absolute(file).map_err(io_error(what))
            })
            .transpose()?;
        let token = if self.token_stdin {
            let mut token = String::new();
            io::stdin()
                .lock()
                .take(4096)
                .read_to_string(&mut token)
                .map_err(io_error("the token cannot be read from standard input"))?;
            Some(token.trim().to_owned())
        } else {
            None
        };
        Ok(Context { url: self.url, fingerprint: self.fingerprint, token_file, token })
    }
}

fn shown<'a>(name: &'a str, context: &'a Context, current: Option<&str>) -> Shown<'a> {
    Shown {
        name,
        current: current == Some(name),
        url: &context.url,
        fingerprint: &context.fingerprint,
        token: match (&context.token_file, &context.token) {
            (Some(file), _) => file.display().to_string(),
            (None, Some(_)) => "(in the configuration)".to_owned(),
            (None, None) => "(none)".to_owned(),
        },
    }
}
