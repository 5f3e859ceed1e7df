//! What happens around a system whose health changes: one line in the log, one row in the store, and after a restart the outage goes on. Beside
//! other engines this one says all the time that its rows still hold.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use super::{Shared, toggles};
use crate::failure::Failure;
use crate::flow::plan::{Action, Project};
use crate::store::commit::{Commit, SystemState, SystemStep};
use crate::store::notices::NoticeChange;
use crate::store::toggles::Toggle;
use crate::system::admission::Admission;
use crate::system::circuit::Outage;
use crate::system::health::{Health, Paused, Told};

/// How often a system with maintenance is looked at: its beginning comes with the clock alone.
const LOOK: Duration = Duration::from_secs(1);
/// How often an engine says that it still sees a system so, where others share its store: several times within what a view counts.
const STILL_EVERY_MS: i64 = 5_000;

/// A system, and the steps that act on it.
pub(super) struct Watched {
    admission: Arc<Admission>,
    steps: Vec<SystemStep>,
    /// Whether a flow of high criticality uses it.
    high: bool,
    told: Told,
    /// What of it is not in the store yet.
    owed: Option<Owed>,
}

/// A change that the store has not taken yet.
#[derive(Default)]
struct Owed {
    notices: Vec<NoticeChange>,
    /// Whether the log says so.
    said: bool,
}

/// All systems of a project.
fn all(project: &Project) -> BTreeMap<Arc<str>, Watched> {
    let mut systems = BTreeMap::new();
    let watched = |admission: &Arc<Admission>| Watched {
        told: Told::up(0),
        admission: admission.clone(),
        steps: Vec::new(),
        high: false,
        owed: None,
    };
    for system in project.library.systems.values() {
        systems.insert(system.name().clone(), watched(system.admission()));
    }
    for plan in project.plans.values() {
        for node in &plan.nodes {
            let Action::Effect(effect) = &node.action else {
                continue;
            };
            let Some(admission) = effect.admission() else {
                continue;
            };
            let name = admission.name().clone();
            let system = systems
                .entry(name.clone())
                .or_insert_with(|| watched(admission));
            let step = SystemStep::new(&name, &plan.flow, &node.id);
            system.steps.push(step);
            system.high |= plan.high;
        }
    }
    systems
}

/// Admission to each system of a project, by name.
pub(super) fn admissions(project: &Project) -> BTreeMap<Arc<str>, Arc<Admission>> {
    let systems = all(project).into_iter();
    systems
        .map(|(name, system)| (name, system.admission))
        .collect()
}

/// The systems of an older project go on as those of the one that runs.
pub(super) fn join(older: &Project, now: &Project) {
    let now = all(now);
    for (name, system) in all(older) {
        if let Some(now) = now.get(&name) {
            system.admission.follows(&now.admission);
        }
    }
}

/// The systems with these names are not as they were: their new rules count, and what waits for them is tried at once.
pub(super) async fn begin_anew(
    shared: &Shared,
    project: &Project,
    names: &[&str],
) -> Result<(), Failure> {
    let mut hurry = Vec::new();
    for (name, system) in all(project) {
        if names.contains(&&*name) {
            system.admission.begins_anew();
            let steps = system.steps.into_iter();
            hurry.extend(steps.map(|step| (step.flow, step.step)));
        }
    }
    if hurry.is_empty() {
        return Ok(());
    }
    let commit = Commit {
        hurry,
        ..Commit::default()
    };
    shared.commit(commit).await?;
    shared.bell.due_at(shared.store.now_ms());
    Ok(())
}

/// From now on nothing is sent to those systems of which this tells that they are stopped, and only to them.
pub(super) fn pause(project: &Project, stopped: impl Fn(&str) -> Option<Toggle>) {
    for (name, system) in all(project) {
        let paused = stopped(&name).map(|toggle| Paused {
            since_ms: toggle.since_ms,
            until_ms: toggle.until_ms,
            reason: toggles::told(&toggle),
        });
        system.admission.pause(paused);
    }
}

/// Gives the systems of a project their clock and what is known of them from before, and writes down which steps use them. Called before its
/// stages start, and at the start of an engine with nothing before it.
pub(super) async fn begin(
    shared: &Shared,
    project: &Project,
    before: Option<&Project>,
) -> Result<Vec<Watched>, Failure> {
    let known = shared.store.system_states().await?;
    let mut last = before.map(all).unwrap_or_default();
    let mut systems: Vec<Watched> = all(project).into_values().collect();
    for system in &mut systems {
        let name = system.admission.name();
        if let Some(last) = last.remove(name) {
            system.admission.follows(&last.admission);
        }
        let outage = known
            .iter()
            .find(|state| state.name == *name && *state.health == *Health::Down.name())
            .map(|state| {
                let outage = Outage {
                    since_ms: state.since_ms,
                    times: state.times.max(1),
                };
                (outage, state.until_ms.unwrap_or(0), state.reason.clone())
            });
        system.admission.starts(&shared.world, outage);
        if system.high {
            system.admission.keep_share_for_high();
        }
        system.told = system.admission.told();
    }
    let steps = systems.iter().flat_map(|system| system.steps.clone());
    let states = systems.iter().map(Watched::state);
    let commit = Commit {
        system_steps: Some((steps.collect(), states.collect())),
        ..Commit::default()
    };
    shared.commit(commit).await?;
    Ok(systems)
}

