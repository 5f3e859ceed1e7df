//! How much goes to a system at once and in a time: one gate for all flows. It knows no requests. Pure: the time is passed in.

use crate::component::words::Rate;

/// The share of the places, and of the rate under contention, that flows of high criticality keep: one of so many.
const HIGH_SHARE: usize = 5;

/// Lets calls through: at most so many at once, at most so many in a time.
#[derive(Debug)]
pub(super) struct Gate {
    places: usize,
    /// How many of the places only flows of high criticality may take.
    kept: usize,
    under_way: usize,
    pace: Option<Pace>,
    /// How many calls of high criticality wait.
    high_waiting: usize,
    /// How many others went through since the last one of high criticality, while one waited.
    others: usize,
}

/// Why a call is not let through now.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Shut {
    /// Too many are under way.
    Crowded,
    /// The rate is used up for this many milliseconds.
    Fast(u64),
}

impl Gate {
    pub(super) fn new(places: usize, rate: Option<(Rate, u32)>) -> Gate {
        Gate {
            places: places.max(1),
            kept: 0,
            under_way: 0,
            pace: rate.map(|(rate, burst)| Pace::new(rate, burst)),
            high_waiting: 0,
            others: 0,
        }
    }

    /// Other limits from now on. What is under way stays, and a rate that is the same goes on where it is.
    pub(super) fn allow(&mut self, places: usize, rate: Option<(Rate, u32)>) {
        self.places = places.max(1);
        if self.kept > 0 {
            self.keep_share();
        }
        let pace = rate.map(|(rate, burst)| Pace::new(rate, burst));
        self.pace = match (self.pace.take(), pace) {
            (Some(last), Some(next)) => Some(Pace {
                arrival_us: last.arrival_us,
                ..next
            }),
            (_, next) => next,
        };
    }

    /// From now on a share is kept for flows of high criticality.
    pub(super) fn keep_share(&mut self) {
        self.kept = self.places.div_ceil(HIGH_SHARE).min(self.places - 1);
    }

    /// Takes a place and its turn in the rate, or says why not. The place is free again after `leave`.
    pub(super) fn enter(&mut self, high: bool, now_ms: i64) -> Result<(), Shut> {
        let kept = if high { 0 } else { self.kept };
        if self.under_way + kept >= self.places {
            return Err(Shut::Crowded);
        }
        let theirs = self.high_waiting > 0 && !high && self.others + 1 >= HIGH_SHARE;
        if let Some(pace) = &mut self.pace {
            if theirs {
                return Err(Shut::Fast(pace.wait_ms(now_ms).max(1)));
            }
            pace.take(now_ms).map_err(Shut::Fast)?;
        }
        self.others = if high || self.high_waiting == 0 {
            0
        } else {
            self.others + 1
        };
        self.under_way += 1;
        Ok(())
    }

    /// Gives a place back.
    pub(super) fn leave(&mut self) {
        self.under_way = self.under_way.saturating_sub(1);
    }

    /// A call of high criticality waits, or waits no longer.
    pub(super) fn high_waits(&mut self, waits: bool) {
        self.high_waiting = match waits {
            true => self.high_waiting + 1,
            false => self.high_waiting.saturating_sub(1),
        };
    }
}

/// A rate with a burst, by the generic cell rate algorithm.
#[derive(Debug)]
struct Pace {
    each_us: i64,
    burst: i64,
    /// When the last one that was let through would have come at the exact rate.
    arrival_us: i64,
}

impl Pace {
    fn new(rate: Rate, burst: u32) -> Pace {
        let each_us = rate.per_ms.saturating_mul(1_000) / u64::from(rate.count.max(1));
        Pace {
            each_us: i64::try_from(each_us).unwrap_or(i64::MAX / 1_000_000),
            burst: i64::from(burst.max(1)),
            arrival_us: i64::MIN / 2,
        }
    }

