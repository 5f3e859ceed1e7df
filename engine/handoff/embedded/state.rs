//! What the embedded hand-off knows: the place of every hop, and the queues, by the flow and the revision to which they belong. It waits for
//! nobody and asks no store.

use std::collections::BTreeSet;
use std::sync::Arc;

use rustc_hash::FxHashMap;

use super::queue::{Next, Queue, Way};
use super::{Hop, Load, Station};
use crate::store::commit::HopId;
use crate::store::toggles::{Target, Toggle};
use crate::world::failpoint;

/// All that is known.
#[derive(Default)]
pub(super) struct State {
    places: FxHashMap<HopId, Spot>,
    flows: FxHashMap<Arc<str>, Vec<Unit>>,
    pub(super) bytes: usize,
    /// How many of `places` are held.
    held: usize,
    /// The load of each unit, by its number. The first number is nobody's.
    loads: Vec<Load>,
    /// Numbers of units that are gone.
    free: Vec<u32>,
    total: Load,
    /// The queues that are shut: few, and usually none.
    shut: Vec<(Arc<str>, Arc<str>, Arc<str>)>,
    /// What people have stopped.
    toggles: Vec<Toggle>,
    /// Units without takers for which hops have come.
    wanted: Vec<(Arc<str>, Arc<str>)>,
}

/// The queues of one revision of a flow.
struct Unit {
    revision: Arc<str>,
    number: u32,
    /// Whether there are takers.
    served: bool,
    /// Whether it was said that there are none.
    told: bool,
    queues: FxHashMap<Arc<str>, Queue>,
}

/// Where a hop is, and of which unit it is.
#[derive(Clone, Copy, Debug)]
struct Spot {
    place: Place,
    unit: u32,
}

/// Where a hop is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
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

/// What a taker sees.
pub(super) enum Look {
    Taken(Vec<Hop>),
    /// The store has more, and nobody fetches it.
    Fetch(Way),
    Nothing,
}

/// The unit of hops of which nobody has said where they are.
pub(super) const NOBODY: u32 = 0;

impl State {
    /// The queue at a station.
    pub(super) fn queue(&mut self, at: Station<'_>) -> &mut Queue {
        if !self.unit(at.flow, at.revision).queues.contains_key(at.step) {
            let mut queue = Queue::default();
            queue.held = is_held(&self.toggles, at.flow, at.step);
            let unit = self.unit(at.flow, at.revision);
            unit.queues.insert(Arc::from(at.step), queue);
        }
        let unit = self.unit(at.flow, at.revision);
        unit.queues.get_mut(at.step).expect("it was put there")
    }

    /// From now on nothing is taken where these stop it, and only there.
    pub(super) fn hold(&mut self, toggles: Vec<Toggle>) {
        self.toggles = toggles;
        let held = |flow: &str, step: &str| is_held(&self.toggles, flow, step);
        for (flow, units) in &mut self.flows {
            for (step, queue) in units.iter_mut().flat_map(|unit| &mut unit.queues) {
                queue.held = held(flow, step);
                queue.came.notify_one();
            }
        }
    }

    /// Whether takers of a step take nothing for a while, under whatever revision.
    pub(super) fn is_shut(&self, flow: &str, step: &str) -> bool {
        is_held(&self.toggles, flow, step) || self.at_step(flow, step).any(|(_, queue)| queue.shut)
    }

    fn unit(&mut self, flow: &str, revision: &str) -> &mut Unit {
        if !self.flows.contains_key(flow) {
            self.flows.insert(Arc::from(flow), Vec::new());
        }
        let nth = self.flows[flow]
            .iter()
            .position(|unit| *unit.revision == *revision);
        if let Some(nth) = nth {
            return &mut self.flows.get_mut(flow).expect("it was put there")[nth];
        }
        self.nobody();
        let number = self.free.pop().unwrap_or_else(|| {
            self.loads.push(Load::default());
            u32::try_from(self.loads.len() - 1).unwrap_or(NOBODY)
        });
        let units = self.flows.get_mut(flow).expect("it was put there");
        units.push(Unit {
            revision: Arc::from(revision),
            number,
            served: false,
            told: false,
            queues: FxHashMap::default(),
        });
        units.last_mut().expect("it was put there")
    }

