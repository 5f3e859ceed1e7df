//! What waits for a second person: what was asked for, about which exceptions or runs, frozen when it was asked. Who may approve is decided
//! elsewhere; here stands who was first.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::commit::{Commit, Committed};
use super::database::{Optional, Row, Sql, params};
use super::decisions::Decided;
use super::reader::Reader;
use super::writer::Writing;
use crate::failure::Failure;

/// How many exceptions or runs one request may be about.
pub const ITEMS_MAX: usize = 100_000;
/// How many requests are kept that are over.
const KEPT_MAX: i64 = 10_000;
/// How many of them are shown with it, the first ones.
const SHOWN_MAX: usize = 20;
/// How long a request waits, in milliseconds.
pub const WAITS_MS: i64 = 24 * 3_600_000;

/// A request to be.
#[derive(Clone, Debug)]
pub struct NewApproval {
    /// Who asks.
    pub who: String,
    /// What the name is one of.
    pub kind: &'static str,
    /// Who stands behind the name, as the audit log has it.
    pub behind: Option<String>,
    /// What is to be done, as JSON.
    pub wish: String,
    /// The same in words.
    pub said: String,
    /// The flow that it is about, if it is only one.
    pub flow: Option<String>,
    /// Why.
    pub why: Option<String>,
    /// The exceptions or runs, in the order in which they are worked on.
    pub items: Vec<i64>,
}

/// A change of the requests.
#[derive(Clone, Debug)]
pub enum ApprovalChange {
    /// A new one.
    Ask(NewApproval),
    /// Somebody else than who asked approves it; if that cannot be, nothing of what people do by this commit is applied.
    Approve {
        /// The request.
        id: i64,
        /// Who.
        who: String,
        /// Why.
        why: Option<String>,
    },
    /// It is refused, or taken back by who asked; if it is approved and not done yet, what is left of it is not done.
    Refuse {
        /// The request.
        id: i64,
        /// Who.
        who: String,
        /// Why.
        why: String,
    },
    /// Its items from this one to before that one are worked on by this commit; if they were before, nothing of what people do by it is
    /// applied.
    Take {
        /// The request.
        id: i64,
        /// The first item.
        from: i64,
        /// The item behind the last one.
        to: i64,
        /// How many of them could not be decided about at all.
        refused: u64,
    },
    /// All items were worked on.
    Finish(i64),
    /// Nobody has decided in time.
    End(i64),
}

impl ApprovalChange {
    /// Whether the rest of the commit hangs on it.
    pub(super) fn takes(&self) -> bool {
        matches!(
            self,
            ApprovalChange::Approve { .. } | ApprovalChange::Take { .. }
        )
    }
}

/// How far a request is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ApprovalState {
    /// It waits for a second person.
    Asked,
    /// It is approved, and worked on.
    Approved,
    /// It is done.
    Done,
    /// Somebody has refused it.
    Refused,
    /// Nobody has decided in time.
    Ended,
}

impl ApprovalState {
    /// The word in the store and on the screen.
    pub fn name(self) -> &'static str {
        match self {
            ApprovalState::Asked => "asked",
            ApprovalState::Approved => "approved",
            ApprovalState::Done => "done",
            ApprovalState::Refused => "refused",
            ApprovalState::Ended => "ended",
        }
    }

    fn from_name(name: &str) -> ApprovalState {
        let all = [
            ApprovalState::Asked,
            ApprovalState::Approved,
            ApprovalState::Done,
            ApprovalState::Refused,
        ];
        let known = all.into_iter().find(|state| state.name() == name);
        known.unwrap_or(ApprovalState::Ended)
    }
}

/// Something that waits for a second person, or did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Approval {
    /// Its number.
    pub id: i64,
    /// When it was asked, in milliseconds since 1970.
    pub at_ms: i64,
    /// Who asks.
    pub who: String,
    /// What the name is one of.
    pub kind: String,
    /// What is to be done, in words.
    pub said: String,
    /// The flow that it is about, if it is only one.
    pub flow: Option<String>,
    /// Why.
    pub why: Option<String>,
    /// How many exceptions or runs it is about; which ones was settled when it was asked.
    pub items: i64,
    /// The numbers of the first 20.
    #[serde(default)]
    pub first: Vec<i64>,
    /// What is to be done with each, in full: the verb with all that was given with it. Without bodies for who may not see them.
    #[serde(default)]
    pub verb: Value,
    /// Until when it waits.
    pub ends_at_ms: i64,
    /// How far it is.
    pub state: ApprovalState,
    /// When somebody decided.
    pub decided_at_ms: Option<i64>,
    /// Who.
    pub decided_by: Option<String>,
    /// Why.
    pub decided_why: Option<String>,
    /// For how many it was done.
    pub done: i64,
    /// For how many it could not be done.
    pub refused: i64,
    /// The list of replays that has come of it, if it is about runs.
    pub replay: Option<i64>,
    /// What is to be done, as JSON.
    #[serde(skip)]
    pub wish: String,
    /// Who stands behind the name of who asks.
    #[serde(skip)]
    pub behind: Option<String>,
    /// The first item that was not worked on.
    #[serde(skip)]
    pub next: i64,
}

