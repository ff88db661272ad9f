//! How often somebody may ask: so often at once, and from then on so often in a second (the generic cell
//! rate algorithm). Each asker has a share of its own, and all together have one.

use std::{
    collections::HashMap,
    hash::Hash,
    net::{IpAddr, Ipv6Addr},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// Askers that are remembered at a time.
const MOST_KEPT: usize = 65_536;

/// So many at once, and one more after each of these times.
#[derive(Debug, Clone, Copy)]
pub struct Rate {
    /// At once.
    pub burst: u32,
    /// Until there is one more.
    pause: Duration,
}

/// What askers have asked for lately.
#[derive(Debug)]
pub struct Rates<K> {
    each: Rate,
    all: Rate,
    asked: Mutex<Asked<K>>,
}

#[derive(Debug)]
struct Asked<K> {
    /// When each will have its whole burst again.
    by: HashMap<K, Instant>,
    all: Option<Instant>,
}

impl<K: Hash + Eq> Rates<K> {
    /// `each` asker may ask so often, and `all` together.
    pub fn new(each: Rate, all: Rate) -> Self {
        Self { each, all, asked: Mutex::new(Asked { by: HashMap::new(), all: None }) }
    }

    /// Somebody asks; the error is how long it has to wait. What is refused to one asker takes nothing
    /// from the others.
    pub fn ask(&self, who: K, now: Instant) -> Result<(), Duration> {
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        // First, so that strangers without number cost no look through the others.
        let all = self.all.next(asked.all, now)?;
        if asked.by.len() >= MOST_KEPT && !asked.by.contains_key(&who) {
            asked.by.retain(|_, full_at| *full_at > now);
            if asked.by.len() >= MOST_KEPT {
                return Err(Duration::from_secs(1));
            }
        }
        let own = self.each.next(asked.by.get(&who).copied(), now)?;
        asked.by.insert(who, own);
        asked.all = Some(all);
        Ok(())
    }

    /// What was asked was right, and does not count.
    pub fn pardon(&self, who: &K) {
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(full_at) = asked.by.get_mut(who) {
            *full_at -= self.each.pause;
        }
        if let Some(full_at) = &mut asked.all {
            *full_at -= self.all.pause;
        }
    }
}

impl Rate {
    /// `burst` at once, and from then on so many in a second, at least one.
    pub const fn per_second(burst: u32, most: u32) -> Self {
        Self::within(Duration::from_secs(1), burst, most)
    }

    /// The same for an hour.
    pub const fn per_hour(burst: u32, most: u32) -> Self {
        Self::within(Duration::from_secs(3600), burst, most)
    }

    const fn within(span: Duration, burst: u32, most: u32) -> Self {
        let most = if most == 0 { 1 } else { most as u64 };
        Self { burst, pause: Duration::from_nanos(span.as_secs() * 1_000_000_000 / most) }
    }

    /// When the burst is whole again if one more is let through now.
    fn next(self, full_at: Option<Instant>, now: Instant) -> Result<Instant, Duration> {
        let each = self.pause;
        let next = full_at.unwrap_or(now).max(now) + each;
        match next.checked_duration_since(now + each * self.burst) {
            None | Some(Duration::ZERO) => Ok(next),
            Some(wait) => Err(wait),
        }
    }
}

/// How often an address may knock at the API before it has shown a token that haasd knows.
#[derive(Debug)]
pub struct Doors {
    /// Logins and registrations, right ones too.
    pub logins: Rates<IpAddr>,
    /// Registrations, whatever comes of them: each can leave an account.
    pub registrations: Rates<IpAddr>,
    /// Tokens that nobody has.
    pub tokens: Rates<IpAddr>,
    /// Calls of agents. A node has an address of its own; a whole rack calls when haasd was restarted.
    pub agents: Rates<IpAddr>,
}

impl Default for Doors {
    fn default() -> Self {
        Self {
            logins: Rates::new(Rate::per_second(30, 1), Rate::per_second(300, 30)),
            registrations: Rates::new(Rate::per_hour(60, 20), Rate::per_hour(600, 200)),
            tokens: Rates::new(Rate::per_second(60, 5), Rate::per_second(1000, 200)),
            agents: Rates::new(Rate::per_second(30, 1), Rate::per_second(8192, 500)),
        }
    }
}

/// Whom an address stands for: whoever has one of IPv6 has all of its network.
pub fn asker(from: IpAddr) -> IpAddr {
    match from.to_canonical() {
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
        v4 @ IpAddr::V4(_) => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_asks_too_often_has_to_wait_and_takes_nothing_from_others() {
        let rates = Rates::new(Rate::per_second(3, 2), Rate::per_second(5, 10));
        let (start, half) = (Instant::now(), Duration::from_millis(500));
        for _ in 0..3 {
            assert_eq!(rates.ask("a", start), Ok(()));
        }
        for _ in 0..100 {
            assert_eq!(rates.ask("a", start), Err(half));
        }
        assert_eq!(rates.ask("b", start), Ok(()));
        assert_eq!(rates.ask("a", start + half), Ok(()));
        assert_eq!(rates.ask("a", start + half), Err(half));
        rates.pardon(&"a");
        assert_eq!(rates.ask("a", start + half), Ok(()));
        assert_eq!(rates.ask("a", start + half), Err(half));
    }

    #[test]
    fn all_together_have_a_bound_too() {
        let rates = Rates::new(Rate::per_second(2, 1), Rate::per_second(5, 10));
        let now = Instant::now();
        let let_through = (0..100).filter(|who| rates.ask(*who, now).is_ok()).count();
        assert_eq!(let_through, 5);
        assert_eq!(rates.ask(1000, now + Duration::from_millis(100)), Ok(()));
    }

    #[test]
    fn strangers_without_number_are_not_remembered_without_bound() {
        let many = u32::MAX;
        let rates = Rates::new(Rate::per_second(1, 1), Rate::per_second(many, 1000));
        let now = Instant::now();
        let let_through = (0..MOST_KEPT + 10).filter(|who| rates.ask(*who, now).is_ok()).count();
        assert_eq!(let_through, MOST_KEPT);
        assert_eq!(rates.ask(usize::MAX, now + Duration::from_secs(2)), Ok(()));
        assert_eq!(rates.asked.lock().unwrap().by.len(), 1);
    }

    #[test]
    fn a_network_of_ipv6_is_one_asker() {
        let of = |text: &str| asker(text.parse().unwrap());
        assert_eq!(of("2001:db8::1"), of("2001:db8::2:3"));
        assert_eq!(of("::ffff:10.0.0.1"), of("10.0.0.1"));
        assert_ne!(of("10.0.0.2"), of("10.0.0.1"));
    }
}
