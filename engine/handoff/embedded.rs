//! The embedded hand-off: one process, queues in memory over the store. It holds no truth: all it knows is in the store as well.
//!
//! Every hop in flight has exactly one place: queued here, only in the store, taken, waiting or held. Only hops that were announced (or found
//! at the start) are ever fetched from the store, so a hop whose commit is done and whose announcement is on its way is not taken twice.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustc_hash::FxHashMap;
use tokio::sync::Notify;

use super::Hop;
use crate::failure::Failure;
use crate::store::Store;
use crate::store::commit::HopId;

/// How much the hand-off holds in memory; what is beyond stays in the store.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Hops of one step.
    pub queued_max: usize,
    /// Bytes of all queued hops together.
    pub bytes_max: usize,
    /// Hops that are fetched from the store at once.
    pub fetched_max: usize,
}

impl Default for Limits {
    /// 4,096 hops a step, 32 MiB, 512 at once.
    fn default() -> Limits {
        Limits {
            queued_max: 4096,
            bytes_max: 32 << 20,
            fetched_max: 512,
        }
    }
}

/// The embedded hand-off. A clone is the same one.
#[derive(Clone)]
pub struct Embedded(Arc<Inner>);

struct Inner {
    store: Store,
    limits: Limits,
    state: Mutex<State>,
    /// Something has left.
    left: Notify,
}

#[derive(Default)]
struct State {
    places: FxHashMap<HopId, Place>,
    queues: FxHashMap<Arc<str>, FxHashMap<Arc<str>, Queue>>,
    bytes: usize,
    /// How many of `places` are held.
    held: usize,
}

/// Where a hop is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// In a queue, with its message.
    Queued,
    /// Ready, and only the store has its message.
    Stored,
    /// With a taker.
    Taken,
    /// In the store, until its time comes.
    Waiting,
    /// In the store, until its turn comes.
    Held,
}

/// What is ready for one step.
#[derive(Default)]
struct Queue {
    ready: VecDeque<Hop>,
    /// Ready hops that only the store has, in the order in which they came; all of them after `ready`.
    stored: VecDeque<HopId>,
    /// Somebody is fetching from the store.
    fetching: bool,
    came: Arc<Notify>,
}

impl Embedded {
    /// A hand-off over this store. To be followed by `recover`, before anything is announced or taken.
    pub fn new(store: Store, limits: Limits) -> Embedded {
        Embedded(Arc::new(Inner {
            store,
            limits,
            state: Mutex::default(),
            left: Notify::new(),
        }))
    }

    /// Finds the hops that the last process has left. Gives their number.
    pub async fn recover(&self) -> Result<u64, Failure> {
        let standing = self.0.store.standing_hops().await?;
        let mut found = 0;
        let mut state = self.0.state();
        for hop in standing {
            if state.places.contains_key(&hop.hop) {
                continue;
            }
            found += 1;
            if hop.held {
                state.places.insert(hop.hop, Place::Held);
                state.held += 1;
            } else if hop.waits {
                state.places.insert(hop.hop, Place::Waiting);
            } else {
                state.places.insert(hop.hop, Place::Stored);
                let queue = state.queue(&hop.flow, &hop.step);
                queue.stored.push_back(hop.hop);
                queue.came.notify_one();
            }
        }
        Ok(found)
    }

    /// A hop is ready: its commit is durable, or the store has released it.
    pub fn announce(&self, hop: Hop) {
        let limits = self.0.limits;
        let mut state = self.0.state();
        match state.places.get(&hop.hop) {
            None | Some(Place::Waiting) => {}
            Some(Place::Held) => state.held -= 1,
            Some(Place::Queued | Place::Stored | Place::Taken) => return,
        }
        let (id, size) = (hop.hop, weight(&hop));
        let room = state.bytes + size <= limits.bytes_max;
        let queue = state.queue(&hop.flow, &hop.step);
        let held = room && queue.stored.is_empty() && !queue.fetching;
        let place = if held && queue.ready.len() < limits.queued_max {
            queue.ready.push_back(hop);
            queue.came.notify_one();
            state.bytes += size;
            Place::Queued
        } else {
            queue.stored.push_back(id);
            queue.came.notify_one();
            Place::Stored
        };
        state.places.insert(id, place);
    }

