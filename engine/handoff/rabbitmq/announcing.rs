//! Announcing: hops go to the broker, what it has confirmed is noted in the store, and what was not announced in time is found there.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::join_all;
use lapin::types::ShortString;
use rustc_hash::FxHashSet;
use tokio::sync::{Notify, mpsc};

use super::Inner;
use super::letter::{self, Notice};
use crate::handoff::Hop;
use crate::net::amqp::publisher::{Letter, Outcome};
use crate::store::commit::{Commit, HopId};
use crate::world::failpoint;

/// How long a hop may be ready before somebody else announces it.
const UNANNOUNCED: Duration = Duration::from_secs(5);
/// How often the store is asked for such hops.
const SWEEP_EVERY: Duration = Duration::from_secs(2);
/// How many of them are announced together, and how many bytes of them are read.
const SWEEP_MOST: (usize, usize) = (512, 8 << 20);
/// How long a note may wait for others. Most hops are over by then, and need none.
const MARK_AFTER: Duration = Duration::from_millis(500);
/// So many notes do not wait.
const MARKS_MOST: usize = 1024;

/// Hops that the broker has confirmed, to be noted in the store.
#[derive(Default)]
pub(super) struct Marks {
    hops: Mutex<FxHashSet<HopId>>,
    full: Notify,
}

impl Marks {
    fn hops(&self) -> MutexGuard<'_, FxHashSet<HopId>> {
        self.hops.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, hop: HopId) {
        let mut hops = self.hops();
        hops.insert(hop);
        if hops.len() >= MARKS_MOST {
            self.full.notify_one();
        }
    }

    /// The hop is over: nobody needs to know that it was announced.
    pub(super) fn drop_out(&self, hop: HopId) {
        self.hops().remove(&hop);
    }
}

/// Announces what comes, until all is told.
pub(super) async fn announce(inner: Arc<Inner>, mut notices: mpsc::Receiver<Notice>) {
    loop {
        let notice = tokio::select! {
            biased;
            notice = notices.recv() => notice,
            () = inner.end.cancelled() => return,
        };
        let Some(notice) = notice else { return };
        let hop = notice.hop();
        inner
            .announcing_bytes
            .fetch_sub(notice.bytes(), Ordering::Relaxed);
        let Some(letter) = letter_of(&inner, &notice) else {
            continue;
        };
        failpoint::hit("handoff-before-publish");
        let told = inner.clone();
        inner
            .publisher
            .send(letter, move |outcome| {
                // What is not stored, the sweep announces again.
                if taken(&told, &outcome) {
                    told.marks.add(hop);
                }
            })
            .await;
    }
}

/// Whether the broker has taken what was announced; says once that it does not, and once that it does again.
fn taken(inner: &Inner, outcome: &Outcome) -> bool {
    let failure = match outcome {
        Outcome::Stored => {
            if inner.refusing.swap(false, Ordering::AcqRel) {
                tracing::info!("the broker takes announcements again");
            }
            return true;
        }
        Outcome::Unroutable(failure)
        | Outcome::Refused(failure)
        | Outcome::NotSent(failure)
        | Outcome::Unknown(failure) => failure,
    };
    // A broker that is away, or has an alarm, was spoken of already.
    let known = !inner.publishing.is_up() || inner.alarmed.load(Ordering::Acquire);
    if !known && !inner.refusing.swap(true, Ordering::AcqRel) {
        tracing::warn!(
            "the broker does not take announcements; messages wait in the store: {failure}"
        );
    }
    false
}

/// The message of the broker for a hop, if its queue is known.
fn letter_of(inner: &Inner, notice: &Notice) -> Option<Letter> {
    let raised = inner.raised.borrow().clone()?;
    let at = (notice.flow().clone(), notice.step().clone());
    let queue = raised.get(&at)?;
    let (properties, body) = letter::write(inner.number, notice, inner.body_max);
    Some(Letter {
        exchange: ShortString::from(inner.topology.exchange()),
        routing_key: ShortString::from(&**queue),
        properties,
        body,
    })
}

/// Notes in the store what was announced.
pub(super) async fn mark(inner: Arc<Inner>) {
    loop {
        let ends = tokio::select! {
            () = inner.end.cancelled() => true,
            () = inner.marks.full.notified() => false,
            () = tokio::time::sleep(MARK_AFTER) => false,
        };
        note(&inner).await;
        if ends {
            return;
        }
    }
}

async fn note(inner: &Inner) {
    let hops: Vec<HopId> = inner.marks.hops().drain().collect();
    for announced in hops.chunks(MARKS_MOST) {
        let commit = Commit {
            announced: announced.to_vec(),
            ..Commit::default()
        };
        // Not noted, they are announced once more: a copy costs little.
        if let Err(failure) = inner.store.commit(commit).await {
            tracing::debug!("announcements could not be noted: {failure}");
        }
    }
}

/// Publishes a hop, and waits until the broker has it.
pub(super) async fn publish(inner: &Inner, notice: &Notice) -> bool {
    match letter_of(inner, notice) {
        Some(letter) => taken(inner, &inner.publisher.publish(letter).await),
        None => false,
    }
}

/// Finds what was not announced, and announces it.
pub(super) async fn sweep(inner: Arc<Inner>) {
    loop {
        while let Ok(more) = sweep_once(&inner).await
            && more
        {
            if inner.stop.is_cancelled() {
                return;
            }
        }
        let pause = SWEEP_EVERY.mul_f64(0.75 + inner.world.random.below(500) as f64 / 1000.0);
        tokio::select! {
            () = inner.stop.cancelled() => return,
            () = inner.sweep.notified() => {}
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// Whether there may be more: what was found ends at a number, or at so many bytes. The error says that it makes no sense to go on now.
async fn sweep_once(inner: &Inner) -> Result<bool, ()> {
    if inner.raised.borrow().is_none() || !inner.publishing.is_up() {
        return Err(());
    }
    let (most, bytes_max) = SWEEP_MOST;
    let found = inner.store.unannounced(UNANNOUNCED, most, bytes_max).await;
    let found = found.map_err(|failure| {
        tracing::warn!("the store could not say what was not announced: {failure}");
    })?;
    let known = inner.raised.borrow().clone().unwrap_or_default();
    let (mut notices, mut announced) = (Vec::new(), Vec::new());
    for stored in found {
        if !known.contains_key(&(stored.flow.clone(), stored.step.clone())) {
            // The project has no such step. Noted, it does not stand before others; when the step is back its queue is empty, and that is seen.
            announced.push(stored.hop);
            continue;
        }
        match Hop::from_store(stored) {
            Ok(hop) => notices.push(Notice::Whole(Box::new(hop))),
            Err(failure) => tracing::error!(%failure, "a stored message cannot be read"),
        }
    }
    let told = join_all(notices.iter().map(|notice| publish(inner, notice))).await;
    let told = notices.iter().zip(told).filter(|(_, told)| *told);
    announced.extend(told.map(|(notice, _)| notice.hop()));
    if announced.is_empty() {
        return Err(());
    }
    tracing::debug!(
        "{} hops that nobody had announced are announced",
        announced.len()
    );
    let commit = Commit {
        announced,
        ..Commit::default()
    };
    inner.store.commit(commit).await.map_err(|failure| {
        tracing::debug!("announcements could not be noted: {failure}");
    })?;
    Ok(true)
}
