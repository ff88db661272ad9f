//! The power button. A BMC's "soft off" presses it; on an image without systemd nobody else
//! listens.

use std::{fs, io::Read as _, thread, time::Duration};

const EV_KEY: u16 = 1;
const KEY_POWER: u16 = 116;
/// `struct input_event` of a machine with 64 bits: time (16), type (2), code (2), value (4).
const EVENT: usize = 24;
const LOOK_AGAIN: Duration = Duration::from_secs(5);

/// Calls `pressed` at each press, on a thread per button.
pub(crate) fn watch(pressed: impl Fn() + Send + Clone + 'static) {
    let started =
        thread::Builder::new().name("button".into()).stack_size(128 * 1024).spawn(move || {
            let mut known = Vec::new();
            // The driver may come up after us.
            loop {
                for name in buttons() {
                    if !known.contains(&name) {
                        known.push(name.clone());
                        listen(&name, pressed.clone());
                    }
                }
                thread::sleep(LOOK_AGAIN);
            }
        });
    if let Err(error) = started {
        crate::log::error(&format!("the power button is not watched: {error}"));
    }
}

fn buttons() -> Vec<String> {
    let Ok(entries) = fs::read_dir("/sys/class/input") else { return Vec::new() };
    let names = entries.flatten().filter_map(|entry| {
        let name = entry.file_name().to_string_lossy().into_owned();
        let label = fs::read_to_string(entry.path().join("device/name")).ok()?;
        (name.starts_with("event") && label.trim() == "Power Button").then_some(name)
    });
    names.collect()
}

fn listen(name: &str, pressed: impl Fn() + Send + 'static) {
    let Ok(mut device) = fs::File::open(format!("/dev/input/{name}")) else { return };
    let listener = move || {
        let mut event = [0; EVENT];
        while device.read_exact(&mut event).is_ok() {
            if is_press(&event) {
                pressed();
            }
        }
    };
    let _ = thread::Builder::new().name("button".into()).stack_size(128 * 1024).spawn(listener);
}

fn is_press(event: &[u8; EVENT]) -> bool {
    let kind = u16::from_ne_bytes([event[16], event[17]]);
    let code = u16::from_ne_bytes([event[18], event[19]]);
    let value = i32::from_ne_bytes([event[20], event[21], event[22], event[23]]);
    (kind, code, value) == (EV_KEY, KEY_POWER, 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_press_of_the_power_key_counts() {
        let mut event = [0; EVENT];
        event[16..24].copy_from_slice(&[1, 0, 116, 0, 1, 0, 0, 0]);
        assert!(is_press(&event));
        event[20] = 0;
        assert!(!is_press(&event), "a release");
        event[16..24].copy_from_slice(&[1, 0, 30, 0, 1, 0, 0, 0]);
        assert!(!is_press(&event), "another key");
    }
}