    /// Takes up to `max` hops that are ready for a step, in the order in which they came; waits until there is one. A taker that goes
    /// away while it waits has taken nothing.
    pub async fn take(&self, flow: &str, step: &str, max: usize) -> Vec<Hop> {
        let came = self.0.state().queue(flow, step).came.clone();
        loop {
            let came = came.notified();
            let look = self.0.state().look(flow, step, max.max(1));
            match look {
                Look::Taken(hops) => return hops,
                Look::Fetch => {
                    self.fetch(flow, step).await;
                    continue;
                }
                Look::Nothing => {}
            }
            came.await;
        }
    }

    /// A taken hop is over: its end is durable, or the store no longer has it.
    pub fn ended(&self, hop: HopId) {
        let mut state = self.0.state();
        if state.places.remove(&hop) == Some(Place::Held) {
            state.held -= 1;
        }
        drop(state);
        self.0.left.notify_waiters();
    }

    /// A taken hop is about to wait in the store for its next attempt. Said before that is committed: the store may release it, and
    /// announce it again, at once.
    pub fn waits(&self, hop: HopId) {
        self.0.state().places.insert(hop, Place::Waiting);
    }

    /// A new hop may have to wait for its turn. Said before its commit: the store may release it, and announce it, at once. To be followed by
    /// `announce` if it is ready, by `ended` if it does not come to be, and by nothing if it is held.
    pub fn holds(&self, hop: HopId) {
        let mut state = self.0.state();
        if state.places.insert(hop, Place::Held).is_none() {
            state.held += 1;
        }
    }

    /// A hop is ready, and only the store has its message: it is fetched in its turn.
    pub fn announce_stored(&self, flow: &str, step: &str, hop: HopId) {
        let mut state = self.0.state();
        if state.places.contains_key(&hop) {
            return;
        }
        state.places.insert(hop, Place::Stored);
        let queue = state.queue(flow, step);
        queue.stored.push_back(hop);
        queue.came.notify_one();
    }

    /// A taker could not end what it has taken: the hop is the next one again. Of several the last is given back first, so that they keep
    /// their order.
    pub fn give_back(&self, hop: Hop) {
        let mut state = self.0.state();
        if !matches!(
            state.places.get(&hop.hop),
            Some(Place::Taken | Place::Waiting)
        ) {
            return;
        }
        state.places.insert(hop.hop, Place::Queued);
        state.bytes += weight(&hop);
        let queue = state.queue(&hop.flow, &hop.step);
        let came = queue.came.clone();
        queue.ready.push_front(hop);
        came.notify_one();
    }

    /// How many hops are not over: queued, only in the store, taken, waiting or held.
    pub fn in_flight(&self) -> usize {
        self.0.state().places.len()
    }

    /// How many of them can go on by themselves: all but those that are held.
    pub fn moving(&self) -> usize {
        let state = self.0.state();
        state.places.len() - state.held
    }

    /// How many hops are ready for a step and not taken.
    pub fn ready(&self, flow: &str, step: &str) -> usize {
        let mut state = self.0.state();
        let queue = state.queue(flow, step);
        queue.ready.len() + queue.stored.len()
    }

    /// Waits until fewer than `limit` hops are in flight.
    pub async fn room(&self, limit: usize) {
        loop {
            let left = self.0.left.notified();
            tokio::pin!(left);
            left.as_mut().enable();
            if self.in_flight() < limit {
                return;
            }
            left.await;
        }
    }

