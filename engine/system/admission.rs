//! Whether a system takes calls now: its circuit, its credentials, its maintenance, its rate and its places, in one object that all flows share.
//! It knows neither HTTP nor flows: any kind of system can have one.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use tokio::sync::{Notify, watch};

use self::high::HighWaits;
use super::budget::Budget;
use super::circuit::{Admits, Change, Circuit, Outage, Rule};
use super::gate::{Gate, Shut};
use super::health::{Health, Paused, Told, Verdict};
use super::maintenance::Maintenance;
use crate::component::words::Rate;
use crate::failure::{Class, Failure};
use crate::world::World;
use crate::world::metrics::SystemMeter;

mod high;
#[cfg(test)]
mod tests;

/// The longest sleep of those who wait: a clock that was moved is noticed after it.
const SLEEP_MOST_MS: i64 = 5_000;

/// What a system's file says about calls to it.
#[derive(Clone, Debug)]
pub struct Rules {
    /// When it counts as down; `None`: never.
    pub circuit: Option<Rule>,
    /// How often a system that refuses the credentials is tried again, in milliseconds.
    pub retry_auth_ms: u64,
    /// Which share of all calls may be repeats that fail, in percent.
    pub retry_percent: u32,
    /// When it is not to be called.
    pub maintenance: Vec<Maintenance>,
    /// How many calls may be under way at once.
    pub concurrency: usize,
    /// How many calls in a time, and how many at once after a quiet time.
    pub rate: Option<(Rate, u32)>,
}

impl Default for Rules {
    fn default() -> Rules {
        Rules {
            circuit: Some(Rule::DEFAULT),
            retry_auth_ms: super::RETRY_AUTH.ms,
            retry_percent: super::RETRY_BUDGET.of_100,
            maintenance: Vec::new(),
            concurrency: super::CONCURRENCY as usize,
            rate: None,
        }
    }
}

/// Whether a system takes calls now.
pub struct Admission {
    name: Arc<str>,
    rules: Rules,
    /// Made at the first use, or that of the system's last revision: calls count wherever they come from.
    shared: OnceLock<Arc<Shared>>,
}

/// What all revisions of a system share.
struct Shared {
    world: OnceLock<World>,
    meter: OnceLock<SystemMeter>,
    state: Mutex<State>,
    /// Rises when its health changes.
    turns: watch::Sender<u64>,
    /// A place has become free, or the health has changed.
    moved: Notify,
}

struct State {
    circuit: Option<Circuit>,
    refused: Option<Refused>,
    paused: Option<Paused>,
    gate: Gate,
    budget: Budget,
    /// What the last failed call said.
    last: String,
    /// When it last came up.
    up_since_ms: i64,
}

/// Since when the credentials are refused.
struct Refused {
    since_ms: i64,
    again_ms: i64,
    under_way: bool,
    reason: String,
}

/// What decides about a call that was let through.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Trial {
    No,
    Circuit,
    Credentials,
}

/// Whether anything may be sent.
enum Look {
    Open,
    Trial(Trial),
    /// Not before this time; `None`: not before something changes.
    Shut(Option<i64>),
}

impl Admission {
    /// Admission to the system of this name. Until `starts` it lives in the real world.
    pub fn new(name: &str, rules: Rules) -> Admission {
        Admission {
            name: Arc::from(name),
            rules,
            shared: OnceLock::new(),
        }
    }

    /// The system's last revision goes on as this one: what is under way, its rate, its circuit. Nothing if this one was used before.
    pub fn follows(&self, last: &Admission) {
        self.shared.set(last.shared().clone()).ok();
    }

    /// From now on the rules of this revision count. If the system takes no calls now, one tries it at once: what kept it may have been mended.
    pub fn begins_anew(&self) {
        let now_ms = self.now_ms();
        let mut state = self.state();
        state.circuit = match (state.circuit.take(), self.rules.circuit.clone()) {
            (Some(circuit), Some(rule)) => Some(circuit.under(rule, now_ms)),
            (None, rule) => rule.map(Circuit::new),
            (_, None) => None,
        };
        state.refused = None;
        state.gate.allow(self.rules.concurrency, self.rules.rate);
        state.budget.allow(self.rules.retry_percent);
        drop(state);
        self.shared().turns.send_modify(|turn| *turn += 1);
        self.shared().moved.notify_waiters();
    }

