//! Workload traces in the Standard Workload Format, plain or gzip, and their preparation.
//!
//! One job per line, 18 numbers; lines that begin with `;` are remarks. Of the 18 only five matter here.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use flate2::read::MultiGzDecoder;

/// A job of a trace, prepared. Times are in whole seconds, beginning with the first job's submission.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Job {
    pub(crate) submit: i64,
    pub(crate) run: i64,
    /// How many nodes it takes; a processor of the trace is a node here.
    pub(crate) width: u32,
    /// What its user thought that it would run, at least what it ran.
    pub(crate) estimate: i64,
    pub(crate) user: u32,
}

/// Why a trace cannot be replayed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("cannot read the trace {}", .0.display())]
    Read(PathBuf, #[source] std::io::Error),
    #[error("{}:{line}: not a line of the Standard Workload Format", .path.display())]
    Line { path: PathBuf, line: usize },
    #[error("{} has no job that ran", .0.display())]
    Empty(PathBuf),
}

/// Reads a trace and prepares it: jobs that did not run or had no processor are dropped, times begin
/// at zero, and those of submission are multiplied by `scale`.
pub(crate) fn read(path: &Path, scale: f64) -> Result<Vec<Job>, Error> {
    let read = |error| Error::Read(path.to_owned(), error);
    let file = File::open(path).map_err(read)?;
    let mut file = BufReader::new(file);
    let is_gzip = file.fill_buf().map_err(read)?.starts_with(&[0x1f, 0x8b]);
    let text: Box<dyn Read> =
        if is_gzip { Box::new(MultiGzDecoder::new(file)) } else { Box::new(file) };
    let mut jobs = Vec::new();
    for (index, line) in BufReader::new(text).lines().enumerate() {
        let line = line.map_err(read)?;
        let line = line.trim();
        if line.is_empty() || line.starts_with(';') {
            continue;
        }
        let bad = || Error::Line { path: path.to_owned(), line: index + 1 };
        jobs.extend(job(line).ok_or_else(bad)?);
    }
    // Of jobs that were submitted in the same second the shorter goes first, then the narrower.
    jobs.sort();
    let first = jobs.first().ok_or_else(|| Error::Empty(path.to_owned()))?.submit;
    for job in &mut jobs {
        job.submit = ((job.submit - first) as f64 * scale) as i64;
    }
    Ok(jobs)
}

/// None if the line has another form; nothing in it if the job did not run.
fn job(line: &str) -> Option<Option<Job>> {
    let mut numbers = [0.0; 18];
    let mut fields = line.split_ascii_whitespace();
    for number in &mut numbers {
        *number = fields.next()?.parse::<f64>().ok()?;
    }
    let [_, submit, _, run, allocated, _, _, requested, time, _, _, user, ..] = numbers;
    let width = if allocated > 0.0 { allocated } else { requested };
    if run <= 0.0 || width <= 0.0 {
        return Some(None);
    }
    let run = run as i64;
    let estimate = if time > 0.0 { (time as i64).max(run) } else { run };
    Some(Some(Job {
        submit: submit as i64,
        run,
        width: width as u32,
        estimate,
        user: user.max(0.0) as u32,
    }))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::{Compression, write::GzEncoder};

    use super::*;

    const TRACE: &str = "; a remark\n\
        1 100 -1 50 4 -1 -1 -1 -1 -1 1 7 1 -1 -1 -1 -1 -1\n\
        2 120 -1 -1 4 -1 -1 4 60 -1 0 7 1 -1 -1 -1 -1 -1\n\
        3 120 -1 30 -1 -1 -1 2 20 -1 1 8 1 -1 -1 -1 -1 -1\n\
        4 120 -1 10 9 -1 -1 9 90 -1 1 8 1 -1 -1 -1 -1 -1\n";

    fn check(bytes: &[u8]) {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(bytes).unwrap();
        let jobs = read(file.path(), 0.55).unwrap();
        assert_eq!(
            jobs,
            [
                Job { submit: 0, run: 50, width: 4, estimate: 50, user: 7 },
                Job { submit: 11, run: 10, width: 9, estimate: 90, user: 8 },
                Job { submit: 11, run: 30, width: 2, estimate: 30, user: 8 },
            ]
        );
    }

    #[test]
    fn a_trace_is_prepared_plain_and_packed() {
        check(TRACE.as_bytes());
        let mut packed = GzEncoder::new(Vec::new(), Compression::default());
        packed.write_all(TRACE.as_bytes()).unwrap();
        check(&packed.finish().unwrap());
    }

    #[test]
    fn another_format_is_refused_with_its_line() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(b"; fine\n1 2 three\n").unwrap();
        let error = read(file.path(), 1.0).unwrap_err();
        assert!(matches!(error, Error::Line { line: 2, .. }), "{error}");
    }
}
