//! The one thread of an engine that writes to a PostgreSQL store. In the whole cluster one transaction is under way at a time: each begins
//! with a lock, so that what it reads stays as it is, and its times are those of the server's clock.
//!
//! What goes wrong: a statement that is refused concerns one commit, which is refused alone. A server that is away refuses all of them, until
//! it is there again. A connection that breaks between a COMMIT and its answer leaves the commit in doubt: after the next connection has got
//! the lock, the engine's row in `engines` says whether it counts; if not, it is made again. Until that is known nobody is answered.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::mpsc::Receiver;

use crate::failure::{Class, Failure};
use crate::store::commit::Committed;
use crate::store::database::{Connection, Error, Sql, params};
use crate::store::numbers::{self, Numbers};
use crate::store::queue::{Asked, Done, Fault, Queue, Request};
use crate::store::retention::{self, Position, Retention, Swept};
use crate::store::sync::Log;
use crate::store::together::Together;
use crate::store::writer::Writing;
use crate::store::{apply, books, systems};
use crate::world::{World, failpoint};

use super::begin::{self, PAUSE, Use};
use super::session::Session;
use super::witness::{self, Seen, Witness};
use super::{Away, Server};

/// How long a close waits for a server that owes an answer.
const CLOSE_WITHIN_MS: i64 = 5_000;

/// The writing side of a store.
pub(in crate::store) struct Writer {
    pub(in crate::store) server: Server,
    pub(in crate::store) how: Use,
    /// `None` while the server is away.
    pub(in crate::store) connection: Option<Connection>,
    pub(in crate::store) world: World,
    pub(in crate::store) owner: i64,
    /// How people call the engine.
    pub(in crate::store) who: String,
    pub(in crate::store) doubt: Option<crate::store::Doubt>,
    pub(in crate::store) runs: Arc<Numbers>,
    pub(in crate::store) group_max: usize,
    pub(in crate::store) done: Arc<Done>,
    /// How far the server's clock is ahead of ours, in milliseconds.
    pub(in crate::store) ahead_ms: Arc<AtomicI64>,
    pub(in crate::store) position: Position,
    /// The number of the last transaction that was sent.
    pub(in crate::store) number: i64,
    pub(in crate::store) outage: Outage,
    pub(in crate::store) away: Arc<Away>,
    pub(in crate::store) life: i64,
    /// The number of the last transaction that counts.
    pub(in crate::store) counts: Arc<AtomicI64>,
    /// The last to go: it notes the last number.
    pub(in crate::store) witness: Option<Witness>,
    /// Where the store says that it is broken.
    pub(in crate::store) log: Arc<Log>,
}

/// How often connecting has failed in a row, and until when it is not tried again.
#[derive(Default)]
pub(in crate::store) struct Outage {
    times: u32,
    until_ms: i64,
    failure: Option<Failure>,
}

/// A transaction whose COMMIT was sent and not answered.
struct Doubt {
    number: i64,
    group: Vec<Asked>,
    verdicts: Vec<Result<Committed, Failure>>,
    reserved: Option<numbers::Block>,
}

/// What became of a transaction.
enum Ended {
    Applied(Vec<Result<Committed, Failure>>),
    InDoubt(Vec<Result<Committed, Failure>>, Option<numbers::Block>),
}

/// What becomes of the commits of a group, in their order.
type Verdicts = Vec<Result<Committed, Failure>>;

impl Writer {
    /// Works until it is asked to close, or nobody can ask any more.
    pub(in crate::store) fn work(mut self, requests: &Receiver<Request>) {
        let mut queue = Queue::of(requests);
        loop {
            queue.look();
            if let Some((retention, answer)) = queue.next_sweep() {
                answer.send(self.sweep(&retention)).ok();
            } else if let Some(first) = queue.next() {
                self.commit(vec![first], &mut queue, true);
            } else if queue.is_closing() {
                break;
            } else {
                queue.wait(None);
            }
        }
        self.close();
    }