    /// Brings hops of a step from the store into its queue. If the caller goes away in the middle, they stay in the store.
    async fn fetch(&self, flow: &str, step: &str) {
        let wanted = {
            let mut state = self.0.state();
            let queue = state.queue(flow, step);
            let many = queue.stored.len().min(self.0.limits.fetched_max.max(1));
            queue.fetching = true;
            queue.stored.drain(..many).collect::<Vec<_>>()
        };
        let mut fetch = Fetch {
            inner: &self.0,
            flow,
            step,
            wanted,
        };
        let bytes_max = self.0.limits.bytes_max / 4;
        let found = self
            .0
            .store
            .ready_hops(fetch.wanted.clone(), bytes_max)
            .await;
        match found {
            Ok((hops, looked)) => {
                let gone = fetch.fill(hops, looked);
                drop(fetch);
                for hop in gone {
                    self.ended(hop);
                }
            }
            Err(failure) => {
                tracing::warn!("hops of {flow}/{step} could not be fetched: {failure}");
                drop(fetch);
                tokio::time::sleep(FETCH_PAUSE).await;
            }
        }
    }
}

/// How long a fetch waits after the store has failed.
const FETCH_PAUSE: Duration = Duration::from_millis(500);

/// Hops on their way from the store. What is not filled in when it goes is still to be fetched.
struct Fetch<'a> {
    inner: &'a Inner,
    flow: &'a str,
    step: &'a str,
    wanted: Vec<HopId>,
}

impl Fetch<'_> {
    /// Puts what was found into the queue. Gives the hops that the store no longer has.
    fn fill(&mut self, stored: Vec<crate::store::commit::StoredHop>, looked: usize) -> Vec<HopId> {
        let mut gone: Vec<HopId> = self.wanted.drain(..looked).collect();
        let mut state = self.inner.state();
        for hop in stored {
            let id = hop.hop;
            gone.retain(|gone| *gone != id);
            match Hop::from_store(hop) {
                Ok(hop) => {
                    state.bytes += weight(&hop);
                    state.places.insert(id, Place::Queued);
                    state.queue(self.flow, self.step).ready.push_back(hop);
                }
                Err(failure) => tracing::error!("hop {} stays where it is: {failure}", id.0),
            }
        }
        gone
    }
}

impl Drop for Fetch<'_> {
    fn drop(&mut self) {
        let mut state = self.inner.state();
        let queue = state.queue(self.flow, self.step);
        for hop in self.wanted.drain(..).rev() {
            queue.stored.push_front(hop);
        }
        queue.fetching = false;
        queue.came.notify_one();
    }
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a taker sees.
enum Look {
    Taken(Vec<Hop>),
    /// The store has more, and nobody fetches it.
    Fetch,
    Nothing,
}

impl State {
    fn queue(&mut self, flow: &str, step: &str) -> &mut Queue {
        if !self
            .queues
            .get(flow)
            .is_some_and(|steps| steps.contains_key(step))
        {
            self.queues
                .entry(Arc::from(flow))
                .or_default()
                .insert(Arc::from(step), Queue::default());
        }
        self.queues
            .get_mut(flow)
            .and_then(|steps| steps.get_mut(step))
            .expect("it was put there")
    }

    fn look(&mut self, flow: &str, step: &str, max: usize) -> Look {
        let queue = self.queue(flow, step);
        if queue.ready.is_empty() {
            return if queue.stored.is_empty() || queue.fetching {
                Look::Nothing
            } else {
                Look::Fetch
            };
        }
        let many = queue.ready.len().min(max);
        let hops: Vec<Hop> = queue.ready.drain(..many).collect();
        if !queue.ready.is_empty() || !queue.stored.is_empty() {
            queue.came.notify_one();
        }
        for hop in &hops {
            self.bytes = self.bytes.saturating_sub(weight(hop));
            self.places.insert(hop.hop, Place::Taken);
        }
        Look::Taken(hops)
    }
}