    fn shared(&self) -> &Arc<Shared> {
        let rules = &self.rules;
        self.shared.get_or_init(|| {
            Arc::new(Shared {
                state: Mutex::new(State {
                    circuit: rules.circuit.clone().map(Circuit::new),
                    refused: None,
                    paused: None,
                    gate: Gate::new(rules.concurrency, rules.rate),
                    budget: Budget::new(rules.retry_percent),
                    last: String::new(),
                    up_since_ms: 0,
                }),
                world: OnceLock::new(),
                meter: OnceLock::new(),
                turns: watch::Sender::new(0),
                moved: Notify::new(),
            })
        })
    }

    /// The system's name.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// An engine starts that has this clock and this randomness. An outage that the last process has left goes on until this time.
    pub fn starts(&self, world: &World, outage: Option<(Outage, i64, String)>) {
        if self.shared().world.set(world.clone()).is_err() {
            return;
        }
        // From here on it is counted, also where it is never called.
        self.meter();
        let mut state = self.state();
        state.up_since_ms = world.clock.now_ms();
        if let (Some((outage, until_ms, reason)), Some(circuit)) = (outage, &mut state.circuit) {
            circuit.restore(outage, until_ms);
            state.last = reason;
        }
    }

    /// From now on nothing is sent, or is sent again. What is under way is finished.
    pub fn pause(&self, paused: Option<Paused>) {
        let mut state = self.state();
        if state.paused == paused {
            return;
        }
        if paused.is_none() && state.circuit.as_ref().and_then(Circuit::outage).is_none() {
            state.up_since_ms = self.now_ms();
        }
        state.paused = paused;
        drop(state);
        self.shared().turns.send_modify(|turn| *turn += 1);
        self.shared().moved.notify_waiters();
    }

    /// From now on a share of the places and of the rate is kept for flows of high criticality.
    pub fn keep_share_for_high(&self) {
        self.state().gate.keep_share();
    }

    /// How it is now.
    pub fn told(&self) -> Told {
        let now_ms = self.now_ms();
        let state = self.state();
        if let Some(paused) = &state.paused {
            return Told {
                health: Health::Paused,
                since_ms: paused.since_ms,
                until_ms: paused.until_ms,
                reason: paused.reason.clone(),
                times: 0,
            };
        }
        if let Some((since_ms, until_ms, window)) = self.maintained(now_ms) {
            return Told {
                health: Health::Maintenance,
                since_ms,
                until_ms: Some(until_ms),
                reason: window.to_owned(),
                times: 0,
            };
        }
        if let Some(refused) = &state.refused {
            return Told {
                health: Health::Refused,
                since_ms: refused.since_ms,
                until_ms: (!refused.under_way).then_some(refused.again_ms),
                reason: refused.reason.clone(),
                times: 0,
            };
        }
        match state.circuit.as_ref().and_then(Circuit::outage) {
            Some((outage, until_ms)) => Told {
                health: Health::Down,
                since_ms: outage.since_ms,
                until_ms,
                reason: state.last.clone(),
                times: outage.times,
            },
            None => Told::up(state.up_since_ms),
        }
    }

    /// Tells when its health changes; maintenance, which comes with the time, is not told.
    pub fn turns(&self) -> watch::Receiver<u64> {
        self.shared().turns.subscribe()
    }

    /// Whether the clock alone can change its health.
    pub fn has_maintenance(&self) -> bool {
        !self.rules.maintenance.is_empty()
    }

    /// Waits until a call may be made. Gives how many may be begun: one, while the system is being tried.
    pub async fn opened(&self) -> usize {
        loop {
            let moved = self.shared().moved.notified();
            tokio::pin!(moved);
            moved.as_mut().enable();
            let now_ms = self.now_ms();
            let until_ms = match self.look(&self.state(), now_ms) {
                Look::Open => return usize::MAX,
                Look::Trial(_) => return 1,
                Look::Shut(until_ms) => until_ms,
            };
            self.sleep_or(moved, now_ms, until_ms).await;
        }
    }

