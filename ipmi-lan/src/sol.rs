//! A serial console over LAN: IPMI 2.0 chapter 15. No I/O; takes the time.
//!
//! Both sides stop and wait: one packet of characters at a time, numbered 1 to 15, until the other
//! side has acknowledged it with a count of the characters that it took. A packet without characters
//! only acknowledges, has the number 0 and is not acknowledged itself.

use std::{collections::VecDeque, time::Instant};

use crate::options::{Options, jittered};

/// Bytes in front of the characters.
const HEADER: usize = 4;
/// Characters that are sent at once, where the BMC would take more.
const MOST: usize = 200;
/// Characters that wait to be sent before the console takes no more.
const ROOM: usize = 1024;
/// How often a packet is sent until the console counts as lost.
const TRIES: u32 = 10;

/// The bit of the status byte of a packet from the BMC that says that it has ended the console (table
/// 15-2).
const DEACTIVATING: u8 = 0x10;
/// That it did not take the packet. For characters it says no more than their count, 0.
const NACK: u8 = 0x40;
/// The bit of the operation byte of a packet to the BMC that asks for a BREAK.
const BREAK: u8 = 0x10;

/// Our end of a console.
#[derive(Debug)]
pub(crate) struct Sol {
    /// Characters that one packet to the BMC may have.
    room: usize,
    waiting: VecDeque<Key>,
    /// The packet that is not acknowledged yet.
    sent: Option<Sent>,
    /// Of our last packet with characters.
    number: u8,
    /// Number of the BMC's last packet with characters, and how many of these we have.
    taken: Option<(u8, usize)>,
    /// Whether the BMC has said once that this console is this session's.
    pub(crate) was_ours: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Key {
    Character(u8),
    Break,
}

#[derive(Debug)]
struct Sent {
    /// None are a BREAK, which goes alone.
    characters: Vec<u8>,
    tries: u32,
    wait: std::time::Duration,
    again_at: Instant,
}

/// What a packet brought.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Heard {
    /// Characters that are new.
    pub(crate) characters: Vec<u8>,
    /// A packet that has to be sent.
    pub(crate) answer: Option<Vec<u8>>,
    /// The BMC has ended the console.
    pub(crate) over: bool,
}

impl Sol {
    /// `longest` is what the BMC takes in one payload.
    pub(crate) fn new(longest: u16) -> Self {
        let room = usize::from(longest).saturating_sub(HEADER).clamp(1, MOST);
        let waiting = VecDeque::new();
        Self { room, waiting, sent: None, number: 0, taken: None, was_ours: false }
    }

    /// Whether more characters may be given to send.
    pub(crate) fn has_room(&self) -> bool {
        self.waiting.len() < ROOM
    }

    /// Takes characters for the BMC.
    pub(crate) fn write(&mut self, characters: &[u8]) {
        self.waiting.extend(characters.iter().copied().map(Key::Character));
    }

    /// Takes a BREAK for the BMC.
    pub(crate) fn send_break(&mut self) {
        self.waiting.push_back(Key::Break);
    }

    /// The next packet with characters, if it is time for one.
    pub(crate) fn next(&mut self, options: &Options, now: Instant) -> Option<Vec<u8>> {
        if self.sent.is_some() || self.waiting.is_empty() {
            return None;
        }
        let mut characters = Vec::new();
        while characters.len() < self.room
            && let Some(Key::Character(character)) = self.waiting.front()
        {
            characters.push(*character);
            self.waiting.pop_front();
        }
        if characters.is_empty() {
            self.waiting.pop_front();
        }
        self.number = self.number % 15 + 1;
        let wait = options.first_wait;
        let again_at = now + jittered(wait);
        let sent = Sent { characters, tries: 1, wait, again_at };
        let packet = sent.packet(self.number);
        self.sent = Some(sent);
        Some(packet)
    }

    /// When [`Sol::tick`] has something to do.
    pub(crate) fn wake_at(&self) -> Option<Instant> {
        self.sent.as_ref().map(|sent| sent.again_at)
    }

    /// Sends again what is not acknowledged.
    ///
    /// # Errors
    /// When that has been done often enough.
    pub(crate) fn tick(&mut self, options: &Options, now: Instant) -> Result<Option<Vec<u8>>, ()> {
        let Some(sent) = self.sent.as_mut().filter(|sent| sent.again_at <= now) else {
            return Ok(None);
        };
        if sent.tries >= TRIES {
            return Err(());
        }
        sent.tries += 1;
        sent.wait = options.after(sent.wait);
        sent.again_at = now + jittered(sent.wait);
        Ok(Some(sent.packet(self.number)))
    }

    /// Takes a payload. `room` says whether its reader takes characters now; if not they are not
    /// acknowledged, and the BMC sends them again.
    pub(crate) fn receive(&mut self, payload: &[u8], room: bool) -> Heard {
        let mut heard = Heard::default();
        let Some(([number, acknowledged, accepted, status], characters)) =
            payload.split_first_chunk::<HEADER>()
        else {
            return heard;
        };
        heard.over = status & DEACTIVATING != 0;
        if acknowledged & 0x0F != 0 {
            let (number, nack) = (acknowledged & 0x0F, status & NACK != 0);
            self.acknowledged(number, usize::from(*accepted), nack);
        }
        let number = number & 0x0F;
        if number != 0 && room {
            // A packet that is sent again has the number that it had, and some BMCs add to it.
            let had = match self.taken {
                Some((taken, count)) if taken == number => count.min(characters.len()),
                _ => 0,
            };
            heard.characters = characters.get(had..).unwrap_or_default().to_vec();
            self.taken = Some((number, characters.len()));
            let count = u8::try_from(characters.len()).unwrap_or(u8::MAX);
            heard.answer = Some(vec![0, number, count, 0]);
        }
        heard
    }

