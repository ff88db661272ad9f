//! `register`, `login` and `logout`: an account of one's own, and a token for a name and a password, kept in
//! a context.

use std::{
    io::{self, IsTerminal},
    path::{Path, PathBuf},
};

use clap::Args;
use haas_api::{
    client::Client,
    names::UserName,
    user::{Login, Password, Registration, TokenRequest},
};

use crate::{
    cli::Session,
    config::{self, Config},
    error::{Error, io_error},
    input,
    user::read_keys,
};

/// The context that a first login makes where no other name is given.
const DEFAULT: &str = "default";
/// Days that a token lives where nobody says otherwise.
const LIVES: u64 = 30;

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
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    password: PasswordFile,
    /// A token that only looks.
    #[arg(long)]
    read_only: bool,
    /// Days until the token ends.
    #[arg(long, default_value_t = LIVES, value_parser = clap::value_parser!(u64).range(1..=366))]
    days: u64,
}

#[derive(Debug, Args)]
#[command(after_help = "\
You are logged in then, for 30 days. Nodes, images and overlays of others are for you what they grant you.

Examples:
  haasctl register dora --url https://10.0.0.1:8443 --fingerprint 9f86d0... --keys ~/.ssh/id_ed25519.pub")]
pub(crate) struct RegisterArgs {
    /// Your name, also on the nodes.
    name: UserName,
    #[command(flatten)]
    place: Place,
    /// A file of ssh public keys, `-` for standard input. May be given several times.
    #[arg(long, value_name = "FILE")]
    keys: Vec<PathBuf>,
    #[command(flatten)]
    password: PasswordFile,
}

/// Which haasd.
#[derive(Debug, Args)]
struct Place {
    /// Where haasd is, `https://ADDRESS:8443`; not needed for a context that exists.
    #[arg(long, requires = "fingerprint")]
    url: Option<String>,
    /// SHA-256 of haasd's certificate, 64 hexadecimal digits.
    #[arg(long, requires = "url")]
    fingerprint: Option<String>,
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
        let there = self.place.of(session, &config)?;
        let client = Client::without_token(&there.url, &there.fingerprint)?;
        let password = self.password.read(&format!("Password of {}: ", self.name))?;
        let token = TokenRequest {
            read_only: self.read_only,
            feed_only: false,
            expires_in_s: Some(self.days * 24 * 3600),
            ..TokenRequest::default()
        };
        there
            .log_in(session, &mut config, &client, Login { name: self.name, password, token })
            .await
    }
}

impl RegisterArgs {
    pub(crate) async fn run(self, session: &Session<'_>) -> Result<(), Error> {
        let mut config = config::load()?;
        let there = self.place.of(session, &config)?;
        let client = Client::without_token(&there.url, &there.fingerprint)?;
        let (name, ssh_keys) = (self.name, read_keys(&self.keys)?);
        let password = self.password.read_twice(&format!("Password for {name}: "))?;
        let new = Registration { name: name.clone(), password: password.clone(), ssh_keys };
        client.register(&new).await?;
        let expires_in_s = Some(LIVES * 24 * 3600);
        let token = TokenRequest { expires_in_s, ..TokenRequest::default() };
        there.log_in(session, &mut config, &client, Login { name, password, token }).await
    }
}

/// A context, and its haasd.
struct There {
    context: String,
    url: String,
    fingerprint: String,
    /// It is to be the current one.
    is_new: bool,
}

impl Place {
    fn of(&self, session: &Session<'_>, config: &Config) -> Result<There, Error> {
        if let (Some(url), Some(fingerprint)) = (&self.url, &self.fingerprint) {
            let context = session.context().unwrap_or(DEFAULT).to_owned();
            let (url, fingerprint) = (url.clone(), fingerprint.clone());
            return Ok(There { context, url, fingerprint, is_new: true });
        }
        let (name, context) = config.pick(session.context())?;
        Ok(There {
            context: name.to_owned(),
            url: context.url.clone(),
            fingerprint: context.fingerprint.clone(),
            is_new: false,
        })
    }
}

impl There {
    /// Gets a token and keeps it in the context.
    async fn log_in(
        &self,
        session: &Session<'_>,
        config: &mut Config,
        client: &Client,
        mut login: Login,
    ) -> Result<(), Error> {
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        login.token.name = format!("haasctl login {}", host.trim()).trim().to_owned();
        let token = client.login(&login).await?;
        let Self { context, url, fingerprint, is_new } = self;
        config.keep_token(context, url, fingerprint, &token.token, *is_new)?;
        let until = token.expires_at.unwrap_or_default();
        session.out.note(&format!("Context {context} is {} until {until}.", login.name))
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
