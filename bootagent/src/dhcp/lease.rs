//! What is known of the lease, and what to ask next: pure, the time since the start is passed in.
//!
//! The states are those of RFC 2131 section 4.4.5, but for the end: a client whose lease is over
//! must give its address up, and ours cannot, since its root hangs on it. It goes on asking for the
//! same address and says what is wrong.

use std::{net::Ipv4Addr, time::Duration};

use super::message::{Answer, Ask, Terms};

/// Pauses after a request that was in vain, where no lease sets the pace.
const PAUSE_FIRST: Duration = Duration::from_secs(4);
const PAUSE_MOST: Duration = Duration::from_secs(60);
/// How many requests may be in vain before somebody is told.
const PATIENCE: u32 = 4;

/// The lease of one address.
#[derive(Debug)]
pub(super) struct Lease {
    address: Ipv4Addr,
    state: State,
    /// Requests since the lease was last acknowledged.
    in_vain: u32,
    trouble: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// iPXE got it, and did not say of whom and for how long.
    Unknown,
    /// Held until `end`.
    Held { server: Ipv4Addr, lease: Duration, renew: Duration, rebind: Duration, end: Duration },
    /// A server has just offered our address.
    Offered { server: Ipv4Addr },
    /// Refused, or run out. The address stays in use.
    Lost,
}

impl Lease {
    pub(super) fn new(address: Ipv4Addr) -> Self {
        Self { address, state: State::Unknown, in_vain: 0, trouble: None }
    }

    /// The address that it is about.
    pub(super) fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// What to ask now.
    pub(super) fn ask(&mut self, now: Duration) -> Ask {
        match self.state {
            // A server that has forgotten the lease may be silent about it, but offers an address.
            State::Unknown if self.in_vain % 2 == 1 => Ask::Discover,
            State::Unknown => Ask::Rebind,
            State::Held { server, rebind, .. } if now < rebind => Ask::Renew(server),
            State::Held { end, .. } if now < end => Ask::Rebind,
            State::Held { server, .. } => {
                self.state = State::Lost;
                self.trouble = Some(format!(
                    "the lease of {} has run out: the DHCP server {server} did not renew it. The node goes on \
                     with it, and another machine may be given the same address",
                    self.address
                ));
                Ask::Discover
            }
            State::Offered { server } => Ask::Take(server),
            State::Lost => Ask::Discover,
        }
    }

    /// Takes a server's answer to what was asked at `asked`.
    pub(super) fn heard(&mut self, asked: Duration, answer: Answer) {
        let ours = self.address;
        self.in_vain += 1;
        match answer {
            Answer::Ack(terms) if terms.address == ours => {
                self.state = held(asked, terms);
                self.in_vain = 0;
                self.trouble = None;
            }
            Answer::Offer { server, address } if address == ours => {
                self.state = State::Offered { server };
            }
            Answer::Ack(Terms { server, address, .. }) | Answer::Offer { server, address } => {
                self.state = State::Lost;
                self.trouble = Some(format!(
                    "the DHCP server {server} gives the node {address} now, which runs with {ours} and \
                     cannot change it: reserve {ours} for it there, or boot it anew"
                ));
            }
            Answer::Nak { server, why } => {
                let why = if why.is_empty() { String::new() } else { format!(" ({why})") };
                self.state = State::Lost;
                self.trouble = Some(format!(
                    "the DHCP server {server} refuses {ours}{why}, with which the node runs: reserve it for the \
                     node there, or boot it anew"
                ));
            }
        }
    }

    /// Nobody answered.
    pub(super) fn silent(&mut self, now: Duration) {
        self.in_vain += 1;
        match self.state {
            State::Offered { .. } => self.state = State::Lost,
            State::Unknown if self.in_vain >= PATIENCE => {
                self.trouble = Some(format!(
                    "no DHCP server answers for {}: it may be given to another machine when its lease is over",
                    self.address
                ));
            }
            State::Held { server, rebind, .. } if now >= rebind => {
                self.trouble = Some(format!(
                    "the DHCP server {server} does not renew the lease of {}, which is nearly over",
                    self.address
                ));
            }
            State::Unknown | State::Held { .. } | State::Lost => {}
        }
    }

    /// How long to wait before the next request.
    pub(super) fn pause(&self, now: Duration) -> Duration {
        let backoff =
            || (PAUSE_FIRST * 2_u32.pow(self.in_vain.saturating_sub(1).min(8))).min(PAUSE_MOST);
        match self.state {
            State::Held { renew, .. } if now < renew => renew - now,
            State::Held { lease, rebind, end, .. } => {
                // Half of what is left, as the RFC says, but for a short lease more often.
                let mark = if now < rebind { rebind } else { end };
                let left = mark.saturating_sub(now);
                (left / 2).max((lease / 16).min(PAUSE_MOST)).min(left)
            }
            State::Offered { .. } => Duration::ZERO,
            State::Unknown | State::Lost => backoff(),
        }
    }

