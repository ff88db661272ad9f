//! How long to wait for what, and how much at once.

use std::time::Duration;

/// The same for all BMCs of a fleet. The defaults are for BMCs on a LAN, which answer within a
/// second but for when they switch power or are busy with themselves.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Options {
    /// How long the first answer may take before its packet is sent again.
    pub first_wait: Duration,
    /// Each wait is half as long again as the one before, up to this.
    pub longest_wait: Duration,
    /// How often a packet is sent before the session, or the login, is given up for another.
    pub tries: u32,
    /// How many logins in a row a BMC may leave without any answer before the call ends.
    pub silent_logins: u32,
    /// How long the answer to an order may take, which is not sent again.
    pub order_wait: Duration,
    /// After how long without a packet a session is kept alive. BMCs end it after 60 s (IPMI 2.0
    /// section 6.12.15), some sooner: `ipmi_sim` after 30 s.
    pub keepalive: Duration,
    /// After how long without a call a session is closed.
    pub idle: Duration,
    /// After how many failed calls in a row a BMC is left alone for a while. The call after that ends
    /// with one silent login.
    pub failures: u32,
    /// For how long it is left alone the first time; twice as long each time after.
    pub first_pause: Duration,
    /// For how long at most.
    pub longest_pause: Duration,
    /// For how long after a refused login.
    pub login_pause: Duration,
    /// How many logins of the fleet may be under way at the same time.
    pub handshakes: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            first_wait: Duration::from_millis(500),
            longest_wait: Duration::from_secs(2),
            tries: 4,
            silent_logins: 3,
            order_wait: Duration::from_secs(5),
            keepalive: Duration::from_secs(15),
            idle: Duration::from_secs(300),
            failures: 3,
            first_pause: Duration::from_secs(3),
            longest_pause: Duration::from_secs(15),
            login_pause: Duration::from_secs(60),
            handshakes: 128,
        }
    }
}

impl Options {
    /// The wait after `wait`.
    pub(crate) fn after(&self, wait: Duration) -> Duration {
        (wait + wait / 2).min(self.longest_wait)
    }
}

/// `time`, up to a fifth shorter or longer: what many BMCs do at the same moment should not be done at
/// the same moment again.
pub(crate) fn jittered(time: Duration) -> Duration {
    time.mul_f64(rand::random_range(0.8..1.2))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_up_to_a_limit_and_jitter_stays_near() {
        let options = Options::default();
        let mut wait = options.first_wait;
        for _ in 0..20 {
            let next = options.after(wait);
            assert!(next >= wait && next <= options.longest_wait);
            wait = next;
        }
        assert_eq!(wait, options.longest_wait);
        let second = Duration::from_secs(1);
        let many: Vec<_> = (0..100).map(|_| jittered(second)).collect();
        assert!(many.iter().all(|t| *t >= second * 4 / 5 && *t < second * 6 / 5), "{many:?}");
        assert!(many.iter().any(|t| *t != many[0]));
    }
}