const COLUMNS: &str = "id, at, who, kind, said, flow, why, items, ends_at, state, decided_at, decided_by, decided_why, done, refused, replay,
  wish, next, first_items, behind";

impl Reader {
    /// The requests, the newest first.
    pub async fn approvals(&self, limit: usize) -> Result<Vec<Approval>, Failure> {
        self.read(move |connection| {
            connection
                .prepare_cached(&format!(
                    "SELECT {COLUMNS} FROM approvals ORDER BY id DESC LIMIT ?1"
                ))?
                .query_map([super::limit(limit)], row)
        })
        .await
    }

    /// The requests that are worked on, then those that wait for somebody; of both the oldest first.
    pub async fn approvals_open(&self, limit: usize) -> Result<Vec<Approval>, Failure> {
        self.read(move |connection| {
            connection
                .prepare_cached(&format!(
                    "SELECT {COLUMNS} FROM approvals WHERE state = 'asked' OR state = 'approved' ORDER BY state, id LIMIT ?1"
                ))?
                .query_map([super::limit(limit)], row)
        })
        .await
    }

    /// One request.
    pub async fn approval(&self, id: i64) -> Result<Option<Approval>, Failure> {
        self.read(move |connection| {
            connection
                .prepare_cached(&format!("SELECT {COLUMNS} FROM approvals WHERE id = ?1"))?
                .query_row([id], row)
                .optional()
        })
        .await
    }

    /// What a request is about: from this item on, so many.
    pub async fn approval_items(
        &self,
        id: i64,
        from: i64,
        limit: usize,
    ) -> Result<Vec<i64>, Failure> {
        self.read(move |connection| {
            connection
                .prepare_cached(
                    "SELECT item FROM approval_items WHERE approval = ?1 AND n >= ?2 ORDER BY n LIMIT ?3",
                )?
                .query_map(params![id, from, super::limit(limit)], |row| row.get(0))
        })
        .await
    }
}

fn row(row: &Row<'_>) -> Sql<Approval> {
    let wish: String = row.get(16)?;
    let first: String = row.get(18)?;
    Ok(Approval {
        id: row.get(0)?,
        at_ms: row.get(1)?,
        who: row.get(2)?,
        kind: row.get(3)?,
        said: row.get(4)?,
        flow: row.get(5)?,
        why: row.get(6)?,
        items: row.get(7)?,
        ends_at_ms: row.get(8)?,
        state: ApprovalState::from_name(&row.get::<String>(9)?),
        decided_at_ms: row.get(10)?,
        decided_by: row.get(11)?,
        decided_why: row.get(12)?,
        done: row.get(13)?,
        refused: row.get(14)?,
        replay: row.get(15)?,
        first: serde_json::from_str(&first).unwrap_or_default(),
        verb: serde_json::from_str(&wish).unwrap_or_default(),
        wish,
        next: row.get(17)?,
        behind: row.get(19)?,
    })
}

/// Applies a change; gives the request's number if it could be.
pub(super) fn change(writing: &Writing<'_>, change: &ApprovalChange) -> Sql<Option<i64>> {
    let applied = apply(writing, change)?;
    let over = matches!(
        change,
        ApprovalChange::Refuse { .. } | ApprovalChange::Finish(_) | ApprovalChange::End(_)
    );
    if let (true, Some(id)) = (over, applied) {
        forget(writing, id)?;
    }
    Ok(applied)
}

/// A request is over: what it was about is not needed any more. What was done about each item says the audit log.
fn forget(writing: &Writing<'_>, id: i64) -> Sql<()> {
    writing.put("DELETE FROM approval_items WHERE approval = ?1", [id])
}

