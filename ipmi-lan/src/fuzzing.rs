//! What `fuzz/` runs on arbitrary bytes, and what the test below runs on its corpus and on thousands of
//! mutations of it. Each function panics when a promise is broken.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use ipmi_rs_core::{
    app::{GetDeviceId, auth::GetChannelAuthenticationCapabilities},
    connection::IpmiCommand,
    storage::sel::{GetSelEntry, GetSelInfo},
};

use crate::{
    account::Account,
    command::{
        FruArea, GetBootFlags, GetChannelAccess, GetChassisStatus, GetCipherSuites,
        GetLanParameter, GetPowerReading, GetReading, GetSdrInfo, GetSelRecord, GetUserAccess,
        GetUserName, ReadFru, SdrRecord, fru_area_length, fru_areas, sdr_length,
    },
    crypto::{Hash, Keys},
    handshake::{Handshake, Heard},
    link::{Link, Output, Step, Task},
    options::Options,
    session::Session,
    sol::Sol,
    suite::{self, CipherSuite},
    wire::{message, packet, packet::Packet, rakp},
};

/// A datagram, and what may be in it.
pub fn datagrams(bytes: &[u8]) {
    let payload = match packet::parse(bytes) {
        None => return,
        Some(Packet::Open { payload, .. }) => payload,
        Some(Packet::Sealed(sealed)) => {
            for length in [0, 12, 16, 2048] {
                if let Some((signed, tag)) = sealed.signature(length) {
                    assert_eq!(tag.len(), length);
                    assert!(signed.len() > sealed.payload.len(), "the payload is signed");
                }
            }
            let keys = Keys::from_sik(Hash::Sha1, &[0; 20]);
            if let Some(plain) = keys.decrypt(sealed.payload) {
                assert!(plain.len() < sealed.payload.len());
            }
            sealed.payload
        }
    };
    message::parse(payload);
    rakp::open_response(payload);
    rakp::message_2(payload);
    rakp::message_4(payload);
}

/// Answers to a login: each a byte for what it is and one for its length. Tag and session are made
/// right, or nothing would ever be looked at. Nobody who does not know the password gets in.
pub fn handshakes(bytes: &[u8]) {
    let account = Account::new("admin", "only we know that").expect("both are short");
    let [how, rest @ ..] = bytes else { return };
    let suite = if how & 1 == 0 { CipherSuite::Three } else { CipherSuite::Seventeen };
    let (mut handshake, mut sent) = Handshake::begin(Arc::new(account), suite);
    // The console's id is in the first packet only.
    let console = sent.get(20..24).map(<[u8]>::to_vec).unwrap_or_default();
    for (kind, answer) in pieces(rest) {
        let mut answer = answer.to_vec();
        for (at, byte) in
            [0, 4, 5, 6, 7].into_iter().zip(sent.get(16..17).into_iter().flatten().chain(&console))
        {
            if let Some(to) = answer.get_mut(at) {
                *to = *byte;
            }
        }
        match handshake.receive(0x11 + 2 * (kind % 3), &answer) {
            Heard::Nothing => {}
            Heard::Next(packet) => sent = packet,
            Heard::Done(_) => panic!("let in without the password"),
            Heard::Failed(_) => return,
        }
        if let Some(packet) = handshake.again() {
            sent = packet;
        }
        handshake.farewell();
    }
}

/// What a BMC says in a session, each piece a byte for its kind and one for its length: any payload,
/// rightly signed and encrypted. A call ends once, and the time goes on.
pub fn sessions(bytes: &[u8]) {
    let mut now = Instant::now();
    let account = Account::new("admin", "x").expect("both are short");
    let keys = Keys::from_sik(Hash::Sha256, &[1; 32]);
    let mut bmc = Session::new(2, 1, keys.clone());
    let mut link = Link::new(account, ([127, 0, 0, 1], 623).into(), Options::default(), now);
    link.open_with(Session::new(1, 2, keys), now);
    let (mut started, mut done) = (0, 0);
    for (kind, payload) in pieces(bytes) {
        if link.is_free() {
            let task = match kind >> 6 {
                0 if kind & 8 == 0 => Task::Console(Step::Take),
                0 => Task::Console(Step::Activate),
                1 => Task::Order(GetChassisStatus.into()),
                _ => Task::Ask(GetChassisStatus.into()),
            };
            link.start(task, now + Duration::from_secs(20), now);
            started += 1;
        }
        let sealed = bmc.seal(kind & 1, payload);
        link.receive(&sealed, kind & 2 == 0, now);
        link.write(payload, now);
        now += Duration::from_millis(u64::from(kind) * 40);
        link.tick(now);
        while let Some(output) = link.output() {
            done += usize::from(matches!(output, Output::Done(_)));
        }
        assert!(done <= started, "a call ended twice");
    }
    link.close(now);
    done += std::iter::from_fn(|| link.output()).filter(|o| matches!(o, Output::Done(_))).count();
    assert_eq!(done, started, "a call did not end");
}

/// Payloads of a console, each a byte for its time and one for its length.
pub fn consoles(bytes: &[u8]) {
    let (mut sol, mut now) = (Sol::new(64), Instant::now());
    let options = Options::default();
    for (kind, payload) in pieces(bytes) {
        sol.write(payload);
        let heard = sol.receive(payload, kind & 1 == 0);
        assert!(heard.characters.len() <= payload.len());
        now += Duration::from_millis(u64::from(kind));
        if let Some(packet) = sol.next(&options, now) {
            assert!((5..=64).contains(&packet.len()), "{packet:?}");
            assert!((1..=15).contains(packet.first().unwrap_or(&0)), "{packet:?}");
        }
        if sol.tick(&options, now).is_err() {
            return;
        }
    }
}

