//! What waits for the thread that writes, whichever database it writes to: commits, in an order that lets nobody wait for ever, and what else
//! it is asked for.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, oneshot};

use crate::failure::Failure;
use crate::world::metrics::StoreMeter;

use super::commit::{Commit, Committed};
use super::retention::{Retention, Swept};

/// How many commits with new messages may go before one that has none and waits longer.
pub(super) const ACCEPTS_AHEAD: usize = 32;

/// What the writer is asked for.
pub(super) enum Request {
    /// A commit, the place in the queue that it holds until it is answered, and where the answer goes.
    Commit(
        Box<Commit>,
        OwnedSemaphorePermit,
        oneshot::Sender<Result<Committed, Failure>>,
    ),
    /// One batch of retention.
    Sweep(Retention, oneshot::Sender<Result<Swept, Failure>>),
    /// A sync has ended, and the writer had wanted to know.
    Synced,
    /// A pass over the log has ended.
    Passed,
    /// Finish what is queued, then end.
    Close,
}

/// What the writer has done so far.
pub(super) struct Done {
    pub(super) commits: AtomicU64,
    pub(super) transactions: AtomicU64,
    pub(super) meter: StoreMeter,
}

impl Done {
    /// Nothing yet; counted here too.
    pub(super) fn of(meter: StoreMeter) -> Arc<Done> {
        Arc::new(Done {
            commits: AtomicU64::new(0),
            transactions: AtomicU64::new(0),
            meter,
        })
    }

    /// So many commits share a transaction that counts.
    pub(super) fn applied(&self, commits: usize) {
        let commits = u64::try_from(commits).unwrap_or(u64::MAX);
        self.commits.fetch_add(commits, Ordering::Relaxed);
        self.meter.transaction(commits);
    }
}

/// A commit, its place in the queue, and where its answer goes.
pub(super) type Asked = (
    Box<Commit>,
    OwnedSemaphorePermit,
    oneshot::Sender<Result<Committed, Failure>>,
);

/// A batch of retention, and where its answer goes.
pub(super) type Sweep = (Retention, oneshot::Sender<Result<Swept, Failure>>);

/// What waits for the writer. New messages go first: somebody waits for their answer. Nothing can follow a message before it is
/// answered, so no order is lost.
pub(super) struct Queue<'r> {
    requests: &'r Receiver<Request>,
    accepts: VecDeque<Asked>,
    others: VecDeque<Asked>,
    sweeps: VecDeque<Sweep>,
    /// How many new messages went before what waits in `others`.
    ahead: usize,
    passed: bool,
    closing: bool,
}

impl Queue<'_> {
    pub(super) fn of(requests: &Receiver<Request>) -> Queue<'_> {
        Queue {
            requests,
            accepts: VecDeque::new(),
            others: VecDeque::new(),
            sweeps: VecDeque::new(),
            ahead: 0,
            passed: false,
            closing: false,
        }
    }

    /// Takes in what has come.
    pub(super) fn look(&mut self) {
        while let Ok(request) = self.requests.try_recv() {
            self.put(request);
        }
    }

    /// Takes in what has come; waits for it if there is nothing. Gives whether anything came within this time.
    pub(super) fn wait(&mut self, most: Option<Duration>) -> bool {
        let request = match most {
            Some(most) => self.requests.recv_timeout(most),
            None => self.requests.recv().map_err(RecvTimeoutError::from),
        };
        match request {
            Ok(request) => self.put(request),
            Err(RecvTimeoutError::Timeout) => return false,
            Err(RecvTimeoutError::Disconnected) => self.closing = true,
        }
        self.look();
        true
    }

    fn put(&mut self, request: Request) {
        match request {
            Request::Commit(commit, place, answer) if commit.accepts.is_empty() => {
                self.others.push_back((commit, place, answer));
            }
            Request::Commit(commit, place, answer) => {
                self.accepts.push_back((commit, place, answer));
            }
            Request::Sweep(retention, answer) => self.sweeps.push_back((retention, answer)),
            Request::Synced => {}
            Request::Passed => self.passed = true,
            Request::Close => self.closing = true,
        }
    }

    pub(super) fn next(&mut self) -> Option<Asked> {
        if self.ahead < ACCEPTS_AHEAD
            && let Some(accept) = self.accepts.pop_front()
        {
            self.ahead += 1;
            return Some(accept);
        }
        self.ahead = 0;
        self.others.pop_front().or_else(|| self.accepts.pop_front())
    }

    /// The next batch of retention that somebody waits for.
    pub(super) fn next_sweep(&mut self) -> Option<Sweep> {
        self.sweeps.pop_front()
    }

    /// Whether a pass over the log has ended since the last time that this was asked.
    pub(super) fn has_passed(&mut self) -> bool {
        std::mem::take(&mut self.passed)
    }

    /// Whether nothing more will come.
    pub(super) fn is_closing(&self) -> bool {
        self.closing
    }

    /// Something waits that no commit may hold up.
    pub(super) fn is_urgent(&self) -> bool {
        self.closing || self.passed || !self.sweeps.is_empty()
    }
}

/// Why a transaction did not happen.
pub(super) enum Fault {
    /// The disk, a lock: it concerns every commit.
    World(Failure),
    /// A statement was wrong: it concerns one of the commits.
    Statement(Failure),
}