fn apply(writing: &Writing<'_>, change: &ApprovalChange) -> Sql<Option<i64>> {
    let now_ms = writing.now_ms;
    let connection = writing.connection;
    match change {
        ApprovalChange::Ask(new) => ask(writing, new).map(Some),
        ApprovalChange::Approve { id, who, why } => connection
            .prepare_cached(
                "UPDATE approvals SET state = 'approved', decided_at = ?2, decided_by = ?3, decided_why = ?4
                 WHERE id = ?1 AND state = 'asked' AND ends_at > ?2 AND lower(who) <> lower(?3) RETURNING id",
            )?
            .query_row(params![*id, now_ms, who, why], |row| row.get(0))
            .optional(),
        ApprovalChange::Refuse { id, who, why } => connection
            .prepare_cached(
                "UPDATE approvals SET state = 'refused', decided_at = ?2, decided_by = ?3, decided_why = ?4, ended_at = ?2
                 WHERE id = ?1 AND (state = 'approved' OR state = 'asked' AND ends_at > ?2) RETURNING id",
            )?
            .query_row(params![*id, now_ms, who, why], |row| row.get(0))
            .optional(),
        ApprovalChange::Take { id, from, to, refused } => connection
            .prepare_cached(
                "UPDATE approvals SET next = ?3, refused = refused + ?4 WHERE id = ?1 AND state = 'approved' AND next = ?2 RETURNING id",
            )?
            .query_row(
                params![*id, *from, *to, i64::try_from(*refused).unwrap_or(i64::MAX)],
                |row| row.get(0),
            )
            .optional(),
        ApprovalChange::Finish(id) => connection
            .prepare_cached(
                "UPDATE approvals SET state = 'done', ended_at = ?2 WHERE id = ?1 AND state = 'approved' AND next > items RETURNING id",
            )?
            .query_row([*id, now_ms], |row| row.get(0))
            .optional(),
        ApprovalChange::End(id) => connection
            .prepare_cached(
                "UPDATE approvals SET state = 'ended', ended_at = ?2 WHERE id = ?1 AND state = 'asked' AND ends_at <= ?2 RETURNING id",
            )?
            .query_row([*id, now_ms], |row| row.get(0))
            .optional(),
    }
}

fn ask(writing: &Writing<'_>, new: &NewApproval) -> Sql<i64> {
    let items = new.items.iter().take(ITEMS_MAX);
    let first: Vec<i64> = items.clone().take(SHOWN_MAX).copied().collect();
    let first = serde_json::to_string(&first).unwrap_or_default();
    let id: i64 = writing.connection.query_row(
        "INSERT INTO approvals (at, who, kind, wish, said, flow, why, items, ends_at, state, next, done, refused, first_items, behind)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, 'asked', 1, 0, 0, ?10, ?11) RETURNING id",
        params![
            writing.now_ms,
            new.who,
            new.kind,
            new.wish,
            new.said,
            new.flow,
            new.why,
            i64::try_from(items.len()).unwrap_or(i64::MAX),
            writing.now_ms.saturating_add(WAITS_MS),
            first,
            new.behind,
        ],
        |row| row.get(0),
    )?;
    writing.put(
        "DELETE FROM approvals WHERE id <= ?1 AND state <> 'asked' AND state <> 'approved'",
        [id - KEPT_MAX],
    )?;
    for (n, item) in (1_i64..).zip(items) {
        writing.put(
            "INSERT INTO approval_items (approval, n, item) VALUES (?1, ?2, ?3)",
            [id, n, *item],
        )?;
    }
    Ok(id)
}