    /// One transaction for these, and for what comes from the queue meanwhile.
    fn commit(&mut self, mut group: Vec<Asked>, queue: &mut Queue<'_>, more: bool) {
        match self.transact(&mut group, more.then_some(&mut *queue)) {
            Ok(Ended::Applied(verdicts)) => self.answer(group, verdicts),
            Ok(Ended::InDoubt(verdicts, reserved)) => {
                let number = self.number;
                let doubt = Doubt {
                    number,
                    group,
                    verdicts,
                    reserved,
                };
                self.settle(doubt, queue);
            }
            Err(Fault::Statement(_)) if group.len() > 1 => {
                for one in group {
                    self.commit(vec![one], queue, false);
                }
            }
            Err(Fault::World(failure) | Fault::Statement(failure)) => refuse(group, &failure),
        }
    }

    fn answer(&self, group: Vec<Asked>, verdicts: Vec<Result<Committed, Failure>>) {
        let applied = verdicts.iter().filter(|verdict| verdict.is_ok()).count();
        self.done.applied(applied);
        self.done.transactions.fetch_add(1, Ordering::Relaxed);
        for ((_, place, answer), verdict) in group.into_iter().zip(verdicts) {
            answer.send(verdict).ok();
            drop(place);
        }
    }

    /// Finds out whether a transaction counts, however long that takes. Whoever else asks meanwhile is refused.
    fn settle(&mut self, doubt: Doubt, queue: &mut Queue<'_>) {
        tracing::warn!(
            "the connection to the store {} broke at a commit; whether it counts is asked as soon as the server is there",
            self.server.shown()
        );
        let clock = self.world.clock.clone();
        let mut give_up_ms = None;
        loop {
            match self.last_number() {
                Ok(last) if last >= doubt.number => {
                    self.counts.store(doubt.number, Ordering::SeqCst);
                    tracing::info!("the commit counts");
                    if let Some(block) = doubt.reserved {
                        self.runs.add(block);
                    }
                    return self.answer(doubt.group, doubt.verdicts);
                }
                Ok(_) => {
                    tracing::info!("the commit does not count, and is made again");
                    return self.commit(doubt.group, queue, false);
                }
                Err(failure) => {
                    queue.look();
                    while let Some(asked) = queue.next() {
                        refuse(vec![asked], &failure);
                    }
                    while let Some((_, answer)) = queue.next_sweep() {
                        answer.send(Err(failure.clone())).ok();
                    }
                    let now_ms = clock.steady_ms();
                    if queue.is_closing()
                        && now_ms >= *give_up_ms.get_or_insert(now_ms + CLOSE_WITHIN_MS)
                    {
                        let unknown = format!(
                            "nobody knows whether it is stored: the connection broke at the commit, and {}",
                            failure.message
                        );
                        return refuse(doubt.group, &Failure::new(Class::Unavailable, unknown));
                    }
                    queue.wait(Some(PAUSE.0));
                }
            }
        }
    }

    /// Which transaction of this engine was the last that counts.
    fn last_number(&mut self) -> Result<i64, Failure> {
        let (server, owner) = (self.server.clone(), self.owner);
        let connection = self.connected()?;
        let last = begin::last_number(&server, connection, session(connection), owner);
        last.map_err(|error| self.gone(&error))
    }

    fn transact(
        &mut self,
        group: &mut Vec<Asked>,
        queue: Option<&mut Queue<'_>>,
    ) -> Result<Ended, Fault> {
        let now_ms = self.begin()?;
        let connection = self
            .connection
            .as_ref()
            .ok_or_else(|| Fault::World(away()))?;
        let (verdicts, reserved) = match self.apply_all(connection, now_ms, group, queue) {
            Ok(applied) => applied,
            Err(error) => return Err(self.roll_back(&error)),
        };
        failpoint::hit("transaction-open");
        self.number += 1;
        if let Err(error) = self.mark(connection, now_ms) {
            return Err(self.roll_back(&error));
        }
        match session(connection).batch("COMMIT") {
            Ok(()) => {
                self.counts.store(self.number, Ordering::SeqCst);
                self.away.answers(false);
                failpoint::hit("transaction-written");
                if let Some(block) = reserved {
                    self.runs.add(block);
                }
                Ok(Ended::Applied(verdicts))
            }
            Err(_) if session(connection).is_broken() => {
                self.connection = None;
                Ok(Ended::InDoubt(verdicts, reserved))
            }
            Err(error) => Err(self.roll_back(&error)),
        }
    }

