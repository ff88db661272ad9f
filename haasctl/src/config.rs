//! The configuration file: contexts, each a haasd and a token for it.
//!
//! `HAASCTL_CONFIG` names the file; else it is `haasctl/config.toml` under `XDG_CONFIG_HOME` or
//! `~/.config`. It may hold tokens, so it is always written with mode 0600, in one step.
//!
//! ```toml
//! current = "lab"
//!
//! [contexts.lab]
//! url = "https://10.0.0.1:8443"
//! fingerprint = "9f86d081…"
//! token_file = "/home/alice/.config/haasctl/lab.token"   # or: token = "…"
//! ```

use std::{
    collections::BTreeMap,
    fmt, fs,
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::{Path, PathBuf},
};

use haas_api::client::Client;
use serde::{Deserialize, Serialize};

use crate::error::{Error, io_error};

/// The file's contents.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(skip_serializing_if = "Option::is_none")]
    current: Option<String>,
    #[serde(default)]
    contexts: BTreeMap<String, Context>,
}

/// A haasd, and who we are there.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Context {
    /// `https://ADDRESS:8443`.
    pub(crate) url: String,
    /// SHA-256 of its certificate, 64 hexadecimal digits.
    pub(crate) fingerprint: String,
    /// The file that holds the token; relative to the configuration's folder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) token_file: Option<PathBuf>,
    /// The token itself, where there is no file for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) token: Option<String>,
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context").field("url", &self.url).finish_non_exhaustive()
    }
}

/// The configuration, and where it stands.
#[derive(Debug)]
pub(crate) struct Config {
    /// The file.
    pub(crate) path: PathBuf,
    /// What the caller should know about the file.
    pub(crate) warning: Option<String>,
    file: File,
}

/// Reads the configuration; without a file it is empty.
pub(crate) fn load() -> Result<Config, Error> {
    load_from(default_path()?)
}

fn default_path() -> Result<PathBuf, Error> {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    if let Some(path) = set("HAASCTL_CONFIG") {
        return Ok(path);
    }
    set("XDG_CONFIG_HOME")
        .or_else(|| std::env::home_dir().map(|home| home.join(".config")))
        .map(|folder| folder.join("haasctl/config.toml"))
        .ok_or_else(|| Error::Usage("there is no home folder; set HAASCTL_CONFIG".to_owned()))
}

fn load_from(path: PathBuf) -> Result<Config, Error> {
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(e) if e.kind() == io::ErrorKind::NotFound => String::new(),
        Err(e) => return Err(Error::Config { path, reason: e.to_string() }),
    };
    let file: File = toml::from_str(&text).map_err(|e| {
        // Not the whole error: it quotes the line, which may hold a token.
        let line = e.span().map_or(1, |span| text[..span.start].matches('\n').count() + 1);
        Error::Config { path: path.clone(), reason: format!("line {line}: {}", e.message()) }
    })?;
    let holds_token = file.contexts.values().any(|context| context.token.is_some());
    let open_to_others =
        fs::metadata(&path).is_ok_and(|metadata| metadata.permissions().mode() & 0o077 != 0);
    let warning = (holds_token && open_to_others).then(|| {
        format!("warning: others can read the tokens in {0}; chmod 600 {0}", path.display())
    });
    Ok(Config { path, warning, file })
}

impl Config {
    /// The contexts by name.
    pub(crate) fn contexts(&self) -> &BTreeMap<String, Context> {
        &self.file.contexts
    }

    /// The name of the current context.
    pub(crate) fn current(&self) -> Option<&str> {
        self.file.current.as_deref()
    }

    /// The context to use: the one asked for, the current one, or the only one.
    pub(crate) fn pick(&self, asked: Option<&str>) -> Result<(&str, &Context), Error> {
        let contexts = &self.file.contexts;
        let only = || match contexts.len() {
            1 => contexts.keys().next().map(String::as_str),
            _ => None,
        };
        let name = asked.or(self.current()).or_else(only).ok_or_else(|| {
            let first = contexts.is_empty();
            Error::Usage(if first {
                format!(
                    "{} names no haasd yet; see haasctl context add --help",
                    self.path.display()
                )
            } else {
                "no context is in use; say --context NAME or haasctl context use NAME".to_owned()
            })
        })?;
        let (name, context) = contexts.get_key_value(name).ok_or_else(|| {
            Error::Usage(format!("there is no context {name:?}; see haasctl context list"))
        })?;
        Ok((name, context))
    }

    /// A client for the context to use.
    pub(crate) fn client(&self, asked: Option<&str>) -> Result<Client, Error> {
        let (name, context) = self.pick(asked)?;
        self.client_of(name, context)
    }

    fn client_of(&self, name: &str, context: &Context) -> Result<Client, Error> {
        let (url, fingerprint) = (&context.url, &context.fingerprint);
        Ok(match self.token(name, context)? {
            Some(token) => Client::new(url, fingerprint, &token)?,
            None => Client::without_token(url, fingerprint)?,
        })
    }

    /// Sets a context; the first one becomes the current one.
    pub(crate) fn add(
        &mut self,
        name: &str,
        context: Context,
        make_current: bool,
    ) -> Result<(), Error> {
        self.client_of(name, &context)?;
        self.file.contexts.insert(name.to_owned(), context);
        if make_current || self.file.current.is_none() {
            self.file.current = Some(name.to_owned());
        }
        self.save()
    }

