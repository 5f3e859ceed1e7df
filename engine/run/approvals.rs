//! Acts on many that need a second person: what they are about is frozen when they are asked for, and done by the engine once somebody else has
//! approved it. A request is rows of the store; whoever dies in the middle of it goes on with the next item.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use super::Shared;
use super::again::Again;
use super::desk::{Chosen, Desk, Retry, Verb, Which, reason_of};
use super::replay::{NewList, RATE_DEFAULT};
use crate::failure::{Class, Failure};
use crate::flow::settings::Settings;
use crate::store::approvals::{Approval, ApprovalChange, ApprovalState, ITEMS_MAX, NewApproval};
use crate::store::audit::{Acting, ActorKind, Via};
use crate::store::commit::{Commit, RunId};
use crate::store::exceptions::ExceptionId;
use crate::store::replays::ReplayChange;

/// How many items one commit is about.
const TOGETHER_MAX: usize = 200;
/// How many requests may wait at once; all of them are looked at together.
const OPEN_MAX: usize = 100;
/// How large what is asked for may be, in bytes: it is kept until somebody has decided.
const WISH_BYTES_MAX: usize = 64 << 10;
/// How often requests are looked for when nobody has rung: those that were approved at another engine, or whose time is over.
const IDLE: Duration = Duration::from_secs(5);
/// The pause after the store could not be asked.
const STORE_PAUSE: Duration = Duration::from_millis(500);

/// What the engine keeps in memory of it.
#[derive(Default)]
pub(super) struct Approvals {
    rung: Notify,
    /// Acts on more than this need a second person; `None`: none does. As it was when the engine started, whatever is loaded since.
    above: Option<u32>,
}

impl Approvals {
    /// By these settings.
    pub(super) fn of(settings: &Settings) -> Approvals {
        Approvals {
            above: above(settings),
            ..Approvals::default()
        }
    }

    fn ring(&self) {
        self.rung.notify_one();
    }
}

fn above(settings: &Settings) -> Option<u32> {
    let admin = settings.admin.as_ref()?;
    Some(admin.approval.as_ref()?.above)
}

/// What is to be done with all items.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Wish {
    /// They are exceptions.
    Exceptions(Verb),
    /// They are runs, which are done again by a list.
    Runs {
        how: Again,
        rate: f64,
        filter: String,
    },
}

impl Verb {
    /// The words for people around what it is about, if the verb ends or repeats something.
    fn weighs(&self) -> Option<(&'static str, String)> {
        let plain = |word| Some((word, String::new()));
        match self {
            Verb::Assign { .. } | Verb::Note { .. } | Verb::Snooze { .. } => None,
            Verb::Discard { .. } => plain("discard"),
            Verb::ByHand { .. } => plain("resolve by hand"),
            Verb::Skip { .. } => plain("skip the failed step of"),
            Verb::Edit { body, .. } => {
                let all = format!(", each with the same new body of {} bytes", body.len());
                Some(("edit and retry", all))
            }
            Verb::Retry { how, .. } => match how {
                Retry::Plain => plain("retry"),
                Retry::AsNew => Some((
                    "retry",
                    " as new: each is sent once more, whatever happened before".to_owned(),
                )),
                Retry::Applied => Some((
                    "go on with",
                    " as applied: nothing is sent, each counts as if it took effect".to_owned(),
                )),
            },
        }
    }

    /// What sends once more, sends something else, or says what nobody can check is not done to many without a reason.
    pub(super) fn reasoned_for_many(&self) -> Result<(), Failure> {
        let asks = match self {
            Verb::Edit { .. } => true,
            Verb::Retry { how, .. } => *how != Retry::Plain,
            _ => false,
        };
        match asks {
            true => reason_of(self.why().unwrap_or_default()).map(drop),
            false => Ok(()),
        }
    }
}

impl Which {
    /// How they were chosen, for people.
    fn words(&self) -> String {
        let parts = [
            ("flow", &self.flow),
            ("class", &self.class),
            ("issue", &self.issue),
            ("step", &self.step),
            ("key", &self.key),
        ];
        let parts = parts.into_iter();
        let parts = parts.filter_map(|(name, value)| Some(format!("{name} {}", value.as_ref()?)));
        let words = parts.collect::<Vec<_>>().join(", ");
        match (words.is_empty(), self.all) {
            (false, _) => words,
            (true, true) => "all".to_owned(),
            (true, false) => "named one by one".to_owned(),
        }
    }
}

impl Desk {
    /// Whether acts on so many need a second person here.
    fn is_many(&self, many: u64) -> bool {
        let above = match &self.engine {
            Some(engine) => engine.approvals.above,
            None => self.project().and_then(|project| above(&project.settings)),
        };
        above.is_some_and(|above| many > u64::from(above))
    }

