//! How much is in flight, over all engines: what the store said a moment ago, and what this engine has done since. Good enough to slow sources
//! down by; nothing is decided by it that must be exact.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustc_hash::FxHashMap;

use super::Inner;
use crate::failure::Failure;
use crate::handoff::embedded::Load;
use crate::store::Store;
use crate::store::hops::HopCount;

/// How often the store is asked at most.
const EVERY: Duration = Duration::from_millis(500);
/// The pause between two questions, as a multiple of what one takes.
const SHARE: u32 = 20;

/// What is known.
#[derive(Default)]
pub(super) struct Counts(Mutex<Known>);

#[derive(Default)]
struct Known {
    steps: Vec<HopCount>,
    /// What was announced since, by flow.
    since: FxHashMap<Arc<str>, usize>,
}

impl Counts {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A hop of a flow was announced.
    pub(super) fn came(&self, flow: &str) {
        let mut known = self.known();
        match known.since.get_mut(flow) {
            Some(many) => *many += 1,
            None => drop(known.since.insert(Arc::from(flow), 1)),
        }
    }

    /// Asks the store.
    pub(super) async fn refresh(&self, store: &Store) -> Result<(), Failure> {
        // What comes from here on may be counted twice for a moment; counted never, it would be let in beyond the limits.
        self.known().since.clear();
        let steps = store.hop_counts().await?;
        self.known().steps = steps;
        Ok(())
    }

    /// What there is of a flow, and of all flows together; what stands before steps that take nothing does not count as active.
    pub(super) fn load(&self, flow: &str, shut: impl Fn(&str, &str) -> bool) -> (Load, Load) {
        let known = self.known();
        let (mut its, mut all) = (Load::default(), Load::default());
        let size = |many: u64| usize::try_from(many).unwrap_or(usize::MAX);
        for count in &known.steps {
            let many = size(count.ready + count.waiting + count.held);
            let active = if shut(&count.flow, &count.step) {
                0
            } else {
                size(count.ready)
            };
            all.all += many;
            all.active += active;
            if *count.flow == *flow {
                its.all += many;
                its.active += active;
            }
        }
        for (of, many) in &known.since {
            all.all += many;
            all.active += many;
            if **of == *flow {
                its.all += many;
                its.active += many;
            }
        }
        (its, all)
    }

    /// How many hops are ready for a step.
    pub(super) fn ready(&self, flow: &str, step: &str) -> usize {
        let known = self.known();
        let count = known
            .steps
            .iter()
            .find(|count| *count.flow == *flow && *count.step == *step);
        count.map_or(0, |count| {
            usize::try_from(count.ready).unwrap_or(usize::MAX)
        })
    }
}

/// Asks the store again and again.
pub(super) async fn run(inner: Arc<Inner>) {
    loop {
        let began = Instant::now();
        if let Err(failure) = inner.counts.refresh(&inner.store).await {
            tracing::debug!("the store could not say how much is in flight: {failure}");
        }
        let pause = (began.elapsed() * SHARE).max(EVERY);
        tokio::select! {
            () = inner.stop.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
    }
}