    /// Whether a person has stopped it: then nothing stands in for its answers either.
    pub fn is_paused(&self) -> bool {
        self.state().paused.is_some()
    }

    /// Whether a call may be made now.
    pub fn is_open(&self) -> bool {
        !matches!(self.look(&self.state(), self.now_ms()), Look::Shut(_))
    }

    /// Takes a call's place and its turn in the rate, and waits for them at most so long. A failure means that nothing may be sent now, and
    /// says nothing about the message: it waits, without an attempt.
    pub async fn enter(self: &Arc<Self>, high: bool, timeout: Duration) -> Result<Pass, Failure> {
        let late_ms = self.now_ms() + i64::try_from(timeout.as_millis()).unwrap_or(i64::MAX / 4);
        let mut waiting = None;
        loop {
            let moved = self.shared().moved.notified();
            tokio::pin!(moved);
            moved.as_mut().enable();
            let now_ms = self.now_ms();
            let until_ms = match self.try_enter(high, now_ms)? {
                Ok(trial) => {
                    return Ok(Pass {
                        admission: self.clone(),
                        trial,
                        open: true,
                        began: Instant::now(),
                    });
                }
                Err(Shut::Crowded) if now_ms >= late_ms => return Err(self.crowded()),
                Err(Shut::Crowded) => late_ms,
                Err(Shut::Fast(wait_ms)) => {
                    let free_ms = now_ms + i64::try_from(wait_ms).unwrap_or(i64::MAX / 4);
                    if free_ms > late_ms {
                        return Err(self.fast(wait_ms));
                    }
                    free_ms
                }
            };
            if high && waiting.is_none() {
                waiting = Some(HighWaits::new(self));
            }
            self.sleep_or(moved, now_ms, Some(until_ms)).await;
        }
    }

    /// How many repeats may begin now, by the retry budget.
    pub fn repeats_free(&self) -> usize {
        self.state().budget.free(self.now_ms()) as usize
    }

    /// A repeat begins; how it ends is to be told.
    pub fn repeat(self: &Arc<Self>) -> Repeat {
        self.state().budget.begins();
        Repeat {
            admission: self.clone(),
            failed: false,
        }
    }

    fn try_enter(&self, high: bool, now_ms: i64) -> Result<Result<Trial, Shut>, Failure> {
        let mut state = self.state();
        let trial = match self.look(&state, now_ms) {
            Look::Open => Trial::No,
            Look::Trial(trial) => trial,
            Look::Shut(until_ms) => {
                drop(state);
                return Err(self.shut(now_ms, until_ms));
            }
        };
        if let Err(shut) = state.gate.enter(high, now_ms) {
            return Ok(Err(shut));
        }
        match trial {
            Trial::No => {}
            Trial::Circuit => {
                if let Some(circuit) = &mut state.circuit {
                    circuit.admits(now_ms);
                }
            }
            Trial::Credentials => {
                if let Some(refused) = &mut state.refused {
                    refused.under_way = true;
                }
            }
        }
        Ok(Ok(trial))
    }

    fn look(&self, state: &State, now_ms: i64) -> Look {
        if state.paused.is_some() {
            return Look::Shut(None);
        }
        if let Some((_, until_ms, _)) = self.maintained(now_ms) {
            return Look::Shut(Some(until_ms));
        }
        if let Some(refused) = &state.refused {
            let far_ms = i64::try_from(self.rules.retry_auth_ms).unwrap_or(i64::MAX);
            let still = now_ms < refused.again_ms && refused.again_ms - now_ms <= far_ms;
            return match refused.under_way {
                true => Look::Shut(None),
                false if still => Look::Shut(Some(refused.again_ms)),
                false => Look::Trial(Trial::Credentials),
            };
        }
        match state.circuit.as_ref().map(|circuit| circuit.looks(now_ms)) {
            None | Some(Admits::Yes) => Look::Open,
            Some(Admits::Trial) => Look::Trial(Trial::Circuit),
            Some(Admits::NotBefore(until_ms)) => Look::Shut(Some(until_ms)),
            Some(Admits::NotYet) => Look::Shut(None),
        }
    }