    /// The number under which hops of a station are counted.
    pub(super) fn number(&mut self, at: Station<'_>) -> u32 {
        self.unit(at.flow, at.revision).number
    }

    /// The number under which a hop is counted, if it is known.
    pub(super) fn number_of(&self, hop: HopId) -> u32 {
        self.places.get(&hop).map_or(NOBODY, |spot| spot.unit)
    }

    /// There are takers for a revision of a flow from now on, or there are none.
    pub(super) fn serve(&mut self, flow: &str, revision: &str, served: bool) {
        let unit = self.unit(flow, revision);
        (unit.served, unit.told) = (served, false);
        if served {
            self.wanted
                .retain(|(of, at)| !(**of == *flow && **at == *revision));
            return;
        }
        let ready = unit.queues.values().any(|queue| queue.len() > 0);
        let number = unit.number;
        if ready {
            self.wants(flow, revision);
        } else if self.loads[number as usize].all == 0 {
            self.forget(flow, revision);
        }
    }

    /// A unit without takers and without hops is forgotten.
    fn forget(&mut self, flow: &str, revision: &str) {
        let Some(units) = self.flows.get_mut(flow) else {
            return;
        };
        if let Some(nth) = units.iter().position(|unit| *unit.revision == *revision) {
            self.free.push(units.swap_remove(nth).number);
        }
        if units.is_empty() {
            self.flows.remove(flow);
        }
        self.shut
            .retain(|(of, at, _)| !(**of == *flow && **at == *revision));
    }

    /// Something is ready at a unit: if it has no takers, that is to be said. Gives whether it was not said yet.
    pub(super) fn wants(&mut self, flow: &str, revision: &str) -> bool {
        let unit = self.unit(flow, revision);
        if unit.served || unit.told {
            return false;
        }
        unit.told = true;
        let wanted = (Arc::from(flow), unit.revision.clone());
        if !self.wanted.contains(&wanted) {
            self.wanted.push(wanted);
        }
        true
    }

    /// All units without takers that have hops are named once more.
    pub(super) fn ask_again(&mut self) {
        let mut unserved = Vec::new();
        for (flow, units) in &mut self.flows {
            for unit in units.iter_mut().filter(|unit| !unit.served && unit.told) {
                unit.told = false;
                unserved.push((flow.clone(), unit.revision.clone()));
            }
        }
        for (flow, revision) in unserved {
            self.wants(&flow, &revision);
        }
    }

    /// A unit without takers that has hops; it is named once.
    pub(super) fn wanted(&mut self) -> Option<(Arc<str>, Arc<str>)> {
        self.wanted.pop()
    }

    /// How many hops there are of a revision of a flow.
    pub(super) fn many(&self, flow: &str, revision: &str) -> usize {
        let units = self.flows.get(flow).into_iter().flatten();
        let mut its = units.filter(|unit| *unit.revision == *revision);
        its.next()
            .map_or(0, |unit| self.loads[unit.number as usize].all)
    }

