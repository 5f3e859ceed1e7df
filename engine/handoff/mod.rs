//! Announce and take hops: how messages pass from stage to stage. The store is the truth, a hand-off distributes.
//!
//! The contract, whatever the backend:
//! - A hop is announced after the commit that made it, and only then. Announcing it again has no effect while it is in flight.
//! - `take` gives each hop to one taker. The taker commits its end and says `ended`, or says `waits` and commits that, or gives it back.
//! - A hop is never lost: what a hand-off cannot hold stays in the store and is fetched from there when there is room.
//! - A hop that was taken when the process died is in the store still, and found by `recover`.

use std::sync::Arc;
use std::time::Duration;

use crate::failure::Failure;
use crate::message::Message;
use crate::store::commit::{DOOR, HopId, RunId, StoredHop};
use crate::store::toggles::Toggle;

pub mod embedded;
pub mod rabbitmq;

use embedded::{Embedded, Full, Load, Share};
use rabbitmq::Rabbit;
use rabbitmq::topology::Topology;

/// How often those who wait for what other engines do look again.
const LOOK: Duration = Duration::from_millis(100);

/// The hand-off of an engine: embedded, or over a broker. A clone is the same one.
#[derive(Clone)]
pub struct Handoff {
    local: Embedded,
    broker: Option<Rabbit>,
}

impl From<Embedded> for Handoff {
    fn from(local: Embedded) -> Handoff {
        Handoff {
            local,
            broker: None,
        }
    }
}

impl Handoff {
    /// A hand-off over a broker, which puts what it takes into `local`.
    pub fn over(local: Embedded, broker: Rabbit) -> Handoff {
        Handoff {
            local,
            broker: Some(broker),
        }
    }

    /// Finds the hops that were not over when the last engine ended; over a broker they are announced, or the sweep announces them. Gives
    /// their number.
    pub async fn recover(&self) -> Result<u64, Failure> {
        match &self.broker {
            None => self.local.recover().await,
            Some(broker) => broker.standing().await,
        }
    }

    /// A hop is ready: its commit is durable, or the store has released it.
    pub fn announce(&self, hop: Hop) {
        match &self.broker {
            None => self.local.announce(hop),
            Some(broker) => broker.announce(hop),
        }
    }

    /// A hop is ready, and only the store has its message.
    pub fn announce_stored(&self, at: Station<'_>, hop: HopId) {
        match &self.broker {
            None => self.local.announce_stored(at, hop),
            Some(broker) => broker.announce_stored(at, hop),
        }
    }

    /// Takes up to `max` hops that are ready at a station; waits until there is one. A taker that goes away while it waits has taken nothing.
    pub async fn take(&self, at: Station<'_>, max: usize) -> Vec<Hop> {
        self.local.take(at, max).await
    }

    /// Takes as `take` does, and at most so many repeats among them.
    pub async fn take_with(&self, at: Station<'_>, max: usize, repeats: usize) -> Vec<Hop> {
        self.local.take_with(at, max, repeats).await
    }

    /// There are takers for a revision of a flow from now on, or there are none.
    pub fn serve(&self, flow: &str, revision: &str, served: bool) {
        self.local.serve(flow, revision, served);
    }

    /// Waits for hops of a revision that has no takers; gives the flow and the revision. Each is named once until it is served.
    pub async fn wanted(&self) -> (Arc<str>, Arc<str>) {
        self.local.wanted().await
    }

    /// What has no takers is told by `wanted` once more: it may have some now.
    pub fn ask_again(&self) {
        self.local.ask_again();
    }

    /// As `wanted`, if there is one now.
    pub fn wanted_now(&self) -> Option<(Arc<str>, Arc<str>)> {
        self.local.wanted_now()
    }

    /// Messages may stand at these steps as well from now on; where they could before they can still.
    pub fn stations(&self, topology: Topology) {
        if let Some(broker) = &self.broker {
            broker.stations(topology);
        }
    }

    /// The flows and steps at which messages stand and that are no stations here: another engine has a revision that has them.
    pub fn strays(&self) -> Vec<(Arc<str>, Arc<str>)> {
        let strays = self.broker.as_ref().map(Rabbit::strays);
        strays.unwrap_or_default().into_iter().collect()
    }

    /// How many hops of a revision of a flow are with this engine.
    pub fn many(&self, flow: &str, revision: &str) -> usize {
        self.local.many(flow, revision)
    }

    /// A taken hop is over: its end is durable, or the store no longer has it.
    pub fn ended(&self, hop: HopId) {
        match &self.broker {
            None => self.local.ended(hop),
            Some(broker) => broker.over(hop),
        }
    }

    /// A taken hop is about to wait in the store. Said before that is committed, and followed by `rests`, or by `give_back`.
    pub fn waits(&self, hop: HopId) {
        if self.broker.is_none() {
            self.local.waits(hop);
        }
    }

    /// A taken hop waits in the store: that is durable.
    pub fn rests(&self, hop: HopId) {
        if let Some(broker) = &self.broker {
            broker.over(hop);
        }
    }

    /// A new hop may have to wait for its turn. Said before its commit. To be followed by `announce` if it is ready, by `ended` if it does not
    /// come to be, and by nothing if it is held.
    pub fn holds(&self, hop: HopId) {
        if self.broker.is_none() {
            self.local.holds(hop);
        }
    }

    /// A taker could not end what it has taken: the hop is the next one again.
    pub fn give_back(&self, hop: Hop) {
        self.local.give_back(hop);
    }