impl Watched {
    /// Tells what changes, until it is stopped. At the start of an engine it says what is down.
    pub(super) async fn run(
        mut self,
        shared: Arc<Shared>,
        stop: CancellationToken,
        at_start: bool,
    ) {
        let mut turns = self.admission.turns();
        if at_start && self.told.health != Health::Up {
            self.say(&shared, &self.told, None);
        }
        let clock = shared.world.clock.clone();
        let mut still_at_ms = clock.steady_ms() + STILL_EVERY_MS;
        loop {
            let told = self.admission.told();
            if told != self.told {
                let turned = told.health != self.told.health;
                if turned {
                    self.say(&shared, &told, Some(&self.told));
                }
                self.told = told;
                let notice = self.notice().filter(|_| turned);
                self.owed.get_or_insert_default().notices.extend(notice);
            }
            self.store(&shared).await;
            let left_ms = still_at_ms.saturating_sub(clock.steady_ms());
            let left = Duration::from_millis(u64::try_from(left_ms).unwrap_or(0));
            tokio::select! {
                // What it owes is the last that it says; another one follows it.
                () = stop.cancelled() => return self.store(&shared).await,
                _ = turns.changed() => {}
                () = clock.sleep(LOOK), if self.owed.is_some() || self.admission.has_maintenance() => {}
                () = clock.sleep(left), if shared.store.is_shared() => {
                    still_at_ms = clock.steady_ms() + STILL_EVERY_MS;
                    self.still(&shared).await;
                }
            }
        }
    }

    /// Stores what has changed. What the store cannot take now is tried again: nobody else would ever say it.
    async fn store(&mut self, shared: &Shared) {
        let Some(mut owed) = self.owed.take() else {
            return;
        };
        let commit = Commit {
            systems: vec![self.state()],
            notices: owed.notices.clone(),
            ..Commit::default()
        };
        if let Err(failure) = shared.commit(commit).await {
            if !shared.store.has_said(&failure) && !std::mem::replace(&mut owed.said, true) {
                tracing::warn!(%failure, system = %self.admission.name(), "the system's state is stored as soon as the store takes it");
            }
            self.owed = Some(owed);
        }
    }

    /// Says that the rows of this engine still hold. What is wrong with the store is said elsewhere.
    async fn still(&self, shared: &Shared) {
        let commit = Commit {
            systems_still: vec![self.state()],
            ..Commit::default()
        };
        if let Err(failure) = shared.commit(commit).await {
            tracing::debug!(%failure, system = %self.admission.name(), "nobody is told that the system's state still holds");
        }
    }

    fn state(&self) -> SystemState {
        SystemState {
            name: self.admission.name().clone(),
            health: Arc::from(self.told.health.name()),
            since_ms: self.told.since_ms,
            until_ms: self.told.until_ms,
            times: self.told.times,
            reason: self.told.reason.clone(),
        }
    }

    /// What people are told: that it is down, or refuses the credentials.
    fn notice(&self) -> Option<NoticeChange> {
        let told = &self.told;
        matches!(told.health, Health::Down | Health::Refused).then(|| {
            let (name, why) = (self.admission.name().clone(), told.reason.clone());
            NoticeChange::SystemDown(name, told.health.name(), why)
        })
    }

    /// One line about what has changed.
    fn say(&self, shared: &Shared, told: &Told, before: Option<&Told>) {
        let name = self.admission.name();
        let waiting: usize = self
            .steps
            .iter()
            .map(|step| shared.handoff.ready(&step.flow, &step.step))
            .sum();
        let since = clock(told.since_ms);
        let wait = match waiting {
            1 => "1 message waits".to_owned(),
            many => format!("{} messages wait", thousands(many)),
        };
        match told.health {
            Health::Down => {
                tracing::error!(name: "system.down", system = %name, reason = %told.reason, "{name} is down since {since}; {wait} and lose no attempt");
            }
            Health::Refused => {
                tracing::error!(name: "system.refused", system = %name, reason = %told.reason, "{name} REFUSES THE CREDENTIALS since {since}: check the system's auth; {wait} and lose no attempt");
            }
            Health::Maintenance => {
                let until = told.until_ms.map(clock).unwrap_or_default();
                tracing::info!(name: "system.maintenance", system = %name, window = %told.reason, "{name} is in maintenance until {until}; {wait}");
            }
            Health::Paused => {
                tracing::warn!("{name} is {}; {wait}", told.reason);
            }
            Health::Up => {
                let away_ms = before.map_or(0, |was| told.since_ms.saturating_sub(was.since_ms));
                let away = Duration::from_secs(u64::try_from(away_ms / 1_000).unwrap_or(0));
                tracing::info!(name: "system.up", system = %name, "{name} is up again after {away:?}; {wait} no longer");
            }
        }
    }
}

/// A time of the day, UTC.
fn clock(at_ms: i64) -> String {
    Timestamp::from_millisecond(at_ms)
        .unwrap_or_default()
        .strftime("%H:%M:%SZ")
        .to_string()
}

/// A number with commas.
fn thousands(number: usize) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (nth, digit) in digits.chars().enumerate() {
        if nth > 0 && (digits.len() - nth).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_commas() {
        let texts = [7, 1_204, 1_000_000].map(thousands);
        assert_eq!(texts, ["7", "1,204", "1,000,000"]);
    }
}