    /// What a taker finds at a station.
    pub(super) fn look(&mut self, at: Station<'_>, max: usize, repeats: usize) -> Look {
        let number = self.number(at);
        let queue = self.queue(at);
        if queue.held {
            return Look::Nothing;
        }
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
            let queue = self.queue(at);
            for hop in &hops {
                queue.lane(Way::of(hop)).ready.push_back(hop.clone());
            }
            queue.came.notify_one();
        }
        Look::Taken(hops)
    }

    /// The queues at a step, under whatever revision, each with its revision.
    pub(super) fn at_step<'s>(
        &'s self,
        flow: &str,
        step: &'s str,
    ) -> impl Iterator<Item = (&'s Arc<str>, &'s Queue)> + 's {
        let units = self.flows.get(flow).into_iter().flatten();
        units.filter_map(move |unit| Some((&unit.revision, unit.queues.get(step)?)))
    }

    pub(super) fn place(&self, hop: HopId) -> Option<Place> {
        self.places.get(&hop).map(|spot| spot.place)
    }

    /// How many hops have a place.
    pub(super) fn all(&self) -> usize {
        self.places.len()
    }

    /// How many of them can go on by themselves.
    pub(super) fn moving(&self) -> usize {
        self.places.len() - self.held
    }

    /// Puts a hop into a place, and counts it there.
    pub(super) fn put(&mut self, hop: HopId, unit: u32, place: Place) {
        self.nobody();
        if let Some(before) = self.places.insert(hop, Spot { place, unit }) {
            self.unload(before);
        }
        self.held += usize::from(place == Place::Held);
        let active = usize::from(place.is_active());
        for load in [&mut self.loads[unit as usize], &mut self.total] {
            load.all += 1;
            load.active += active;
        }
    }

    pub(super) fn remove(&mut self, hop: HopId) {
        if let Some(spot) = self.places.remove(&hop) {
            self.unload(spot);
        }
    }

    fn unload(&mut self, spot: Spot) {
        self.held -= usize::from(spot.place == Place::Held);
        let active = usize::from(spot.place.is_active());
        for load in [&mut self.loads[spot.unit as usize], &mut self.total] {
            load.all -= 1;
            load.active -= active;
        }
    }

    /// The first number is nobody's.
    fn nobody(&mut self) {
        if self.loads.is_empty() {
            self.loads.push(Load::default());
        }
    }

    /// The takers of a queue take nothing for a while, or take again. Gives whether that is news.
    pub(super) fn shut(&mut self, at: Station<'_>, shut: bool) -> bool {
        let queue = self.queue(at);
        if queue.shut == shut {
            return false;
        }
        queue.shut = shut;
        let (flow, revision, step) = (at.flow, at.revision, at.step);
        if shut {
            let named = (Arc::from(flow), Arc::from(revision), Arc::from(step));
            self.shut.push(named);
        } else {
            self.shut.retain(|(of, under, at)| {
                !(**of == *flow && **under == *revision && **at == *step)
            });
        }
        true
    }

    /// What there is of a flow, and of all flows together, without what stands in queues that are shut.
    pub(super) fn loads_of(&self, flow: &str) -> (Load, Load) {
        let (mut its, mut all) = (Load::default(), self.total);
        for unit in self.flows.get(flow).into_iter().flatten() {
            let load = self.loads[unit.number as usize];
            its.all += load.all;
            its.active += load.active;
        }
        for (of, revision, step) in &self.shut {
            let mut queues = self.at_step(of, step);
            let many = queues.find(|(under, queue)| *under == revision && !queue.held);
            let many = many.map_or(0, |(_, queue)| queue.len());
            all.active = all.active.saturating_sub(many);
            if **of == *flow {
                its.active = its.active.saturating_sub(many);
            }
        }
        for of in flows_of(&self.toggles) {
            let units = self.flows.get(of).into_iter().flatten();
            let queues = units.flat_map(|unit| unit.queues.values());
            let many: usize = queues.filter(|queue| queue.held).map(Queue::len).sum();
            all.active = all.active.saturating_sub(many);
            if *of == *flow {
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

fn is_held(toggles: &[Toggle], flow: &str, step: &str) -> bool {
    toggles.iter().any(|toggle| toggle.holds(flow, step))
}

/// The flows that are stopped, or of which a step is.
fn flows_of(toggles: &[Toggle]) -> BTreeSet<&str> {
    let flows = toggles.iter().filter_map(|toggle| match &toggle.target {
        Target::Flow(flow) | Target::Step(flow, _) => Some(&**flow),
        Target::System(_) => None,
    });
    flows.collect()
}

/// About how much memory a hop needs.
pub(super) fn weight(hop: &Hop) -> usize {
    let message = &hop.message;
    let headers: usize = message
        .headers
        .iter()
        .map(|(name, value)| name.len() + value.len())
        .sum();
    let variables: usize = message.variables.values().map(|body| body.len()).sum();
    256 + message.body.len() + headers + variables
}
