//! The embedded hand-off: one process, queues in memory over the store. It holds no truth: all it knows is in the store as well.
//!
//! Every hop in flight has exactly one place: queued here, only in the store, taken, waiting or held. Only hops that were announced (or found
//! at the start) are ever fetched from the store, so a hop whose commit is done and whose announcement is on its way is not taken twice.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use rustc_hash::FxHashMap;
use tokio::sync::Notify;

use super::Hop;
use crate::failure::Failure;
use crate::store::Store;
use crate::store::commit::HopId;
use crate::world::failpoint;

mod queue;
#[cfg(test)]
mod tests;

use queue::{Next, Queue, Way};

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
    /// Who is told of hops that were to be fetched and are not in the store any more.
    gone: OnceLock<Box<dyn Fn(HopId) + Send + Sync>>,
}

#[derive(Default)]
struct State {
    places: FxHashMap<HopId, Spot>,
    queues: FxHashMap<Arc<str>, FxHashMap<Arc<str>, Queue>>,
    bytes: usize,
    /// How many of `places` are held.
    held: usize,
    /// The numbers of flows, and what there is of each.
    flows: FxHashMap<Arc<str>, u32>,
    loads: Vec<Load>,
    /// The queues that are shut: few, and usually none.
    shut: Vec<(Arc<str>, Arc<str>)>,
}