    /// Whether this verb about so many exceptions needs a second person here.
    pub fn needs_second(&self, verb: &Verb, many: u64) -> bool {
        verb.weighs().is_some() && self.is_many(many)
    }

    /// Whether doing so many runs again needs a second person here.
    pub fn needs_second_again(&self, many: u64) -> bool {
        self.is_many(many)
    }

    /// Asks for a second person for a verb about exceptions, if it needs one: the request's number.
    pub(super) async fn ask_about(
        &self,
        chosen: &Chosen,
        verb: &Verb,
        who: &str,
    ) -> Result<Option<i64>, Failure> {
        let Some((word, how)) = verb.weighs() else {
            return Ok(None);
        };
        if !self.is_many(chosen.many) {
            return Ok(None);
        }
        let which = &chosen.which;
        let mut items = Vec::new();
        match chosen.filter.clone() {
            None => {
                let mut seen = HashSet::new();
                items.extend(which.ids.iter().copied().filter(|id| seen.insert(*id)));
            }
            Some(mut filter) => loop {
                let rows = self.store.exceptions(filter.clone()).await?;
                let Some(last) = rows.last() else { break };
                filter.after = Some(last.id);
                items.extend(rows.iter().map(|row| row.id.0));
                few(items.len())?;
            },
        }
        let many = items.len();
        let said = format!("{word} {many} exceptions{how} ({})", which.words());
        let wish = Wish::Exceptions(verb.clone());
        let flow = which.flow.clone();
        self.ask((wish, said), items, (flow, verb.why()), who).await
    }

    /// The same for runs that are named.
    pub(super) async fn ask_about_runs(
        &self,
        runs: &[i64],
        how: &Again,
        who: &str,
        why: Option<&str>,
    ) -> Result<Option<i64>, Failure> {
        let mut seen = HashSet::new();
        let runs: Vec<i64> = runs
            .iter()
            .copied()
            .filter(|run| seen.insert(*run))
            .collect();
        if !self.is_many(runs.len() as u64) {
            return Ok(None);
        }
        let said = format!(
            "do {} runs again: {}, {RATE_DEFAULT} a second (named one by one)",
            runs.len(),
            how.name()
        );
        let wish = Wish::Runs {
            how: how.clone(),
            rate: RATE_DEFAULT,
            filter: "named".to_owned(),
        };
        self.ask((wish, said), runs, (None, why), who).await
    }

    /// The same for a list of runs.
    pub(super) async fn ask_about_list(
        &self,
        new: &NewList,
        (runs, filter): (&[RunId], String),
        who: &str,
    ) -> Result<Option<i64>, Failure> {
        if !self.is_many(runs.len() as u64) {
            return Ok(None);
        }
        let rate = new.rate.unwrap_or(RATE_DEFAULT);
        let said = format!(
            "do {} runs again: {}, {rate} a second ({filter})",
            runs.len(),
            new.how.name()
        );
        let wish = Wish::Runs {
            how: new.how.clone(),
            rate,
            filter,
        };
        let runs = runs.iter().map(|run| run.0).collect();
        let (flow, why) = (new.flow.clone(), new.why.as_deref());
        self.ask((wish, said), runs, (flow, why), who).await
    }

    async fn ask(
        &self,
        (wish, said): (Wish, String),
        items: Vec<i64>,
        (flow, why): (Option<String>, Option<&str>),
        who: &str,
    ) -> Result<Option<i64>, Failure> {
        few(items.len())?;
        let wish = serde_json::to_string(&wish)
            .map_err(|error| Failure::internal(format!("a request cannot be written: {error}")))?;
        if wish.len() > WISH_BYTES_MAX {
            return Err(Failure::validation(format!(
                "what waits for a second person is kept, so it may have {} KiB, and this has more; do it for fewer at once",
                WISH_BYTES_MAX >> 10
            )));
        }
        if self.store.approvals_open(OPEN_MAX).await?.len() >= OPEN_MAX {
            return Err(Failure::new(
                Class::Conflict,
                format!(
                    "{OPEN_MAX} requests wait already: let somebody decide about those first, see `crossdock approvals`"
                ),
            ));
        }
        let kind = self.by.as_ref().map_or(ActorKind::User, |by| by.kind);
        let asks = ApprovalChange::Ask(NewApproval {
            who: who.to_owned(),
            kind: kind.name(),
            behind: self.behind(),
            wish,
            said,
            flow,
            why: why.map(str::to_owned),
            items,
        });
        self.decide_approval(Commit::default(), asks).await
    }

