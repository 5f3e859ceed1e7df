//! Lists of runs that are done again: at a rate of their own, a few at a time, so that live messages are never far behind them. A list is rows
//! of the store; whoever dies in the middle of it goes on with the next item.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustc_hash::FxHashSet;
use tokio::sync::Notify;
use utoipa::ToSchema;

use super::Shared;
use super::again::{Again, may_list};
use super::desk::Desk;
use super::turn::written_as;
use crate::failure::{Class, Failure};
use crate::handoff::Hop;
use crate::store::commit::{Commit, RunId};
use crate::store::replays::{Chosen, ITEMS_MAX, ReplayChange, ReplayId, ReplayRow, ReplayState};
use crate::store::runs::RunState;

/// How many runs of lists may be in flight at once: what stands before a live message at most.
const WINDOW: usize = 64;
/// How often the window is looked at while it is full.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// How often lists are looked for when nobody has rung.
const IDLE: Duration = Duration::from_secs(5);
/// The pause after the store could not be asked.
const STORE_PAUSE: Duration = Duration::from_millis(500);
/// The rate of a list that names none, a second.
pub const RATE_DEFAULT: f64 = 50.0;
/// How many ended reruns are remembered before they are looked through.
const REMEMBERED_MAX: usize = 100_000;

/// What the engine keeps in memory of lists and reruns.
#[derive(Default)]
pub(super) struct Replays {
    rung: Notify,
    /// Runs that repeat others: their sinks without a ledger must ask what was done.
    reruns: Mutex<FxHashSet<RunId>>,
}

impl Replays {
    /// Something may be to do.
    pub(super) fn ring(&self) {
        self.rung.notify_one();
    }

    /// Said before a rerun is committed.
    pub(super) fn begins(&self, run: RunId) {
        self.reruns
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(run);
    }

    /// Whether a run may be one that repeats another.
    pub(super) fn repeats(&self, run: RunId) -> bool {
        self.reruns
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .contains(&run)
    }

    /// Finds the reruns that the last process has left.
    pub(super) async fn recover(shared: &Shared) -> Result<(), Failure> {
        for run in shared.store.reruns_in_flight().await? {
            shared.replays.begins(run);
        }
        Ok(())
    }

    /// Forgets those that are over, once there are many.
    async fn forget(&self, shared: &Shared) -> Result<(), Failure> {
        let known: Vec<RunId> = {
            let reruns = self.reruns.lock().unwrap_or_else(PoisonError::into_inner);
            if reruns.len() < REMEMBERED_MAX {
                return Ok(());
            }
            reruns.iter().copied().collect()
        };
        let over = shared.store.ended_of(known).await?;
        let mut reruns = self.reruns.lock().unwrap_or_else(PoisonError::into_inner);
        for run in over {
            reruns.remove(&run);
        }
        Ok(())
    }
}

/// Whether a message of a rerun was written before by the sink, which keeps no ledger, at which it stands. Waits for the store's answer.
///
/// Fails if the engine stops before there is one.
pub(super) async fn written_before(shared: &Shared, hop: &Hop) -> Result<bool, Failure> {
    // Of a store that is shared another engine may have begun the run again.
    if !shared.store.is_shared() && !shared.replays.repeats(hop.run) {
        return Ok(false);
    }
    let what = written_as(&hop.message);
    loop {
        let asked = shared.store.done_before(hop.run, &hop.step, &what).await;
        match asked {
            Err(failure) if shared.stop.is_cancelled() => return Err(failure),
            Err(_) => shared.world.clock.sleep(STORE_PAUSE).await,
            done => return done,
        }
    }
}

/// A list that is to be.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewList {
    /// Of this flow.
    pub flow: Option<String>,
    /// In this state.
    pub state: Option<String>,
    /// Accepted at this time or later, in milliseconds since 1970.
    pub since_ms: Option<i64>,
    /// Accepted before this time.
    pub until_ms: Option<i64>,
    /// With this key.
    pub key: Option<String>,
    /// With an open exception of this cause.
    pub issue: Option<String>,
    /// With an open exception of this class.
    pub class: Option<String>,
    /// What is done with each.
    pub how: Again,
    /// At most so many a second; `None`: 50.
    pub rate: Option<f64>,
    /// Why.
    pub why: Option<String>,
}

