//! What an engine has seen of the shadow that runs: messages that wait to be looked at, and what came of those that were.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::AtomicI64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use tokio::sync::Notify;

use super::compare::{self, Compared, Sides};
use crate::expression::Expression;
use crate::run::canary::{WHOLE, place};
use crate::store::commit::{Accepted, Commit, Committed, NewRun, RunId};
use crate::store::runs::RunDetail;
use crate::store::shadows::{Counts, EXAMPLES_MAX, Example, Finding, Shadow, ShadowChange};

/// So many messages wait to be looked at; what comes beyond them is not looked at, and counted.
const WAITING_MAX: usize = 2_000;
/// So many are looked at together.
const BATCH: usize = 20;
/// So many differences are told apart before they are written down.
const TOLD_MAX: usize = 300;
/// So much of the name of a step or field is kept, in characters: an index of the store has no room for more.
const NAME_MAX: usize = 300;

/// The shadow that this engine follows, if one runs.
#[derive(Default)]
pub(in crate::run) struct Shadows {
    pub(super) now: RwLock<Option<Arc<Watching>>>,
    /// One at a time finds out what is to be followed.
    pub(super) following: tokio::sync::Mutex<()>,
    /// The shadow of which it was said that this engine does not follow it.
    pub(super) other: AtomicI64,
    /// Rung when there may be another shadow.
    pub(super) bell: Notify,
}

/// A shadow that runs, and what it has seen.
pub(super) struct Watching {
    pub(super) shadow: Shadow,
    pub(super) flows: BTreeMap<Arc<str>, Arc<Sides>>,
    pub(super) when: Option<Expression>,
    pub(super) seen: Mutex<Seen>,
}

#[derive(Default)]
pub(super) struct Seen {
    pub(super) waiting: VecDeque<Waiting>,
    tallies: Tallies,
}

/// A message at which it is to look.
pub(super) struct Waiting {
    pub(super) run: RunId,
    pub(super) flow: Arc<str>,
    pub(super) since_ms: i64,
    /// Not before this time.
    pub(super) look_ms: i64,
}

/// What differences that are counted together have in common: the step, what differs, the field.
type Kind = (Arc<str>, &'static str, String);

/// What came of messages, by flow.
pub(super) type Tallies = BTreeMap<Arc<str>, Tally>;

/// The place of an accept in a commit: that of the end that it belongs to, if it belongs to one, and its own.
type Nth = (Option<usize>, usize);

/// What came of messages since it was last written down.
#[derive(Default)]
pub(super) struct Tally {
    counts: Counts,
    findings: BTreeMap<Kind, (u64, Vec<Example>)>,
    /// Differences beyond those that are told apart.
    more: u64,
}

/// Runs of a commit at which a shadow is to look once they are durable.
pub(in crate::run) struct Chosen {
    watching: Arc<Watching>,
    /// The place in the commit (an accept, or one of an end), the run, its flow.
    runs: Vec<(Nth, RunId, Arc<str>)>,
}

impl Shadows {
    /// The runs of a commit at which the shadow is to look, if one runs.
    pub(in crate::run) fn choose(&self, commit: &Commit) -> Option<Chosen> {
        let watching = self.now()?;
        let accepts = commit.accepts.iter().enumerate();
        let accepts = accepts.map(|(nth, run)| ((None, nth), run));
        let ends = commit.ends.iter().enumerate();
        let ends = ends.flat_map(|(at, end)| {
            let accepts = end.accepts.iter().enumerate();
            accepts.map(move |(nth, run)| ((Some(at), nth), run))
        });
        let runs: Vec<_> = accepts
            .chain(ends)
            .filter(|(_, run)| watching.looks_at(run))
            .map(|(at, run)| (at, run.run, run.flow.clone()))
            .collect();
        (!runs.is_empty()).then_some(Chosen { watching, runs })
    }

    pub(super) fn now(&self) -> Option<Arc<Watching>> {
        let now = self.now.read().unwrap_or_else(PoisonError::into_inner);
        now.clone()
    }

    /// Whether this one is followed.
    pub(super) fn is(&self, watching: &Arc<Watching>) -> bool {
        self.now().is_some_and(|now| Arc::ptr_eq(&now, watching))
    }

    pub(super) fn put(&self, next: Option<Arc<Watching>>) -> Option<Arc<Watching>> {
        let mut now = self.now.write().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut *now, next)
    }
}

