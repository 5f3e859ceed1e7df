//! Plans in motion: stages, effects, timers, recovery. It reads no files and serves nothing.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::failure::Failure;
use crate::flow::plan::Plan;
use crate::handoff::{Handoff, Hop, Station};
use crate::net::listener::Listener;
use crate::store::Store;
use crate::store::commit::{Accepted, Commit, Committed, End, HopId, Turn};
use crate::world::{World, failpoint};

mod accept;
mod admission;
pub mod again;
mod append;
mod approvals;
pub mod canary;
mod cases;
pub mod changes;
mod claim;
pub mod deploy;
pub mod desk;
pub mod differences;
pub mod doctor;
pub mod dry;
mod due;
mod effect;
mod failing;
mod feeding;
mod fronts;
mod guard;
mod intake;
mod lead;
mod live;
mod notify;
mod offered;
pub mod privacy;
mod recompute;
pub mod reload;
pub mod replay;
mod saga;
pub mod shadow;
pub mod simulate;
mod space;
mod stage;
pub mod supervisor;
mod sweep;
mod systems;
pub mod tap;
pub mod telemetry;
pub mod test;
pub mod toggles;
mod turn;
mod units;
mod waiting;
mod walk;
mod watch;

/// What all stages of an engine share.
pub(crate) struct Shared {
    live: live::Live,
    store: Store,
    handoff: Handoff,
    world: World,
    listener: Listener,
    /// Cancelled when stages stop taking.
    stop: CancellationToken,
    /// Rung when something becomes due.
    bell: due::Bell,
    /// Which guarded keys are under way, at which step.
    lanes: guard::Lanes,
    space: space::Space,
    /// Under which name the store keeps how long files on this disk may be.
    lengths: Arc<str>,
    /// Lists of runs that are done again.
    replays: replay::Replays,
    /// What was approved by a second person.
    approvals: approvals::Approvals,
    batch_max: usize,
    /// The shadow that runs, if there is one.
    shadows: shadow::watching::Shadows,
    meters: telemetry::Meters,
    tracer: telemetry::traces::Tracer,
    taps: Arc<tap::Taps>,
}

impl Shared {
    /// Makes a commit durable, and announces the hops that it has made ready beside what it was about.
    async fn commit(&self, commit: Commit) -> Result<Committed, Failure> {
        let doors = doors(&commit);
        let settling = telemetry::settling(&commit);
        let chosen = self.shadows.choose(&commit);
        let mut committed = self.durable(commit).await?;
        if let Some(chosen) = chosen {
            chosen.accepted(&committed, self.world.clock.steady_ms());
        }
        self.meters
            .committed(&self.world.metrics, &committed, &settling);
        if !committed.released.is_empty() {
            failpoint::hit("release-before-announce");
            // What a run has handed over stands at the door before the run behind it can move.
            for (flow, hop) in doors {
                self.handoff.announce_stored(Station::door(&flow), hop);
            }
        }
        for stored in committed.released.drain(..) {
            match Hop::from_store(stored) {
                Ok(hop) => self.handoff.announce(hop),
                Err(failure) => tracing::error!(%failure, "a stored message cannot be read"),
            }
        }
        Ok(committed)
    }

    /// The commit itself, before the eyes of whoever watches.
    async fn durable(&self, commit: Commit) -> Result<Committed, Failure> {
        let Some(watch) = &self.world.watch else {
            return self.store.commit(commit).await;
        };
        let number = watch.before_commit().await;
        let committed = self.store.commit(commit).await;
        watch.after_commit(number).await;
        committed
    }

    /// A message was accepted: its first hop is announced, or held until its turn comes, or never was.
    fn begins(&self, accepted: &Accepted, first: Hop) {
        match accepted {
            Accepted::New => self.handoff.announce(first),
            Accepted::Held(_) => {}
            Accepted::Duplicate(_) | Accepted::Changed(_) | Accepted::Refused(_) => {
                self.handoff.ended(first.hop);
            }
        }
    }

    /// A hop has ended in the store: what follows it is announced. Not applied means that somebody else has ended it.
    fn settled(&self, hop: HopId, applied: bool, follow: Vec<Hop>) {
        if applied {
            for next in follow {
                self.handoff.announce(next);
            }
        }
        // Last, so that nobody sees an engine without work in between.
        self.handoff.ended(hop);
    }

    /// Before the commit of a hop's end: one that is about to wait may be released at once.
    fn settling(&self, end: &End) {
        if let Turn::Wait { .. } | Turn::Rest { .. } = end.turn {
            self.handoff.waits(end.hop);
        }
    }

    /// After the commit of a hop's end: what follows is announced, and a wait is put on the timer.
    fn settled_as(&self, applied: bool, finished: turn::Finished) {
        match (applied, &finished.end.turn) {
            (true, Turn::Wait { due_at_ms, .. } | Turn::Rest { due_at_ms, .. }) => {
                self.handoff.rests(finished.end.hop);
                self.bell.due_at(self.store.at(*due_at_ms));
            }
            _ => self.settled(finished.end.hop, applied, finished.follow),
        }
    }
}

/// The hops at the doors of other flows that a commit makes.
fn doors(commit: &Commit) -> Vec<(Arc<str>, HopId)> {
    let turns = commit.ends.iter().map(|end| &end.turn);
    let doors = turns.filter_map(|turn| match turn {
        Turn::Over { doors, .. } => Some(doors),
        Turn::Wait { .. } | Turn::Rest { .. } => None,
    });
    doors
        .flatten()
        .map(|hop| (hop.flow.clone(), hop.hop))
        .collect()
}