    /// The server that gave it, and how long it still holds.
    pub(super) fn held(&self, now: Duration) -> Option<(Ipv4Addr, Duration)> {
        match self.state {
            State::Held { server, end, .. } => Some((server, end.saturating_sub(now))),
            State::Unknown | State::Offered { .. } | State::Lost => None,
        }
    }

    /// What a person should know.
    pub(super) fn trouble(&self) -> Option<&str> {
        self.trouble.as_deref()
    }
}

fn held(asked: Duration, terms: Terms) -> State {
    let seconds = |s: u32| Duration::from_secs(s.into());
    State::Held {
        server: terms.server,
        lease: seconds(terms.lease),
        renew: asked + seconds(terms.renew),
        rebind: asked + seconds(terms.rebind),
        end: asked + seconds(terms.lease),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 57);
    const OTHER: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 58);
    const SERVER: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);

    fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn ack(address: Ipv4Addr) -> Answer {
        Answer::Ack(Terms { server: SERVER, address, lease: 120, renew: 60, rebind: 105 })
    }

    fn held() -> Lease {
        let mut lease = Lease::new(OURS);
        assert_eq!(lease.ask(s(0)), Ask::Rebind);
        lease.heard(s(0), ack(OURS));
        lease
    }

    #[test]
    fn a_lease_is_renewed_at_its_half_for_as_long_as_the_node_runs() {
        let mut lease = held();
        let mut now = s(0);
        for _ in 0..100 {
            assert_eq!(lease.pause(now), s(60));
            now += lease.pause(now);
            assert_eq!(lease.ask(now), Ask::Renew(SERVER));
            lease.heard(now, ack(OURS));
            assert_eq!(lease.held(now), Some((SERVER, s(120))));
        }
        assert_eq!(lease.trouble(), None);
    }

    #[test]
    fn a_silent_server_is_asked_more_often_then_any_server_and_then_for_the_address_anew() {
        let mut lease = held();
        let mut now = s(60);
        let mut asked = Vec::new();
        while now < s(140) {
            asked.push((now.as_secs(), lease.ask(now)));
            lease.silent(now);
            if now < s(105) {
                assert_eq!(lease.trouble(), None, "it has not to be told before T2");
            }
            let pause = lease.pause(now);
            assert!(pause > Duration::ZERO && pause <= s(60), "{pause:?} at {now:?}");
            now += pause;
        }
        let of = |ask| asked.iter().filter(|(_, a)| *a == ask).count();
        assert!(of(Ask::Renew(SERVER)) >= 4 && of(Ask::Rebind) >= 2, "{asked:?}");
        assert_eq!(asked.iter().find(|(_, a)| *a == Ask::Discover).map(|(at, _)| *at), Some(120));
        assert!(lease.trouble().is_some_and(|t| t.contains("has run out")), "{lease:?}");
        // The server is back: it offers the address, gives it, and all is well.
        assert_eq!(lease.ask(now), Ask::Discover);
        lease.heard(now, Answer::Offer { server: SERVER, address: OURS });
        assert_eq!((lease.pause(now), lease.ask(now)), (Duration::ZERO, Ask::Take(SERVER)));
        lease.heard(now, ack(OURS));
        assert_eq!((lease.trouble(), lease.held(now)), (None, Some((SERVER, s(120)))));
    }

    #[test]
    fn a_refused_or_changed_address_is_told_and_asked_for_again_and_again() {
        for (answer, word) in [
            (Answer::Nak { server: SERVER, why: "lease not found".into() }, "lease not found"),
            (ack(OTHER), "10.77.0.58"),
            (Answer::Offer { server: SERVER, address: OTHER }, "10.77.0.58"),
        ] {
            let mut lease = held();
            lease.heard(s(60), answer.clone());
            let told = lease.trouble().expect("trouble").to_owned();
            assert!(told.contains(word) && told.contains("10.77.0.57"), "{told}");
            for _ in 0..5 {
                assert_eq!(lease.ask(s(70)), Ask::Discover);
                lease.silent(s(70));
                assert_eq!(lease.trouble(), Some(&*told), "one trouble is told in one way");
            }
            assert_eq!(lease.pause(s(70)), s(60), "no server is asked without a rest");
            lease.heard(s(80), Answer::Offer { server: SERVER, address: OURS });
            assert_eq!(lease.ask(s(80)), Ask::Take(SERVER));
            lease.silent(s(80));
            assert_eq!(lease.ask(s(80)), Ask::Discover);
        }
    }

    #[test]
    fn a_lease_that_nobody_knows_is_looked_for_in_two_ways_and_then_told() {
        let mut lease = Lease::new(OURS);
        let mut asked = Vec::new();
        for n in 0..6 {
            assert_eq!(lease.trouble().is_some(), n >= PATIENCE, "after {n}");
            asked.push(lease.ask(s(0)));
            lease.silent(s(0));
        }
        assert_eq!(asked[..4], [Ask::Rebind, Ask::Discover, Ask::Rebind, Ask::Discover]);
        assert_eq!(lease.pause(s(0)), s(60));
        lease.heard(s(0), ack(OURS));
        assert_eq!(lease.trouble(), None);
    }
}