    /// Approves a request: from now on it is done, by the engine.
    ///
    /// Fails with class `not_found` if there is none of this number, with `forbidden` for who has asked, with `conflict` if it does not wait.
    pub async fn approve(
        &self,
        id: i64,
        who: &str,
        why: Option<&str>,
    ) -> Result<Approval, Failure> {
        let found = self.waiting(id).await?;
        let behind = self.behind();
        if is_same(&found, who, behind.as_deref()) {
            let names = match found.who.trim().to_lowercase() == who.trim().to_lowercase() {
                true => String::new(),
                false => format!(", by the name of {}", found.who),
            };
            return Err(Failure::new(
                Class::Forbidden,
                format!("{who} has asked for it{names}: somebody else must approve it"),
            ));
        }
        let mut commit = Commit::default();
        if let Wish::Runs { how, rate, filter } = wish(&found)? {
            let verb = serde_json::to_string(&how)
                .map_err(|error| Failure::internal(format!("a list cannot be written: {error}")))?;
            let items = self.store.approval_items(id, 1, ITEMS_MAX).await?;
            commit.replays.push(ReplayChange::Begin {
                who: Arc::from(names(&found, who)),
                why: found.why.clone(),
                verb,
                filter: format!("approval {id}: {filter}"),
                rate,
                runs: items.into_iter().map(RunId).collect(),
            });
        }
        let approves = ApprovalChange::Approve {
            id,
            who: who.to_owned(),
            why: why.map(str::to_owned),
        };
        self.settle(id, commit, approves).await
    }

    /// Who stands behind the name of who acts here.
    fn behind(&self) -> Option<String> {
        Some(self.by.as_ref()?.behind.as_deref()?.to_owned())
    }

    /// Refuses a request, or takes it back: nothing comes of it. What is approved and not done yet ends where it is.
    pub async fn refuse(&self, id: i64, who: &str, why: &str) -> Result<Approval, Failure> {
        let why = reason_of(why)?.to_owned();
        match self.store.approval(id).await? {
            Some(found) if found.state == ApprovalState::Approved => {}
            _ => drop(self.waiting(id).await?),
        }
        let who = who.to_owned();
        let refuses = ApprovalChange::Refuse { id, who, why };
        self.settle(id, Commit::default(), refuses).await
    }

    /// A request that waits for somebody.
    async fn waiting(&self, id: i64) -> Result<Approval, Failure> {
        let found = self.store.approval(id).await?.ok_or_else(|| {
            let why = "there is no request of this number; `crossdock approvals` lists them";
            Failure::new(Class::NotFound, why)
        })?;
        let over = found.ends_at_ms <= self.store.now_ms();
        match found.state {
            ApprovalState::Asked if !over => Ok(found),
            ApprovalState::Asked | ApprovalState::Ended => Err(Failure::new(
                Class::Conflict,
                "nobody has decided about it in time; ask anew",
            )),
            state => Err(Failure::new(
                Class::Conflict,
                format!(
                    "{} has decided about it before: it is {}",
                    found.decided_by.as_deref().unwrap_or("somebody"),
                    state.name()
                ),
            )),
        }
    }

    async fn settle(
        &self,
        id: i64,
        commit: Commit,
        change: ApprovalChange,
    ) -> Result<Approval, Failure> {
        if self.decide_approval(commit, change).await?.is_none() {
            // Somebody was faster: they are told what has happened.
            self.waiting(id).await?;
            return Err(Failure::new(
                Class::Conflict,
                "look at it again: it has changed",
            ));
        }
        let found = self.store.approval(id).await?;
        found.ok_or_else(|| Failure::internal("a request is gone"))
    }

    async fn decide_approval(
        &self,
        mut commit: Commit,
        change: ApprovalChange,
    ) -> Result<Option<i64>, Failure> {
        commit.approvals.push(change);
        let committed = self.go_on(commit).await?;
        if let Some(engine) = &self.engine {
            engine.approvals.ring();
            engine.replays.ring();
        }
        Ok(committed.approvals.first().copied().flatten())
    }

