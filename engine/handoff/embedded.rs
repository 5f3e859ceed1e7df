//! The embedded hand-off: one process, queues in memory over the store. It holds no truth: all it knows is in the store as well.
//!
//! Every hop in flight has exactly one place: queued here, only in the store, taken, waiting or held. Only hops that were announced (or found
//! at the start) are ever fetched from the store, so a hop whose commit is done and whose announcement is on its way is not taken twice.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use super::{Hop, Station};
use crate::failure::Failure;
use crate::store::Store;
use crate::store::commit::HopId;
use crate::store::toggles::Toggle;

mod queue;
mod state;
#[cfg(test)]
mod tests;

use queue::Way;
use state::{Look, Place, State, weight};

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
    /// Hops have come for which there is no taker.
    wanted: Notify,
    /// Who is told of hops that were to be fetched and are not in the store any more.
    gone: OnceLock<Box<dyn Fn(HopId) + Send + Sync>>,
}

/// Hops of one flow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// All that are not over.
    pub all: usize,
    /// Those that are worked on, or could be: not those that wait for a time, for their turn, or for a system that takes no calls.
    pub active: usize,
}

/// How much there may be.
#[derive(Clone, Copy, Debug)]
pub struct Share {
    /// Active hops of all flows together, where this flow has as many as are its own.
    pub active_max: usize,
    /// Active hops that this flow may have whatever others have.
    pub flow_own: usize,
    /// Active hops of this flow.
    pub flow_active_max: usize,
    /// Hops of this flow, whatever they wait for.
    pub flow_all_max: usize,
}

impl Share {
    /// The limit that is reached with so much of the flow, and so much of all flows.
    pub(super) fn reached(&self, (its, all): (Load, Load)) -> Option<Full> {
        if its.all >= self.flow_all_max {
            Some(Full::FlowAll)
        } else if its.active >= self.flow_active_max {
            Some(Full::FlowActive)
        } else if all.active >= self.active_max && its.active >= self.flow_own {
            Some(Full::Active)
        } else {
            None
        }
    }
}

/// Which limit is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Full {
    /// That of all flows.
    Active,
    /// That of active hops of the flow.
    FlowActive,
    /// That of all hops of the flow.
    FlowAll,
}

impl Embedded {
    /// A hand-off over this store. To be followed by `recover`, before anything is announced or taken.
    pub fn new(store: Store, limits: Limits) -> Embedded {
        Embedded(Arc::new(Inner {
            store,
            limits,
            state: Mutex::default(),
            left: Notify::new(),
            wanted: Notify::new(),
            gone: OnceLock::new(),
        }))
    }

    /// Finds the hops that the last process has left. Gives their number.
    pub async fn recover(&self) -> Result<u64, Failure> {
        let standing = self.0.store.standing_hops().await?;
        let mut found = 0;
        let mut state = self.0.state();
        for hop in standing {
            if state.place(hop.hop).is_some() {
                continue;
            }
            found += 1;
            let at = Station::of(&hop.flow, &hop.revision, &hop.step);
            let unit = state.number(at);
            if hop.held {
                state.put(hop.hop, unit, Place::Held);
            } else if hop.waits {
                state.put(hop.hop, unit, Place::Waiting);
            } else {
                state.put(hop.hop, unit, Place::Stored);
                let queue = state.queue(at);
                queue
                    .lane(Way::of_attempt(hop.attempt))
                    .stored
                    .push_back(hop.hop);
                queue.came.notify_one();
                self.0.wants(&mut state, at);
            }
        }
        Ok(found)
    }

    /// A hop is ready: its commit is durable, or the store has released it.
    pub fn announce(&self, hop: Hop) {
        let mut state = self.0.state();
        match state.place(hop.hop) {
            None | Some(Place::Waiting | Place::Held) => {}
            Some(Place::Queued | Place::Stored | Place::Taken) => return,
        }
        self.0.enqueue(&mut state, hop);
    }

    /// Takes up to `max` hops that are ready at a station, in the order in which they came; waits until there is one. A taker that goes
    /// away while it waits has taken nothing.
    pub async fn take(&self, at: Station<'_>, max: usize) -> Vec<Hop> {
        self.take_with(at, max, usize::MAX).await
    }

    /// Takes as `take` does, and at most so many repeats among them.
    pub async fn take_with(&self, at: Station<'_>, max: usize, repeats: usize) -> Vec<Hop> {
        let came = self.0.state().queue(at).came.clone();
        loop {
            let came = came.notified();
            let look = self.0.state().look(at, max.max(1), repeats);
            match look {
                Look::Taken(hops) => return hops,
                Look::Fetch(way) => {
                    self.fetch(at, way).await;
                    continue;
                }
                Look::Nothing => {}
            }
            came.await;
        }
    }

    /// There are takers for a revision of a flow from now on, or there are none: then it is told by `wanted` when hops come for it.
    pub fn serve(&self, flow: &str, revision: &str, served: bool) {
        self.0.state().serve(flow, revision, served);
        self.0.wanted.notify_one();
    }