    /// Begins a transaction, which waits for those of other engines, and gives its time. A connection that broke while it was idle is made
    /// anew: nothing of the transaction was sent.
    fn begin(&mut self) -> Result<i64, Fault> {
        let mut tries = 0;
        loop {
            tries += 1;
            let idle = self.connection.is_some();
            let server = self.server.clone();
            let connection = self.connected().map_err(Fault::World)?;
            let begun = session(connection)
                .put_batch("BEGIN")
                .and_then(|()| begin::hold(&server, connection))
                .and_then(|()| begin::now_ms(connection));
            match begun {
                Ok(servers_ms) => {
                    let ours_ms = self.world.clock.now_ms();
                    let now_ms = if server.by_the_worlds_clock {
                        ours_ms
                    } else {
                        servers_ms
                    };
                    self.ahead_ms.store(now_ms - ours_ms, Ordering::Relaxed);
                    return Ok(now_ms);
                }
                Err(error) => {
                    let broken = session(connection).is_broken();
                    let fault = self.roll_back(&error);
                    if !(broken && idle && tries == 1) {
                        return Err(match fault {
                            Fault::Statement(failure) | Fault::World(failure) => {
                                Fault::World(failure)
                            }
                        });
                    }
                    self.outage.until_ms = 0;
                }
            }
        }
    }

    /// Applies these commits, then what waits.
    fn apply_all(
        &self,
        connection: &Connection,
        now_ms: i64,
        group: &mut Vec<Asked>,
        mut queue: Option<&mut Queue<'_>>,
    ) -> Sql<(Verdicts, Option<numbers::Block>)> {
        let mut writing = Writing {
            connection,
            now_ms,
            ahead_ms: self.ahead_ms.load(Ordering::Relaxed),
            owner: self.owner,
            who: &self.who,
            announces: self.how == Use::Shared,
            shared: self.how == Use::Shared,
            doubt: self.doubt,
            books: books::Deltas::default(),
            released: Vec::new(),
            ended: Vec::new(),
            together: Together::default(),
        };
        let mut verdicts = Vec::with_capacity(group.len());
        loop {
            for (commit, ..) in &group[verdicts.len()..] {
                verdicts.push(apply::apply(&mut writing, commit)?);
            }
            let Some(queue) = &mut queue else { break };
            if group.len() >= self.group_max {
                break;
            }
            queue.look();
            match queue.next() {
                Some(next) => group.push(next),
                None => break,
            }
        }
        writing.books.write(connection)?;
        let reserved = match self.runs.run_short() {
            true => Some(numbers::reserve(connection)?),
            false => None,
        };
        Ok((verdicts, reserved))
    }

    /// Notes the transaction's number in it. It goes out together with the COMMIT.
    fn mark(&self, connection: &Connection, now_ms: i64) -> Sql<()> {
        connection.put(
            "INSERT INTO engines (owner, number, seen_at) VALUES (?1, ?2, ?3)
             ON CONFLICT (owner) DO UPDATE SET number = ?2, seen_at = ?3",
            params![self.owner, self.number, now_ms],
        )
    }

    fn sweep(&mut self, retention: &Retention) -> Result<Swept, Failure> {
        let now_ms = self.begin().map_err(Fault::into_failure)?;
        let connection = self.connection.as_ref().ok_or_else(away)?;
        let mut position = self.position;
        let swept = retention::sweep(connection, retention, now_ms, &mut position);
        // What is swept goes whether or not this is answered: the next sweep begins where this one did.
        let swept = swept.and_then(|swept| {
            failpoint::hit("sweep-in-transaction");
            session(connection).batch("COMMIT").map(|()| swept)
        });
        match swept {
            Ok(swept) => {
                self.position = position;
                self.done.transactions.fetch_add(1, Ordering::Relaxed);
                Ok(swept)
            }
            Err(error) => Err(self.roll_back(&error).into_failure()),
        }
    }

