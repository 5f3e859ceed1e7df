//! Taps: somebody looks at messages as they pass. A tap gets copies, and never has a message wait: what it does not take in time it loses, and it
//! is told how much. While there is none, nothing is copied.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::mpsc::{self, Receiver, Sender};
use tokio::time::Instant;

use super::walk::{Ended, Walked};
use crate::body::Body;
use crate::failure::{Class, Failure};
use crate::flow::plan::Plan;
use crate::handoff::Hop;
use crate::message::{Message, MessageId, Names};
use crate::store::commit::RunId;

/// How many taps there may be at once.
pub const TAPS_MAX: usize = 4;
/// How many ends of one message at a stage are shown.
const ENDED_MAX: usize = 64;
/// How many messages wait for a slow tap.
const WAITING_MAX: usize = 64;
/// A share of all messages is told in so many parts.
pub const WHOLE: u32 = 10_000;

/// How many taps there are in this process. Steps look at it for every message, so it is one number.
static OPEN: AtomicUsize = AtomicUsize::new(0);

/// What they want. Asked once for each message at a stage, while there is one.
static WANTED: Mutex<Vec<(Arc<AtomicU64>, Wanted)>> = Mutex::new(Vec::new());

/// Whether somebody looks.
pub(super) fn is_any() -> bool {
    OPEN.load(Ordering::Relaxed) > 0
}

/// Whether somebody looks at messages of this flow that come from this accepted one.
pub(super) fn is_wanted(flow: &str, root: MessageId) -> bool {
    if !is_any() {
        return false;
    }
    let now = Instant::now();
    let wanted = lock(&WANTED);
    wanted
        .iter()
        .any(|(_, wanted)| wanted.is_of(flow, root, now))
}

fn lock<T>(mutex: &Mutex<Vec<T>>) -> MutexGuard<'_, Vec<T>> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A message that has passed a step, or was tried there.
#[derive(Clone, Debug)]
pub struct Passed {
    /// When, in milliseconds since 1970.
    pub at_ms: i64,
    /// The run.
    pub run: RunId,
    /// The message.
    pub message: MessageId,
    /// The step.
    pub step: Arc<str>,
    /// `done`, `filtered`, `dropped`, or the class of a failure.
    pub what: &'static str,
    /// Business keys.
    pub keys: Arc<Names>,
    /// The body behind the step; of a step that acts on the outside and of what has failed, the one that it got.
    pub body: Body,
}

/// What a tap is to show.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Of this flow.
    pub flow: Arc<str>,
    /// Only behind this step.
    pub step: Option<Arc<str>>,
    /// So many of 10,000 messages: each is shown at all its steps, or at none.
    pub share: u32,
    /// Until then: a tap that nobody reads any more ends, too.
    pub until: Instant,
}

impl Wanted {
    fn is_of(&self, flow: &str, root: MessageId, now: Instant) -> bool {
        let part = u32::try_from(root.0 % u128::from(WHOLE)).unwrap_or(0);
        now < self.until && *self.flow == *flow && part < self.share
    }
}

struct Tap {
    wanted: Wanted,
    passes: Sender<Passed>,
    lost: Arc<AtomicU64>,
}

/// All taps of an engine.
#[derive(Default)]
pub(super) struct Taps(Mutex<Vec<Tap>>);

/// Somebody who looks. The tap is closed when this goes.
pub struct Looking {
    passes: Receiver<Passed>,
    lost: Arc<AtomicU64>,
    taps: Arc<Taps>,
}

impl Looking {
    /// The next message that passes; `None` if its time is over or the engine has ended.
    pub async fn next(&mut self) -> Option<Passed> {
        self.passes.recv().await
    }

    /// How many messages were lost so far.
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }
}

impl Drop for Looking {
    fn drop(&mut self) {
        let mut taps = lock(&self.taps.0);
        close(&mut taps, |tap| Arc::ptr_eq(&tap.lost, &self.lost));
    }
}

/// Closes the taps of which this is true.
fn close(taps: &mut Vec<Tap>, ends: impl Fn(&Tap) -> bool) {
    taps.retain(|tap| {
        let ends = ends(tap);
        if ends {
            lock(&WANTED).retain(|(lost, _)| !Arc::ptr_eq(lost, &tap.lost));
            OPEN.fetch_sub(1, Ordering::Relaxed);
        }
        !ends
    });
}