    /// Waits for hops of a revision that has no takers; gives the flow and the revision. Each is named once until it is served.
    pub async fn wanted(&self) -> (Arc<str>, Arc<str>) {
        loop {
            if let Some(wanted) = self.0.state().wanted() {
                return wanted;
            }
            self.0.wanted.notified().await;
        }
    }

    /// What has no takers is told by `wanted` once more: it may have some now.
    pub fn ask_again(&self) {
        self.0.state().ask_again();
        self.0.wanted.notify_one();
    }

    /// As `wanted`, if there is one now.
    pub fn wanted_now(&self) -> Option<(Arc<str>, Arc<str>)> {
        self.0.state().wanted()
    }

    /// How many hops there are of a revision of a flow.
    pub fn many(&self, flow: &str, revision: &str) -> usize {
        self.0.state().many(flow, revision)
    }

    /// A taken hop is over: its end is durable, or the store no longer has it.
    pub fn ended(&self, hop: HopId) {
        self.0.state().remove(hop);
        self.0.left.notify_waiters();
    }

    /// A taken hop is about to wait in the store for its next attempt. Said before that is committed: the store may release it, and
    /// announce it again, at once.
    pub fn waits(&self, hop: HopId) {
        let mut state = self.0.state();
        let unit = state.number_of(hop);
        state.put(hop, unit, Place::Waiting);
        drop(state);
        self.0.left.notify_waiters();
    }

    /// A new hop may have to wait for its turn. Said before its commit: the store may release it, and announce it, at once. To be followed by
    /// `announce` if it is ready, by `ended` if it does not come to be, and by nothing if it is held.
    pub fn holds(&self, hop: HopId) {
        let mut state = self.0.state();
        let unit = state.number_of(hop);
        state.put(hop, unit, Place::Held);
    }

    /// A hop is ready, and only the store has its message: it is fetched in its turn.
    pub fn announce_stored(&self, at: Station<'_>, hop: HopId) {
        let mut state = self.0.state();
        if state.place(hop).is_some() {
            return;
        }
        let unit = state.number(at);
        state.put(hop, unit, Place::Stored);
        let queue = state.queue(at);
        queue.lane(Way::First).stored.push_back(hop);
        queue.came.notify_one();
        self.0.wants(&mut state, at);
    }

    /// A taker could not end what it has taken: the hop is the next one again. Of several the last is given back first, so that they keep
    /// their order.
    pub fn give_back(&self, hop: Hop) {
        let mut state = self.0.state();
        if !matches!(state.place(hop.hop), Some(Place::Taken | Place::Waiting)) {
            return;
        }
        let (flow, revision, step) = (hop.flow.clone(), hop.revision.clone(), hop.step.clone());
        let at = Station::of(&flow, &revision, &step);
        let unit = state.number(at);
        state.put(hop.hop, unit, Place::Queued);
        state.bytes += weight(&hop);
        let queue = state.queue(at);
        let came = queue.came.clone();
        queue.lane(Way::of(&hop)).ready.push_front(hop);
        came.notify_one();
        self.0.wants(&mut state, at);
    }

    /// Who is told of hops that were to be fetched and are not in the store any more.
    pub(super) fn tell_gone(&self, told: impl Fn(HopId) + Send + Sync + 'static) {
        self.0.gone.set(Box::new(told)).ok();
    }

    /// Forgets the hops of a step that nobody has taken, whatever their revision: whoever announced them does so again.
    pub(super) fn withdraw(&self, flow: &str, step: &str) -> Vec<HopId> {
        let mut state = self.0.state();
        let queues = state.at_step(flow, step);
        let revisions: Vec<Arc<str>> = queues.map(|(revision, _)| revision.clone()).collect();
        let (mut gone, mut bytes) = (Vec::new(), 0);
        for revision in revisions {
            let queue = state.queue(Station::of(flow, &revision, step));
            for way in [Way::First, Way::Again] {
                let lane = queue.lane(way);
                for hop in lane.ready.drain(..) {
                    bytes += weight(&hop);
                    gone.push(hop.hop);
                }
                gone.extend(lane.stored.drain(..));
            }
        }
        state.bytes = state.bytes.saturating_sub(bytes);
        gone.retain(|hop| {
            let idle = matches!(state.place(*hop), Some(Place::Queued | Place::Stored));
            if idle {
                state.remove(*hop);
            }
            idle
        });
        drop(state);
        self.0.left.notify_waiters();
        gone
    }

    /// Waits until something has left, or the time is up.
    pub(super) async fn left_within(&self, limit: Duration) {
        tokio::time::timeout(limit, self.0.left.notified())
            .await
            .ok();
    }

    /// Whether a taker of a step takes nothing for a while, under whatever revision.
    pub(super) fn is_shut(&self, flow: &str, step: &str) -> bool {
        self.0.state().is_shut(flow, step)
    }

