//! How often somebody may ask: a bucket for each name, a bounded number of names, and nothing that waits.

use std::sync::{Mutex, PoisonError};

use rustc_hash::FxHashMap;

/// How many names are remembered; beyond it those that have been quiet longest are forgotten.
const NAMES_MAX: usize = 10_000;

/// A bucket for each name: so many at once, and then so many a second.
pub(super) struct Throttle {
    burst: f64,
    per_second: f64,
    buckets: Mutex<FxHashMap<String, Bucket>>,
}

struct Bucket {
    level: f64,
    at_ms: i64,
}

impl Throttle {
    /// So many at once, and then so many a second.
    pub(super) fn new(burst: f64, per_second: f64) -> Throttle {
        Throttle {
            burst,
            per_second,
            buckets: Mutex::default(),
        }
    }

    /// One more by this name, at this time of a steady clock; the error says after how many seconds it may be.
    pub(super) fn take(&self, name: &str, now_ms: i64) -> Result<(), u64> {
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        if buckets.len() >= NAMES_MAX && !buckets.contains_key(name) {
            self.forget(&mut buckets, now_ms);
        }
        let bucket = buckets.entry(name.to_owned()).or_insert(Bucket {
            level: self.burst,
            at_ms: now_ms,
        });
        let passed = (now_ms - bucket.at_ms).max(0) as f64 / 1000.0;
        bucket.level = (bucket.level + passed * self.per_second).min(self.burst);
        bucket.at_ms = now_ms;
        if bucket.level >= 1.0 {
            bucket.level -= 1.0;
            return Ok(());
        }
        Err(((1.0 - bucket.level) / self.per_second).ceil() as u64)
    }

    /// Whether there is nothing left for this name now. Takes nothing.
    pub(super) fn is_empty(&self, name: &str, now_ms: i64) -> bool {
        let buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        buckets.get(name).is_some_and(|bucket| {
            let passed = (now_ms - bucket.at_ms).max(0) as f64 / 1000.0;
            bucket.level + passed * self.per_second < 1.0
        })
    }

    /// Forgets those whose bucket is full again; if that is not enough, all.
    fn forget(&self, buckets: &mut FxHashMap<String, Bucket>, now_ms: i64) {
        buckets.retain(|_, bucket| {
            let passed = (now_ms - bucket.at_ms).max(0) as f64 / 1000.0;
            bucket.level + passed * self.per_second < self.burst
        });
        if buckets.len() >= NAMES_MAX {
            buckets.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_passes_and_then_so_many_a_second() {
        let throttle = Throttle::new(2.0, 0.5);
        assert_eq!(throttle.take("a", 0), Ok(()));
        assert_eq!(throttle.take("a", 0), Ok(()));
        assert_eq!(throttle.take("a", 0), Err(2));
        assert!(throttle.is_empty("a", 0) && !throttle.is_empty("b", 0));
        assert_eq!(throttle.take("b", 0), Ok(()));
        assert_eq!(throttle.take("a", 2_000), Ok(()));
        assert_eq!(throttle.take("a", 2_000), Err(2));
    }

    #[test]
    fn names_are_bounded() {
        let throttle = Throttle::new(1.0, 1.0);
        for n in 0..NAMES_MAX + 10 {
            assert_eq!(throttle.take(&n.to_string(), 0), Ok(()));
        }
        assert!(throttle.buckets.lock().unwrap().len() <= NAMES_MAX);
    }
}