impl Taps {
    /// Opens a tap. Fails with class `throttled` if there are too many.
    pub(super) fn open(self: &Arc<Self>, wanted: Wanted) -> Result<Looking, Failure> {
        let mut taps = lock(&self.0);
        let now = Instant::now();
        close(&mut taps, |tap| tap.wanted.until <= now);
        if taps.len() >= TAPS_MAX {
            return Err(Failure::new(
                Class::Throttled,
                format!(
                    "{TAPS_MAX} taps are open, more cannot be; each ends by itself, try again later"
                ),
            ));
        }
        let (passes, receiver) = mpsc::channel(WAITING_MAX);
        let lost: Arc<AtomicU64> = Arc::default();
        lock(&WANTED).push((lost.clone(), wanted.clone()));
        taps.push(Tap {
            wanted,
            passes,
            lost: lost.clone(),
        });
        OPEN.fetch_add(1, Ordering::Relaxed);
        drop(taps);
        Ok(Looking {
            passes: receiver,
            lost,
            taps: self.clone(),
        })
    }

    /// Shows what has become of a message at a stage to those who look at its flow.
    pub(super) fn show(&self, plan: &Plan, hop: &Hop, walked: &Walked, now_ms: i64) {
        let mut taps = lock(&self.0);
        let now = Instant::now();
        close(&mut taps, |tap| tap.wanted.until <= now);
        let takes = |tap: &&Tap| tap.wanted.is_of(&plan.flow, hop.message.root, now);
        let mut looking = taps.iter().filter(takes).peekable();
        if looking.peek().is_none() {
            return;
        }
        let seen = seen(plan, hop, walked, now_ms);
        for tap in looking {
            for passed in &seen {
                let step = tap.wanted.step.as_ref();
                if step.is_some_and(|step| *step != passed.step) {
                    continue;
                }
                if tap.passes.try_send(passed.clone()).is_err() {
                    tap.lost.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
    }
}

/// What happened at each step of a stage, in its order.
fn seen(plan: &Plan, hop: &Hop, walked: &Walked, now_ms: i64) -> Vec<Passed> {
    let passed = |at: usize, what: &'static str, message: &Message| Passed {
        at_ms: now_ms,
        run: hop.run,
        message: message.id,
        step: plan.nodes[at].id.clone(),
        what,
        keys: message.keys.clone(),
        body: message.body.clone(),
    };
    let mut all = Vec::new();
    // A step that acts on the outside, or waits: it is no part of the walk.
    let first = plan.node(&hop.step);
    let done = first.filter(|at| {
        walked.through.contains(at) && !walked.seen.iter().any(|(seen, _)| seen == at)
    });
    all.extend(done.map(|at| passed(at, "done", &hop.message)));
    for (at, message) in &walked.seen {
        all.push(passed(*at, "done", message));
    }
    for ended in walked.ended.iter().take(ENDED_MAX) {
        match ended {
            Ended::Delivered => {}
            Ended::Filtered(at) | Ended::Stale(at, _) => {
                all.push(passed(*at, "filtered", &hop.message));
            }
            Ended::Dropped(at, _) => all.push(passed(*at, "dropped", &hop.message)),
            Ended::Failed(at, message, failure) => {
                all.push(passed(*at, failure.class.name(), message));
            }
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn a_tap_that_nobody_reads_ends_with_its_time() {
        let taps: Arc<Taps> = Arc::default();
        let flow: Arc<str> = Arc::from("a flow of this test alone");
        let wanted = |until| Wanted {
            flow: flow.clone(),
            step: None,
            share: 1,
            until,
        };
        let (part, other) = (MessageId(u128::from(WHOLE)), MessageId(1));
        assert!(!is_wanted(&flow, part));
        let now = Instant::now();
        let over: Vec<_> = (0..TAPS_MAX)
            .map(|_| taps.open(wanted(now)).unwrap())
            .collect();
        assert!(!is_wanted(&flow, part), "their time is over");
        let late = now + Duration::from_secs(600);
        let mut open = vec![taps.open(wanted(late)).unwrap()];
        for mut looking in over {
            assert!(looking.next().await.is_none());
        }
        assert!(is_wanted(&flow, part) && !is_wanted(&flow, other) && !is_wanted("other", part));
        while let Ok(looking) = taps.open(wanted(late)) {
            open.push(looking);
        }
        assert_eq!(open.len(), TAPS_MAX);
        drop(open);
        assert!(!is_wanted(&flow, part));
    }
}
