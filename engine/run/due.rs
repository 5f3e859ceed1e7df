//! Timers: hops that wait become ready when they are due. The store keeps the times; this only wakes up in time.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use tokio::sync::Notify;

use super::Shared;
use crate::store::commit::Commit;
use crate::world::clock::Vigil;
use crate::world::failpoint;

/// How many hops one release makes ready.
const RELEASE_MOST: usize = 500;
/// The longest sleep: a clock that was moved is noticed after it.
const SLEEP_MOST: Duration = Duration::from_secs(5);
/// The pause after the store could not be asked.
const STORE_PAUSE: Duration = Duration::from_millis(500);

/// Wakes the timer when something is due earlier than it thinks.
pub(super) struct Bell {
    earliest_ms: AtomicI64,
    notify: Notify,
}

impl Default for Bell {
    fn default() -> Bell {
        Bell {
            earliest_ms: AtomicI64::new(i64::MAX),
            notify: Notify::new(),
        }
    }
}

impl Bell {
    /// Something is due at this time.
    pub(super) fn due_at(&self, at_ms: i64) {
        if self.earliest_ms.fetch_min(at_ms, Ordering::SeqCst) > at_ms {
            self.notify.notify_one();
        }
    }
}

/// Releases what is due, until the engine stops.
pub(super) async fn run(shared: Arc<Shared>) {
    let mut vigil = Vigil::new(&*shared.world.clock);
    loop {
        shared.bell.earliest_ms.store(i64::MAX, Ordering::SeqCst);
        match shared.store.next_due().await {
            Ok(Some(at_ms)) => shared.bell.due_at(at_ms),
            Ok(None) => {}
            Err(failure) => {
                if !shared.store.has_said(&failure) {
                    tracing::error!(%failure, "the store could not say what is due");
                }
                shared
                    .bell
                    .due_at(shared.store.now_ms() + STORE_PAUSE.as_millis() as i64);
            }
        }
        let mut slept = false;
        while shared.store.now_ms() < shared.bell.earliest_ms.load(Ordering::SeqCst) {
            let left = shared
                .bell
                .earliest_ms
                .load(Ordering::SeqCst)
                .saturating_sub(shared.store.now_ms());
            let sleep = Duration::from_millis(u64::try_from(left).unwrap_or(0)).min(SLEEP_MOST);
            tokio::select! {
                () = shared.stop.cancelled() => return,
                () = shared.bell.notify.notified() => {}
                () = shared.world.clock.sleep(sleep) => slept = true,
            }
            follow(&shared, &mut vigil).await;
            if slept && shared.store.is_shared() {
                // Another engine may have let something wait, and died.
                break;
            }
        }
        if shared.stop.is_cancelled() {
            return;
        }
        if follow(&shared, &mut vigil).await {
            continue;
        }
        if shared.store.now_ms() < shared.bell.earliest_ms.load(Ordering::SeqCst) {
            continue;
        }
        release(&shared).await;
    }
}

/// If the clock was set, the store moves what waits with it; it does so in its next transaction. Gives whether it was.
async fn follow(shared: &Shared, vigil: &mut Vigil) -> bool {
    let by_ms = vigil.look(&*shared.world.clock);
    if by_ms == 0 {
        return false;
    }
    vigil.follow(by_ms);
    while let Err(failure) = shared.commit(Commit::default()).await {
        if !shared.store.has_said(&failure) {
            tracing::error!(%failure, "what waits could not be moved with the clock; trying again");
        }
        if shared.stop.is_cancelled() {
            break;
        }
        shared.world.clock.sleep(STORE_PAUSE).await;
    }
    shared.bell.earliest_ms.store(0, Ordering::SeqCst);
    true
}

async fn release(shared: &Shared) {
    let now_ms = shared.store.now_ms();
    let commit = Commit {
        release: Some((now_ms, RELEASE_MOST)),
        ..Commit::default()
    };
    failpoint::hit("release-before-commit");
    let released = shared.commit(commit).await;
    failpoint::hit("release-announced");
    if let Err(failure) = released {
        if !shared.store.has_said(&failure) {
            tracing::error!(%failure, "the store could not release what is due");
        }
        shared.world.clock.sleep(STORE_PAUSE).await;
    }
}
