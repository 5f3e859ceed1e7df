//! Numbers of the store for those who watch it: what waits where and since when, and what waits for a person. It changes nothing.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::failure::Failure;

use super::books::{self, Books};
use super::canaries::{Canary, Sides};
use super::database::{Connection, Row, Sql};
use super::reader::Reader;
use super::toggles::Toggle;

/// The numbers of one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Measures {
    /// The books of all flows.
    pub books: Vec<Books>,
    /// What stands before steps.
    pub queues: Vec<Standing>,
    /// What waits for a person, by flow and class.
    pub open: Vec<Open>,
    /// What people have stopped, also if its time is over.
    pub toggles: Vec<Toggle>,
    /// The canary that runs, and what both sides have done, by flow.
    pub canary: Option<(Canary, BTreeMap<Arc<str>, Sides>)>,
}

/// What stands before a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// The flow.
    pub flow: Arc<str>,
    /// The step.
    pub step: Arc<str>,
    /// Messages that may be taken, or are.
    pub ready: i64,
    /// Messages that wait for a time.
    pub waiting: i64,
    /// Of these: messages that wait for another attempt.
    pub repeats: i64,
    /// Messages that wait for their turn.
    pub held: i64,
    /// When the message of the oldest run that is ready was received, in milliseconds since 1970.
    pub ready_since_ms: Option<i64>,
    /// The same for another attempt.
    pub repeats_since_ms: Option<i64>,
}

/// What waits for a person.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Open {
    /// The flow.
    pub flow: Arc<str>,
    /// The class of the failure.
    pub class: Arc<str>,
    /// Exceptions.
    pub exceptions: i64,
    /// Different causes of them.
    pub issues: i64,
}

impl Reader {
    /// The numbers of this moment. It reads all that is in flight, once.
    pub async fn measures(&self) -> Result<Measures, Failure> {
        let mut measures = self
            .read(|connection| {
                Ok(Measures {
                    books: books::kept(connection)?,
                    queues: queues(connection)?,
                    open: open(connection)?,
                    ..Measures::default()
                })
            })
            .await?;
        measures.toggles = self.toggles().await?;
        if let Some(canary) = self.canary().await? {
            let sides = self.canary_sides(&canary).await?;
            measures.canary = Some((canary, sides));
        }
        Ok(measures)
    }
}

fn queues(connection: &Connection) -> Sql<Vec<Standing>> {
    let mut statement = connection.prepare_cached(
        "SELECT h.flow, h.step, h.ready, h.waiting, h.repeats, h.held, first.received_at, again.received_at
         FROM (SELECT flow, step, count(*) - count(due_at) - count(held) AS ready, count(due_at) AS waiting, count(held) AS held,
                      count(CASE WHEN due_at IS NOT NULL THEN last_failure END) AS repeats,
                      min(CASE WHEN due_at IS NULL AND held IS NULL THEN run END) AS ready_run,
                      min(CASE WHEN due_at IS NOT NULL AND last_failure IS NOT NULL THEN run END) AS repeat_run
               FROM hops GROUP BY flow, step) h
         LEFT JOIN runs first ON first.id = h.ready_run
         LEFT JOIN runs again ON again.id = h.repeat_run
         ORDER BY h.flow, h.step",
    )?;
    statement.query_map((), |row: &Row<'_>| {
        Ok(Standing {
            flow: row.get(0)?,
            step: row.get(1)?,
            ready: row.get(2)?,
            waiting: row.get(3)?,
            repeats: row.get(4)?,
            held: row.get(5)?,
            ready_since_ms: row.get(6)?,
            repeats_since_ms: row.get(7)?,
        })
    })
}

fn open(connection: &Connection) -> Sql<Vec<Open>> {
    let mut statement = connection.prepare_cached(
        "SELECT flow, class, count(*), count(DISTINCT fingerprint) FROM exceptions WHERE state < 3 GROUP BY flow, class ORDER BY flow, class",
    )?;
    statement.query_map((), |row: &Row<'_>| {
        Ok(Open {
            flow: row.get(0)?,
            class: row.get(1)?,
            exceptions: row.get(2)?,
            issues: row.get(3)?,
        })
    })
}

#[cfg(test)]
mod tests {
    use super::super::commit::{Commit, First, Leaf};
    use super::super::runs::RunState;
    use super::super::sample::*;

    #[tokio::test]
    async fn the_store_says_what_waits_where_and_since_when() {
        let sample = Sample::new();
        let (ready, waiting) = (sample.order("A", "1"), sample.order("B", "1"));
        let mut broken = sample.order("C", "1");
        broken.first = First::Exception(exception(&broken));
        let hop = first_hop(&waiting);
        sample
            .accept(vec![ready.clone(), waiting.clone(), broken])
            .await;
        sample
            .end(vec![waits(&waiting, hop, START_MS + 9_000)])
            .await;
        let measures = sample.store.measures().await.unwrap();
        let [queue] = &measures.queues[..] else {
            panic!("{:?}", measures.queues);
        };
        assert_eq!((queue.ready, queue.waiting, queue.held), (1, 1, 0));
        assert_eq!(queue.repeats, 1);
        assert_eq!(queue.ready_since_ms, Some(ready.received_at_ms));
        assert_eq!(queue.repeats_since_ms, Some(waiting.received_at_ms));
        assert_eq!(
            (measures.open[0].exceptions, measures.open[0].issues),
            (1, 1)
        );
        assert_eq!(measures.books[0].counts.in_exceptions, 1);
    }

    #[tokio::test]
    async fn a_commit_says_which_runs_it_has_ended() {
        let sample = Sample::new();
        let (first, second) = (sample.order("A", "1"), sample.order("B", "1"));
        sample.accept(vec![first.clone(), second.clone()]).await;
        let next = sample.hop(second.run, second.message, "next");
        let ends = vec![
            over(&first, first_hop(&first), Vec::new(), vec![Leaf::Delivered]),
            over(&second, first_hop(&second), vec![next], Vec::new()),
        ];
        let commit = Commit {
            ends,
            ..Commit::default()
        };
        let committed = sample.store.commit(commit).await.unwrap();
        let ended: Vec<_> = committed.ended.iter().map(|one| one.state).collect();
        assert_eq!(ended, [RunState::Delivered]);
    }
}
