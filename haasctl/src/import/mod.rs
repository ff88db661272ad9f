//! `node import`: a nodes.toml from the files of the system that nodes come from.
//!
//! One module per format reads a [`draft::Draft`]; [`draft::check`] refuses what no inventory may
//! hold, and [`mod@print`] writes it as nodes.toml. Nothing here speaks to haasd: a person looks
//! through what is printed, and gives it to `node apply`. What a format says and nodes.toml has no
//! place for becomes a comment, so that nothing is lost unseen. Passwords are never printed.

mod csv;
mod dhcpd;
mod dnsmasq;
mod draft;
mod guess;
mod hosts;
mod layers;
mod print;
mod text;
mod warewulf;

use std::{
    fs,
    io::{self, Read},
    path::PathBuf,
};

use crate::{
    cli::Session,
    error::{Error, io_error},
};

use self::draft::{Draft, Problems};
pub(crate) use self::text::natural;

/// A format that is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Source {
    /// A table whose first line names the columns: name,mac,ip,bmc and more.
    Csv,
    /// dnsmasq.conf, or a file of its dhcp-hostsfile.
    Dnsmasq,
    /// ISC's dhcpd.conf.
    Dhcpd,
    /// Warewulf 4's nodes.conf.
    Warewulf,
}

impl Source {
    /// As people call it.
    fn title(self) -> &'static str {
        match self {
            Self::Csv => "CSV",
            Self::Dnsmasq => "dnsmasq",
            Self::Dhcpd => "ISC dhcpd",
            Self::Warewulf => "Warewulf",
        }
    }

    fn read(self, text: &str, problems: &mut Problems) -> Draft {
        match self {
            Self::Csv => csv::read(text, problems),
            Self::Dnsmasq => dnsmasq::read(text, problems),
            Self::Dhcpd => dhcpd::read(text, problems),
            Self::Warewulf => warewulf::read(text, problems),
        }
    }
}

#[derive(Debug, clap::Args)]
pub(crate) struct ImportArgs {
    /// The file, or - for standard input.
    file: PathBuf,
    /// The file's format; where none is given, its content tells.
    #[arg(long, value_enum, value_name = "FORMAT")]
    from: Option<Source>,
}

impl ImportArgs {
    pub(crate) fn run(self, session: &Session<'_>) -> Result<(), Error> {
        let (name, bytes) = self.content()?;
        let (inventory, notes) = convert(&name, &bytes, self.from)?;
        session.out.text(&inventory)?;
        session.out.note(&notes)
    }

    fn content(&self) -> Result<(String, Vec<u8>), Error> {
        if self.file.as_os_str() == "-" {
            let mut bytes = Vec::new();
            let read = io::stdin().lock().read_to_end(&mut bytes);
            read.map_err(io_error("standard input cannot be read"))?;
            return Ok(("standard input".to_owned(), bytes));
        }
        let name = self.file.display().to_string();
        let bytes = fs::read(&self.file).map_err(io_error(format!("{name} cannot be read")))?;
        Ok((name, bytes))
    }
}