/// Where a hop is, and of which flow it is.
#[derive(Clone, Copy, Debug)]
struct Spot {
    place: Place,
    flow: u32,
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

impl Embedded {
    /// A hand-off over this store. To be followed by `recover`, before anything is announced or taken.
    pub fn new(store: Store, limits: Limits) -> Embedded {
        Embedded(Arc::new(Inner {
            store,
            limits,
            state: Mutex::default(),
            left: Notify::new(),
            gone: OnceLock::new(),
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
            let flow = state.flow(&hop.flow);
            if hop.held {
                state.put(hop.hop, flow, Place::Held);
            } else if hop.waits {
                state.put(hop.hop, flow, Place::Waiting);
            } else {
                state.put(hop.hop, flow, Place::Stored);
                let queue = state.queue(&hop.flow, &hop.step);
                queue
                    .lane(Way::of_attempt(hop.attempt))
                    .stored
                    .push_back(hop.hop);
                queue.came.notify_one();
            }
        }
        Ok(found)
    }

    /// A hop is ready: its commit is durable, or the store has released it.
    pub fn announce(&self, hop: Hop) {
        let limits = self.0.limits;
        let mut state = self.0.state();
        match state.place(hop.hop) {
            None | Some(Place::Waiting | Place::Held) => {}
            Some(Place::Queued | Place::Stored | Place::Taken) => return,
        }
        let (id, size) = (hop.hop, weight(&hop));
        let flow = state.flow(&hop.flow);
        let room = state.bytes + size <= limits.bytes_max;
        let queue = state.queue(&hop.flow, &hop.step);
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
        state.put(id, flow, place);
    }

    /// Takes up to `max` hops that are ready for a step, in the order in which they came; waits until there is one. A taker that goes
    /// away while it waits has taken nothing.
    pub async fn take(&self, flow: &str, step: &str, max: usize) -> Vec<Hop> {
        self.take_with(flow, step, max, usize::MAX).await
    }

    /// Takes as `take` does, and at most so many repeats among them.
    pub async fn take_with(&self, flow: &str, step: &str, max: usize, repeats: usize) -> Vec<Hop> {
        let came = self.0.state().queue(flow, step).came.clone();
        loop {
            let came = came.notified();
            let look = self.0.state().look(flow, step, max.max(1), repeats);
            match look {
                Look::Taken(hops) => return hops,
                Look::Fetch(way) => {
                    self.fetch(flow, step, way).await;
                    continue;
                }
                Look::Nothing => {}
            }
            came.await;
        }
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
        let flow = state.places.get(&hop).map_or(NOBODY, |spot| spot.flow);
        state.put(hop, flow, Place::Waiting);
        drop(state);
        self.0.left.notify_waiters();
    }

    /// A new hop may have to wait for its turn. Said before its commit: the store may release it, and announce it, at once. To be followed by
    /// `announce` if it is ready, by `ended` if it does not come to be, and by nothing if it is held.
    pub fn holds(&self, hop: HopId) {
        let mut state = self.0.state();
        let flow = state.places.get(&hop).map_or(NOBODY, |spot| spot.flow);
        state.put(hop, flow, Place::Held);
    }

    /// A hop is ready, and only the store has its message: it is fetched in its turn.
    pub fn announce_stored(&self, flow: &str, step: &str, hop: HopId) {
        let mut state = self.0.state();
        if state.places.contains_key(&hop) {
            return;
        }
        let number = state.flow(flow);
        state.put(hop, number, Place::Stored);
        let queue = state.queue(flow, step);
        queue.lane(Way::First).stored.push_back(hop);
        queue.came.notify_one();
    }

    /// A taker could not end what it has taken: the hop is the next one again. Of several the last is given back first, so that they keep
    /// their order.
    pub fn give_back(&self, hop: Hop) {
        let mut state = self.0.state();
        if !matches!(state.place(hop.hop), Some(Place::Taken | Place::Waiting)) {
            return;
        }
        let flow = state.flow(&hop.flow);
        state.put(hop.hop, flow, Place::Queued);
        state.bytes += weight(&hop);
        let queue = state.queue(&hop.flow, &hop.step);
        let came = queue.came.clone();
        queue.lane(Way::of(&hop)).ready.push_front(hop);
        came.notify_one();
    }

    /// Who is told of hops that were to be fetched and are not in the store any more.
    pub(super) fn tell_gone(&self, told: impl Fn(HopId) + Send + Sync + 'static) {
        self.0.gone.set(Box::new(told)).ok();
    }

    /// Forgets the hops of a step that nobody has taken: whoever announced them does so again.
    pub(super) fn withdraw(&self, flow: &str, step: &str) -> Vec<HopId> {
        let mut state = self.0.state();
        let queue = state.queue(flow, step);
        let mut gone = Vec::new();
        let mut bytes = 0;
        for way in [Way::First, Way::Again] {
            let lane = queue.lane(way);
            for hop in lane.ready.drain(..) {
                bytes += weight(&hop);
                gone.push(hop.hop);
            }
            gone.extend(lane.stored.drain(..));
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

    /// Whether the taker of a step takes nothing for a while.
    pub(super) fn is_shut(&self, flow: &str, step: &str) -> bool {
        self.0.state().queue(flow, step).shut
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
        state.queue(flow, step).len()
    }

    /// The taker of a step takes nothing for a while, or takes again. What waits there meanwhile does not count as active.
    pub fn shut(&self, flow: &str, step: &str, shut: bool) {
        let mut state = self.0.state();
        let queue = state.queue(flow, step);
        if queue.shut == shut {
            return;
        }
        queue.shut = shut;
        if shut {
            state.shut.push((Arc::from(flow), Arc::from(step)));
        } else {
            state
                .shut
                .retain(|(of, at)| !(**of == *flow && **at == *step));
        }
        drop(state);
        self.0.left.notify_waiters();
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

    /// Brings hops of a step from the store into its queue. If the caller goes away in the middle, they stay in the store.
    async fn fetch(&self, flow: &str, step: &str, way: Way) {
        let wanted = {
            let mut state = self.0.state();
            let lane = state.queue(flow, step).lane(way);
            let many = lane.stored.len().min(self.0.limits.fetched_max.max(1));
            lane.fetching = true;
            lane.stored.drain(..many).collect::<Vec<_>>()
        };
        let mut fetch = Fetch {
            inner: &self.0,
            flow,
            step,
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
                Ok(hop) => {
                    state.bytes += weight(&hop);
                    let flow = state.flow(self.flow);
                    state.put(id, flow, Place::Queued);
                    let queue = state.queue(self.flow, self.step);
                    queue.lane(self.way).ready.push_back(hop);
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
        let lane = queue.lane(self.way);
        for hop in self.wanted.drain(..).rev() {
            lane.stored.push_front(hop);
        }
        lane.fetching = false;
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
    Fetch(Way),
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

    fn look(&mut self, flow: &str, step: &str, max: usize, repeats: usize) -> Look {
        let number = self.flow(flow);
        let queue = self.queue(flow, step);
        let (mut hops, mut again) = (Vec::new(), 0);
        while hops.len() < max {
            match queue.next(again < repeats) {
                Next::Hop(hop) => {
                    again += usize::from(Way::of(&hop) == Way::Again);
                    hops.push(hop);
                }
                Next::Fetch(way) if hops.is_empty() => return Look::Fetch(way),
                Next::Fetch(_) | Next::Nothing => break,
            }
        }
        if hops.is_empty() {
            return Look::Nothing;
        }
        if queue.len() > 0 {
            queue.came.notify_one();
        }
        for hop in &hops {
            self.bytes = self.bytes.saturating_sub(weight(hop));
            self.put(hop.hop, number, Place::Taken);
        }
        if failpoint::strikes("handoff-stray-copy") {
            let queue = self.queue(flow, step);
            for hop in &hops {
                queue.lane(Way::of(hop)).ready.push_back(hop.clone());
            }
            queue.came.notify_one();
        }
        Look::Taken(hops)
    }

    /// The number of a flow.
    fn flow(&mut self, flow: &str) -> u32 {
        if self.loads.is_empty() {
            // The first number is nobody's.
            self.loads.push(Load::default());
        }
        if let Some(number) = self.flows.get(flow) {
            return *number;
        }
        let number = u32::try_from(self.loads.len()).unwrap_or(NOBODY);
        self.flows.insert(Arc::from(flow), number);
        self.loads.push(Load::default());
        number
    }

    fn place(&self, hop: HopId) -> Option<Place> {
        self.places.get(&hop).map(|spot| spot.place)
    }

    /// Puts a hop into a place, and counts it there.
    fn put(&mut self, hop: HopId, flow: u32, place: Place) {
        if let Some(before) = self.places.insert(hop, Spot { place, flow }) {
            self.unload(before);
        }
        self.load(flow, place);
    }

    fn remove(&mut self, hop: HopId) {
        if let Some(spot) = self.places.remove(&hop) {
            self.unload(spot);
        }
    }

    fn load(&mut self, flow: u32, place: Place) {
        self.held += usize::from(place == Place::Held);
        if self.loads.is_empty() {
            self.loads.push(Load::default());
        }
        let load = &mut self.loads[flow as usize];
        load.all += 1;
        load.active += usize::from(place.is_active());
    }

    fn unload(&mut self, spot: Spot) {
        self.held -= usize::from(spot.place == Place::Held);
        let load = &mut self.loads[spot.flow as usize];
        load.all -= 1;
        load.active -= usize::from(spot.place.is_active());
    }

    /// What there is of a flow, and of all flows together, without what stands in queues that are shut.
    fn loads_of(&mut self, flow: &str) -> (Load, Load) {
        let number = self.flow(flow);
        let mut its = self.loads[number as usize];
        let mut all = Load::default();
        for load in &self.loads {
            all.all += load.all;
            all.active += load.active;
        }
        for (of, step) in &self.shut {
            let queue = self.queues.get(of).and_then(|steps| steps.get(step));
            let many = queue.map_or(0, Queue::len);
            all.active = all.active.saturating_sub(many);
            if **of == *flow {
                its.active = its.active.saturating_sub(many);
            }
        }
        (its, all)
    }
}

impl Place {
    /// Whether a hop that is here is worked on, or could be.
    fn is_active(self) -> bool {
        match self {
            Place::Queued | Place::Stored | Place::Taken => true,
            Place::Waiting | Place::Held => false,
        }
    }
}

/// The flow of hops whose flow nobody has said.
const NOBODY: u32 = 0;

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
