//! Logins: Open Session and RAKP [13.17 to 13.24].

use std::{net::SocketAddr, time::Instant};

use super::{
    Bmc,
    keys::{Keys, Suite},
    packet::{self, Format},
    session::{Active, Challenge, Session, Stage},
};

impl Bmc {
    pub(super) fn open_session(&mut self, from: SocketAddr, request: &[u8], now: Instant) {
        self.counts.logins += 1;
        let [tag, _privilege, _, _, c0, c1, c2, c3, algorithms @ ..] = request else { return };
        let console = [*c0, *c1, *c2, *c3];
        let answer = |status: u8| [&[*tag, status, 0, 0], &console[..]].concat();
        // Three payloads of 8 bytes: kind, two reserved, length, algorithm, three reserved.
        let chosen = match algorithms {
            [0, _, _, 8, a, _, _, _, 1, _, _, 8, i, _, _, _, 2, _, _, 8, c, ..] => [*a, *i, *c],
            _ => {
                self.send(from, packet::plain(Format::V2_0, 0x11, &answer(0x12)));
                return;
            }
        };
        let suite = Suite::of(chosen).filter(|s| self.setup.suites.contains(&s.number()));
        let Some(suite) = suite else {
            self.send(from, packet::plain(Format::V2_0, 0x11, &answer(0x11)));
            return;
        };
        if self.faults.sessions_full || self.sessions.len() >= self.setup.sessions {
            self.send(from, packet::plain(Format::V2_0, 0x11, &answer(0x01)));
            return;
        }
        let managed = rand::random_range(1..=u32::MAX);
        self.sessions.push(Session {
            managed,
            console: u32::from_le_bytes(console),
            suite,
            stage: Stage::Opened,
            heard_at: now,
        });
        let mut response = answer(0);
        // As ADMINISTRATOR at most.
        response[2] = 4;
        response.extend(managed.to_le_bytes());
        for (kind, algorithm) in (0..).zip(chosen) {
            response.extend([kind, 0, 0, 8, algorithm, 0, 0, 0]);
        }
        self.send(from, packet::plain(Format::V2_0, 0x11, &response));
    }

    pub(super) fn rakp_1(&mut self, from: SocketAddr, message: &[u8], now: Instant) {
        let [tag, _, _, _, m0, m1, m2, m3, rest @ ..] = message else { return };
        let managed = u32::from_le_bytes([*m0, *m1, *m2, *m3]);
        let Some((random, [role, _, _, length, name @ ..])) = rest.split_first_chunk::<16>() else {
            return;
        };
        let Some(name) = name.get(..usize::from(*length)) else { return };
        let guid = self.guid;
        let user = self.setup.users.iter().find(|user| user.name.as_bytes() == name).cloned();
        let Some(session) = self.sessions.find(managed) else { return };
        let console = session.console.to_le_bytes();
        let mut answer = [&[*tag, 0, 0, 0], &console[..]].concat();
        let refusal = match &user {
            _ if matches!(session.stage, Stage::Active(_)) => Some(0x02),
            None => Some(0x0D),
            Some(user) if role & 0x0F > user.limit => Some(0x0A),
            Some(_) => None,
        };
        if let Some(status) = refusal {
            answer[1] = status;
            if status != 0x02 {
                self.sessions.remove(managed);
            }
            self.send(from, packet::plain(Format::V2_0, 0x13, &answer));
            return;
        }
        let Some(user) = user else { return };
        session.heard_at = now;
        let challenge = Challenge {
            console_random: *random,
            random: rand::random(),
            who: [&[*role, *length], name].concat(),
            password: user.password.into_bytes(),
            limit: role & 0x0F,
        };
        let code = session.suite.digest(
            &challenge.password,
            &[
                &console,
                &managed.to_le_bytes(),
                &challenge.console_random,
                &challenge.random,
                &guid,
                &challenge.who,
            ],
        );
        answer.extend(challenge.random);
        answer.extend(guid);
        answer.extend(code);
        session.stage = Stage::Challenged(challenge);
        self.send(from, packet::plain(Format::V2_0, 0x13, &answer));
    }

    pub(super) fn rakp_3(&mut self, from: SocketAddr, message: &[u8], now: Instant) {
        let [tag, status, _, _, m0, m1, m2, m3, code @ ..] = message else { return };
        let managed = u32::from_le_bytes([*m0, *m1, *m2, *m3]);
        let Some(session) = self.sessions.find(managed) else { return };
        // One that is active already says nothing: this is what makes a lost message 4 hard.
        let Stage::Challenged(challenge) = &session.stage else { return };
        if *status != 0 {
            self.sessions.remove(managed);
            return;
        }
        let (suite, console) = (session.suite, session.console.to_le_bytes());
        let expected =
            suite.digest(&challenge.password, &[&challenge.random, &console, &challenge.who]);
        let mut answer = [&[*tag, 0, 0, 0], &console[..]].concat();
        if code != expected {
            answer[1] = 0x0F;
            self.sessions.remove(managed);
            self.send(from, packet::plain(Format::V2_0, 0x15, &answer));
            return;
        }
        let key = self.setup.kg.map_or_else(|| challenge.password.clone(), Vec::from);
        let session_key =
            suite.digest(&key, &[&challenge.console_random, &challenge.random, &challenge.who]);
        let proof = [&challenge.console_random[..], &managed.to_le_bytes(), &self.guid].concat();
        answer.extend(&suite.digest(&session_key, &[&proof])[..suite.short()]);
        let active = Active::new(Keys::new(suite, &session_key), challenge.limit, from);
        session.stage = Stage::Active(Box::new(active));
        session.heard_at = now;
        self.counts.opened += 1;
        self.send(from, packet::plain(Format::V2_0, 0x15, &answer));
    }
}
