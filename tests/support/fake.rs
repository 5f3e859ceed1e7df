//! A way in that stores nothing on disk: what sources are tested against. Not a store; it keeps what a store would promise.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crossdock::component::api::Calls;
use crossdock::component::common::Common;
use crossdock::component::{Accept, Arrival, Batch, Build, Intake, Library, Registry, Verdict};
use crossdock::diagnostic::{File, Findings};
use crossdock::failure::{Class, Failure};
use crossdock::net::listener::Listener;
use crossdock::source::{Ready, SourceKind};
use crossdock::world::{Pending, World};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// A way in, with its memory open to see.
#[derive(Default)]
pub struct Fake {
    state: Mutex<State>,
    changed: Notify,
    /// How long a commit takes.
    pub commit_takes: Duration,
}

/// What a store would hold.
#[derive(Default)]
pub struct State {
    /// All that was accepted, in order.
    pub stored: Vec<Arrival>,
    /// How many arrivals were known already.
    pub duplicates: usize,
    /// How large the committed batches were.
    pub batches: Vec<usize>,
    /// The cursors.
    pub cursors: BTreeMap<String, String>,
    /// What the next commits fail with; `None` lets one pass.
    pub failing: VecDeque<Option<Failure>>,
    /// How many commits pass before the answer of one is lost: it is applied, and the source is told that it failed.
    pub lost_after: Option<usize>,
    /// Bodies that are refused.
    pub refuse: Option<&'static [u8]>,
    /// How many deliveries were turned away.
    pub turned_away: u64,
    /// Who has called an API.
    pub called: Vec<Calls>,
    identities: BTreeSet<String>,
    deliveries: BTreeSet<String>,
}

impl Fake {
    /// A way in that takes everything.
    pub fn new() -> Arc<Fake> {
        Arc::new(Fake::default())
    }

    /// A way in whose commits take this long.
    pub fn slow(commit_takes: Duration) -> Arc<Fake> {
        Arc::new(Fake {
            commit_takes,
            ..Fake::default()
        })
    }

    /// A look at its memory.
    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The accepted bodies as text.
    pub fn bodies(&self) -> Vec<String> {
        let text = |arrival: &Arrival| String::from_utf8_lossy(&arrival.body).into_owned();
        self.state().stored.iter().map(text).collect()
    }

    /// Waits until something holds; panics after thirty seconds: a machine may be busy with other things.
    pub async fn until(&self, what: &str, holds: impl Fn(&State) -> bool) {
        let waiting = async {
            loop {
                let changed = self.changed.notified();
                if holds(&self.state()) {
                    return;
                }
                drop(tokio::time::timeout(Duration::from_millis(20), changed).await);
            }
        };
        if tokio::time::timeout(Duration::from_secs(30), waiting)
            .await
            .is_err()
        {
            let state = self.state();
            panic!(
                "not within thirty seconds: {what}; stored {}, cursors {:?}",
                state.stored.len(),
                state.cursors
            );
        }
    }
}

impl Accept for Fake {
    fn accept(&self, batch: Batch) -> Pending<'_, Result<Vec<Verdict>, Failure>> {
        Box::pin(async move {
            tokio::time::sleep(self.commit_takes).await;
            let verdicts = self.state().commit(batch);
            self.changed.notify_waiters();
            verdicts
        })
    }

    fn turned_away(&self, count: u64) {
        self.state().turned_away += count;
    }

    fn called(&self, calls: Vec<Calls>) {
        self.state().called.extend(calls);
    }

    fn room(&self) -> Pending<'_, ()> {
        Box::pin(std::future::ready(()))
    }

    fn cursor<'a>(&'a self, name: &'a str) -> Pending<'a, Result<Option<String>, Failure>> {
        let cursor = self.state().cursors.get(name).cloned();
        Box::pin(std::future::ready(Ok(cursor)))
    }

    fn cursors<'a>(
        &'a self,
        prefix: &'a str,
    ) -> Pending<'a, Result<Vec<(String, String)>, Failure>> {
        let found = self
            .state()
            .cursors
            .iter()
            .filter(|(name, _)| name.starts_with(prefix))
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect();
        Box::pin(std::future::ready(Ok(found)))
    }
}

impl State {
    fn commit(&mut self, batch: Batch) -> Result<Vec<Verdict>, Failure> {
        if let Some(Some(failure)) = self.failing.pop_front() {
            return Err(failure);
        }
        if let Some(progress) = batch.progress {
            if self.cursors.get(&progress.cursor) != progress.from.as_ref() {
                return Err(Failure::new(Class::Conflict, "the cursor is elsewhere"));
            }
            match progress.to {
                Some(to) => self.cursors.insert(progress.cursor, to),
                None => self.cursors.remove(&progress.cursor),
            };
        }
        self.batches.push(batch.arrivals.len());
        let verdicts = batch
            .arrivals
            .into_iter()
            .map(|arrival| self.take(arrival))
            .collect();
        let left = self.lost_after;
        self.lost_after = left.and_then(|left| left.checked_sub(1));
        if left == Some(0) {
            return Err(Failure::new(Class::Unavailable, "the answer was lost"));
        }
        Ok(verdicts)
    }

    fn take(&mut self, arrival: Arrival) -> Verdict {
        if self.refuse.is_some_and(|refuse| *refuse == *arrival.body) {
            let failure = Failure::validation("the body breaks its contract");
            return Verdict::Refused(failure.with_detail("/a: is no number\n/b: is missing"));
        }
        let known = arrival
            .identity
            .iter()
            .any(|id| !self.identities.insert(id.clone()))
            | arrival
                .delivery
                .iter()
                .any(|id| !self.deliveries.insert(id.clone()));
        if known {
            self.duplicates += 1;
            return Verdict::Duplicate;
        }
        self.stored.push(arrival);
        Verdict::Accepted
    }
}

/// What a source gets, and how it is told to stop.
pub fn intake(fake: &Arc<Fake>, world: World, root: &Path, listener: &Listener) -> Intake {
    Intake {
        flow: Arc::from("a-flow"),
        root: Arc::from(root),
        accept: fake.clone(),
        world,
        listener: listener.clone(),
        stop: CancellationToken::new(),
    }
}

/// Builds a source from what stands in a flow after `source:`. Gives the findings as `code line:column`.
pub fn build(yaml: &str, library: &Library) -> (Option<Ready>, Vec<String>) {
    let file = File::new("flows/a-flow.yaml", yaml);
    let mut findings = Findings::new();
    let node = crossdock::yaml::parse(&file, &mut findings).expect("the test's YAML parses");
    let source = node.get("source").unwrap_or(&node);
    let (kind, config) = source.entries().first().expect("a source has a kind");
    let parsed = SourceKind::parse(&kind.text, config.to_json()).expect("the kind is known");
    let parsed = parsed.unwrap_or_else(|error| panic!("{}: {error}", kind.text));
    let mut cx = Build {
        file: &file,
        node: config,
        common: &Common::default(),
        library,
        flow: "a-flow",
        high: false,
        variables: &mut BTreeSet::new(),
        keys: &BTreeSet::new(),
        accepts: None,
        used_at: None,
        findings: &mut findings,
    };
    let ready = parsed.build(&mut cx);
    let listed = findings.iter().map(|finding| {
        let (line, column) = finding.place.line_column();
        format!("{} {line}:{column}", finding.code)
    });
    (ready, listed.collect())
}
