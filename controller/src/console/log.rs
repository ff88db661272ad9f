//! Logs of consoles on disk: `STATE_DIR/consoles/NODE-ID/`, readable by haasd alone.
//!
//! A log is pieces, each a file `START-TENANT.log` in which everything was printed while the node was
//! that tenant's, so that what a reader may see is decided by file. A piece is only added to. It is
//! closed when it is long or old enough, and at hand-over; whole pieces go when a node has more
//! than its size, or when their last line is too old. A line of a piece is the time in microseconds, what
//! it is (`-` output, `*` haasd's own mark), and the text.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Seek, SeekFrom, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    time::UNIX_EPOCH,
};

use crate::model::Micros;

/// A log has about this many pieces when it is full.
const PIECES: u8 = 8;
/// In a file's name: nobody had the node.
const NOBODY: &str = "nobody";

/// All logs.
#[derive(Debug, Clone)]
pub(super) struct Logs {
    folder: PathBuf,
    /// Bytes of one node's log.
    size: u64,
    age: Micros,
}

/// What a line is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The node printed it.
    Output,
    /// haasd says it of the console.
    Mark,
}

/// A line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// When it came, wall clock.
    pub at: Micros,
    /// What it is.
    pub kind: Kind,
    /// Without its end.
    pub text: Vec<u8>,
}

/// A place in a node's log: behind so many bytes of a piece.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cursor {
    piece: String,
    offset: u64,
}

/// The log of one node, to be written.
#[derive(Debug)]
pub(super) struct Writer {
    logs: Logs,
    folder: PathBuf,
    tenant: String,
    piece: Option<Piece>,
}

/// The piece that is written.
#[derive(Debug)]
struct Piece {
    file: File,
    length: u64,
    begun: Micros,
}

impl Logs {
    pub(super) fn new(state_dir: &Path, size: u64, age: Micros) -> Self {
        Self { folder: state_dir.join("consoles"), size, age }
    }

    /// To write a node's log while the node is `tenant`'s.
    pub(super) fn writer(&self, node_id: &str, tenant: &str) -> Writer {
        let folder = self.folder.join(node_id);
        Writer { logs: self.clone(), folder, tenant: tenant.to_owned(), piece: None }
    }

    /// The last lines of a node's log in those pieces whose tenant `may` be read, and the place behind
    /// them.
    pub(super) fn tail(
        &self,
        node_id: &str,
        lines: usize,
        may: impl Fn(&str) -> bool,
    ) -> io::Result<(Vec<Entry>, Cursor)> {
        let folder = self.folder.join(node_id);
        let pieces = pieces(&folder)?;
        let mut cursor = Cursor::default();
        let mut found = Vec::new();
        for name in pieces.iter().rev() {
            let readable = may(tenant_of(name));
            if found.len() >= lines && !cursor.piece.is_empty() {
                break;
            }
            let (entries, end) = if readable { read(&folder, name, 0)? } else { (Vec::new(), 0) };
            if cursor.piece.is_empty() {
                cursor = Cursor { piece: name.clone(), offset: end };
            }
            found.splice(0..0, entries);
        }
        let from = found.len().saturating_sub(lines);
        Ok((found.split_off(from), cursor))
    }

    /// At most `lines` lines behind a place.
    pub(super) fn after(
        &self,
        node_id: &str,
        lines: usize,
        from: &Cursor,
        may: impl Fn(&str) -> bool,
    ) -> io::Result<(Vec<Entry>, Cursor)> {
        let folder = self.folder.join(node_id);
        let mut cursor = from.clone();
        let mut found = Vec::new();
        for name in pieces(&folder)? {
            if name < cursor.piece || found.len() >= lines {
                continue;
            }
            let offset = if name == cursor.piece { cursor.offset } else { 0 };
            if !may(tenant_of(&name)) {
                cursor = Cursor { piece: name, offset };
                continue;
            }
            let (mut entries, end) = read(&folder, &name, offset)?;
            let room = lines - found.len();
            let end = match entries.get(room..) {
                Some(rest) => end - rest.iter().map(Entry::length).sum::<u64>(),
                None => end,
            };
            entries.truncate(room);
            found.append(&mut entries);
            cursor = Cursor { piece: name, offset: end };
        }
        Ok((found, cursor))
    }

    /// Removes pieces to which nothing was added for too long.
    pub(super) fn prune(&self, now: Micros) -> io::Result<()> {
        let folders = match fs::read_dir(&self.folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            folders => folders?,
        };
        for folder in folders {
            let folder = folder?.path();
            for name in pieces(&folder)? {
                let piece = folder.join(name);
                let changed = fs::metadata(&piece)?.modified()?.duration_since(UNIX_EPOCH);
                let changed = changed.map_or(0, |time| time.as_micros());
                if Micros::try_from(changed).is_ok_and(|changed| now - changed > self.age) {
                    fs::remove_file(piece)?;
                }
            }
            // Of a node that has been gone for long; it fails while anything is in there.
            let _ = fs::remove_dir(folder);
        }
        Ok(())
    }

    fn is_full(&self, length: u64, begun: Micros, now: Micros) -> bool {
        length >= self.size / u64::from(PIECES) || now - begun >= self.age / i64::from(PIECES)
    }
}

