//! The power of an engine under test: it counts commits, and goes away at the moment that the test has named. It knows no flows.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::world::Pending;
use crate::world::watch::Watch;

/// A moment at which the power goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Moment {
    /// This commit is durable, and nobody has heard of it.
    AfterCommit(u64),
    /// All before this commit has happened, and it is not written.
    BeforeCommit(u64),
    /// This request of this step of the flow under test has reached its system.
    At(Arc<str>, u64),
}

/// Whether an engine lives.
#[derive(Default)]
pub(super) struct Power {
    state: Mutex<State>,
    /// A commit has ended.
    ended: Notify,
    /// The power is gone.
    gone: Notify,
}

#[derive(Default)]
struct State {
    /// How many commits have begun, over all starts.
    begun: u64,
    /// How many are with the store.
    under_way: u64,
    moment: Option<Moment>,
    gone: bool,
}

impl Power {
    /// An engine starts, which dies at this moment.
    pub(super) fn on(&self, moment: Option<Moment>) {
        let mut state = self.state();
        state.under_way = 0;
        state.gone = false;
        state.moment = moment;
    }

    /// How many commits have begun, over all starts.
    pub(super) fn commits(&self) -> u64 {
        self.state().begun
    }

    /// Whether it is gone.
    pub(super) fn is_gone(&self) -> bool {
        self.state().gone
    }

    /// Whether a commit is with the store.
    pub(super) fn busy(&self) -> bool {
        self.state().under_way > 0
    }

    /// Waits until a commit has ended, or the power is gone.
    pub(super) async fn moved(&self) {
        tokio::select! {
            () = self.ended.notified() => {}
            () = self.fails() => {}
        }
    }

    /// Waits until it is gone.
    pub(super) async fn fails(&self) {
        while !self.is_gone() {
            // A word of an earlier failure may still be there.
            self.gone.notified().await;
        }
        self.gone.notify_one();
    }

    /// A request of a step has reached its system, the how manieth. Gives whether the power goes at that.
    pub(super) fn reached(&self, step: &str, nth: u64) -> bool {
        let mut state = self.state();
        let now =
            matches!(&state.moment, Some(Moment::At(at, count)) if &**at == step && *count == nth);
        if now {
            self.cut(&mut state);
        }
        now
    }

    fn cut(&self, state: &mut State) {
        state.gone = true;
        self.gone.notify_one();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a commit; `None` if the power is gone before it.
    fn begins(&self) -> Option<u64> {
        let mut state = self.state();
        if state.gone {
            return None;
        }
        let number = state.begun + 1;
        if state.moment == Some(Moment::BeforeCommit(number)) {
            self.cut(&mut state);
            return None;
        }
        state.begun = number;
        state.under_way += 1;
        Some(number)
    }

    /// A commit has ended; gives whether somebody hears of it.
    fn ends(&self, number: u64) -> bool {
        let mut state = self.state();
        state.under_way = state.under_way.saturating_sub(1);
        if state.moment == Some(Moment::AfterCommit(number)) {
            self.cut(&mut state);
        }
        self.ended.notify_one();
        !state.gone
    }
}

impl Watch for Power {
    fn before_commit(&self) -> Pending<'_, u64> {
        match self.begins() {
            Some(number) => Box::pin(std::future::ready(number)),
            None => Box::pin(std::future::pending()),
        }
    }

    fn after_commit(&self, number: u64) -> Pending<'_, ()> {
        // Asked when it is polled: only then has the commit ended.
        Box::pin(async move {
            if !self.ends(number) {
                std::future::pending::<()>().await;
            }
        })
    }
}
