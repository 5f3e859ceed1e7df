//! Space on the disk of the store: while there is too little of it nothing new is accepted, and all that is in flight goes on. It frees nothing.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::Notify;

use super::Shared;
use crate::failure::{Class, Failure};
use crate::world::disk;

/// How much must be free where nothing is said: 256 MB.
pub(super) const LEAST_DEFAULT: u64 = 256_000_000;
/// How often it is looked.
const EVERY: Duration = Duration::from_millis(1_000);
/// What senders are asked to wait.
const RETRY_AFTER_MS: u64 = 5_000;
/// What `/healthz/ready` says.
const CAUSE: &str = "the disk of the store is almost full";

/// Whether there is space.
pub(super) struct Space {
    /// `None` where the store is not on a disk of this machine.
    folder: Option<PathBuf>,
    least: u64,
    low: AtomicBool,
    freed: Notify,
}

impl Space {
    /// At least so many bytes must be free where this file is.
    pub(super) fn new(file: Option<&std::path::Path>, least: u64) -> Space {
        let folder = file.map(|file| file.parent().unwrap_or(file));
        Space {
            folder: folder.map(std::path::Path::to_owned),
            least,
            low: AtomicBool::new(false),
            freed: Notify::new(),
        }
    }

    /// Fails with class `unavailable` while there is too little space to accept anything.
    pub(super) fn check(&self) -> Result<(), Failure> {
        if !self.low.load(Ordering::SeqCst) {
            return Ok(());
        }
        let failure = Failure::new(
            Class::Unavailable,
            format!(
                "less than {} MB are free on the disk of the store (`limits.disk_free`); nothing is accepted until there is space",
                self.least / 1_000_000
            ),
        );
        Err(failure.with_retry_after_ms(RETRY_AFTER_MS))
    }

    /// Waits until there is space.
    pub(super) async fn enough(&self) {
        loop {
            let freed = self.freed.notified();
            tokio::pin!(freed);
            freed.as_mut().enable();
            if !self.low.load(Ordering::SeqCst) {
                return;
            }
            freed.await;
        }
    }

    /// Says it again after the engine has become ready.
    pub(super) fn say(&self, shared: &Shared) {
        if self.low.load(Ordering::SeqCst) {
            shared.listener.add_cause(CAUSE);
        }
    }

    /// Looks, and says what has changed. A disk that cannot be asked counts as one with space: a full one refuses by itself.
    pub(super) async fn look(&self, shared: &Shared) {
        let Some(folder) = self.folder.clone() else {
            return;
        };
        let asked = folder.clone();
        let free = match disk::aside(move || disk::free_bytes(&asked)).await {
            Ok(free) => free,
            Err(failure) => {
                tracing::debug!(%failure, "the disk does not say how much is free");
                u64::MAX
            }
        };
        if free < u64::MAX {
            shared.world.metrics.disk(free, self.least);
        }
        let low = free < self.least;
        if self.low.swap(low, Ordering::SeqCst) == low {
            return;
        }
        if low {
            tracing::error!(
                "{} MB are free on the disk of the store in {}, and `limits.disk_free` asks for {} MB: nothing is accepted until there is space; what is in flight goes on",
                free / 1_000_000,
                folder.display(),
                self.least / 1_000_000
            );
            shared.listener.add_cause(CAUSE);
        } else {
            tracing::info!("there is space on the disk of the store again; messages are accepted");
            shared.listener.remove_cause(CAUSE);
            self.freed.notify_waiters();
        }
    }
}

/// Looks until the engine stops.
pub(super) async fn run(shared: Arc<Shared>) {
    loop {
        tokio::select! {
            () = shared.stop.cancelled() => return,
            () = shared.world.clock.sleep(EVERY) => {}
        }
        shared.space.look(&shared).await;
    }
}