    /// The connection; made anew if there is none, unless that was tried a moment ago.
    fn connected(&mut self) -> Result<&Connection, Failure> {
        if self
            .connection
            .as_ref()
            .is_some_and(|connection| session(connection).is_broken())
        {
            self.connection = None;
        }
        if self.connection.is_none() {
            let now_ms = self.world.clock.steady_ms();
            if let Some(failure) = &self.outage.failure
                && now_ms < self.outage.until_ms
            {
                return Err(failure.clone());
            }
            if let Some(failure) = self.log.broken() {
                return Err(failure);
            }
            let seen = Seen {
                life: self.life,
                owner: self.owner,
                number: self.counts.load(Ordering::SeqCst),
            };
            match begin::again(&self.server, self.how, seen) {
                Ok(None) => {
                    return Err(self.log.breaks_by(Failure {
                        class: Class::Unavailable,
                        ..witness::lacks(&self.server)
                    }));
                }
                Ok(Some(connection)) => {
                    self.outage = Outage::default();
                    self.away.answers(true);
                    self.connection = Some(connection);
                }
                Err(failure) => {
                    self.pause(&failure);
                    return Err(failure);
                }
            }
        }
        self.connection.as_ref().ok_or_else(away)
    }

    /// Lets a moment pass before it is tried again: a longer one each time, and never as long as that of another engine.
    fn pause(&mut self, failure: &Failure) {
        self.away.begins(failure);
        let longest = PAUSE.1.min(PAUSE.0 * (1 << self.outage.times.min(10)));
        let longest = u64::try_from(longest.as_millis())
            .unwrap_or(u64::MAX)
            .max(2);
        let pause_ms = longest / 2 + self.world.random.below(longest / 2);
        self.outage.times += 1;
        self.outage.until_ms =
            self.world.clock.steady_ms() + i64::try_from(pause_ms).unwrap_or(i64::MAX);
        self.outage.failure = Some(Failure {
            class: Class::Unavailable,
            ..failure.clone()
        });
    }

    /// The server did not do what was asked: the connection is given up if it is broken.
    fn gone(&mut self, error: &Error) -> Failure {
        self.roll_back(error).into_failure()
    }

    fn roll_back(&mut self, error: &Error) -> Fault {
        let failure = self.server.failure(error);
        let worlds = begin::is_worlds(&failure, error);
        if let Some(connection) = &self.connection
            && (session(connection).is_broken() || session(connection).roll_back().is_err())
        {
            self.connection = None;
        }
        match worlds {
            true => Fault::World(Failure {
                class: Class::Unavailable,
                ..failure
            }),
            false => Fault::Statement(failure),
        }
    }

    /// Gives back what the engine has, so that the next one need not wait for the server to notice.
    fn close(mut self) {
        let Some(connection) = self.connection.take() else {
            return;
        };
        let left = self.runs.left();
        let closed = session(&connection)
            .put_batch("BEGIN")
            .and_then(|()| begin::hold(&self.server, &connection))
            .and_then(|()| match left {
                Some(left) => numbers::give_back(&connection, left),
                None => Ok(()),
            })
            .and_then(|()| systems::forget(&connection, self.owner))
            .and_then(|()| connection.put("DELETE FROM engines WHERE owner = ?1", [self.owner]))
            .and_then(|()| session(&connection).batch("COMMIT"))
            .and_then(|()| session(&connection).batch("SELECT pg_advisory_unlock_all()"));
        match closed {
            // Where this start is not forgotten, the store is older than its end.
            Ok(()) => self.counts.store(self.number + 1, Ordering::SeqCst),
            Err(error) => tracing::warn!("{}", self.server.failure(&error).message),
        }
        drop(self.witness.take());
    }
}

impl Fault {
    fn into_failure(self) -> Failure {
        match self {
            Fault::World(failure) | Fault::Statement(failure) => failure,
        }
    }
}

fn session(connection: &Connection) -> &Session {
    match connection {
        Connection::Postgres(session) => session,
        Connection::Sqlite(_) => unreachable!("this writer connects to servers"),
    }
}

fn refuse(group: Vec<Asked>, failure: &Failure) {
    for (_, place, answer) in group {
        answer.send(Err(failure.clone())).ok();
        drop(place);
    }
}

fn away() -> Failure {
    Failure::new(Class::Unavailable, "the store's server is away")
}