    /// The maintenance of this time: since when, until when, and how it was written.
    fn maintained(&self, now_ms: i64) -> Option<(i64, i64, &str)> {
        self.rules.maintenance.iter().find_map(|window| {
            let (since_ms, until_ms) = window.covers(now_ms)?;
            Some((since_ms, until_ms, window.text()))
        })
    }

    /// A call has ended: its place is free, and what it says about the system counts.
    fn over(&self, trial: Trial, verdict: Verdict) {
        let now_ms = self.now_ms();
        let mut state = self.state();
        state.gate.leave();
        if verdict != Verdict::Nothing {
            state.budget.called(now_ms);
        }
        let changed = match verdict {
            Verdict::Nothing => {
                state.gives_up(trial);
                false
            }
            Verdict::Refused(reason) => {
                state.gives_up(trial);
                self.refuse(&mut state, now_ms, reason)
            }
            Verdict::Good => self.went(&mut state, now_ms, trial, None),
            Verdict::Failed(reason) => self.went(&mut state, now_ms, trial, Some(reason)),
        };
        drop(state);
        if changed {
            self.shared().turns.send_modify(|turn| *turn += 1);
        }
        self.shared().moved.notify_waiters();
    }

    fn refuse(&self, state: &mut State, now_ms: i64, reason: String) -> bool {
        let since_ms = state.refused.as_ref().map_or(now_ms, |was| was.since_ms);
        let wait_ms = i64::try_from(self.rules.retry_auth_ms).unwrap_or(i64::MAX / 4);
        state.refused = Some(Refused {
            since_ms,
            again_ms: now_ms + wait_ms,
            under_way: false,
            reason,
        });
        true
    }

    /// A call went well, or failed for this reason.
    fn went(&self, state: &mut State, now_ms: i64, trial: Trial, failed: Option<String>) -> bool {
        let mut changed = false;
        if trial == Trial::Credentials && state.refused.take().is_some() {
            state.up_since_ms = now_ms;
            changed = true;
        }
        let good = failed.is_none();
        let Some(circuit) = &mut state.circuit else {
            return changed;
        };
        let random = &self.world().random;
        let vary = |span| random.below(span);
        let change = circuit.ends(now_ms, trial == Trial::Circuit, good, vary);
        match (change, failed) {
            (Some(Change::Opened), Some(reason)) => {
                let times = circuit.outage().map_or(1, |(outage, _)| outage.times);
                let (calls, failures) = circuit.counts(now_ms);
                let window_s = circuit.rule().window_ms / 1_000;
                state.last = if times == 1 {
                    format!(
                        "{failures} of {calls} calls failed within {window_s}s, the last one: {reason}"
                    )
                } else {
                    reason
                };
            }
            (Some(Change::Closed), _) => state.up_since_ms = now_ms,
            _ => {}
        }
        // Each good trial lets the next one go at once.
        changed || change.is_some()
    }

    /// Why nothing may be sent now.
    fn shut(&self, now_ms: i64, until_ms: Option<i64>) -> Failure {
        let told = self.told();
        let class = match told.health {
            Health::Refused => Class::Auth,
            _ => Class::Unavailable,
        };
        let next = until_ms.map_or_else(
            || "one call tries it now".to_owned(),
            |until_ms| format!("nothing is sent before {}", time(until_ms)),
        );
        let message = match told.health {
            Health::Up | Health::Down => {
                format!(
                    "{} is down since {}; {next}",
                    self.name,
                    time(told.since_ms)
                )
            }
            Health::Refused => format!(
                "{} refuses the credentials since {}; {next}",
                self.name,
                time(told.since_ms)
            ),
            Health::Maintenance => {
                format!("{} is in maintenance ({}); {next}", self.name, told.reason)
            }
            Health::Paused => format!("{} is {}", self.name, told.reason),
        };
        let wait_ms = until_ms.map_or(1_000, |until_ms| until_ms.saturating_sub(now_ms).max(1));
        Failure::new(class, message).with_retry_after_ms(u64::try_from(wait_ms).unwrap_or(1_000))
    }