    /// Works on some items of an approved request. Gives whether there may be more.
    async fn work_on(&self, approval: &Approval) -> Result<bool, Failure> {
        let Wish::Exceptions(verb) = wish(approval)? else {
            return Ok(false);
        };
        let (id, from) = (approval.id, approval.next);
        let items = self.store.approval_items(id, from, TOGETHER_MAX).await?;
        if items.is_empty() {
            let finish = ApprovalChange::Finish(id);
            if self
                .decide_approval(Commit::default(), finish)
                .await?
                .is_some()
            {
                tracing::info!(approval = id, "what was approved is done");
            }
            return Ok(false);
        }
        let by = approval.decided_by.as_deref().unwrap_or_default();
        let who = names(approval, by);
        let (mut commit, mut refused) = (Commit::default(), 0);
        for item in &items {
            match self.decide(ExceptionId(*item), &verb, &who).await? {
                Ok(decision) => commit.decisions.push(decision),
                Err(why) => {
                    tracing::warn!(
                        approval = id,
                        exception = item,
                        why,
                        "what was approved cannot be done for one"
                    );
                    refused += 1;
                }
            }
        }
        if let Some(engine) = &self.engine {
            let in_flight = engine.live.now().limits.in_flight();
            tokio::select! {
                () = engine.handoff.room(in_flight) => {}
                // Nothing is begun: the next start goes on here.
                () = engine.stop.cancelled() => return Ok(false),
            }
        }
        commit.approvals.push(ApprovalChange::Take {
            id,
            from,
            to: from + i64::try_from(items.len()).unwrap_or(1),
            refused,
        });
        let acting = Acting {
            actor: Arc::from(approval.who.as_str()),
            kind: kind_of(&approval.kind),
            behind: approval.behind.as_deref().map(Arc::from),
            via: Via::Engine,
            source: None,
            request: Some(Arc::from(format!("approval {id}"))),
        };
        self.of(acting).go_on(commit).await?;
        Ok(true)
    }
}

/// Whether who would approve is who has asked, by another name, too: the maker of the token that has asked, a token that who has asked has made,
/// or the same person at the provider.
fn is_same(asked: &Approval, who: &str, behind: Option<&str>) -> bool {
    let folded = |name: &str| name.trim().to_lowercase();
    let names = |name: &str, behind: Option<&str>| (folded(name), behind.map(folded));
    let (author, made) = names(&asked.who, asked.behind.as_deref());
    let (other, made_other) = names(who, behind);
    let is_provider = asked.kind == ActorKind::Identity.name();
    author == other
        || made.as_ref() == Some(&other)
        || made_other.as_ref() == Some(&author)
        || is_provider && made.is_some() && made == made_other
}

/// Who does what was approved.
fn names(approval: &Approval, by: &str) -> String {
    format!("{}, approved by {by}", approval.who)
}

fn kind_of(name: &str) -> ActorKind {
    let all = [ActorKind::Token, ActorKind::Identity];
    let known = all.into_iter().find(|kind| kind.name() == name);
    known.unwrap_or(ActorKind::User)
}

fn wish(approval: &Approval) -> Result<Wish, Failure> {
    serde_json::from_str(&approval.wish).map_err(|error| {
        Failure::new(
            Class::Conflict,
            format!("what was asked for cannot be read by this version ({error}): refuse it, and ask anew"),
        )
    })
}

fn few(many: usize) -> Result<(), Failure> {
    match many > ITEMS_MAX {
        false => Ok(()),
        true => Err(Failure::validation(format!(
            "a request may be about {ITEMS_MAX} at most; choose fewer"
        ))),
    }
}

/// Works on what was approved, and ends what nobody has decided about, until the engine stops.
pub(super) async fn run(shared: Arc<Shared>, desk: Desk) {
    let mut stuck = HashSet::new();
    loop {
        let pause = match work(&shared, &desk, &mut stuck).await {
            Ok(true) => Duration::ZERO,
            Ok(false) => IDLE,
            Err(failure) => {
                if !shared.store.has_said(&failure) {
                    tracing::error!(%failure, "what was approved could not go on; it is tried again");
                }
                STORE_PAUSE
            }
        };
        tokio::select! {
            () = shared.stop.cancelled() => return,
            () = shared.approvals.rung.notified() => {}
            () = shared.world.clock.sleep(pause) => {}
        }
        if shared.stop.is_cancelled() {
            return;
        }
    }
}

/// Some items of each approved request. Gives whether there may be more.
///
/// What cannot go on keeps nothing else, and is said once: `stuck` are those of which it was.
async fn work(shared: &Shared, desk: &Desk, stuck: &mut HashSet<i64>) -> Result<bool, Failure> {
    let now_ms = shared.store.now_ms();
    let mut more = false;
    let open = shared.store.approvals_open(OPEN_MAX).await?;
    stuck.retain(|id| open.iter().any(|approval| approval.id == *id));
    for approval in open {
        if shared.stop.is_cancelled() {
            return Ok(false);
        }
        match approval.state {
            ApprovalState::Approved => match desk.work_on(&approval).await {
                Ok(some) => {
                    stuck.remove(&approval.id);
                    more |= some;
                }
                Err(failure) => {
                    if stuck.insert(approval.id) && !shared.store.has_said(&failure) {
                        tracing::error!(
                            approval = approval.id,
                            %failure,
                            "what was approved cannot go on; it is tried again, and `crossdock refuse` ends it"
                        );
                    }
                }
            },
            _ if approval.ends_at_ms <= now_ms => {
                let end = ApprovalChange::End(approval.id);
                desk.decide_approval(Commit::default(), end).await?;
            }
            _ => {}
        }
    }
    Ok(more)
}
