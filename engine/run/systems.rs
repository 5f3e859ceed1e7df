//! What happens around a system whose health changes: one line in the log, one row in the store, and after a restart the outage goes on.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use super::Shared;
use crate::failure::Failure;
use crate::flow::plan::{Action, Project};
use crate::store::commit::{Commit, SystemState, SystemStep};
use crate::store::notices::NoticeChange;
use crate::system::admission::{Admission, Health, Told};
use crate::system::circuit::Outage;

/// How often a system with maintenance is looked at: its beginning comes with the clock alone.
const LOOK: Duration = Duration::from_secs(1);

/// A system, and the steps that act on it.
pub(super) struct Watched {
    admission: Arc<Admission>,
    steps: Vec<SystemStep>,
    /// Whether a flow of high criticality uses it.
    high: bool,
    told: Told,
}

/// All systems of a project.
fn all(project: &Project) -> BTreeMap<Arc<str>, Watched> {
    let mut systems = BTreeMap::new();
    let watched = |admission: &Arc<Admission>| Watched {
        told: Told::up(0),
        admission: admission.clone(),
        steps: Vec::new(),
        high: false,
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

/// Gives the systems their clock and what is known of them from before, and writes down which steps use them. Called before stages start.
pub(super) async fn begin(shared: &Shared) -> Result<Vec<Watched>, Failure> {
    let known = shared.store.system_states().await?;
    let mut systems: Vec<Watched> = all(&shared.project).into_values().collect();
    for system in &mut systems {
        let name = system.admission.name();
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
    /// Tells what changes, until the engine stops.
    pub(super) async fn run(mut self, shared: Arc<Shared>) {
        let mut turns = self.admission.turns();
        if self.told.health != Health::Up {
            self.say(&shared, &self.told, None);
        }
        loop {
            let told = self.admission.told();
            if told != self.told {
                let turned = told.health != self.told.health;
                if turned {
                    self.say(&shared, &told, Some(&self.told));
                }
                self.told = told;
                let commit = Commit {
                    systems: vec![self.state()],
                    notices: self.notice().filter(|_| turned).into_iter().collect(),
                    ..Commit::default()
                };
                if let Err(failure) = shared.commit(commit).await {
                    tracing::error!(%failure, system = %self.admission.name(), "the system's state could not be stored");
                }
            }
            tokio::select! {
                () = shared.stop.cancelled() => return,
                _ = turns.changed() => {}
                () = shared.world.clock.sleep(LOOK), if self.admission.has_maintenance() => {}
            }
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
            let why = format!("{}: {}", told.health.name(), told.reason);
            NoticeChange::SystemDown(self.admission.name().clone(), why)
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
                tracing::error!(reason = %told.reason, "{name} is down since {since}; {wait} and lose no attempt");
            }
            Health::Refused => {
                tracing::error!(reason = %told.reason, "{name} REFUSES THE CREDENTIALS since {since}: check the system's auth; {wait} and lose no attempt");
            }
            Health::Maintenance => {
                let until = told.until_ms.map(clock).unwrap_or_default();
                tracing::info!(window = %told.reason, "{name} is in maintenance until {until}; {wait}");
            }
            Health::Up => {
                let away_ms = before.map_or(0, |was| told.since_ms.saturating_sub(was.since_ms));
                let away = Duration::from_secs(u64::try_from(away_ms / 1_000).unwrap_or(0));
                tracing::info!("{name} is up again after {away:?}; {wait} no longer");
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