    fn crowded(&self) -> Failure {
        let message = format!(
            "{}: {} calls are under way, the limit; none ended in time",
            self.name, self.rules.concurrency
        );
        Failure::new(Class::Throttled, message)
    }

    fn fast(&self, wait_ms: u64) -> Failure {
        let message = format!("{}: the system's rate is used up", self.name);
        Failure::new(Class::Throttled, message).with_retry_after_ms(wait_ms)
    }

    /// Sleeps until a time, or until something has moved.
    async fn sleep_or(
        &self,
        moved: std::pin::Pin<&mut tokio::sync::futures::Notified<'_>>,
        now_ms: i64,
        until_ms: Option<i64>,
    ) {
        let left = until_ms.map_or(SLEEP_MOST_MS, |until_ms| until_ms - now_ms);
        let left = u64::try_from(left.clamp(1, SLEEP_MOST_MS)).unwrap_or(1);
        tokio::select! {
            () = moved => {}
            () = self.world().clock.sleep(Duration::from_millis(left)) => {}
        }
    }

    /// The time of the world in which it lives, in milliseconds since 1970.
    pub(crate) fn now_ms(&self) -> i64 {
        self.world().clock.now_ms()
    }

    /// Milliseconds that pass evenly in that world; only differences mean anything.
    pub(crate) fn steady_ms(&self) -> i64 {
        self.world().clock.steady_ms()
    }

    fn meter(&self) -> &SystemMeter {
        let metrics = &self.world().metrics;
        self.shared()
            .meter
            .get_or_init(|| metrics.system(&self.name))
    }

    pub(super) fn world(&self) -> &World {
        self.shared().world.get_or_init(World::real)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared()
            .state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// A trial has said nothing.
    fn gives_up(&mut self, trial: Trial) {
        match (trial, &mut self.circuit, &mut self.refused) {
            (Trial::Circuit, Some(circuit), _) => circuit.gives_up(),
            (Trial::Credentials, _, Some(refused)) => refused.under_way = false,
            _ => {}
        }
    }
}

/// A call that was let through. Without a verdict it says nothing about the system.
pub struct Pass {
    admission: Arc<Admission>,
    trial: Trial,
    open: bool,
    began: Instant,
}

impl Pass {
    /// The system has answered, be it with a no.
    pub fn answered(self) {
        let took = self.began.elapsed();
        self.admission.meter().answered(took);
        self.ends(Verdict::Good);
    }

    /// The call has failed.
    pub fn failed(self, failure: &Failure) {
        self.lost(failure, failure.class == Class::Ambiguous);
    }

    /// The call has failed, and nobody knows whether it took effect.
    pub fn unknown(self, failure: &Failure) {
        self.lost(failure, true);
    }

    fn lost(self, failure: &Failure, ambiguous: bool) {
        let (class, took) = (failure.class, self.began.elapsed());
        let meter = self.admission.meter();
        meter.failed(class.name(), ambiguous, took);
        self.ends(Verdict::of(failure));
    }

    /// The call has ended.
    fn ends(mut self, verdict: Verdict) {
        self.open = false;
        self.admission.over(self.trial, verdict);
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        if self.open {
            self.admission.meter().broken_off();
            self.admission.over(self.trial, Verdict::Nothing);
        }
    }
}

/// A repeat under way, for the retry budget.
pub struct Repeat {
    admission: Arc<Admission>,
    failed: bool,
}

impl Repeat {
    /// It has failed, and may be repeated once more.
    pub fn failed(&mut self) {
        self.failed = true;
    }
}

impl Drop for Repeat {
    fn drop(&mut self) {
        let now_ms = self.admission.now_ms();
        self.admission.state().budget.ends(now_ms, self.failed);
    }
}

/// A time as it is shown: to the second.
fn time(at_ms: i64) -> String {
    Timestamp::from_millisecond(at_ms / 1_000 * 1_000)
        .unwrap_or_default()
        .to_string()
}
