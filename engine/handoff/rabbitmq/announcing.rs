//! Announcing: hops go to the broker, what it has confirmed is noted in the store, and what was not announced in time is found there.

use std::collections::BTreeSet;
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
use crate::store::announcements::Place;
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
        let Some((queue, letter)) = letter_of(&inner, &notice) else {
            continue;
        };
        failpoint::hit("handoff-before-publish");
        let told = inner.clone();
        inner
            .publisher
            .send(letter, move |outcome| {
                // What is not stored, the sweep announces again.
                if heard(&told, &queue, &outcome) == Heard::Taken {
                    told.marks.add(hop);
                }
            })
            .await;
    }
}

/// What the broker says to an announcement.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Heard {
    /// It has it.
    Taken,
    /// The queue turns it down: it may be full.
    Refused,
    /// Nothing, or there is nobody to ask.
    Nothing,
}

/// What the broker has said. Tells people once that it does not take announcements, and once that it does again; of a queue that turns them
/// down the sweep tells them the end.
fn heard(inner: &Inner, queue: &Arc<str>, outcome: &Outcome) -> Heard {
    let failure = match outcome {
        Outcome::Stored => {
            if inner.silent.swap(false, Ordering::AcqRel) {
                tracing::info!("the broker takes announcements again");
            }
            return Heard::Taken;
        }
        Outcome::Refused(failure) => {
            if inner.refusing().insert(queue.clone()) {
                tracing::warn!(
                    "the queue {queue} does not take announcements; its messages wait in the store: {failure}"
                );
            }
            return Heard::Refused;
        }
        Outcome::Unroutable(failure) | Outcome::NotSent(failure) | Outcome::Unknown(failure) => {
            failure
        }
    };
    // A broker that is away, or has an alarm, was spoken of already.
    let known = !inner.publishing.is_up() || inner.alarmed.load(Ordering::Acquire);
    if !known && !inner.silent.swap(true, Ordering::AcqRel) {
        tracing::warn!(
            "the broker does not take announcements; messages wait in the store: {failure}"
        );
    }
    Heard::Nothing
}

/// The message of the broker for a hop, and the queue for which it is, if that is known.
fn letter_of(inner: &Inner, notice: &Notice) -> Option<(Arc<str>, Letter)> {
    let raised = inner.raised.borrow().clone()?;
    let at = (notice.flow().clone(), notice.step().clone());
    let queue = raised.get(&at)?;
    let (properties, body) = letter::write(inner.number, notice, inner.body_max);
    let letter = Letter {
        exchange: ShortString::from(inner.topology().exchange()),
        routing_key: ShortString::from(&**queue),
        properties,
        body,
    };
    Some((queue.clone(), letter))
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

/// Publishes a hop, and waits for the broker's word.
pub(super) async fn publish(inner: &Inner, notice: &Notice) -> Heard {
    match letter_of(inner, notice) {
        Some((queue, letter)) => heard(inner, &queue, &inner.publisher.publish(letter).await),
        None => Heard::Nothing,
    }
}

/// Finds what was not announced, and announces it.
pub(super) async fn sweep(inner: Arc<Inner>) {
    loop {
        let mut round = Round::default();
        while let Ok(more) = round.look(&inner).await {
            if !more {
                round.over(&inner);
                break;
            }
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

/// One walk through all that was not announced, the oldest first. Each hop is looked at once; a queue that has turned one down is left
/// alone until the next round, so that one that is full costs one look and stands before no other.
#[derive(Default)]
struct Round {
    /// Where the last look has ended.
    behind: Place,
    /// Queues that turn announcements down.
    full: BTreeSet<Arc<str>>,
}

impl Round {
    /// Whether there may be more: a look ends at a number, or at so many bytes. The error says that it makes no sense to go on now.
    async fn look(&mut self, inner: &Inner) -> Result<bool, ()> {
        if !inner.publishing.is_up() {
            return Err(());
        }
        let known = inner.raised.borrow().clone().ok_or(())?;
        let full = known.iter().filter(|(_, queue)| self.full.contains(*queue));
        let without = full.map(|(at, _)| at.clone()).collect();
        let (most, bytes_max) = SWEEP_MOST;
        let looking = inner
            .store
            .unannounced(UNANNOUNCED, self.behind, without, most, bytes_max);
        let (found, ended) = looking.await.map_err(|failure| {
            if !inner.store.has_said(&failure) {
                tracing::warn!("the store could not say what was not announced: {failure}");
            }
        })?;
        let Some(ended) = ended else {
            return Ok(false);
        };
        self.behind = ended;
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
        let heard = join_all(notices.iter().map(|notice| publish(inner, notice))).await;
        let mut answered = notices.is_empty();
        for (notice, heard) in notices.iter().zip(heard) {
            answered |= heard != Heard::Nothing;
            match heard {
                Heard::Taken => announced.push(notice.hop()),
                Heard::Refused => {
                    let at = (notice.flow().clone(), notice.step().clone());
                    self.full.extend(known.get(&at).cloned());
                }
                Heard::Nothing => {}
            }
        }
        note_now(inner, announced).await?;
        answered.then_some(true).ok_or(())
    }

    /// All was looked at: a queue that has turned nothing down takes announcements again.
    fn over(self, inner: &Inner) {
        let mut refusing = inner.refusing();
        let again: Vec<_> = refusing.difference(&self.full).cloned().collect();
        *refusing = self.full;
        drop(refusing);
        for queue in again {
            tracing::info!("the queue {queue} takes announcements again");
        }
    }
}

/// Notes what the sweep has announced.
async fn note_now(inner: &Inner, announced: Vec<HopId>) -> Result<(), ()> {
    if announced.is_empty() {
        return Ok(());
    }
    tracing::debug!(
        "{} hops that nobody had announced are announced",
        announced.len()
    );
    let commit = Commit {
        announced,
        ..Commit::default()
    };
    let noting = inner.store.commit(commit).await;
    noting.map(drop).map_err(|failure| {
        tracing::debug!("announcements could not be noted: {failure}");
    })
}
