//! How many calls there were lately, and how many of them failed. Pure: the time is passed in, and may jump.

/// How many slots the time is cut into: counts leave one slot at a time.
const SLOTS: usize = 12;

/// Counts over the last so many milliseconds.
#[derive(Clone, Debug)]
pub(super) struct Window {
    slot_ms: i64,
    slots: [Slot; SLOTS],
}

#[derive(Clone, Copy, Debug, Default)]
struct Slot {
    /// Which slot of all time this is.
    nth: i64,
    calls: u32,
    failed: u32,
}

impl Window {
    /// A window of this length.
    pub(super) fn new(length_ms: u64) -> Window {
        let slot_ms = i64::try_from(length_ms / SLOTS as u64).unwrap_or(i64::MAX);
        Window {
            slot_ms: slot_ms.max(1),
            slots: [Slot::default(); SLOTS],
        }
    }

    /// Counts calls, and failures.
    pub(super) fn add(&mut self, now_ms: i64, calls: u32, failed: u32) {
        let nth = now_ms.div_euclid(self.slot_ms);
        let slot = &mut self.slots[nth.rem_euclid(SLOTS as i64) as usize];
        if slot.nth != nth {
            *slot = Slot {
                nth,
                ..Slot::default()
            };
        }
        slot.calls = slot.calls.saturating_add(calls);
        slot.failed = slot.failed.saturating_add(failed);
    }

    /// Calls, and those of them that failed. What a clock that was put back leaves in the future does not count.
    pub(super) fn counts(&self, now_ms: i64) -> (u32, u32) {
        let now = now_ms.div_euclid(self.slot_ms);
        let seen = now - SLOTS as i64 + 1..=now;
        let recent = self.slots.iter().filter(|slot| seen.contains(&slot.nth));
        recent.fold((0, 0), |(calls, failed), slot| {
            (
                slot.calls.saturating_add(calls),
                slot.failed.saturating_add(failed),
            )
        })
    }

    /// Forgets everything.
    pub(super) fn clear(&mut self) {
        self.slots = [Slot::default(); SLOTS];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_leave_with_the_time() {
        let mut window = Window::new(60_000);
        for second in 0..60 {
            window.add(1_000_000 + second * 1_000, 1, u32::from(second % 4 == 0));
        }
        assert_eq!(window.counts(1_059_999), (60, 15));
        assert_eq!(window.counts(1_059_999 + 30_000), (30, 7));
        assert_eq!(window.counts(1_059_999 + 60_000), (0, 0));
    }

    #[test]
    fn a_clock_that_was_put_back_counts_anew() {
        let mut window = Window::new(60_000);
        window.add(90_000_000, 1, 1);
        assert_eq!(window.counts(1_000_000), (0, 0));
        window.add(1_000_000, 1, 0);
        assert_eq!(window.counts(1_000_000), (1, 0));
    }
}
