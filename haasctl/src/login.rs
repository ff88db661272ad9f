//! `login` and `logout`: a token for a name and a password, kept in a context.

use std::{
    io::{self, IsTerminal},
    path::{Path, PathBuf},
};

use clap::Args;
use haas_api::{
    client::Client,
    names::UserName,
    user::{Login, Password, TokenRequest},
};

use crate::{
    cli::Session,
    config::{self, Config},
    error::{Error, io_error},
    input,
};

/// The context that a first login makes where no other name is given.
const DEFAULT: &str = "default";

#[derive(Debug, Args)]
#[command(after_help = "\
The token is kept in the context, and ends in 30 days.

Examples:
  haasctl login alice --url https://10.0.0.1:8443 --fingerprint 9f86d0...
  haasctl login alice
  haasctl login ci --password-file ci.password --read-only --days 1")]
pub(crate) struct LoginArgs {
    /// Who you are there.
    name: UserName,
    /// Where haasd is, `https://ADDRESS:8443`; not needed for a context that exists.
    #[arg(long, requires = "fingerprint")]
    url: Option<String>,
    /// SHA-256 of haasd's certificate, 64 hexadecimal digits.
    #[arg(long, requires = "url")]
    fingerprint: Option<String>,
    #[command(flatten)]
    password: PasswordFile,
    /// A token that only looks.
    #[arg(long)]
    read_only: bool,
    /// Days until the token ends.
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=366))]
    days: u64,
}

/// Where a password comes from.
#[derive(Debug, Args)]
pub(crate) struct PasswordFile {
    /// A file whose first line is the password, `-` for standard input. Asked for where there is none.
    #[arg(long, value_name = "FILE")]
    password_file: Option<PathBuf>,
}

impl PasswordFile {
    /// Whether a person is asked.
    pub(crate) fn is_asked(&self) -> bool {
        self.password_file.is_none()
    }

    /// A new password: a person types it twice.
    pub(crate) fn read_twice(&self, question: &str) -> Result<Password, Error> {
        let first = self.read(question)?;
        if self.is_asked() && ask("The same again: ")?.expose() != first.expose() {
            return Err(Error::Usage("the two are not the same; nothing was changed".to_owned()));
        }
        Ok(first)
    }

    pub(crate) fn read(&self, question: &str) -> Result<Password, Error> {
        match &self.password_file {
            Some(file) => password_in(file),
            None => ask(question),
        }
    }
}

impl LoginArgs {
    pub(crate) async fn run(self, session: &Session<'_>) -> Result<(), Error> {
        let mut config = config::load()?;
        let (context, url, fingerprint) = self.place(session, &config)?;
        let client = Client::without_token(&url, &fingerprint)?;
        let password = self.password.read(&format!("Password of {}: ", self.name))?;
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let token = TokenRequest {
            name: format!("haasctl login {}", host.trim()).trim().to_owned(),
            read_only: self.read_only,
            feed_only: false,
            expires_in_s: Some(self.days * 24 * 3600),
        };
        let token = client.login(&Login { name: self.name.clone(), password, token }).await?;
        config.keep_token(&context, &url, &fingerprint, &token.token, self.url.is_some())?;
        let until = token.expires_at.unwrap_or_default();
        session.out.note(&format!("Context {context} is {} until {until}.", self.name))
    }

    /// The context, and its haasd.
    fn place(
        &self,
        session: &Session<'_>,
        config: &Config,
    ) -> Result<(String, String, String), Error> {
        if let (Some(url), Some(fingerprint)) = (&self.url, &self.fingerprint) {
            let name = session.context().unwrap_or(DEFAULT).to_owned();
            return Ok((name, url.clone(), fingerprint.clone()));
        }
        let (name, context) = config.pick(session.context())?;
        Ok((name.to_owned(), context.url.clone(), context.fingerprint.clone()))
    }
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  haasctl logout")]
pub(crate) struct LogoutArgs {}

impl LogoutArgs {
    pub(crate) async fn run(self, session: &Session<'_>) -> Result<(), Error> {
        session.client()?.logout().await?;
        session.out.note("This context's token has ended; haasctl login NAME makes a new one.")
    }
}

/// The first line of a file, or of standard input for `-`.
pub(crate) fn password_in(file: &Path) -> Result<Password, Error> {
    let text = input::read(file)?;
    Ok(Password::new(text.lines().next().unwrap_or_default().to_owned()))
}

fn ask(question: &str) -> Result<Password, Error> {
    if !io::stdin().is_terminal() {
        let text = "nobody can be asked for the password here; give --password-file";
        return Err(Error::Usage(text.to_owned()));
    }
    rpassword::prompt_password(question)
        .map(Password::new)
        .map_err(io_error("the password cannot be read"))
}
