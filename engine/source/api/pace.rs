//! How often each client has called: what it may still, and what is to be noted. It knows no names.

use crate::component::words::Rate;

/// The paces of all clients of one API.
pub(super) struct Paces(Vec<Pace>);

struct Pace {
    rate: Rate,
    /// The window that runs: when it began, and how many calls it has had.
    began_ms: i64,
    used: u32,
    /// Calls since they were noted last, and the time of the last one.
    calls: u64,
    last_at_ms: i64,
}

/// What a call finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Taken {
    /// How many calls a window takes.
    pub(super) quota: u32,
    /// How long a window is, in milliseconds.
    pub(super) window_ms: u64,
    /// How many more calls this window takes.
    pub(super) left: u32,
    /// How long until the next window, in milliseconds.
    pub(super) reset_ms: u64,
    /// How long this call has to wait; 0: it may go on.
    pub(super) wait_ms: u64,
}

impl Paces {
    pub(super) fn new(rates: Vec<Rate>) -> Paces {
        let pace = |rate| Pace {
            rate,
            began_ms: i64::MIN / 2,
            used: 0,
            calls: 0,
            last_at_ms: 0,
        };
        Paces(rates.into_iter().map(pace).collect())
    }

    /// A call of this client, at this time of a steady clock and of the one on the wall.
    pub(super) fn take(&mut self, client: usize, steady_ms: i64, now_ms: i64) -> Taken {
        let pace = &mut self.0[client];
        let window_ms = pace.rate.per_ms;
        let length = i64::try_from(window_ms).unwrap_or(i64::MAX / 4);
        if !(0..length).contains(&(steady_ms - pace.began_ms)) {
            (pace.began_ms, pace.used) = (steady_ms, 0);
        }
        let reset_ms = (pace.began_ms + length - steady_ms).unsigned_abs();
        let may = pace.used < pace.rate.count;
        if may {
            pace.used += 1;
            pace.calls += 1;
            pace.last_at_ms = now_ms;
        }
        Taken {
            quota: pace.rate.count,
            window_ms,
            left: pace.rate.count - pace.used,
            reset_ms,
            wait_ms: if may { 0 } else { reset_ms },
        }
    }

    /// Who has called since this was asked last: client, how often, and when last.
    pub(super) fn noted(&mut self) -> Vec<(usize, u64, i64)> {
        let clients = self.0.iter_mut().enumerate();
        let called = clients.filter(|(_, pace)| pace.calls > 0);
        called
            .map(|(client, pace)| (client, std::mem::take(&mut pace.calls), pace.last_at_ms))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_calls_as_often_as_it_may_and_is_told_when_again() {
        let rate = Rate {
            count: 2,
            per_ms: 60_000,
        };
        let mut paces = Paces::new(vec![rate, rate]);
        assert_eq!(paces.take(0, 1_000, 5).left, 1);
        let second = paces.take(0, 11_000, 6);
        assert_eq!(
            (second.left, second.reset_ms, second.wait_ms),
            (0, 50_000, 0)
        );
        assert_eq!(paces.take(0, 21_000, 7).wait_ms, 40_000);
        assert_eq!(paces.take(1, 21_000, 8).wait_ms, 0);
        assert_eq!(paces.take(0, 61_000, 9).left, 1);
        assert_eq!(paces.noted(), [(0, 3, 9), (1, 1, 8)]);
        assert!(paces.noted().is_empty());
    }
}
