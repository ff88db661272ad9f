//! The controller's clock jumps by a year while nodes boot: nothing expires and nothing is lost,
//! since deadlines are counted on a clock that no one can set.

use std::fs;

use anyhow::{Result, ensure};

use crate::rack::{PATIENT, SimRack};

/// Debian's libfaketime, which makes up a process's wall clock as a file says at each moment.
const FAKETIME: &str = "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1";

#[test]
#[ignore = "needs root and built binaries; run: cargo xtask e2e --slow"]
fn slow_a_jump_of_the_controllers_clock_expires_nothing() -> Result<()> {
    ensure!(fs::exists(FAKETIME)?, "no {FAKETIME}: cargo xtask setup installs libfaketime");
    let sim = SimRack::start("clock", 2)?;
    let mut haas = sim.haasd(PATIENT)?;
    let offset = sim.node(1).path().with_file_name("clock-offset");
    fs::write(&offset, "+0\n")?;
    let offset_path = offset.display().to_string();
    for (key, value) in [
        ("LD_PRELOAD", FAKETIME),
        ("FAKETIME_TIMESTAMP_FILE", &offset_path),
        ("FAKETIME_NO_CACHE", "1"),
        // The kernel's own steady clocks cannot be set, so they are not made up either.
        ("DONT_FAKE_MONOTONIC", "1"),
    ] {
        haas.haasd.set_env(key, value);
    }
    haas.haasd.restart()?;

    let first = haas.switch("n[1-2]", "a")??;
    fs::write(&offset, "+400d\n")?;
    haas.done(first)?;
    let ahead = haas.switched("n[1-2]", "b")?;
    fs::write(&offset, "-400d\n")?;
    let behind = haas.switched("n[1-2]", "a")?;
    let year = |time: &str| time.get(..4).and_then(|year| year.parse::<i32>().ok());
    let (ahead, behind) = (year(&ahead.created_at), year(&behind.created_at));
    ensure!(ahead > behind.map(|year| year + 1), "the clock did not jump: {ahead:?}, {behind:?}");

    ensure!(sim.count("on") == [3, 3], "each switch is one power-on: {:?}", sim.count("on"));
    ensure!(sim.count("off") == [0, 0], "nothing was cut off: {:?}", sim.count("off"));
    let events = haas.events()?;
    ensure!(events.windows(2).all(|pair| pair[1].seq == pair[0].seq + 1), "a gap in the events");
    Ok(())
}
