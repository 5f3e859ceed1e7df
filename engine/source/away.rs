//! Those who were turned away at a door: one line in the log in ten seconds says how many, however many there are.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

/// How often they are logged, in milliseconds.
const TOLD_EVERY_MS: i64 = 10_000;

/// How many were turned away since that was last told.
pub(super) struct TurnedAway {
    count: AtomicU64,
    told_ms: AtomicI64,
}

impl TurnedAway {
    pub(super) fn new() -> TurnedAway {
        TurnedAway {
            count: AtomicU64::new(0),
            told_ms: AtomicI64::new(i64::MIN),
        }
    }

    /// One more; gives how many there were, if that is to be told now.
    pub(super) fn one_more(&self, now_ms: i64) -> Option<u64> {
        self.count.fetch_add(1, Ordering::Relaxed);
        let told_ms = self.told_ms.load(Ordering::Relaxed);
        let is_time = now_ms.saturating_sub(told_ms) >= TOLD_EVERY_MS;
        let order = Ordering::Relaxed;
        let mine = is_time
            && self
                .told_ms
                .compare_exchange(told_ms, now_ms, order, order)
                .is_ok();
        mine.then(|| self.count.swap(0, Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_told_once_in_ten_seconds() {
        let away = TurnedAway::new();
        assert_eq!(away.one_more(5_000), Some(1));
        assert_eq!(away.one_more(6_000), None);
        assert_eq!(away.one_more(14_999), None);
        assert_eq!(away.one_more(15_000), Some(3));
    }
}