    /// Keeps a token for a haasd: in the context's own file, or in the configuration.
    pub(crate) fn keep_token(
        &mut self,
        name: &str,
        url: &str,
        fingerprint: &str,
        token: &str,
        make_current: bool,
    ) -> Result<(), Error> {
        let file = self.file.contexts.get(name).and_then(|context| context.token_file.clone());
        if let Some(file) = &file {
            write_private(&self.folder().join(file), format!("{token}\n").as_bytes())?;
        }
        let inside = if file.is_some() { None } else { Some(token.to_owned()) };
        let (url, fingerprint) = (url.to_owned(), fingerprint.to_owned());
        self.add(name, Context { url, fingerprint, token_file: file, token: inside }, make_current)
    }

    /// Makes a context the current one.
    pub(crate) fn make_current(&mut self, name: &str) -> Result<(), Error> {
        self.pick(Some(name))?;
        self.file.current = Some(name.to_owned());
        self.save()
    }

    /// None where the haasd of the context needs none.
    fn token(&self, name: &str, context: &Context) -> Result<Option<String>, Error> {
        match (&context.token_file, &context.token) {
            (Some(file), None) => {
                let file = self.folder().join(file);
                let what =
                    format!("the token of context {name} cannot be read from {}", file.display());
                Ok(Some(fs::read_to_string(&file).map_err(io_error(what))?.trim().to_owned()))
            }
            (None, token) => Ok(token.clone()),
            (Some(_), Some(_)) => Err(Error::Config {
                path: self.path.clone(),
                reason: format!(
                    "context {name} has both token_file and token; one of them is enough"
                ),
            }),
        }
    }

    fn folder(&self) -> &Path {
        self.path.parent().unwrap_or(Path::new("."))
    }

    fn save(&self) -> Result<(), Error> {
        let text = toml::to_string_pretty(&self.file)
            .map_err(|e| Error::Config { path: self.path.clone(), reason: e.to_string() })?;
        write_private(&self.path, text.as_bytes())
    }
}

/// Writes a file that only its owner can read, whole or not at all. Missing folders are made, as
/// private as the file.
pub(crate) fn write_private(path: &Path, contents: &[u8]) -> Result<(), Error> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let write = || -> io::Result<()> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        // Temporary files are made with mode 0600, whatever the umask says.
        let mut file = tempfile::NamedTempFile::new_in(folder)?;
        file.write_all(contents)?;
        file.as_file().set_permissions(fs::Permissions::from_mode(0o600))?;
        file.as_file().sync_all()?;
        file.persist(path)?;
        Ok(())
    };
    write().map_err(io_error(format!("{} cannot be written", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    const FP: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";

    fn context() -> Context {
        Context {
            url: "https://10.0.0.1:8443".to_owned(),
            fingerprint: FP.to_owned(),
            token_file: None,
            token: Some("secret".to_owned()),
        }
    }

    #[test]
    fn a_context_may_have_no_token_and_not_two() {
        let folder = tempfile::tempdir().unwrap();
        let mut config = load_from(folder.path().join("config.toml")).unwrap();
        let none = Context { token: None, ..context() };
        config.add("here", none, true).unwrap();
        config.client(None).expect("haasd asks for none");
        let both = Context { token_file: Some("lab.token".into()), ..context() };
        let refused = config.add("lab", both, false).unwrap_err().to_string();
        assert!(refused.contains("both token_file and token"), "{refused}");
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn the_file_is_private_even_if_it_was_open() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new/config.toml");
        let mut config = load_from(path.clone()).unwrap();
        config.add("lab", context(), false).unwrap();
        assert_eq!(mode(&path), 0o600);
        assert_eq!(mode(path.parent().unwrap()), 0o700);

        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        let mut config = load_from(path.clone()).unwrap();
        assert!(config.warning.as_ref().unwrap().contains("chmod 600"));
        assert_eq!(config.current(), Some("lab"));
        config.make_current("lab").unwrap();
        assert_eq!(mode(&path), 0o600);
        assert!(load_from(path).unwrap().warning.is_none());
    }

    #[test]
    fn a_token_file_stands_beside_the_configuration() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("lab.token"), "secret\n").unwrap();
        let mut config = load_from(folder.path().join("config.toml")).unwrap();
        let by_file = Context { token: None, token_file: Some("lab.token".into()), ..context() };
        config.add("lab", by_file, false).unwrap();
        assert!(config.client(None).is_ok());
        fs::remove_file(folder.path().join("lab.token")).unwrap();
        assert!(config.client(None).unwrap_err().to_string().contains("lab.token"));
    }

    #[test]
    fn errors_name_the_line_and_never_the_token() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.toml");
        fs::write(&path, "[contexts.lab]\nurl = \"u\"\ntoken = \"hush\" oops\n").unwrap();
        let said = load_from(path).unwrap_err().to_string();
        assert!(said.contains("line 3") && !said.contains("hush"), "{said}");
        assert!(!format!("{:?}", context()).contains("secret"));
    }

    #[test]
    fn the_context_is_the_one_asked_for_or_current_or_only() {
        let folder = tempfile::tempdir().unwrap();
        let mut config = load_from(folder.path().join("config.toml")).unwrap();
        assert!(matches!(config.pick(None), Err(Error::Usage(_))));
        config.add("lab", context(), false).unwrap();
        config.add("prod", context(), false).unwrap();
        assert_eq!(config.pick(None).unwrap().0, "lab");
        assert_eq!(config.pick(Some("prod")).unwrap().0, "prod");
        assert!(matches!(config.pick(Some("x")), Err(Error::Usage(_))));
        config.file.current = None;
        assert!(config.pick(None).is_err());
        config.file.contexts.remove("lab");
        assert_eq!(config.pick(None).unwrap().0, "prod");
    }
}
