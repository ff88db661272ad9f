//! `user`: users, their ssh keys and their tokens.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use clap::Subcommand;
use haas_api::{
    List,
    names::UserName,
    overlay::{Overlay, Shard},
    user::{NewUser, PasswordChange, Role, Token, TokenRequest, User, UserChange, UserKind},
};

use crate::{
    cli::Session,
    config::write_private,
    confirm::Yes,
    error::Error,
    format, input,
    login::{PasswordFile, password_in},
    overlay,
    table::{Table, number, or_dash},
};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List users.
    #[command(after_help = "Examples:\n  haasctl user list")]
    List,
    /// Show whom the token of this context belongs to.
    #[command(after_help = "Examples:\n  haasctl user whoami")]
    Whoami,
    /// Add a user.
    #[command(after_help = "\
Examples:
  haasctl user add alice --keys ~/.ssh/id_ed25519.pub
  haasctl user add bob --role admin
  haasctl user add ci --service")]
    Add {
        /// The name, also on the nodes.
        name: UserName,
        /// What the user may do.
        #[arg(long, value_enum, default_value = "user")]
        role: RoleArg,
        /// It is a program: it has tokens, and neither a password nor logins on nodes.
        #[arg(long)]
        service: bool,
        /// A file of ssh public keys, `-` for standard input. May be given several times.
        #[arg(long, value_name = "FILE")]
        keys: Vec<PathBuf>,
    },
    /// Replace a user's ssh keys.
    #[command(after_help = "\
Examples:
  haasctl user keys alice ~/.ssh/id_ed25519.pub
  ssh-add -L | haasctl user keys alice -")]
    Keys {
        /// The user.
        name: UserName,
        /// Files of ssh public keys, `-` for standard input.
        #[arg(required_unless_present = "none", value_name = "FILE")]
        keys: Vec<PathBuf>,
        /// Take all keys away.
        #[arg(long, conflicts_with = "keys")]
        none: bool,
    },
    /// Remove a user. It and its overlays are kept for a while, in which it can be restored.
    #[command(
        visible_alias = "delete",
        after_help = "\
Examples:
  haasctl user rm alice
  haasctl user rm alice --now"
    )]
    Rm {
        /// The user.
        name: UserName,
        /// Destroy it and its overlays at once.
        #[arg(long)]
        now: bool,
        #[command(flatten)]
        yes: Yes,
    },
    /// Take back that a user was removed, as long as it is kept.
    #[command(after_help = "Examples:\n  haasctl user restore alice")]
    Restore {
        /// The user.
        name: UserName,
    },
    /// Make a token for a user and write it to a file that only the caller can read.
    #[command(after_help = "\
Examples:
  haasctl user token alice --file alice.token
  haasctl user token alice --file - | ssh alice@login 'umask 077; cat > haas.token'")]
    Token {
        /// The user.
        name: UserName,
        /// Where to write it, `-` for standard output.
        #[arg(long)]
        file: PathBuf,
        /// What it is for.
        #[arg(long, default_value = "")]
        purpose: String,
        /// It only looks.
        #[arg(long)]
        read_only: bool,
        /// It is good for the calendar's feed only: for programs that show calendars.
        #[arg(long)]
        feed_only: bool,
        /// Days until it ends; without, it stays until it is revoked.
        #[arg(long, value_parser = clap::value_parser!(u64).range(1..=366))]
        days: Option<u64>,
    },
    /// List a user's tokens, without their secrets.
    #[command(after_help = "Examples:\n  haasctl user tokens alice")]
    Tokens {
        /// The user.
        name: UserName,
    },
    /// End a token at once.
    #[command(after_help = "Examples:\n  haasctl user revoke alice 01JD3F7Q8Z")]
    Revoke {
        /// The user.
        name: UserName,
        /// The token's id, as `user tokens` lists it.
        id: String,
    },
    /// Set a user's password. All its tokens end; your own context gets a new one.
    #[command(after_help = "\
Examples:
  haasctl user password alice
  haasctl user password alice --password-file new.password --old-file old.password")]
    Password {
        /// The user.
        name: UserName,
        #[command(flatten)]
        new: PasswordFile,
        /// A file whose first line is the present password. Asked for where it is needed.
        #[arg(long, value_name = "FILE")]
        old_file: Option<PathBuf>,
    },
}

/// What a user may do everywhere.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
pub(crate) enum RoleArg {
    /// Everything.
    Admin,
    /// Sees nodes and images; has overlays of its own. Projects and grants give more.
    User,
}

impl From<RoleArg> for Role {
    fn from(role: RoleArg) -> Self {
        match role {
            RoleArg::Admin => Self::Admin,
            RoleArg::User => Self::User,
        }
    }
}

