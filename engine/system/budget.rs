//! The retry budget of a system: repeats that fail may only be a share of its calls, so that an outage does not multiply load. Pure.

use super::window::Window;

/// The time over which calls and repeats are counted, in milliseconds.
const WINDOW_MS: u64 = 60_000;
/// So many repeats may fail within the time, however few calls there are.
const LEAST: u32 = 10;

/// What repeats may still be made. One that goes well gives back what it took.
#[derive(Debug)]
pub(super) struct Budget {
    percent: u32,
    /// All calls, and repeats that failed.
    window: Window,
    under_way: u32,
}

impl Budget {
    pub(super) fn new(percent: u32) -> Budget {
        Budget {
            percent,
            window: Window::new(WINDOW_MS),
            under_way: 0,
        }
    }

    /// Another share from now on.
    pub(super) fn allow(&mut self, percent: u32) {
        self.percent = percent;
    }

    /// How many repeats may begin now.
    pub(super) fn free(&self, now_ms: i64) -> u32 {
        let (calls, failed) = self.window.counts(now_ms);
        let share = u64::from(calls) * u64::from(self.percent) / 100;
        let share = u32::try_from(share).unwrap_or(u32::MAX);
        share
            .saturating_add(LEAST)
            .saturating_sub(failed.saturating_add(self.under_way))
    }

    /// A call has ended.
    pub(super) fn called(&mut self, now_ms: i64) {
        self.window.add(now_ms, 1, 0);
    }

    /// A repeat begins.
    pub(super) fn begins(&mut self) {
        self.under_way = self.under_way.saturating_add(1);
    }

    /// A repeat has ended.
    pub(super) fn ends(&mut self, now_ms: i64, failed: bool) {
        self.under_way = self.under_way.saturating_sub(1);
        self.window.add(now_ms, 0, u32::from(failed));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Repeats as long as the budget lets them, with so many first calls a second; gives how many were made.
    fn check(seconds: i64, calls: u32, failed: bool) -> u32 {
        let mut budget = Budget::new(20);
        let mut repeats = 0;
        for second in 0..seconds {
            let now = 1_000_000 + second * 1_000;
            for _ in 0..calls {
                budget.called(now);
            }
            for _ in 0..100 {
                if budget.free(now) > 0 {
                    repeats += 1;
                    budget.begins();
                    budget.called(now);
                    budget.ends(now, failed);
                }
            }
        }
        repeats
    }

    #[test]
    fn repeats_that_fail_are_a_fifth_of_all_calls_and_a_few() {
        assert_eq!(check(60, 0, true), 12);
        // 600 first calls and 162 repeats: 20 % of 762, and 10.
        assert_eq!(check(60, 10, true), 162);
    }

    #[test]
    fn repeats_that_go_well_cost_nothing() {
        assert_eq!(check(60, 0, false), 6_000);
    }

    #[test]
    fn those_under_way_are_counted() {
        let mut budget = Budget::new(20);
        for _ in 0..10 {
            assert!(budget.free(0) > 0);
            budget.begins();
        }
        assert_eq!(budget.free(0), 0);
        budget.ends(0, false);
        assert_eq!(budget.free(0), 1);
    }

    #[test]
    fn the_budget_comes_back_with_the_time() {
        let mut budget = Budget::new(20);
        for _ in 0..10 {
            budget.begins();
            budget.ends(0, true);
        }
        assert_eq!((budget.free(0), budget.free(60_000)), (0, 10));
    }
}
