//! Leaves a BMC alone that does not work, as `ipmi-lan` does: a dead one costs next to nothing and a
//! wrong password locks no account. No I/O; takes the time.

use std::time::{Duration, Instant};

use super::{Options, fault::RedfishFault};

/// The circuit breaker of one BMC.
#[derive(Debug, Default)]
pub(super) struct Breaker {
    /// Calls that failed, one after the other.
    failures: u32,
    /// Until when no call is let through, and why. After that one is; how it ends decides.
    pause: Option<(Instant, RedfishFault)>,
}

impl Breaker {
    pub(super) fn check(&self, now: Instant) -> Result<(), RedfishFault> {
        match &self.pause {
            // What only a person can mend is told in its own words, however often it is asked.
            Some((until, last)) if *until > now && last.needs_person() => Err(last.clone()),
            Some((until, last)) if *until > now => {
                Err(RedfishFault::Paused { left: *until - now, last: Box::new(last.clone()) })
            }
            _ => Ok(()),
        }
    }

    pub(super) fn note(
        &mut self,
        outcome: Result<(), &RedfishFault>,
        options: &Options,
        now: Instant,
    ) {
        match outcome {
            Err(fault) if fault.is_login() => {
                self.pause = Some((now + options.login_pause, fault.clone()));
            }
            Err(fault) if fault.is_outage() => {
                self.failures += 1;
                if let Some(before) = self.failures.checked_sub(options.failures) {
                    let pause = options.first_pause.saturating_mul(1 << before.min(16));
                    let pause = jittered(pause.min(options.longest_pause));
                    self.pause = Some((now + pause, fault.clone()));
                }
            }
            // It works, though it may have refused.
            Ok(()) | Err(_) => *self = Self::default(),
        }
    }
}

/// What many BMCs do at the same moment should not be done at the same moment again.
pub(super) fn jittered(time: Duration) -> Duration {
    time.mul_f64(rand::random_range(0.8..1.2))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dead_bmc_is_left_alone_for_longer_and_longer_and_one_success_ends_that() {
        let (mut breaker, mut now) = (Breaker::default(), Instant::now());
        let options = Options::default();
        let dead = Err(&RedfishFault::Silent);
        for _ in 1..options.failures {
            breaker.note(dead, &options, now);
            assert!(breaker.check(now).is_ok(), "it may be chance");
        }
        let mut pauses = Vec::new();
        for _ in 0..8 {
            breaker.note(dead, &options, now);
            let Err(RedfishFault::Paused { left, .. }) = breaker.check(now) else {
                panic!("let through")
            };
            pauses.push(left);
            now += left;
            assert!(breaker.check(now).is_ok(), "one is let through");
        }
        assert!(pauses[1] > pauses[0] && pauses[7] < options.longest_pause.mul_f64(1.2));
        breaker.note(Ok(()), &options, now);
        breaker.note(dead, &options, now);
        assert!(breaker.check(now).is_ok());
    }

    #[test]
    fn a_refused_login_is_not_tried_again_for_a_minute() {
        let (mut breaker, now) = (Breaker::default(), Instant::now());
        breaker.note(Err(&RedfishFault::WrongAccount), &Options::default(), now);
        assert_eq!(breaker.check(now + Duration::from_secs(59)), Err(RedfishFault::WrongAccount));
        assert!(breaker.check(now + Duration::from_secs(60)).is_ok());
    }
}