    /// How long there is none, in milliseconds; 0 if there is one.
    fn wait_ms(&self, now_ms: i64) -> u64 {
        let now_us = now_ms.saturating_mul(1_000);
        let ahead_us = self.arrival_us.saturating_sub(now_us);
        let most_us = self.each_us.saturating_mul(self.burst);
        // Further ahead than a full burst: the clock was put back.
        if ahead_us > most_us.saturating_add(1_000) {
            return 0;
        }
        let wait_us = ahead_us.max(0) + self.each_us - most_us;
        u64::try_from(wait_us).unwrap_or(0).div_ceil(1_000)
    }

    /// Takes one, or says how many milliseconds there is none.
    fn take(&mut self, now_ms: i64) -> Result<(), u64> {
        match self.wait_ms(now_ms) {
            0 => {
                let now_us = now_ms.saturating_mul(1_000);
                let most_us = self.each_us.saturating_mul(self.burst);
                let ahead_us = self.arrival_us.saturating_sub(now_us);
                let ahead_us = if ahead_us > most_us.saturating_add(1_000) {
                    0
                } else {
                    ahead_us.max(0)
                };
                self.arrival_us = now_us + ahead_us + self.each_us;
                Ok(())
            }
            wait_ms => Err(wait_ms),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rate(text: &str) -> Rate {
        Rate::parse(text).unwrap()
    }

    /// How many are let through in each 100 ms window, for a caller that never stops asking.
    fn windows(text: &str, burst: u32, windows: i64) -> Vec<usize> {
        let mut pace = Pace::new(rate(text), burst);
        (0..windows)
            .map(|window| {
                let steps = (0..10).map(|step| 1_000_000 + window * 100 + step * 10);
                steps
                    .map(|now| (0..1_000).take_while(|_| pace.take(now).is_ok()).count())
                    .sum()
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
        let fast: usize = windows("5000/s", 50, 10).iter().sum();
        assert!((4_900..=5_050).contains(&fast), "{fast}");
    }

    #[test]
    fn the_wait_is_told() {
        let mut pace = Pace::new(rate("2/s"), 1);
        assert_eq!(pace.take(0), Ok(()));
        assert_eq!(pace.take(0), Err(500));
        assert_eq!(pace.take(499), Err(1));
        assert_eq!(pace.take(500), Ok(()));
    }

    #[test]
    fn a_clock_that_was_put_back_does_not_stop_the_rate() {
        let mut pace = Pace::new(rate("1/s"), 1);
        assert_eq!(pace.take(86_400_000), Ok(()));
        assert_eq!(pace.take(1_000), Ok(()));
        assert_eq!(pace.take(1_000), Err(1_000));
    }

    #[test]
    fn places_are_given_back() {
        let mut gate = Gate::new(1, None);
        assert_eq!(gate.enter(false, 0), Ok(()));
        assert_eq!(gate.enter(false, 0), Err(Shut::Crowded));
        gate.leave();
        assert_eq!(gate.enter(false, 0), Ok(()));
    }

    #[test]
    fn high_criticality_keeps_a_share_of_the_places() {
        let mut gate = Gate::new(10, None);
        gate.keep_share();
        let others = (0..20).take_while(|_| gate.enter(false, 0).is_ok()).count();
        let high = (0..20).take_while(|_| gate.enter(true, 0).is_ok()).count();
        assert_eq!((others, high), (8, 2));
        let mut only = Gate::new(1, None);
        only.keep_share();
        assert_eq!(only.enter(false, 0), Ok(()), "one place is for everybody");
    }

    #[test]
    fn high_criticality_keeps_a_share_of_the_rate_while_it_waits() {
        let mut gate = Gate::new(1_000, Some((rate("100/s"), 1)));
        gate.keep_share();
        gate.high_waits(true);
        let (mut others, mut high) = (0, 0);
        for now in 0..10_000 {
            // The others always ask first.
            others += usize::from(gate.enter(false, now).is_ok());
            if gate.enter(true, now).is_ok() {
                high += 1;
            }
            (0..2).for_each(|_| gate.leave());
        }
        assert_eq!((others, high), (800, 200));
        gate.high_waits(false);
        let alone = (10_000..20_000).filter(|now| {
            gate.leave();
            gate.enter(false, *now).is_ok()
        });
        assert_eq!(alone.count(), 1_000, "nobody waits: all of the rate");
    }
}