impl Chosen {
    /// The commit is durable: what is new in it waits to be looked at.
    pub(in crate::run) fn accepted(self, committed: &Committed, now_ms: i64) {
        let mut seen = self.watching.seen();
        for ((end, nth), run, flow) in self.runs {
            let accepts = match end {
                None => Some(&committed.accepts),
                Some(end) => committed.ends_accepts.get(end),
            };
            let accepted = accepts.and_then(|accepts| accepts.get(nth));
            if !matches!(accepted, Some(Accepted::New | Accepted::Held(_))) {
                continue;
            }
            if seen.waiting.len() >= WAITING_MAX {
                seen.skip(&flow, "too many at once");
                continue;
            }
            seen.waiting.push_back(Waiting {
                run,
                flow,
                since_ms: now_ms,
                look_ms: now_ms,
            });
        }
    }
}

impl Watching {
    fn looks_at(&self, run: &NewRun) -> bool {
        let Some(sides) = self.flows.get(&run.flow) else {
            return false;
        };
        let base = &sides.base.1;
        if run.revision != base.revision {
            // A canary's, or of the moment of a reload.
            self.seen().skip(&run.flow, "under another revision");
            return false;
        }
        if self.shadow.terms.share >= WHOLE {
            return true;
        }
        let key = base.keys.first().and_then(|(name, _)| run.keys.get(name));
        let id = run.root.to_bytes();
        let key = key.map_or(&id[..], |key| key.as_bytes());
        place(self.shadow.id, key) < self.shadow.terms.share
    }

    pub(super) fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Messages at which it is time to look.
    pub(super) fn next(&self, now_ms: i64) -> Vec<Waiting> {
        let mut seen = self.seen();
        let mut next = Vec::new();
        let waiting = std::mem::take(&mut seen.waiting);
        for one in waiting {
            match one.look_ms <= now_ms && next.len() < BATCH {
                true => next.push(one),
                false => seen.waiting.push_back(one),
            }
        }
        next
    }

    /// Counts what came of a message.
    pub(super) fn count(&self, flow: &Arc<str>, detail: &RunDetail, compared: Compared) {
        let mut seen = self.seen();
        let tally = seen.tallies.entry(flow.clone()).or_default();
        let counts = &mut tally.counts;
        counts.compared += 1;
        let differs = compared
            .found
            .iter()
            .any(|one| one.what != "not_comparable");
        match (differs, compared.cut_short) {
            (true, _) => counts.different += 1,
            (false, true) => counts.not_comparable += 1,
            (false, false) => counts.same += 1,
        }
        counts.fails += u64::from(compared.fails);
        for found in compared.found {
            let step = match cut(&found.step) {
                step if step.len() == found.step.len() => found.step,
                step => Arc::from(step),
            };
            let path = cut(&compare::general(&found.path)).to_owned();
            let place = (step, found.what, path);
            if tally.findings.len() >= TOLD_MAX && !tally.findings.contains_key(&place) {
                tally.more += 1;
                continue;
            }
            let (many, examples) = tally.findings.entry(place).or_default();
            *many += 1;
            if examples.len() < EXAMPLES_MAX {
                let keys = detail.row.keys.iter();
                examples.push(Example {
                    run: detail.row.run.0,
                    keys: keys
                        .map(|(name, value)| (name.to_string(), value.clone()))
                        .collect(),
                    path: cut(&found.path).to_owned(),
                    was: found.was,
                    becomes: found.becomes,
                });
            }
        }
    }

    /// What came of messages since the last time.
    pub(super) fn take(&self) -> Tallies {
        std::mem::take(&mut self.seen().tallies)
    }

    /// What could not be written down is written down later.
    pub(super) fn give_back(&self, tallies: Tallies) {
        let mut seen = self.seen();
        for (flow, tally) in tallies {
            seen.tallies.entry(flow).or_default().add(tally);
        }
    }

    /// What is to be written down.
    pub(super) fn told(&self, tallies: &Tallies) -> Vec<ShadowChange> {
        let told = tallies.iter().map(|(flow, tally)| {
            let mut findings: Vec<Finding> = tally
                .findings
                .iter()
                .map(|((step, what, path), (many, examples))| Finding {
                    flow: flow.clone(),
                    step: step.clone(),
                    what: (*what).to_owned(),
                    path: path.clone(),
                    many: *many,
                    examples: examples.clone(),
                })
                .collect();
            if tally.more > 0 {
                findings.push(Finding {
                    flow: flow.clone(),
                    step: Arc::from(""),
                    what: "other".to_owned(),
                    path: String::new(),
                    many: tally.more,
                    examples: Vec::new(),
                });
            }
            ShadowChange::Told(self.shadow.id, flow.clone(), tally.counts.clone(), findings)
        });
        told.collect()
    }

    /// What waits is not looked at any more.
    pub(super) fn leave(&self, why: &str) {
        let mut seen = self.seen();
        for one in std::mem::take(&mut seen.waiting) {
            seen.skip(&one.flow, why);
        }
    }
}

