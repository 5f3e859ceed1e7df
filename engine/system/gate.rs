//! How much goes to a system at once and in a time: one gate for all flows. It knows no requests.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use governor::clock::{Clock, DefaultClock};
use governor::middleware::NoOpMiddleware;
use governor::state::{InMemoryState, NotKeyed};
use governor::{Quota, RateLimiter};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use crate::component::words::Rate;

/// Lets requests through: at most so many at once, at most so many in a time.
pub(super) struct Gate {
    places: Arc<Semaphore>,
    pace: Option<Pace<DefaultClock>>,
}

/// Why a request was not let through before its deadline.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Shut {
    /// Too many are under way.
    Crowded,
    /// The rate is used up for this long.
    Fast(Duration),
}

impl Gate {
    pub(super) fn new(concurrency: usize, rate: Option<(Rate, u32)>) -> Gate {
        Gate {
            places: Arc::new(Semaphore::new(concurrency)),
            pace: rate.map(|(rate, burst)| Pace::new(rate, burst, DefaultClock::default())),
        }
    }

    /// Waits for a place and for the rate. The place is free again when the permit goes.
    pub(super) async fn enter(&self, deadline: Instant) -> Result<OwnedSemaphorePermit, Shut> {
        let place = self.places.clone().acquire_owned();
        let permit = match tokio::time::timeout_at(deadline, place).await {
            Ok(Ok(permit)) => permit,
            Ok(Err(_)) | Err(_) => return Err(Shut::Crowded),
        };
        if let Some(pace) = &self.pace {
            while let Err(wait) = pace.take() {
                if Instant::now() + wait > deadline {
                    return Err(Shut::Fast(wait));
                }
                tokio::time::sleep(wait).await;
            }
        }
        Ok(permit)
    }
}

/// A rate with a burst, by the generic cell rate algorithm.
struct Pace<C: Clock> {
    limiter: RateLimiter<NotKeyed, InMemoryState, C, NoOpMiddleware<C::Instant>>,
    clock: C,
}

impl<C: Clock + Clone> Pace<C> {
    fn new(rate: Rate, burst: u32, clock: C) -> Pace<C> {
        let each = Duration::from_millis(rate.per_ms) / rate.count.max(1);
        let burst = NonZeroU32::new(burst).unwrap_or(NonZeroU32::MIN);
        let quota = Quota::with_period(each.max(Duration::from_nanos(1)))
            .expect("a period of at least a nanosecond is not zero")
            .allow_burst(burst);
        Pace {
            limiter: RateLimiter::direct_with_clock(quota, clock.clone()),
            clock,
        }
    }

    /// Takes one, or says how long there is none.
    fn take(&self) -> Result<(), Duration> {
        self.limiter.check().map_err(|not_until| {
            let wait = not_until.wait_time_from(self.clock.now());
            wait.max(Duration::from_millis(1))
        })
    }
}

#[cfg(test)]
mod tests {
    use governor::clock::FakeRelativeClock;

    use super::*;

    /// How many are let through in each 100 ms window, for a caller that never stops asking.
    fn windows(rate: &str, burst: u32, windows: usize) -> Vec<usize> {
        let clock = FakeRelativeClock::default();
        let pace = Pace::new(Rate::parse(rate).unwrap(), burst, clock.clone());
        (0..windows)
            .map(|_| {
                let mut count = 0;
                for _ in 0..10 {
                    while pace.take().is_ok() {
                        count += 1;
                    }
                    clock.advance(Duration::from_millis(10));
                }
                count
            })
            .collect()
    }

    #[test]
    fn a_rate_holds_in_every_window_after_the_burst() {
        assert_eq!(windows("20/s", 1, 5), [2, 2, 2, 2, 2]);
        let after_burst = windows("20/s", 10, 4);
        assert_eq!(after_burst[1..], [2, 2, 2]);
        assert!(after_burst[0] >= 10 && after_burst[0] <= 12);
        assert_eq!(windows("600/m", 1, 3), [1, 1, 1]);
    }

    #[test]
    fn the_wait_is_told() {
        let clock = FakeRelativeClock::default();
        let pace = Pace::new(Rate::parse("2/s").unwrap(), 1, clock);
        assert_eq!(pace.take(), Ok(()));
        assert_eq!(pace.take(), Err(Duration::from_millis(500)));
    }

    #[tokio::test]
    async fn places_are_given_back() {
        let gate = Gate::new(1, None);
        let soon = || Instant::now() + Duration::from_millis(50);
        let first = gate.enter(soon()).await.unwrap();
        assert_eq!(gate.enter(soon()).await.unwrap_err(), Shut::Crowded);
        drop(first);
        assert!(gate.enter(soon()).await.is_ok());
    }

    #[tokio::test]
    async fn a_deadline_before_the_rate_is_told_at_once() {
        let gate = Gate::new(4, Some((Rate::parse("1/h").unwrap(), 1)));
        let soon = || Instant::now() + Duration::from_secs(1);
        assert!(gate.enter(soon()).await.is_ok());
        assert!(
            matches!(gate.enter(soon()).await, Err(Shut::Fast(wait)) if wait > Duration::from_secs(3000))
        );
    }
}