impl Writer {
    /// Adds a line.
    pub(super) fn add(&mut self, entry: &Entry) -> io::Result<()> {
        let is_full = |piece: &Piece| self.logs.is_full(piece.length, piece.begun, entry.at);
        if self.piece.as_ref().is_none_or(is_full) {
            let had_one = self.piece.take().is_some();
            self.piece = Some(self.next_piece(entry.at, !had_one)?);
            self.make_room()?;
        }
        let Some(piece) = &mut self.piece else { return Ok(()) };
        let line = entry.line();
        piece.file.write_all(&line)?;
        piece.length += line.len() as u64;
        Ok(())
    }

    /// Closes what is written; from now on the node is another tenant's.
    pub(super) fn hand_over(&mut self, tenant: &str) {
        self.piece = None;
        self.tenant = tenant.to_owned();
    }

    /// The node's last piece, if it is this tenant's and has room, or a new one.
    fn next_piece(&self, now: Micros, may_go_on: bool) -> io::Result<Piece> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.folder)?;
        let last = pieces(&self.folder)?.pop();
        if let Some(last) = last.as_ref().filter(|last| may_go_on && self.goes_on(last, now)) {
            let mut file = open(&self.folder.join(last), false)?;
            // haasd was killed within a line.
            let mut end = [b'\n'];
            if file.seek(SeekFrom::End(-1)).is_ok() {
                file.read_exact(&mut end)?;
            }
            if end != [b'\n'] {
                file.write_all(b"\n")?;
            }
            let length = file.metadata()?.len();
            return Ok(Piece { file, length, begun: start_of(last).unwrap_or(now) });
        }
        // Behind all others, also where the clock was set back.
        let newest = last.as_ref().and_then(|last| start_of(last));
        let begun = now.max(newest.map_or(0, |newest| newest + 1));
        let tenant = if self.tenant.is_empty() { NOBODY } else { &self.tenant };
        let path = self.folder.join(format!("{begun:016}-{tenant}.log"));
        Ok(Piece { file: open(&path, true)?, length: 0, begun })
    }

    fn goes_on(&self, last: &str, now: Micros) -> bool {
        let length = fs::metadata(self.folder.join(last)).map_or(u64::MAX, |data| data.len());
        let has_room = |begun| !self.logs.is_full(length, begun, now);
        tenant_of(last) == self.tenant && start_of(last).is_some_and(has_room)
    }

    /// Removes the oldest pieces until the others, and one more, are within the size.
    fn make_room(&self) -> io::Result<()> {
        let mut left = self.logs.size - self.logs.size / u64::from(PIECES);
        let mut over = false;
        for name in pieces(&self.folder)?.iter().rev() {
            let path = self.folder.join(name);
            let length = fs::metadata(&path)?.len();
            over |= length > left;
            if over {
                fs::remove_file(path)?;
            } else {
                left -= length;
            }
        }
        Ok(())
    }
}

impl Entry {
    fn line(&self) -> Vec<u8> {
        let kind = match self.kind {
            Kind::Output => '-',
            Kind::Mark => '*',
        };
        let mut line = format!("{} {kind} ", self.at).into_bytes();
        line.extend(self.text.iter().filter(|byte| **byte != b'\n'));
        line.push(b'\n');
        line
    }

    fn length(&self) -> u64 {
        self.line().len() as u64
    }

    fn parse(line: &[u8]) -> Option<Self> {
        let mut parts = line.splitn(3, |byte| *byte == b' ');
        let at = std::str::from_utf8(parts.next()?).ok()?.parse().ok()?;
        let kind = match parts.next()? {
            b"-" => Kind::Output,
            b"*" => Kind::Mark,
            _ => return None,
        };
        Some(Self { at, kind, text: parts.next()?.to_vec() })
    }
}

impl Cursor {
    /// As callers have it.
    pub fn to_text(&self) -> String {
        format!("{}:{}", self.piece, self.offset)
    }

    /// None where it is none of ours.
    pub fn parse(text: &str) -> Option<Self> {
        let (piece, offset) = text.rsplit_once(':')?;
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.');
        let piece = Some(piece).filter(|piece| piece.chars().all(plain) && piece.len() <= 100)?;
        Some(Self { piece: piece.to_owned(), offset: offset.parse().ok()? })
    }
}

fn open(path: &Path, new: bool) -> io::Result<File> {
    OpenOptions::new().read(true).append(true).create_new(new).mode(0o600).open(path)
}

/// The names of a log's pieces, the oldest first.
fn pieces(folder: &Path) -> io::Result<Vec<String>> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut names = Vec::new();
    for entry in entries {
        let name = entry?.file_name().into_string().unwrap_or_default();
        if start_of(&name).is_some() {
            names.push(name);
        }
    }
    names.sort_unstable();
    Ok(names)
}

fn start_of(name: &str) -> Option<Micros> {
    let (start, rest) = name.split_at_checked(16)?;
    (rest.starts_with('-') && rest.ends_with(".log")).then(|| start.parse().ok())?
}

fn tenant_of(name: &str) -> &str {
    let tenant = name.get(17..).and_then(|rest| rest.strip_suffix(".log")).unwrap_or_default();
    if tenant == NOBODY { "" } else { tenant }
}

/// The whole lines of a piece from a place on, and the place behind them.
fn read(folder: &Path, name: &str, offset: u64) -> io::Result<(Vec<Entry>, u64)> {
    let mut file = match File::open(folder.join(name)) {
        // It was too old just now.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok((Vec::new(), offset)),
        file => file?,
    };
    file.seek(SeekFrom::Start(offset))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    let lines = bytes.get(..whole).unwrap_or_default().split(|byte| *byte == b'\n');
    Ok((lines.filter_map(Entry::parse).collect(), offset + whole as u64))
}

#[cfg(test)]
#[path = "log_tests.rs"]
mod tests;