impl Seen {
    pub(super) fn skip(&mut self, flow: &Arc<str>, why: &str) {
        let tally = self.tallies.entry(flow.clone()).or_default();
        *tally.counts.skipped.entry(why.to_owned()).or_default() += 1;
    }
}

impl Tally {
    fn add(&mut self, other: Tally) {
        self.counts.add_all(&other.counts);
        self.more += other.more;
        for (kind, (many, examples)) in other.findings {
            if self.findings.len() >= TOLD_MAX && !self.findings.contains_key(&kind) {
                self.more += many;
                continue;
            }
            let known = self.findings.entry(kind).or_default();
            known.0 += many;
            known.1.extend(examples);
            known.1.truncate(EXAMPLES_MAX);
        }
    }
}

/// A name of a step or field, not all of a long one.
fn cut(name: &str) -> &str {
    let end = name.char_indices().nth(NAME_MAX);
    end.map_or(name, |(at, _)| &name[..at])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn watching() -> Arc<Watching> {
        let shadow = serde_json::from_value(serde_json::json!({
            "id": 1, "revision": "b", "base": "a", "terms": { "flows": {}, "share": WHOLE }, "state": "running", "at_ms": 0, "until_ms": 9,
            "who": "ann", "why": "x",
        }));
        Arc::new(Watching {
            shadow: shadow.unwrap(),
            flows: BTreeMap::new(),
            when: None,
            seen: Mutex::default(),
        })
    }

    fn accept(watching: &Arc<Watching>, accepts: Vec<Accepted>) {
        let runs = (0..accepts.len()).map(|nth| {
            let run = i64::try_from(nth).unwrap();
            ((None, nth), RunId(run), Arc::from("orders"))
        });
        let chosen = Chosen {
            watching: watching.clone(),
            runs: runs.collect(),
        };
        let committed = Committed {
            accepts,
            ..Committed::default()
        };
        chosen.accepted(&committed, 0);
    }

    fn skipped(watching: &Watching) -> BTreeMap<String, u64> {
        let told = watching.told(&watching.take());
        let told = told.into_iter().map(|change| match change {
            ShadowChange::Told(_, _, counts, _) => counts.skipped,
            _ => BTreeMap::new(),
        });
        told.flatten().collect()
    }

    #[test]
    fn names_have_a_limit_and_what_is_given_back_is_added() {
        let long = "é".repeat(5_000);
        let mut tally = Tally::default();
        assert_eq!(cut(&long).chars().count(), NAME_MAX);
        assert_eq!(cut("body.a"), "body.a");
        for _ in 0..2 {
            let kind = (Arc::from("erp"), "changed", "body.a".to_owned());
            let other = Tally {
                counts: Counts {
                    compared: 2,
                    different: 2,
                    ..Counts::default()
                },
                findings: BTreeMap::from([(kind, (2, Vec::new()))]),
                more: 1,
            };
            tally.add(other);
        }
        assert_eq!((tally.counts.compared, tally.more), (4, 2));
        assert_eq!(tally.findings.into_values().next().unwrap().0, 4);
    }

    #[test]
    fn what_is_too_much_or_left_is_counted_and_what_is_not_new_is_not_looked_at() {
        let watching = watching();
        let first = RunId(7);
        accept(
            &watching,
            vec![
                Accepted::New,
                Accepted::Duplicate(first),
                Accepted::Changed(first),
            ],
        );
        assert_eq!(watching.seen().waiting.len(), 1);
        accept(&watching, vec![Accepted::New; WAITING_MAX + 4]);
        assert_eq!(watching.seen().waiting.len(), WAITING_MAX);
        let too_many = BTreeMap::from([("too many at once".to_owned(), 5)]);
        assert_eq!(skipped(&watching), too_many);
        let next = watching.next(0);
        assert_eq!(next.len(), BATCH);
        assert_eq!(next[0].run, RunId(0));
        assert_eq!(watching.seen().waiting.len(), WAITING_MAX - BATCH);
        assert!(watching.next(-1).is_empty(), "not before their time");
        watching.leave("left when it ended");
        let left = u64::try_from(WAITING_MAX - BATCH).unwrap();
        let left = BTreeMap::from([("left when it ended".to_owned(), left)]);
        // What the store did not take is written down later, with what has come since.
        let taken = watching.take();
        watching
            .seen()
            .skip(&Arc::from("orders"), "its body is gone");
        watching.give_back(taken);
        let mut left = left;
        left.insert("its body is gone".to_owned(), 1);
        assert_eq!(skipped(&watching), left);
        assert!(watching.take().is_empty(), "it is written down once");
    }
}