/// Answers to commands: our own codecs, and those of `ipmi_rs_core` that hold. (Its Get SDR panics on some
/// bytes, which `bmc.rs` catches.)
pub fn answers(bytes: &[u8]) {
    let [which, data @ ..] = bytes else { return };
    suite::offered(data);
    match which % 16 {
        0 => drop(GetDeviceId::parse_success_response(data)),
        1 => drop(GetChannelAuthenticationCapabilities::parse_success_response(data)),
        2 => drop(GetSelInfo::parse_success_response(data)),
        3 => drop(GetSelEntry::parse_success_response(data)),
        4 => drop(GetChassisStatus::parse_success_response(data)),
        5 => drop(GetBootFlags::parse_success_response(data)),
        6 => drop(GetCipherSuites::parse_success_response(data)),
        8 => sensor(data),
        9 => drop(GetSelRecord::parse_success_response(data).map(|entry| entry.event())),
        10 => fru(data),
        11 => drop(GetSdrInfo::parse_success_response(data)),
        12 => drop(GetPowerReading::parse_success_response(data)),
        13 => accounts(data),
        14 => lan(data),
        _ => drop(crate::command::Activate::parse_success_response(data)),
    }
}

fn accounts(data: &[u8]) {
    let _ = GetChannelAccess::parse_success_response(data);
    let _ = GetUserAccess::parse_success_response(data);
    drop(GetUserName::parse_success_response(data));
}

fn lan(data: &[u8]) {
    let Ok(value) = GetLanParameter::parse_success_response(data) else { return };
    value.address();
    value.source();
    value.vlan();
    value.suite_privileges();
}

/// Four bytes of a reading, and a record of the sensor that is read.
fn sensor(data: &[u8]) {
    let (reading, record) = data.split_at(data.len().min(4));
    sdr_length(record);
    let Some(SdrRecord::Sensor(sensor)) = SdrRecord::parse(record) else { return };
    if let Ok(reading) = GetReading::parse_success_response(reading) {
        let measured = sensor.read(&reading);
        assert!(measured.value.is_none_or(f64::is_finite), "{measured:?}");
        assert!(measured.states.len() <= 16, "{measured:?}");
    }
}

/// A header, and what may be an area.
fn fru(data: &[u8]) {
    let (header, area) = data.split_at(data.len().min(8));
    fru_areas(header);
    fru_area_length(area);
    for kind in [FruArea::Chassis, FruArea::Board, FruArea::Product] {
        assert!(kind.fields(area).len() <= 6);
    }
    let _ = ReadFru::parse_success_response(data);
}

/// Pieces with a byte for their kind and one for their length in front.
fn pieces(mut bytes: &[u8]) -> impl Iterator<Item = (u8, &[u8])> {
    std::iter::from_fn(move || {
        let [kind, length, rest @ ..] = bytes else { return None };
        let (piece, later) = rest.split_at(usize::from(*length).min(rest.len()));
        bytes = later;
        Some((*kind, piece))
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    /// Mutations of each file of the corpus.
    const MUTATIONS: u64 = 300;

    /// Pseudo-random numbers (SplitMix64), the same in each run.
    struct Dice(u64);

    impl Dice {
        fn below(&mut self, bound: usize) -> usize {
            self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            usize::try_from((mixed ^ (mixed >> 31)) % bound.max(1) as u64).unwrap()
        }
    }

    /// Flips, cuts, doubles or inserts, a few times.
    fn mutate(bytes: &[u8], dice: &mut Dice) -> Vec<u8> {
        let mut bytes = bytes.to_vec();
        for _ in 0..=dice.below(4) {
            let at = dice.below(bytes.len());
            let end = (at + dice.below(64)).min(bytes.len());
            match dice.below(5) {
                0 if !bytes.is_empty() => bytes[at] ^= 1 << dice.below(8),
                1 if !bytes.is_empty() => bytes[at] = [0, 1, 0x7f, 0x80, 0xff][dice.below(5)],
                2 => drop(bytes.drain(at..end)),
                3 => {
                    let copy = bytes[at..end].to_vec();
                    drop(bytes.splice(at..at, copy));
                }
                _ => bytes.insert(at, u8::try_from(dice.below(256)).unwrap()),
            }
        }
        bytes
    }

    fn replay(target: &str, run: fn(&[u8])) {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
        let mut files: Vec<_> =
            std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.sort();
        assert!(files.len() >= 3, "only {} files of {target}", files.len());
        for (n, file) in (0..).zip(files) {
            let bytes = std::fs::read(file).unwrap();
            run(&bytes);
            let mut dice = Dice(n);
            for _ in 0..MUTATIONS {
                run(&mutate(&bytes, &mut dice));
            }
        }
    }

    #[test]
    fn no_datagram_breaks_a_parser() {
        replay("datagrams", datagrams);
    }

    #[test]
    fn no_answer_breaks_a_login_or_ends_it_without_the_password() {
        replay("handshakes", handshakes);
    }

    #[test]
    fn no_payload_breaks_a_session() {
        replay("sessions", sessions);
    }

    #[test]
    fn no_payload_breaks_a_console() {
        replay("consoles", consoles);
    }

    #[test]
    fn no_answer_breaks_a_command() {
        replay("answers", answers);
    }
}