/// What a list is, or would be.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize, ToSchema)]
pub struct Listed {
    /// Its number; `None` after a dry run, or if no run was chosen.
    pub replay: Option<i64>,
    /// How many runs it has.
    pub runs: u64,
    /// Whether an engine runs; if not, the list begins at its next start.
    pub engine: bool,
    /// The number of the request that waits for a second person: there is no list yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approval: Option<i64>,
}

impl Desk {
    /// Freezes a filter into a list, which the engine then works on.
    ///
    /// Fails with class `validation` if nothing or too much is chosen, or the rate is none.
    pub async fn list(&self, new: &NewList, who: &str, dry_run: bool) -> Result<Listed, Failure> {
        self.list_of(new, who, dry_run, None).await
    }

    /// The same, of so many at most without a second person: what was looked at before may have grown.
    ///
    /// Fails with class `conflict` if it has.
    pub async fn list_up_to(&self, new: &NewList, who: &str, most: u64) -> Result<Listed, Failure> {
        self.list_of(new, who, false, Some(most)).await
    }

    async fn list_of(
        &self,
        new: &NewList,
        who: &str,
        dry_run: bool,
        most: Option<u64>,
    ) -> Result<Listed, Failure> {
        let rate = new.rate.unwrap_or(RATE_DEFAULT);
        if !(rate > 0.0 && rate <= 100_000.0) {
            return Err(Failure::validation(
                "the rate must be above 0 and at most 100,000 a second",
            ));
        }
        let runs = self.store.choose_runs(new.chosen()?).await?;
        let mut listed = Listed {
            replay: None,
            runs: runs.len() as u64,
            engine: self.engine.is_some(),
            approval: None,
        };
        if runs.len() >= ITEMS_MAX {
            return Err(Failure::validation(format!(
                "the filter finds {ITEMS_MAX} runs or more; choose fewer, by --since and --until"
            )));
        }
        if dry_run || runs.is_empty() {
            return Ok(listed);
        }
        let asked = (&runs[..], new.words());
        listed.approval = self.ask_about_list(new, asked, who).await?;
        if listed.approval.is_some() {
            return Ok(listed);
        }
        if most.is_some_and(|most| listed.runs > most) {
            return Err(Failure::new(
                Class::Conflict,
                format!(
                    "the filter finds {} runs by now, more than a moment ago: ask again",
                    listed.runs
                ),
            ));
        }
        let verb = serde_json::to_string(&new.how)
            .map_err(|error| Failure::internal(format!("a list cannot be written: {error}")))?;
        let begin = ReplayChange::Begin {
            who: Arc::from(who),
            why: new.why.clone(),
            verb,
            filter: self.store.veil().await?.filter(&new.words()),
            rate,
            runs,
        };
        let made = self.turn(begin).await?;
        listed.replay = made.map(|id| id.0);
        Ok(listed)
    }

    /// Pauses a list, lets it go on, or ends it. What was begun of it stays so. False if it has ended, or there is none.
    pub async fn turn_list(&self, id: i64, to: ReplayState) -> Result<bool, Failure> {
        let replay = ReplayId(id);
        Ok(self
            .turn(ReplayChange::Turn { replay, to })
            .await?
            .is_some())
    }

    async fn turn(&self, change: ReplayChange) -> Result<Option<ReplayId>, Failure> {
        let commit = Commit {
            replays: vec![change],
            ..Commit::default()
        };
        let committed = self.go_on(commit).await?;
        if let Some(engine) = &self.engine {
            engine.replays.ring();
        }
        Ok(committed.replays.first().copied().flatten())
    }
}

impl NewList {
    fn chosen(&self) -> Result<Chosen, Failure> {
        let state = match self.state.as_deref() {
            None => None,
            Some(name) => Some(
                RunState::from_name(name)
                    .filter(|state| may_list(*state))
                    .ok_or_else(|| {
                        Failure::validation(format!("runs in the state `{name}` cannot be listed"))
                    })?,
            ),
        };
        let class = match self.class.as_deref() {
            None => None,
            Some(name) => Some(
                Class::from_name(name)
                    .ok_or_else(|| Failure::validation(format!("there is no class `{name}`")))?,
            ),
        };
        let chosen = Chosen {
            flow: self.flow.clone(),
            state,
            since_ms: self.since_ms,
            until_ms: self.until_ms,
            key: self.key.clone(),
            fingerprint: self.issue.clone(),
            class,
        };
        let all = chosen.flow.is_none()
            && chosen.state.is_none()
            && chosen.since_ms.is_none()
            && chosen.key.is_none()
            && chosen.fingerprint.is_none()
            && chosen.class.is_none();
        if all {
            return Err(Failure::validation(
                "nothing is chosen: choose with --flow, --state, --since, --key, --issue or --class",
            ));
        }
        Ok(chosen)
    }