/// About how much memory a hop needs.
fn weight(hop: &Hop) -> usize {
    let message = &hop.message;
    let headers: usize = message
        .headers
        .iter()
        .map(|(name, value)| name.len() + value.len())
        .sum();
    let variables: usize = message.variables.values().map(|body| body.len()).sum();
    256 + message.body.len() + headers + variables
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::time::Duration;

    use super::*;
    use crate::body::Body;
    use crate::message::Message;
    use crate::store::commit::{Commit, FENCE_FIRST, Leaf, NewRun};
    use crate::store::sample::*;

    fn hop(run: &NewRun) -> Hop {
        Hop {
            hop: first_hop(run),
            fence: FENCE_FIRST,
            run: run.run,
            flow: run.flow.clone(),
            step: Arc::from("erp"),
            attempt: 1,
            revision: run.revision.clone(),
            runs_body: true,
            message: Message::new(run.message, START_MS, Body::new(run.body.clone())),
        }
    }

    const SMALL: Limits = Limits {
        queued_max: 3,
        bytes_max: 1 << 20,
        fetched_max: 2,
    };

    /// A hand-off to which so many messages were announced.
    async fn announced(sample: &Sample, limits: Limits, many: usize) -> (Embedded, Vec<NewRun>) {
        let embedded = Embedded::new(sample.store.clone(), limits);
        let runs: Vec<_> = (0..many)
            .map(|n| sample.order(&format!("k{n}"), &format!("body {n}")))
            .collect();
        sample.accept(runs.clone()).await;
        for run in &runs {
            embedded.announce(hop(run));
        }
        (embedded, runs)
    }

    async fn bodies(embedded: &Embedded, max: usize) -> Vec<String> {
        let taken = embedded.take("orders", "erp", max).await;
        taken
            .iter()
            .map(|hop| format!("{:?}", hop.message.body))
            .collect()
    }

    async fn nothing_more(embedded: &Embedded) {
        let take = embedded.take("orders", "erp", 9);
        let more = tokio::time::timeout(Duration::from_millis(30), take).await;
        assert!(more.is_err(), "{more:?}");
    }

    #[tokio::test]
    async fn what_does_not_fit_into_memory_comes_from_the_store_in_its_turn() {
        for limits in [
            Limits::default(),
            SMALL,
            Limits {
                bytes_max: 0,
                ..SMALL
            },
        ] {
            let sample = Sample::new();
            let (embedded, runs) = announced(&sample, limits, 8).await;
            let mut found = Vec::new();
            while found.len() < runs.len() {
                found.extend(bodies(&embedded, 5).await);
            }
            let expect: Vec<_> = (0..8).map(|n| format!("body {n}")).collect();
            assert_eq!(found, expect);
            nothing_more(&embedded).await;
            assert_eq!(embedded.in_flight(), 8);
        }
    }

    #[tokio::test]
    async fn what_the_last_process_left_is_found() {
        let mut sample = Sample::new();
        let (before, runs) = announced(&sample, SMALL, 5).await;
        assert_eq!(before.take("orders", "erp", 2).await.len(), 2);
        sample
            .end(vec![waits(&runs[4], first_hop(&runs[4]), START_MS + 9)])
            .await;
        drop(before);
        sample.reopen().await;
        let embedded = Embedded::new(sample.store.clone(), SMALL);
        assert_eq!(embedded.recover().await.unwrap(), 5);
        assert_eq!(embedded.in_flight(), 5);
        let mut found = Vec::new();
        while found.len() < 4 {
            found.extend(bodies(&embedded, 9).await);
        }
        assert_eq!(found, ["body 0", "body 1", "body 2", "body 3"]);
        nothing_more(&embedded).await;
        let commit = Commit {
            release: Some((START_MS + 9, 9)),
            ..Commit::default()
        };
        for stored in sample.store.commit(commit).await.unwrap().released {
            embedded.announce(Hop::from_store(stored).unwrap());
        }
        let retried = embedded.take("orders", "erp", 9).await;
        assert_eq!((retried[0].attempt, retried[0].fence), (2, 2));
        assert_eq!(embedded.in_flight(), 5);
    }

    #[tokio::test]
    async fn a_hop_that_is_announced_again_is_taken_once() {
        let sample = Sample::new();
        let (embedded, runs) = announced(&sample, SMALL, 5).await;
        for run in &runs {
            embedded.announce(hop(run));
        }
        let mut found = 0;
        while found < 5 {
            found += embedded.take("orders", "erp", 1).await.len();
            embedded.announce(hop(&runs[0]));
            embedded.announce(hop(&runs[4]));
        }
        nothing_more(&embedded).await;
    }

    #[tokio::test]
    async fn what_is_given_back_is_next() {
        let sample = Sample::new();
        let (embedded, _) = announced(&sample, SMALL, 5).await;
        let first = embedded.take("orders", "erp", 1).await.remove(0);
        embedded.give_back(first.clone());
        embedded.give_back(first);
        let first = embedded.take("orders", "erp", 1).await.remove(0);
        embedded.waits(first.hop);
        embedded.give_back(first);
        assert_eq!(bodies(&embedded, 1).await, ["body 0"]);
        assert_eq!(bodies(&embedded, 1).await, ["body 1"]);
    }

    #[tokio::test]
    async fn room_comes_when_hops_end_and_not_when_they_wait() {
        let sample = Sample::new();
        let (embedded, _) = announced(&sample, SMALL, 3).await;
        let taken = embedded.take("orders", "erp", 3).await;
        let waiting = {
            let embedded = embedded.clone();
            tokio::spawn(async move { embedded.room(3).await })
        };
        embedded.waits(taken[0].hop);
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert!(!waiting.is_finished());
        embedded.ended(taken[1].hop);
        waiting.await.unwrap();
        assert_eq!(embedded.in_flight(), 2);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn takers_that_go_away_lose_nothing_and_no_hop_is_taken_twice() {
        const MANY: usize = 400;
        let sample = Sample::new();
        let limits = Limits {
            queued_max: 7,
            fetched_max: 5,
            ..SMALL
        };
        let embedded = Embedded::new(sample.store.clone(), limits);
        let taken = Arc::new(Mutex::new(Vec::new()));
        let mut takers = tokio::task::JoinSet::new();
        for taker in 0..4u64 {
            let (embedded, taken, store) = (embedded.clone(), taken.clone(), sample.store.clone());
            takers.spawn(async move {
                loop {
                    let patience = Duration::from_micros(50 + 100 * taker);
                    let take = embedded.take("orders", "erp", 3);
                    let Ok(hops) = tokio::time::timeout(patience, take).await else {
                        if taken.lock().unwrap().len() == MANY {
                            return;
                        }
                        continue;
                    };
                    let mut ends = Vec::new();
                    for hop in &hops {
                        taken.lock().unwrap().push(hop.hop);
                        let mut end = end_of(hop);
                        end.fence = hop.fence;
                        ends.push(end);
                    }
                    let commit = Commit {
                        ends,
                        ..Commit::default()
                    };
                    let ended = store.commit(commit).await.unwrap().ends;
                    assert!(ended.iter().all(|ended| *ended));
                    for hop in hops {
                        embedded.ended(hop.hop);
                    }
                }
            });
        }
        for n in 0..MANY / 10 {
            let runs: Vec<_> = (0..10)
                .map(|m| sample.order(&format!("{n}-{m}"), "body"))
                .collect();
            sample.accept(runs.clone()).await;
            for run in &runs {
                embedded.announce(hop(run));
            }
        }
        let all = tokio::time::timeout(Duration::from_secs(30), takers.join_all()).await;
        assert!(
            all.is_ok(),
            "{} of {MANY} taken",
            taken.lock().unwrap().len()
        );
        let taken = taken.lock().unwrap().clone();
        let different: BTreeSet<_> = taken.iter().collect();
        assert_eq!((taken.len(), different.len()), (MANY, MANY));
        assert_eq!(embedded.in_flight(), 0);
        assert_eq!(sample.books().await.delivered, MANY as i64);
    }

    fn end_of(hop: &Hop) -> crate::store::commit::End {
        crate::store::commit::End {
            hop: hop.hop,
            fence: hop.fence,
            run: hop.run,
            flow: hop.flow.clone(),
            step: hop.step.clone(),
            turn: crate::store::commit::Turn::Over {
                next: Vec::new(),
                doors: Vec::new(),
                leaves: vec![Leaf::Delivered],
            },
            effect: None,
            saga: None,
            trail: Vec::new(),
            accepts: Vec::new(),
        }
    }
}
