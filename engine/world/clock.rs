//! What time it is, and waiting. Wall time for what people see and what is stored; monotonic waits for everything else.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::Pending;

/// A clock.
pub trait Clock: Send + Sync {
    /// Milliseconds since 1970.
    fn now_ms(&self) -> i64;
    /// Waits this long.
    fn sleep(&self, duration: Duration) -> Pending<'static, ()>;
}

/// The machine's clock.
pub struct SystemClock;

impl Clock for SystemClock {
    fn now_ms(&self) -> i64 {
        let since = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
    }

    fn sleep(&self, duration: Duration) -> Pending<'static, ()> {
        Box::pin(tokio::time::sleep(duration))
    }
}

/// A clock that stands still until a test moves it; those who wait do so until it shows their time.
pub struct StillClock(tokio::sync::watch::Sender<i64>);

impl StillClock {
    /// A clock that shows this time.
    pub fn at(now_ms: i64) -> StillClock {
        StillClock(tokio::sync::watch::Sender::new(now_ms))
    }

    /// Moves the clock, forward or back.
    pub fn advance(&self, ms: i64) {
        self.0.send_modify(|now| *now += ms);
    }
}

impl Clock for StillClock {
    fn now_ms(&self) -> i64 {
        *self.0.borrow()
    }

    fn sleep(&self, duration: Duration) -> Pending<'static, ()> {
        let mut now = self.0.subscribe();
        let length = i64::try_from(duration.as_millis()).unwrap_or(i64::MAX / 2);
        let until = now.borrow().saturating_add(length);
        Box::pin(async move {
            now.wait_for(|now| *now >= until).await.ok();
        })
    }
}

/// A clock that a test moves by hand; waits end at once and move it.
#[derive(Default)]
pub struct ManualClock(AtomicI64);

impl ManualClock {
    /// A clock that shows this time.
    pub fn at(now_ms: i64) -> ManualClock {
        ManualClock(AtomicI64::new(now_ms))
    }

    /// Moves the clock.
    pub fn advance(&self, duration: Duration) {
        self.0.fetch_add(
            i64::try_from(duration.as_millis()).unwrap_or(i64::MAX),
            Ordering::SeqCst,
        );
    }
}

impl Clock for ManualClock {
    fn now_ms(&self) -> i64 {
        self.0.load(Ordering::SeqCst)
    }

    fn sleep(&self, duration: Duration) -> Pending<'static, ()> {
        self.advance(duration);
        Box::pin(tokio::task::yield_now())
    }
}