/// The text of a nodes.toml, and what to tell the caller beside it.
fn convert(name: &str, bytes: &[u8], from: Option<Source>) -> Result<(String, String), Error> {
    if bytes.contains(&0) {
        return Err(Error::Usage(format!("{name} is no text in UTF-8; save it as such")));
    }
    // Comments in old files may be in another encoding; a name that is will be refused as a name.
    let text = String::from_utf8_lossy(bytes);
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    let source = match from.or_else(|| guess::format_of(name, text)) {
        Some(source) => source,
        None => {
            return Err(Error::Usage(format!(
                "{name} does not tell what kind of file it is; say it: --from csv, dnsmasq, dhcpd \
                 or warewulf"
            )));
        }
    };
    let mut problems = Problems::default();
    let mut draft = source.read(text, &mut problems);
    draft.nodes.sort_by_key(|node| text::natural(node.name.as_str()));
    draft.left_out.sort_by_key(|(line, _)| *line);
    draft::settle_users(&mut draft);
    draft::check(&draft, &mut problems);
    if let Some(told) = problems.told(name) {
        return Err(Error::Usage(format!(
            "{name} cannot be taken over as {}:\n{told}",
            source.title()
        )));
    }
    if draft.nodes.is_empty() {
        let left: Vec<_> = draft.left_out.iter().map(|(_, left)| format!("\n  {left}")).collect();
        return Err(Error::Usage(format!(
            "{name}, read as {}, has no node{}",
            source.title(),
            left.concat()
        )));
    }
    Ok(print::nodes_toml(&draft, name, source.title()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each sample, and the nodes.toml that it becomes. controller's tests read the latter.
    const SAMPLES: [&str; 5] =
        ["hosts.csv", "dnsmasq.conf", "dnsmasq.hosts", "dhcpd.conf", "nodes.conf"];

    #[test]
    fn samples_become_what_stands_beside_them() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/import");
        for sample in SAMPLES {
            let bytes = fs::read(folder.join(sample)).unwrap();
            let (inventory, _) = convert(sample, &bytes, None).unwrap();
            let golden = folder.join(format!("{sample}.toml"));
            if std::env::var_os("HAAS_BLESS").is_some() {
                fs::write(&golden, &inventory).unwrap();
            }
            let expected = fs::read_to_string(&golden).unwrap();
            assert_eq!(inventory, expected, "{sample}; HAAS_BLESS=1 writes it anew");
            // Line ends of Windows, and a byte order mark, change nothing.
            let text = String::from_utf8(bytes).unwrap().replace("\r\n", "\n");
            let windows = format!("\u{feff}{}", text.replace('\n', "\r\n"));
            assert_eq!(convert(sample, windows.as_bytes(), None).unwrap().0, expected);
        }
    }

    #[test]
    fn damaged_files_are_refused_or_become_toml() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/import");
        let sources = [Source::Csv, Source::Dnsmasq, Source::Dhcpd, Source::Warewulf];
        // A small generator of its own, so that a failure comes again.
        let mut state = 11_u64;
        let mut pick = |below: usize| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 33) as usize % below
        };
        let mut taken = 0;
        for sample in SAMPLES {
            let whole = fs::read(folder.join(sample)).unwrap();
            for _ in 0..300 {
                let mut bytes = whole.clone();
                for _ in 0..=pick(3) {
                    let at = pick(bytes.len());
                    match pick(5) {
                        0 => bytes.truncate(at.max(1)),
                        1 => drop(bytes.remove(at)),
                        2 => bytes[at] = b"\"'{};,:#=-~\t\r\n\x01\xc3"[pick(16)],
                        3 => bytes.insert(at, b"\"'{};,:#=-~\t\r\n\x01\xc3"[pick(16)]),
                        _ => {
                            let from = pick(bytes.len());
                            let piece = bytes[from..(from + pick(40)).min(bytes.len())].to_vec();
                            bytes.splice(at..at, piece);
                        }
                    }
                }
                for source in sources {
                    if let Ok((inventory, _)) = convert("f\u{1}", &bytes, Some(source)) {
                        let read = inventory.parse::<toml::Table>();
                        assert!(read.is_ok(), "{read:?}\n{inventory}");
                        taken += 1;
                    }
                }
            }
        }
        assert!(taken > 200, "hardly anything was taken: {taken}");
    }

    #[test]
    fn no_password_is_copied() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/import");
        for (sample, secrets) in
            [("hosts.csv", ["s3cret", "0ther"]), ("nodes.conf", ["hpcadmin-pw", "oob-gpu-pw"])]
        {
            let bytes = fs::read(folder.join(sample)).unwrap();
            let (inventory, notes) = convert(sample, &bytes, None).unwrap();
            for secret in secrets {
                assert!(String::from_utf8_lossy(&bytes).contains(secret), "{sample}: {secret}");
                assert!(!(inventory.clone() + &notes).contains(secret), "{sample}: {secret}");
            }
            assert!(
                notes.contains("secrets/bmc: ") && notes.contains("secrets/bmc-2: "),
                "{notes}"
            );
        }
    }

    #[test]
    fn a_file_of_no_known_kind_is_refused_with_the_remedy() {
        let Err(Error::Usage(told)) = convert("notes.txt", b"n01 is in rack 1\n", None) else {
            panic!("it was taken");
        };
        assert!(told.contains("--from csv, dnsmasq, dhcpd or warewulf"), "{told}");
        let Err(Error::Usage(told)) = convert("x.csv", b"n\0a\0m\0e\0", None) else {
            panic!("it was taken");
        };
        assert!(told.contains("UTF-8"), "{told}");
        let Err(Error::Usage(told)) = convert("x.csv", b"name,mac\n", None) else {
            panic!("it was taken");
        };
        assert_eq!(told, "x.csv, read as CSV, has no node");
    }

    /// What is wrong with a text, without its first line.
    pub(super) fn refusal(source: Source, text: &str) -> String {
        match convert("f", text.as_bytes(), Some(source)) {
            Err(Error::Usage(told)) => {
                told.split_once('\n').map_or(told.clone(), |t| t.1.to_owned())
            }
            Err(other) => panic!("{other}"),
            Ok((inventory, _)) => panic!("it was taken:\n{inventory}"),
        }
    }

    /// The stanzas that a text becomes, without the comments at the top.
    pub(super) fn stanzas(source: Source, text: &str) -> String {
        let (inventory, _) = convert("f", text.as_bytes(), Some(source)).unwrap();
        inventory.split_once("\n\n").unwrap().1.to_owned()
    }

    /// The comments at the top.
    pub(super) fn comments(source: Source, text: &str) -> String {
        let (inventory, _) = convert("f", text.as_bytes(), Some(source)).unwrap();
        inventory.split_once("\n\n").unwrap().0.to_owned()
    }
}