    fn words(&self) -> String {
        let time = |at_ms: i64| {
            jiff::Timestamp::from_millisecond(at_ms)
                .map_or_else(|_| at_ms.to_string(), |at| at.to_string())
        };
        let parts = [
            ("flow", self.flow.clone()),
            ("state", self.state.clone()),
            ("since", self.since_ms.map(time)),
            ("until", self.until_ms.map(time)),
            ("key", self.key.clone()),
            ("issue", self.issue.clone()),
            ("class", self.class.clone()),
        ];
        let parts = parts.into_iter();
        let parts = parts.filter_map(|(name, value)| Some(format!("{name} {}", value?)));
        parts.collect::<Vec<_>>().join(", ")
    }
}

/// Works on lists until the engine stops.
pub(super) async fn run(shared: Arc<Shared>, desk: Desk) {
    let mut window = VecDeque::new();
    loop {
        let worked = match shared.store.replays_to_do(WINDOW).await {
            Ok(lists) => work(&shared, &desk, lists, &mut window).await,
            Err(failure) => Err(failure),
        };
        let pause = match worked {
            Ok(true) => Duration::ZERO,
            Ok(false) => IDLE,
            Err(failure) => {
                if !shared.store.has_said(&failure) {
                    tracing::error!(%failure, "a list of replays could not go on; it is tried again");
                }
                STORE_PAUSE
            }
        };
        tokio::select! {
            () = shared.stop.cancelled() => return,
            () = shared.replays.rung.notified() => {}
            () = shared.world.clock.sleep(pause) => {}
        }
        if shared.stop.is_cancelled() {
            return;
        }
    }
}

/// Some items of the oldest list. Gives whether there may be more.
async fn work(
    shared: &Arc<Shared>,
    desk: &Desk,
    lists: Vec<(ReplayRow, Vec<(i64, RunId)>)>,
    window: &mut VecDeque<RunId>,
) -> Result<bool, Failure> {
    shared.replays.forget(shared).await?;
    let Some((list, items)) = lists.into_iter().next() else {
        return Ok(false);
    };
    let replay = list.id;
    let Ok(how) = serde_json::from_str::<Again>(&list.verb) else {
        tracing::error!(
            replay = replay.0,
            "a list of replays cannot be read; it is ended"
        );
        desk.turn_list(replay.0, ReplayState::Aborted).await?;
        return Ok(true);
    };
    if items.is_empty() {
        desk.turn_list(replay.0, ReplayState::Finished).await?;
        tracing::info!(replay = replay.0, "a list of replays is finished");
        return Ok(true);
    }
    let pause = Duration::from_secs_f64(1.0 / list.rate.clamp(0.001, 100_000.0));
    for item in items {
        while !has_room(shared, window).await? {
            shared.world.clock.sleep(LOOK_EVERY).await;
            if shared.stop.is_cancelled() {
                return Ok(false);
            }
        }
        let why = list.why.as_deref();
        let done = desk
            .again_of_list(replay, item, &how, &list.who, why)
            .await?;
        // The list was paused or ended meanwhile.
        let Some(became) = done else { return Ok(true) };
        window.push_back(became);
        tokio::select! {
            () = shared.stop.cancelled() => return Ok(false),
            () = shared.world.clock.sleep(pause) => {}
        }
    }
    Ok(true)
}

/// Whether another run may begin: few of lists are in flight, and the engine is not half full with others.
async fn has_room(shared: &Shared, window: &mut VecDeque<RunId>) -> Result<bool, Failure> {
    if shared.handoff.in_flight() > shared.live.now().limits.in_flight() / 2 {
        return Ok(false);
    }
    if window.len() < WINDOW {
        return Ok(true);
    }
    let known: Vec<RunId> = window.iter().copied().collect();
    *window = shared.store.in_flight_of(known).await?.into();
    Ok(window.len() < WINDOW)
}
