//! When nothing goes on in this process until time passes: what a test must know before it moves the clock. One thread works, one blocks.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::runtime::{Builder, Runtime};
use tokio::sync::Notify;

use crate::failure::Failure;

/// So many rounds in a row must be without a sign of life. What goes on without one is a few reads of the store or of a file, one after
/// the other.
const QUIET_ROUNDS: usize = 8;

/// Whether the thread of a test has nothing to do.
#[derive(Default)]
pub(super) struct Idle {
    asked: AtomicBool,
    parked: Notify,
}

impl Idle {
    /// A runtime that says when it has nothing to do. Blocking work is done by one other thread, in its order.
    pub(super) fn runtime(self: &Arc<Self>) -> Result<Runtime, Failure> {
        let idle = self.clone();
        Builder::new_current_thread()
            .max_blocking_threads(1)
            .enable_all()
            .on_thread_park(move || idle.parks())
            .build()
            .map_err(|error| Failure::internal(format!("no thread to run a test on: {error}")))
    }

    fn parks(&self) {
        if self.asked.swap(false, Ordering::SeqCst) {
            self.parked.notify_one();
        }
    }

    /// Waits until nothing goes on. `life` counts what is done; `busy` waits while a commit is with the store, and gives whether one was.
    pub(super) async fn settle<F: Future<Output = bool>>(
        &self,
        life: impl Fn() -> u64,
        busy: impl Fn() -> F,
    ) {
        let mut quiet = 0;
        let mut before = life();
        while quiet < QUIET_ROUNDS {
            // What was begun on the other thread before this is over after it.
            drop(tokio::task::spawn_blocking(|| {}).await);
            self.asked.store(true, Ordering::SeqCst);
            self.parked.notified().await;
            let was_busy = busy().await;
            let now = life();
            quiet = match was_busy || now != before {
                true => 0,
                false => quiet + 1,
            };
            before = now;
        }
    }
}
