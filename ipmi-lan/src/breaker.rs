//! Leaves a BMC alone that does not work, so that a dead one costs a fleet next to nothing and a
//! wrong password locks no account. No I/O; takes the time.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use crate::{
    error::Error,
    options::{Options, jittered},
};

/// The circuit breaker of one BMC.
#[derive(Debug, Default)]
pub(crate) struct Breaker {
    /// Calls that failed, one after the other.
    failures: u32,
    /// Until when no call is let through, and why. After that one is; how it ends decides.
    pause: Option<(Instant, Arc<Error>)>,
}

impl Breaker {
    /// Whether a call may be made.
    pub(crate) fn check(&self, now: Instant) -> Result<(), Error> {
        match &self.pause {
            Some((until, last)) if *until > now => {
                Err(Error::Paused { left: *until - now, last: Arc::clone(last) })
            }
            _ => Ok(()),
        }
    }

    /// Until when no call is let through, or was until one may find out.
    pub(crate) fn paused_until(&self) -> Option<Instant> {
        self.pause.as_ref().map(|(until, _)| *until)
    }

    /// Whether the BMC has failed so often that one call finds out whether it works again.
    pub(crate) fn is_doubtful(&self, options: &Options) -> bool {
        self.failures >= options.failures
    }

    /// Notes how a call ended.
    pub(crate) fn note(&mut self, outcome: Result<(), &Error>, options: &Options, now: Instant) {
        match outcome {
            Err(error) if error.is_login() => {
                self.pause = Some((now + options.login_pause, Arc::new(error.clone())));
            }
            Err(error) if error.is_outage() => {
                self.failures += 1;
                if self.failures >= options.failures {
                    let pause = jittered(pause(self.failures - options.failures, options));
                    self.pause = Some((now + pause, Arc::new(error.clone())));
                }
            }
            // It works, though it may have refused.
            Ok(()) | Err(Error::Refused { .. }) => *self = Self::default(),
            // Says nothing about the BMC.
            Err(_) => {}
        }
    }
}

fn pause(before: u32, options: &Options) -> Duration {
    let pause = options.first_pause.saturating_mul(1 << before.min(16));
    pause.min(options.longest_pause)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEAD: Error = Error::Silent { packets: 3 };

    fn note(breaker: &mut Breaker, outcome: Result<(), &Error>, now: Instant) {
        breaker.note(outcome, &Options::default(), now);
    }

    #[test]
    fn a_dead_bmc_is_left_alone_for_longer_and_longer_and_one_success_ends_that() {
        let (mut breaker, mut now) = (Breaker::default(), Instant::now());
        for _ in 0..2 {
            note(&mut breaker, Err(&DEAD), now);
            assert!(breaker.check(now).is_ok(), "twice may be chance");
        }
        let mut pauses = Vec::new();
        for _ in 0..8 {
            note(&mut breaker, Err(&DEAD), now);
            let Err(Error::Paused { left, last }) = breaker.check(now) else {
                panic!("let through")
            };
            assert!(matches!(*last, Error::Silent { .. }));
            pauses.push(left.as_secs_f64());
            now += left;
            assert!(breaker.check(now).is_ok(), "one is let through");
        }
        let options = Options::default();
        let (first, longest) = (options.first_pause, options.longest_pause);
        assert!(breaker.is_doubtful(&options));
        assert!(pauses[0] < first.as_secs_f64() * 1.2 && pauses[1] > pauses[0], "{pauses:?}");
        assert!(pauses[7] > longest.as_secs_f64() * 0.79, "{pauses:?}");
        assert!(pauses.iter().all(|pause| *pause < longest.as_secs_f64() * 1.2), "{pauses:?}");
        note(&mut breaker, Ok(()), now);
        assert!(!breaker.is_doubtful(&options));
        note(&mut breaker, Err(&DEAD), now);
        assert!(breaker.check(now).is_ok());
    }

    #[test]
    fn a_refused_login_is_not_tried_again_for_a_minute() {
        let (mut breaker, now) = (Breaker::default(), Instant::now());
        note(&mut breaker, Err(&Error::WrongPassword), now);
        let told = breaker.check(now).unwrap_err();
        assert!(told.is_login(), "{told:?}");
        assert!(breaker.check(now + Duration::from_secs(59)).is_err());
        assert!(breaker.check(now + Duration::from_secs(60)).is_ok());
    }

    #[test]
    fn a_bmc_that_answers_no_is_no_dead_one() {
        let (mut breaker, now) = (Breaker::default(), Instant::now());
        let code = 0xD5.try_into().unwrap();
        for _ in 0..9 {
            note(&mut breaker, Err(&DEAD), now);
            note(&mut breaker, Err(&Error::Refused { command: 2, code }), now);
            assert!(breaker.check(now).is_ok());
        }
    }
}