impl Command {
    pub(crate) async fn run(self, session: &Session<'_>) -> Result<(), Error> {
        let client = session.client()?;
        let out = session.out;
        match self {
            Self::List => {
                let list = List::whole(client.users().await?);
                out.show(&list, || table(&list.items))
            }
            Self::Whoami => {
                let user = client.whoami().await?;
                out.show(&user, || table(std::slice::from_ref(&user)))
            }
            Self::Add { name, role, service, keys } => {
                let kind = if service { UserKind::Service } else { UserKind::Person };
                let new = NewUser { name, kind, role: role.into(), ssh_keys: read_keys(&keys)? };
                let user = client.add_user(&new).await?;
                out.show(&user, || table(std::slice::from_ref(&user)))
            }
            Self::Keys { name, keys, none: _ } => {
                let change = UserChange { ssh_keys: read_keys(&keys)? };
                let user = client.change_user(&name, &change).await?;
                out.show(&user, || table(std::slice::from_ref(&user)))
            }
            Self::Rm { name, now, yes } => {
                yes.ask(
                    session,
                    &match now {
                        true => format!("Destroy user {name} and all its overlays?"),
                        false => format!("Remove user {name}?"),
                    },
                )?;
                match client.remove_user(&name, now).await? {
                    Some(kept) => {
                        let with = match kept.overlays.is_empty() {
                            true => "",
                            false => " with these overlays",
                        };
                        out.show(&kept, || overlay::list_table(&kept.overlays))?;
                        let end = kept
                            .user
                            .destroyed_at
                            .as_deref()
                            .map_or_else(String::new, format::time);
                        out.note(&format!(
                            "User {name} is removed, and destroyed{with} on {end}. \
                             Until then: haasctl user restore {name}{}",
                            saving(&kept.overlays)
                        ))
                    }
                    None => out.note(&format!("User {name} is destroyed.")),
                }
            }
            Self::Restore { name } => {
                let user = client.restore_user(&name).await?;
                out.show(&user, || table(std::slice::from_ref(&user)))
            }
            Self::Token { name, file, purpose, read_only, feed_only, days } => {
                let expires_in_s = days.map(|days| days * 24 * 3600);
                let wanted = TokenRequest { name: purpose, read_only, feed_only, expires_in_s };
                may_be_written(&file)?;
                let token = client.new_token(&name, &wanted).await?;
                if file.as_os_str() == "-" {
                    return out.text(&token.token);
                }
                write_private(&file, format!("{}\n", token.token).as_bytes())?;
                out.note(&format!("Token {} is in {}.", token.id, file.display()))
            }
            Self::Tokens { name } => {
                let list = List::whole(client.tokens(&name).await?);
                out.show(&list, || tokens_table(&list.items))
            }
            Self::Revoke { name, id } => {
                client.revoke_token(&name, &id).await?;
                out.note(&format!("Token {id} of {name} has ended."))
            }
            Self::Password { name, new, old_file } => {
                let is_own = client.whoami().await?.name == name;
                let old = match (old_file, is_own) {
                    (Some(file), _) => Some(password_in(&file)?),
                    (None, true) if new.is_asked() => Some(new.read("Present password: ")?),
                    (None, _) => None,
                };
                let new = new.read_twice(&format!("New password of {name}: "))?;
                let token = client.change_password(&name, &PasswordChange { old, new }).await?;
                if let Some(token) = token {
                    session.keep_token(&token.token)?;
                }
                out.note(&format!("{name} has a new password; its tokens have ended."))
            }
        }
    }
}

/// How to save what overlays hold, before it is destroyed: from a rescue of each node, as it differs from
/// the image.
fn saving(overlays: &[Overlay]) -> String {
    let mut told = String::new();
    for overlay in overlays {
        let (owner, name) = (&overlay.owner, &overlay.name);
        for Shard { node, rank, last_image, .. } in &overlay.shards {
            let image = last_image.as_deref().unwrap_or("IMAGE");
            told += &format!(
                "\n  haasctl switch {node} --image {image} --overlay {owner}/{name} --rescue --wait\n  \
                 haasctl ssh {node} -l root -- 'tar -C /overlay -cf - .' > {owner}-{name}-{rank}.tar"
            );
        }
    }
    if told.is_empty() { told } else { format!("\nTo save what they hold until then:{told}") }
}

pub(crate) fn read_keys(files: &[PathBuf]) -> Result<Vec<String>, Error> {
    let mut keys = Vec::new();
    for file in files {
        let found = keys_in(&input::read(file)?).map_err(|line| {
            Error::Usage(format!("{}:{line}: this is no ssh public key", file.display()))
        })?;
        if found.is_empty() {
            return Err(Error::Usage(format!("{} holds no ssh public key", file.display())));
        }
        keys.extend(found);
    }
    Ok(keys)
}

