//! A serial console [15]: it greets, repeats what it is told, and says what its machine prints.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

/// How long it waits for an acknowledgement, and how often.
const WAIT: Duration = Duration::from_millis(100);
const TRIES: u32 = 50;
/// Characters that it takes of one packet, so that the other side has to send the rest again.
const TAKES: usize = 16;

#[derive(Debug)]
pub(super) struct Console {
    waiting: VecDeque<u8>,
    /// The packet that was sent last and is not acknowledged yet.
    sent: Option<(Vec<u8>, Instant, u32)>,
    number: u8,
    /// The console's last packet with characters, and how many of them were taken.
    taken: Option<(u8, u8)>,
}

impl Console {
    pub(super) fn new(now: Instant) -> Self {
        let mut console = Self { waiting: VecDeque::new(), sent: None, number: 0, taken: None };
        console.waiting.extend(b"\r\nsim login: ");
        // Its first packet goes out by itself.
        console.sent = Some((console.next_packet(), now, 0));
        console
    }

    /// What the machine prints.
    pub(super) fn say(&mut self, text: &[u8], now: Instant) {
        self.waiting.extend(text);
        if self.sent.is_none() {
            // It goes out by itself, as its first packet does.
            self.sent = Some((self.next_packet(), now, 0));
        }
    }

    /// The packet that says that it is over.
    pub(super) fn end(&self) -> Vec<u8> {
        vec![0, 0, 0, 0x10]
    }

    pub(super) fn wake_at(&self) -> Option<Instant> {
        self.sent.as_ref().map(|(_, at, _)| *at)
    }

    /// What has to be sent again.
    pub(super) fn tick(&mut self, now: Instant) -> Option<Vec<u8>> {
        let (packet, at, tries) = self.sent.as_mut().filter(|(_, at, _)| *at <= now)?;
        *at = now + WAIT;
        *tries += 1;
        let packet = packet.clone();
        if *tries > TRIES {
            self.sent = None;
        }
        Some(packet)
    }

    /// Takes a payload, and answers those to send.
    pub(super) fn receive(&mut self, payload: &[u8], now: Instant) -> Vec<Vec<u8>> {
        let [number, acknowledged, accepted, operation, characters @ ..] = payload else {
            return Vec::new();
        };
        let mut answers = Vec::new();
        if let Some((packet, _, _)) = &self.sent
            && *acknowledged != 0
            && packet[0] == *acknowledged
        {
            let rest = packet.get(4 + usize::from(*accepted)..).unwrap_or_default().to_vec();
            for character in rest.into_iter().rev() {
                self.waiting.push_front(character);
            }
            self.sent = None;
        }
        if *number != 0 {
            let count = match self.taken {
                Some((before, count)) if before == *number => count,
                _ => {
                    if operation & 0x10 != 0 {
                        self.waiting.extend(b"<BREAK>");
                    }
                    let taken = &characters[..characters.len().min(TAKES)];
                    self.waiting.extend(taken);
                    u8::try_from(taken.len()).unwrap_or(0)
                }
            };
            self.taken = Some((*number, count));
            // The count says what was taken; the rest has to come again [15.11].
            answers.push(vec![0, *number, count, 0]);
        }
        if self.sent.is_none() && !self.waiting.is_empty() {
            let packet = self.next_packet();
            answers.push(packet.clone());
            self.sent = Some((packet, now + WAIT, 1));
        }
        answers
    }

    fn next_packet(&mut self) -> Vec<u8> {
        self.number = self.number % 15 + 1;
        let count = self.waiting.len().min(100);
        let mut packet = vec![self.number, 0, 0, 0];
        packet.extend(self.waiting.drain(..count));
        packet
    }
}