    /// From now on nothing is taken where these stop it, and only there. What was taken before is finished.
    pub fn hold(&self, toggles: Vec<Toggle>) {
        self.0.state().hold(toggles);
        self.0.left.notify_waiters();
    }

    /// How many hops are not over: queued, only in the store, taken, waiting or held.
    pub fn in_flight(&self) -> usize {
        self.0.state().all()
    }

    /// How many of them can go on by themselves: all but those that are held.
    pub fn moving(&self) -> usize {
        self.0.state().moving()
    }

    /// How many hops are ready for a step and not taken, under whatever revision.
    pub fn ready(&self, flow: &str, step: &str) -> usize {
        let state = self.0.state();
        state
            .at_step(flow, step)
            .map(|(_, queue)| queue.len())
            .sum()
    }

    /// The taker at a station takes nothing for a while, or takes again. What waits there meanwhile does not count as active.
    pub fn shut(&self, at: Station<'_>, shut: bool) {
        if self.0.state().shut(at, shut) {
            self.0.left.notify_waiters();
        }
    }

    /// What there is of a flow, and of all flows together.
    pub fn load(&self, flow: &str) -> (Load, Load) {
        self.0.state().loads_of(flow)
    }

    /// The limit that a flow has reached, if it has.
    pub fn full(&self, flow: &str, share: &Share) -> Option<Full> {
        share.reached(self.load(flow))
    }

    /// Waits until a flow has reached none of its limits.
    pub async fn room_for(&self, flow: &str, share: &Share) {
        loop {
            let left = self.0.left.notified();
            tokio::pin!(left);
            left.as_mut().enable();
            if self.full(flow, share).is_none() {
                return;
            }
            left.await;
        }
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

    /// Brings hops of a station from the store into its queue. If the caller goes away in the middle, they stay in the store.
    async fn fetch(&self, at: Station<'_>, way: Way) {
        let wanted = {
            let mut state = self.0.state();
            let lane = state.queue(at).lane(way);
            let many = lane.stored.len().min(self.0.limits.fetched_max.max(1));
            lane.fetching = true;
            lane.stored.drain(..many).collect::<Vec<_>>()
        };
        let mut fetch = Fetch {
            inner: &self.0,
            at,
            way,
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
                    if let Some(told) = self.0.gone.get() {
                        told(hop);
                    }
                }
            }
            Err(failure) => {
                if !self.0.store.has_said(&failure) {
                    tracing::warn!(
                        "hops of {}/{} could not be fetched: {failure}",
                        at.flow,
                        at.step
                    );
                }
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
    at: Station<'a>,
    way: Way,
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
            if state.place(id) != Some(Place::Stored) {
                // It was withdrawn while it was on its way.
                continue;
            }
            match Hop::from_store(hop) {
                Ok(hop) if hop.station() != self.at => {
                    // Whoever announced it did not know its revision.
                    self.inner.enqueue(&mut state, hop);
                }
                Ok(hop) => {
                    state.bytes += weight(&hop);
                    let unit = state.number(self.at);
                    state.put(id, unit, Place::Queued);
                    state.queue(self.at).lane(self.way).ready.push_back(hop);
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
        let queue = state.queue(self.at);
        let lane = queue.lane(self.way);
        let left = !self.wanted.is_empty();
        for hop in self.wanted.drain(..).rev() {
            lane.stored.push_front(hop);
        }
        lane.fetching = false;
        queue.came.notify_one();
        if left {
            // Its takers may have gone while it was on its way.
            self.inner.wants(&mut state, self.at);
        }
    }
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts a ready hop into its queue, or remembers that the store has it.
    fn enqueue(&self, state: &mut State, hop: Hop) {
        let limits = self.limits;
        let (flow, revision, step) = (hop.flow.clone(), hop.revision.clone(), hop.step.clone());
        let at = Station::of(&flow, &revision, &step);
        let (id, size) = (hop.hop, weight(&hop));
        let unit = state.number(at);
        let room = state.bytes + size <= limits.bytes_max;
        let queue = state.queue(at);
        // What cannot be taken now needs no memory.
        let room = room && !queue.shut;
        let lane = queue.lane(Way::of(&hop));
        let held = room && lane.stored.is_empty() && !lane.fetching;
        let place = if held && lane.ready.len() < limits.queued_max {
            lane.ready.push_back(hop);
            queue.came.notify_one();
            state.bytes += size;
            Place::Queued
        } else {
            lane.stored.push_back(id);
            queue.came.notify_one();
            Place::Stored
        };
        state.put(id, unit, place);
        self.wants(state, at);
    }

    /// Hops are ready at a station: if it has no takers, that is said.
    fn wants(&self, state: &mut State, at: Station<'_>) {
        if state.wants(at.flow, at.revision) {
            self.wanted.notify_one();
        }
    }
}