/// What has become of what was approved: counted, once it is known.
pub(super) fn counted(writing: &Writing<'_>, commit: &Commit, committed: &Committed) -> Sql<()> {
    for change in &commit.approvals {
        match change {
            ApprovalChange::Take { id, .. } => {
                let all = committed.decisions.len();
                let done = committed.decisions.iter();
                let done = done.filter(|one| **one == Decided::Done).count();
                let number = |many: usize| i64::try_from(many).unwrap_or(i64::MAX);
                writing.put(
                    "UPDATE approvals SET done = done + ?2, refused = refused + ?3 WHERE id = ?1",
                    [*id, number(done), number(all - done)],
                )?;
            }
            ApprovalChange::Approve { id, .. } => {
                if let Some(Some(list)) = committed.replays.first() {
                    writing.put(
                        "UPDATE approvals SET state = 'done', ended_at = ?2, replay = ?3, done = items, next = items + 1 WHERE id = ?1",
                        [*id, writing.now_ms, list.0],
                    )?;
                    forget(writing, *id)?;
                }
            }
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::replays::ReplayChange;
    use super::super::sample::*;
    use super::*;

    async fn change(sample: &Sample, change: ApprovalChange) -> Option<i64> {
        let commit = Commit {
            approvals: vec![change],
            ..Commit::default()
        };
        sample.store.commit(commit).await.unwrap().approvals[0]
    }

    fn new(items: Vec<i64>) -> ApprovalChange {
        ApprovalChange::Ask(NewApproval {
            who: "anna".to_owned(),
            kind: "user",
            behind: None,
            wish: "{}".to_owned(),
            said: "discard".to_owned(),
            flow: None,
            why: Some("tests".to_owned()),
            items,
        })
    }

    fn approve(id: i64, who: &str) -> ApprovalChange {
        let (who, why) = (who.to_owned(), None);
        ApprovalChange::Approve { id, who, why }
    }

    #[tokio::test]
    async fn a_request_is_decided_once_by_somebody_else_and_in_time() {
        for sample in [Sample::in_a_file(), Sample::on_a_server()] {
            let state = async |id| sample.store.approval(id).await.unwrap().unwrap().state;
            let first = change(&sample, new(vec![7, 3, 9])).await.unwrap();
            assert_eq!(
                sample.store.approval_items(first, 2, 9).await.unwrap(),
                [3, 9]
            );
            assert_eq!(change(&sample, approve(first, "Anna")).await, None);
            assert_eq!(change(&sample, ApprovalChange::Finish(first)).await, None);
            assert_eq!(change(&sample, approve(first, "otto")).await, Some(first));
            assert_eq!(change(&sample, approve(first, "emma")).await, None);
            let take = |from, to| ApprovalChange::Take {
                id: first,
                from,
                to,
                refused: 1,
            };
            assert_eq!(change(&sample, take(1, 3)).await, Some(first));
            assert_eq!(change(&sample, take(1, 3)).await, None);
            assert_eq!(change(&sample, take(3, 4)).await, Some(first));
            assert_eq!(
                change(&sample, ApprovalChange::Finish(first)).await,
                Some(first)
            );
            let row = sample.store.approval(first).await.unwrap().unwrap();
            assert_eq!(
                (row.state, row.refused, row.items),
                (ApprovalState::Done, 2, 3)
            );
            let left = sample.store.approval_items(first, 1, 9).await.unwrap();
            assert!(left.is_empty());
            // What nobody decides about ends, and then nobody can.
            let second = change(&sample, new(vec![1])).await.unwrap();
            assert_eq!(change(&sample, ApprovalChange::End(second)).await, None);
            sample.clock.advance(Duration::from_secs(24 * 3_600 + 1));
            assert_eq!(change(&sample, approve(second, "otto")).await, None);
            assert_eq!(
                change(&sample, ApprovalChange::End(second)).await,
                Some(second)
            );
            assert_eq!(state(second).await, ApprovalState::Ended);
            assert!(sample.store.approvals_open(9).await.unwrap().is_empty());
            let third = change(&sample, new(vec![1])).await.unwrap();
            let (who, why) = ("anna".to_owned(), "a mistake".to_owned());
            let refuse = ApprovalChange::Refuse {
                id: third,
                who,
                why,
            };
            assert_eq!(change(&sample, refuse).await, Some(third));
            assert_eq!(state(third).await, ApprovalState::Refused);
            // What is approved and not done yet can be ended, and nothing of it is taken any more.
            let fourth = change(&sample, new((1..=30).collect())).await.unwrap();
            assert!(change(&sample, approve(fourth, "otto")).await.is_some());
            let (who, why) = ("emma".to_owned(), "stop".to_owned());
            let id = fourth;
            let refuse = ApprovalChange::Refuse { id, who, why };
            assert_eq!(change(&sample, refuse).await, Some(fourth));
            let (from, to, refused) = (1, 31, 0);
            let take = ApprovalChange::Take {
                id,
                from,
                to,
                refused,
            };
            assert_eq!(change(&sample, take).await, None);
            let row = sample.store.approval(fourth).await.unwrap().unwrap();
            assert_eq!((row.state, row.items), (ApprovalState::Refused, 30));
            assert_eq!(row.first, (1..=20).collect::<Vec<i64>>());
        }
    }

    #[tokio::test]
    async fn what_is_not_approved_is_not_begun() {
        for sample in [Sample::in_a_file(), Sample::on_a_server()] {
            let id = change(&sample, new(vec![1])).await.unwrap();
            let begin = async |who: &str| {
                let begin = ReplayChange::Begin {
                    who: who.into(),
                    why: None,
                    verb: "{}".to_owned(),
                    filter: String::new(),
                    rate: 1.0,
                    runs: Vec::new(),
                };
                let commit = Commit {
                    approvals: vec![approve(id, who)],
                    replays: vec![begin],
                    ..Commit::default()
                };
                sample.store.commit(commit).await.unwrap().replays.len()
            };
            assert_eq!(begin("anna").await, 0);
            assert!(sample.store.replays(9).await.unwrap().is_empty());
            assert_eq!((begin("otto").await, begin("emma").await), (1, 0));
            let lists = sample.store.replays(9).await.unwrap();
            let row = sample.store.approval(id).await.unwrap().unwrap();
            assert_eq!((lists.len(), row.state), (1, ApprovalState::Done));
            assert_eq!(row.replay, Some(lists[0].id.0));
        }
    }
}