/// The keys of a text in the form of `authorized_keys`, or the number of a line that is none. A
/// private key that was named by mistake is refused here and is never sent.
fn keys_in(text: &str) -> Result<Vec<String>, usize> {
    let mut keys = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let is_key = ["ssh-", "ecdsa-sha2-", "sk-ssh-", "sk-ecdsa-"]
            .iter()
            .any(|kind| line.split_whitespace().any(|word| word.starts_with(kind)));
        if !is_key || line.split_whitespace().count() < 2 {
            return Err(index + 1);
        }
        keys.push(line.to_owned());
    }
    Ok(keys)
}

fn table(users: &[User]) -> Table {
    let mut table = Table::new(["NAME", "ROLE", "UID", "KEYS", "CREATED"]);
    for user in users {
        let role = match (&user.destroyed_at, user.role, user.kind) {
            (Some(_), _, _) => "removed",
            (None, Role::Admin, _) => "admin",
            (None, Role::User, UserKind::Person) => "user",
            (None, Role::User, UserKind::Service) => "service",
        };
        table.row([
            (&user.name).into(),
            role.into(),
            number(user.uid),
            number(user.ssh_keys.len()),
            format::time(&user.created_at).into(),
        ]);
    }
    table
}

/// What a token is good for.
fn may(token: &Token) -> &'static str {
    match (token.feed_only, token.read_only) {
        (true, _) => "feed",
        (false, true) => "look",
        (false, false) => "all",
    }
}

fn tokens_table(tokens: &[Token]) -> Table {
    let mut table = Table::new(["ID", "FOR", "MAY", "CREATED", "LAST USED", "ENDS"]);
    for token in tokens {
        let time = |time: &Option<String>| or_dash(time.as_deref().map(format::time));
        table.row([
            (&token.id).into(),
            (&token.name).into(),
            may(token).into(),
            format::time(&token.created_at).into(),
            time(&token.last_used_at),
            time(&token.expires_at),
        ]);
    }
    table
}

/// A token is not written in place of something else: a file that is there must have one, or nothing.
fn may_be_written(file: &Path) -> Result<(), Error> {
    if file.as_os_str() == "-" {
        return Ok(());
    }
    let is_token = |text: &str| {
        let text = text.trim();
        text.is_empty()
            || (text.len() == 43
                && text.chars().all(|c| c.is_ascii_alphanumeric() || "-_".contains(c)))
    };
    match fs::read_to_string(file) {
        Ok(text) if is_token(&text) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Ok(_) | Err(_) => Err(Error::Usage(format!(
            "{} is there, and not with a token of an earlier time; name another file, or remove it",
            file.display()
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_removed_user_has_can_be_saved_from_each_node_that_holds_it() {
        let shard = |node: &str, rank, image: Option<&str>| Shard {
            node: node.to_owned(),
            rank,
            bytes: None,
            last_image: image.map(str::to_owned),
            last_used_at: None,
        };
        let overlay = |name: &str, shards| Overlay {
            id: String::new(),
            owner: "alice".parse().unwrap(),
            name: name.parse().unwrap(),
            created_at: String::new(),
            shards,
            shares_disk: false,
        };
        assert_eq!(saving(&[overlay("empty", Vec::new())]), "");
        let shards = vec![shard("n03", 0, Some("tools:latest")), shard("n07", 1, None)];
        let told = saving(&[overlay("empty", Vec::new()), overlay("dev", shards)]);
        let lines: Vec<_> = told.lines().skip(2).map(str::trim).collect();
        assert_eq!(
            lines,
            [
                "haasctl switch n03 --image tools:latest --overlay alice/dev --rescue --wait",
                "haasctl ssh n03 -l root -- 'tar -C /overlay -cf - .' > alice-dev-0.tar",
                "haasctl switch n07 --image IMAGE --overlay alice/dev --rescue --wait",
                "haasctl ssh n07 -l root -- 'tar -C /overlay -cf - .' > alice-dev-1.tar",
            ]
        );
    }

    #[test]
    fn a_token_takes_the_place_of_a_token_only() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("alice.token");
        assert!(may_be_written(&file).is_ok(), "none is there");
        assert!(may_be_written(Path::new("-")).is_ok());
        for (text, may) in [("", true), ("correct horse battery", false)] {
            fs::write(&file, text).unwrap();
            assert_eq!(may_be_written(&file).is_ok(), may, "{text:?}");
        }
        fs::write(&file, format!("{}\n", "aB3-_".repeat(9).split_off(2))).unwrap();
        assert!(may_be_written(&file).is_ok());
        assert!(may_be_written(folder.path()).is_err(), "a folder");
    }

    #[test]
    fn keys_are_read_and_a_private_key_is_refused() {
        let text = "# mine\n\nssh-ed25519 AAAAC3Nza alice@x\nno-pty ecdsa-sha2-nistp256 AAAA b\n";
        assert_eq!(keys_in(text).unwrap().len(), 2);
        assert_eq!(keys_in("-----BEGIN OPENSSH PRIVATE KEY-----\nb3Blb\n"), Err(1));
        assert_eq!(keys_in("ssh-ed25519 AAAA\nhello\n"), Err(2));
    }
}
