use super::*;
use crate::model::SECOND;

const DAY: Micros = 86_400 * SECOND;

fn logs(folder: &tempfile::TempDir, size: u64) -> Logs {
    Logs::new(folder.path(), size, 8 * DAY)
}

fn entry(at: Micros, text: &str) -> Entry {
    Entry { at, kind: Kind::Output, text: text.as_bytes().to_vec() }
}

fn texts(entries: &[Entry]) -> Vec<&str> {
    entries.iter().map(|entry| std::str::from_utf8(&entry.text).unwrap()).collect()
}

fn everybodys(_: &str) -> bool {
    true
}

#[test]
fn lines_are_read_as_they_were_written_and_a_follower_misses_and_repeats_none() {
    let folder = tempfile::tempdir().unwrap();
    let logs = logs(&folder, 8 << 20);
    assert_eq!(logs.tail("n", 9, everybodys).unwrap(), (Vec::new(), Cursor::default()));
    let mut writer = logs.writer("n", "alice");
    let odd = Entry { at: 7, kind: Kind::Mark, text: b"\xff \x1b[0m - * ".to_vec() };
    for line in [&entry(5, "one"), &entry(6, ""), &odd] {
        writer.add(line).unwrap();
    }
    let (read, cursor) = logs.tail("n", 2, everybodys).unwrap();
    assert_eq!(read, [entry(6, ""), odd.clone()]);
    assert_eq!(logs.after("n", 9, &cursor, everybodys).unwrap(), (Vec::new(), cursor.clone()));
    let cursor = Cursor::parse(&cursor.to_text()).unwrap();
    for number in 0..5 {
        writer.add(&entry(8, &number.to_string())).unwrap();
    }
    let (read, cursor) = logs.after("n", 3, &cursor, everybodys).unwrap();
    assert_eq!(texts(&read), ["0", "1", "2"]);
    let (read, cursor) = logs.after("n", 3, &cursor, everybodys).unwrap();
    assert_eq!(texts(&read), ["3", "4"]);
    assert_eq!(logs.after("n", 3, &cursor, everybodys).unwrap().0, []);
    for bad in ["", "x", "../../etc/passwd:0", "a:-1", "a:b"] {
        assert_eq!(Cursor::parse(bad), None, "{bad}");
    }
}

#[test]
fn each_tenants_lines_are_in_files_of_their_own_which_others_cannot_read() {
    let folder = tempfile::tempdir().unwrap();
    let logs = logs(&folder, 8 << 20);
    let mut writer = logs.writer("n", "");
    for (tenant, line) in [("alice", "secret of alice"), ("bob", "hello bob"), ("alice", "again")] {
        writer.hand_over(tenant);
        // All at the same moment, of a clock that stands.
        writer.add(&entry(5, line)).unwrap();
    }
    let as_bob = |tenant: &str| tenant == "bob";
    let (read, end) = logs.tail("n", 9, as_bob).unwrap();
    assert_eq!(texts(&read), ["hello bob"]);
    let (read, _) = logs.after("n", 9, &Cursor::default(), as_bob).unwrap();
    assert_eq!(texts(&read), ["hello bob"]);
    // A cursor into another's piece opens nothing.
    writer.add(&entry(6, "more of alice")).unwrap();
    assert_eq!(logs.after("n", 9, &end, as_bob).unwrap().0, []);
    let (read, _) = logs.tail("n", 2, |tenant| tenant == "alice").unwrap();
    assert_eq!(texts(&read), ["again", "more of alice"]);
    use std::os::unix::fs::PermissionsExt;
    let place = folder.path().join("consoles/n");
    assert_eq!(fs::metadata(&place).unwrap().permissions().mode() & 0o777, 0o700);
    for name in pieces(&place).unwrap() {
        let mode = fs::metadata(place.join(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}

#[test]
fn a_log_goes_on_after_a_restart_also_behind_half_a_line() {
    let folder = tempfile::tempdir().unwrap();
    let logs = logs(&folder, 8 << 20);
    logs.writer("n", "alice").add(&entry(5, "one")).unwrap();
    let place = folder.path().join("consoles/n");
    let piece = place.join(&pieces(&place).unwrap()[0]);
    File::options().append(true).open(piece).unwrap().write_all(b"6 - tw").unwrap();
    assert_eq!(texts(&logs.tail("n", 9, everybodys).unwrap().0), ["one"]);
    let mut writer = logs.writer("n", "alice");
    writer.add(&entry(7, "two")).unwrap();
    writer.add(&entry(8, "three")).unwrap();
    assert_eq!(pieces(&place).unwrap().len(), 1);
    let (read, _) = logs.tail("n", 9, everybodys).unwrap();
    assert_eq!(texts(&read), ["one", "tw", "two", "three"]);
}

#[test]
fn a_log_stays_within_its_size_and_age() {
    let folder = tempfile::tempdir().unwrap();
    let logs = logs(&folder, 80_000);
    let mut writer = logs.writer("n", "alice");
    let place = folder.path().join("consoles/n");
    let size = || -> u64 {
        let names = pieces(&place).unwrap().into_iter();
        names.map(|name| fs::metadata(place.join(name)).unwrap().len()).sum()
    };
    for number in 0..4_000 {
        writer.add(&entry(number, &format!("line {number} of forty characters, or so"))).unwrap();
        if number % 500 == 499 {
            assert!(size() <= 80_200, "{}", size());
        }
    }
    assert!(size() > 60_000, "{}", size());
    let (read, _) = logs.tail("n", 1, everybodys).unwrap();
    assert_eq!(texts(&read), ["line 3999 of forty characters, or so"]);
    // A day later begins another piece, so that age is by the day.
    let before = pieces(&place).unwrap().len();
    writer.add(&entry(2 * DAY, "late")).unwrap();
    assert_eq!(pieces(&place).unwrap().len(), before + 1);
    let now = crate::clock::wall();
    logs.prune(now).unwrap();
    assert_eq!(pieces(&place).unwrap().len(), before + 1);
    logs.prune(now + 9 * DAY).unwrap();
    assert!(!place.exists());
}