    /// A taken hop that another engine may have as well is the next one again after this time; until then it stays here, and the store knows
    /// nothing of it. Gives the hop back where there are no other engines.
    pub fn put_off(&self, hop: Hop, wait: Duration) -> Option<Hop> {
        match &self.broker {
            None => Some(hop),
            Some(broker) => {
                broker.put_off(hop, wait);
                None
            }
        }
    }

    /// Whether other engines may have the same hop: one that is with somebody else is left alone then.
    pub fn is_shared(&self) -> bool {
        self.broker.is_some()
    }

    /// How many hops are not over.
    pub fn in_flight(&self) -> usize {
        match &self.broker {
            None => self.local.in_flight(),
            Some(broker) => broker.in_flight(),
        }
    }

    /// Whether no hop can go on by itself; those that are held wait for a person.
    pub async fn at_rest(&self) -> Result<bool, Failure> {
        match &self.broker {
            None => Ok(self.local.moving() == 0),
            Some(broker) => broker.at_rest().await,
        }
    }

    /// How often it is worth to ask whether there is nothing to do.
    pub fn rest_look(&self) -> Duration {
        match &self.broker {
            None => Duration::from_millis(5),
            Some(_) => LOOK,
        }
    }

    /// How many hops are ready for a step and not taken, under whatever revision.
    pub fn ready(&self, flow: &str, step: &str) -> usize {
        match &self.broker {
            None => self.local.ready(flow, step),
            Some(broker) => broker.ready(flow, step),
        }
    }

    /// The taker at a station takes nothing for a while, or takes again. What waits there meanwhile does not count as active.
    pub fn shut(&self, at: Station<'_>, shut: bool) {
        self.local.shut(at, shut);
    }

    /// From now on nothing is taken where these stop it, and only there. What was taken before is finished, and what waits there does not
    /// count as active.
    pub fn hold(&self, toggles: Vec<Toggle>) {
        self.local.hold(toggles);
    }

    /// What there is of a flow, and of all flows together.
    pub fn load(&self, flow: &str) -> (Load, Load) {
        match &self.broker {
            None => self.local.load(flow),
            Some(broker) => broker.load(flow),
        }
    }

    /// The limit that a flow has reached, if it has.
    pub fn full(&self, flow: &str, share: &Share) -> Option<Full> {
        match &self.broker {
            None => self.local.full(flow, share),
            Some(_) => share.reached(self.load(flow)),
        }
    }

    /// Waits until a flow has reached none of its limits.
    pub async fn room_for(&self, flow: &str, share: &Share) {
        if self.broker.is_none() {
            return self.local.room_for(flow, share).await;
        }
        while self.full(flow, share).is_some() {
            self.local.left_within(LOOK).await;
        }
    }

    /// Waits until fewer than `limit` hops are in flight.
    pub async fn room(&self, limit: usize) {
        if self.broker.is_none() {
            return self.local.room(limit).await;
        }
        while self.in_flight() >= limit {
            self.local.left_within(LOOK).await;
        }
    }

    /// Ends: nothing is taken any more, and a broker is told what is over.
    pub async fn close(&self) {
        if let Some(broker) = &self.broker {
            broker.close().await;
        }
    }
}

/// Where hops stand: at a step of a flow, under one of its revisions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Station<'a> {
    /// The flow.
    pub flow: &'a str,
    /// The revision; at a door, where there is none yet, the door's name; empty where nobody has said which.
    pub revision: &'a str,
    /// The step.
    pub step: &'a str,
}

impl<'a> Station<'a> {
    /// The station of a hop that goes on under this revision.
    pub fn of(flow: &'a str, revision: &'a str, step: &'a str) -> Station<'a> {
        let revision = if step == DOOR { DOOR } else { revision };
        Station {
            flow,
            revision,
            step,
        }
    }

    /// The door of a flow.
    pub fn door(flow: &'a str) -> Station<'a> {
        Station::of(flow, "", DOOR)
    }
}

/// A message at a step, ready to be worked on.
#[derive(Clone, Debug)]
pub struct Hop {
    /// The hop.
    pub hop: HopId,
    /// The fence to end it with.
    pub fence: i64,
    /// The run.
    pub run: RunId,
    /// The flow.
    pub flow: Arc<str>,
    /// The step.
    pub step: Arc<str>,
    /// The number of the attempt to come; the first is 1, and 0 says that it has waited for a time (`Turn::Rest`).
    pub attempt: u32,
    /// The revision of the flow under which it goes on: that under which the run was accepted, unless a person has said otherwise.
    pub revision: Arc<str>,
    /// Whether a person has said otherwise.
    pub moved: bool,
    /// Whether the message's bytes are the run's accepted ones, which then need not be stored again.
    pub runs_body: bool,
    /// The message.
    pub message: Message,
}

impl Hop {
    /// Where it stands.
    pub fn station(&self) -> Station<'_> {
        Station::of(&self.flow, &self.revision, &self.step)
    }

    /// The hop as the store gave it back.
    pub fn from_store(stored: StoredHop) -> Result<Hop, Failure> {
        Ok(Hop {
            hop: stored.hop,
            fence: stored.fence,
            run: stored.run,
            flow: stored.flow.clone(),
            step: stored.step.clone(),
            attempt: stored.attempt,
            revision: stored.revision.clone(),
            moved: stored.moved,
            runs_body: stored.runs_body,
            message: stored.into_message()?,
        })
    }
}