    fn acknowledged(&mut self, number: u8, accepted: usize, nack: bool) {
        if number != self.number {
            return;
        }
        let Some(mut sent) = self.sent.take() else { return };
        if sent.characters.is_empty() && !nack {
            return;
        }
        if accepted == 0 {
            // It cannot at the moment: the same packet again when its time comes.
            self.sent = Some(sent);
            return;
        }
        // What it did not take goes out again, in front and under another number.
        let rest = sent.characters.split_off(accepted.min(sent.characters.len()));
        for character in rest.into_iter().rev() {
            self.waiting.push_front(Key::Character(character));
        }
    }
}

impl Sent {
    fn packet(&self, number: u8) -> Vec<u8> {
        let operation = if self.characters.is_empty() { BREAK } else { 0 };
        [&[number, 0, 0, operation], self.characters.as_slice()].concat()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const OPTIONS: fn() -> Options = Options::default;

    #[test]
    fn one_packet_is_under_way_and_the_next_follows_its_acknowledgement() {
        let (mut sol, now) = (Sol::new(7), Instant::now());
        sol.write(b"abcde");
        assert_eq!(sol.next(&OPTIONS(), now).unwrap(), b"\x01\0\0\0abc");
        assert_eq!(sol.next(&OPTIONS(), now), None);
        sol.receive(&[0, 9, 3, 0], true);
        assert_eq!(sol.next(&OPTIONS(), now), None, "another packet's acknowledgement");
        sol.receive(&[0, 1, 3, 0], true);
        assert_eq!(sol.next(&OPTIONS(), now).unwrap(), b"\x02\0\0\0de");
    }

    #[test]
    fn what_was_not_taken_goes_out_again_under_a_new_number() {
        let (mut sol, now) = (Sol::new(7), Instant::now());
        sol.write(b"abcde");
        sol.next(&OPTIONS(), now).unwrap();
        sol.receive(&[0, 1, 1, 0x40], true);
        assert_eq!(sol.next(&OPTIONS(), now).unwrap(), b"\x02\0\0\0bcd");
    }

    #[test]
    fn what_is_not_acknowledged_is_sent_again_and_given_up_in_the_end() {
        let (mut sol, mut now) = (Sol::new(7), Instant::now());
        sol.write(b"a");
        let first = sol.next(&OPTIONS(), now).unwrap();
        // It says that it cannot: nothing is lost.
        sol.receive(&[0, 1, 0, 0x60], true);
        assert_eq!(sol.tick(&OPTIONS(), now), Ok(None), "not yet");
        for _ in 1..TRIES {
            now = sol.wake_at().unwrap();
            assert_eq!(sol.tick(&OPTIONS(), now), Ok(Some(first.clone())));
        }
        now += Duration::from_secs(60);
        assert_eq!(sol.tick(&OPTIONS(), now), Err(()));
    }

    #[test]
    fn a_break_keeps_its_place_and_goes_again_until_it_is_taken() {
        let (mut sol, now) = (Sol::new(7), Instant::now());
        sol.write(b"ab");
        sol.send_break();
        sol.write(b"h");
        assert_eq!(sol.next(&OPTIONS(), now).unwrap(), b"\x01\0\0\0ab");
        sol.receive(&[0, 1, 2, 0], true);
        assert_eq!(sol.next(&OPTIONS(), now).unwrap(), [2, 0, 0, BREAK]);
        sol.receive(&[0, 2, 0, NACK], true);
        let again_at = sol.wake_at().unwrap();
        assert_eq!(sol.tick(&OPTIONS(), again_at), Ok(Some(vec![2, 0, 0, BREAK])));
        sol.receive(&[0, 2, 0, 0], true);
        assert_eq!(sol.next(&OPTIONS(), now).unwrap(), b"\x03\0\0\0h");
    }

    #[test]
    fn characters_come_once_though_their_packet_comes_twice_or_grows() {
        let mut sol = Sol::new(0);
        let heard = sol.receive(b"\x05\0\0\0login", true);
        assert_eq!(heard.characters, b"login");
        assert_eq!(heard.answer.unwrap(), [0, 5, 5, 0]);
        let again = sol.receive(b"\x05\0\0\0login", true);
        assert_eq!((again.characters, again.answer.unwrap()), (vec![], vec![0, 5, 5, 0]));
        let grown = sol.receive(b"\x05\0\0\0login: ", true);
        assert_eq!((&*grown.characters, grown.answer.unwrap()), (&b": "[..], vec![0, 5, 7, 0]));
        assert_eq!(sol.receive(b"\x06\0\0\0login", true).characters, b"login");
    }

    #[test]
    fn what_nobody_reads_is_not_acknowledged() {
        let mut sol = Sol::new(0);
        assert_eq!(sol.receive(b"\x05\0\0\0x", false), Heard::default());
        assert_eq!(sol.receive(b"\x05\0\0\0x", true).characters, b"x");
    }

    #[test]
    fn the_end_is_heard() {
        assert!(Sol::new(0).receive(&[0, 0, 0, DEACTIVATING], true).over);
        assert_eq!(Sol::new(0).receive(&[1, 2], true), Heard::default());
    }
}
