//! What time it is, and waiting. Wall time for what people see and what is stored; monotonic waits for everything else.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::Pending;

/// A clock.
pub trait Clock: Send + Sync {
    /// Milliseconds since 1970.
    fn now_ms(&self) -> i64;
    /// Milliseconds since some moment: they pass evenly, whatever is done to the clock on the wall. Only differences mean anything.
    fn steady_ms(&self) -> i64 {
        self.now_ms()
    }
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

    fn steady_ms(&self) -> i64 {
        static FIRST: OnceLock<Instant> = OnceLock::new();
        let since = FIRST.get_or_init(Instant::now).elapsed();
        i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
    }

    fn sleep(&self, duration: Duration) -> Pending<'static, ()> {
        Box::pin(tokio::time::sleep(duration))
    }
}

/// A clock that stands still until a test moves it; those who wait do so until it shows their time.
pub struct StillClock {
    now_ms: tokio::sync::watch::Sender<i64>,
    sleepers: Arc<Sleepers>,
}

/// Until when somebody sleeps, in milliseconds since 1970, and how many do.
#[derive(Default)]
struct Sleepers {
    until: Mutex<BTreeMap<i64, usize>>,
    began: AtomicU64,
}

impl Sleepers {
    fn lie_down(&self, until_ms: i64) {
        self.began.fetch_add(1, Ordering::Relaxed);
        let mut until = self.until.lock().unwrap_or_else(PoisonError::into_inner);
        *until.entry(until_ms).or_default() += 1;
    }

    fn get_up(&self, until_ms: i64) {
        let mut until = self.until.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(many) = until.get_mut(&until_ms) {
            *many -= 1;
            if *many == 0 {
                until.remove(&until_ms);
            }
        }
    }
}

/// Somebody who sleeps; awake when this goes, be it that the time has come or that nobody waits for it any more.
struct Sleeper {
    until_ms: i64,
    among: Arc<Sleepers>,
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        self.among.get_up(self.until_ms);
    }
}

impl StillClock {
    /// A clock that shows this time.
    pub fn at(now_ms: i64) -> StillClock {
        StillClock {
            now_ms: tokio::sync::watch::Sender::new(now_ms),
            sleepers: Arc::default(),
        }
    }

    /// Moves the clock, forward or back.
    pub fn advance(&self, ms: i64) {
        self.now_ms.send_modify(|now| *now += ms);
    }

    /// The earliest time to come for which somebody sleeps; `None` if nobody does.
    pub fn next_ms(&self) -> Option<i64> {
        let now_ms = self.now_ms();
        let until = &self.sleepers.until;
        let until = until.lock().unwrap_or_else(PoisonError::into_inner);
        until.range(now_ms + 1..).next().map(|(until, _)| *until)
    }

    /// How often somebody has begun to sleep.
    pub fn sleeps(&self) -> u64 {
        self.sleepers.began.load(Ordering::Relaxed)
    }
}

impl Clock for StillClock {
    fn now_ms(&self) -> i64 {
        *self.now_ms.borrow()
    }

    fn sleep(&self, duration: Duration) -> Pending<'static, ()> {
        let mut now = self.now_ms.subscribe();
        let length = i64::try_from(duration.as_millis()).unwrap_or(i64::MAX / 2);
        let until_ms = now.borrow().saturating_add(length);
        self.sleepers.lie_down(until_ms);
        let sleeper = Sleeper {
            until_ms,
            among: self.sleepers.clone(),
        };
        Box::pin(async move {
            now.wait_for(|now| *now >= until_ms).await.ok();
            drop(sleeper);
        })
    }
}

/// The least difference between the clock and the time that has passed that counts as a clock that was set.
const SET_LEAST_MS: i64 = 2_000;

/// Notices when a clock is set.
pub struct Vigil {
    ahead_ms: i64,
}

impl Vigil {
    /// From now on.
    pub fn new(clock: &dyn Clock) -> Vigil {
        Vigil {
            ahead_ms: clock.now_ms() - clock.steady_ms(),
        }
    }

    /// By how much the clock was set, in milliseconds; less than zero: back; 0: it was not.
    pub fn look(&self, clock: &dyn Clock) -> i64 {
        let by_ms = clock.now_ms() - clock.steady_ms() - self.ahead_ms;
        if by_ms.abs() < SET_LEAST_MS { 0 } else { by_ms }
    }

    /// This much of it has been followed.
    pub fn follow(&mut self, by_ms: i64) {
        self.ahead_ms += by_ms;
    }
}

/// The machine's clock, which a test sets to another time while waits go on as ever.
#[derive(Default)]
pub struct SetClock(AtomicI64);

impl SetClock {
    /// Sets the clock forward by so many milliseconds, or back.
    pub fn set_by(&self, ms: i64) {
        self.0.fetch_add(ms, Ordering::SeqCst);
    }
}

impl Clock for SetClock {
    fn now_ms(&self) -> i64 {
        SystemClock.now_ms() + self.0.load(Ordering::SeqCst)
    }

    fn steady_ms(&self) -> i64 {
        SystemClock.steady_ms()
    }

    fn sleep(&self, duration: Duration) -> Pending<'static, ()> {
        SystemClock.sleep(duration)
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
