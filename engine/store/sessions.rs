//! Sessions of people who have signed in: what is known of each, never what the browser shows, only its hash. What somebody may do is decided
//! elsewhere; here stand the groups by which it is.

use super::database::{Optional, Row, Sql, params};
use super::reader::Reader;
use super::writer::Writing;
use crate::failure::Failure;

/// How many sessions one person may have; the oldest goes first.
const EACH_MAX: usize = 20;
/// How many sessions are listed, the newest first.
const LISTED_MAX: usize = 1_000;

/// A session to be.
#[derive(Clone, Debug)]
pub struct NewSession {
    /// SHA-256 of what the browser shows.
    pub hash: [u8; 32],
    /// Who says that it is this person.
    pub issuer: String,
    /// How that one calls the person; it never changes.
    pub subject: String,
    /// How people call the person.
    pub name: String,
    /// The person's groups that mean something here.
    pub groups: Vec<String>,
    /// Until when it lasts at most, in milliseconds since 1970.
    pub ends_at_ms: i64,
}

/// A change of the sessions.
#[derive(Clone, Debug)]
pub enum SessionChange {
    /// Somebody has signed in.
    Begin(NewSession),
    /// It was used now.
    Used([u8; 32]),
    /// Somebody has signed out, or in again: how people call them.
    End([u8; 32], String),
    /// Nobody of this name is signed in any more.
    EndAll(String),
}

/// What is known of a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionRow {
    /// Who says that it is this person.
    pub issuer: String,
    /// How that one calls the person.
    pub subject: String,
    /// How people call the person.
    pub name: String,
    /// The person's groups that meant something when it began.
    pub groups: Vec<String>,
    /// Since when, in milliseconds since 1970.
    pub since_ms: i64,
    /// When it was last used, as far as that was noted.
    pub used_at_ms: i64,
    /// Until when it lasts at most.
    pub ends_at_ms: i64,
}

impl SessionRow {
    /// Whether it counts at this time, if it ends after so long without use.
    pub fn is_valid(&self, now_ms: i64, idle_ms: i64) -> bool {
        self.ends_at_ms > now_ms && self.used_at_ms.saturating_add(idle_ms) > now_ms
    }
}

const COLUMNS: &str = "issuer, subject, name, groups_of, since, used_at, ends_at";

impl Reader {
    /// The session with this hash, over or not.
    pub async fn session(&self, hash: [u8; 32]) -> Result<Option<SessionRow>, Failure> {
        self.read(move |connection| {
            connection
                .prepare_cached(&format!("SELECT {COLUMNS} FROM sessions WHERE hash = ?1"))?
                .query_row(params![&hash[..]], row)
                .optional()
        })
        .await
    }

    /// The sessions, the newest first, at most 1,000.
    pub async fn sessions(&self) -> Result<Vec<SessionRow>, Failure> {
        self.read(|connection| {
            connection
                .prepare_cached(&format!(
                    "SELECT {COLUMNS} FROM sessions ORDER BY since DESC LIMIT ?1"
                ))?
                .query_map([super::limit(LISTED_MAX)], row)
        })
        .await
    }
}

/// Applies a change.
pub(super) fn change(writing: &Writing<'_>, change: &SessionChange) -> Sql<()> {
    match change {
        SessionChange::Begin(new) => begin(writing, new),
        SessionChange::Used(hash) => writing.put(
            "UPDATE sessions SET used_at = ?2 WHERE hash = ?1",
            params![&hash[..], writing.now_ms],
        ),
        SessionChange::End(hash, _) => {
            writing.put("DELETE FROM sessions WHERE hash = ?1", params![&hash[..]])
        }
        SessionChange::EndAll(name) => {
            writing.put("DELETE FROM sessions WHERE name = ?1", params![name])
        }
    }
}

fn begin(writing: &Writing<'_>, new: &NewSession) -> Sql<()> {
    writing.put("DELETE FROM sessions WHERE ends_at <= ?1", [writing.now_ms])?;
    writing.put(
        "DELETE FROM sessions WHERE issuer = ?1 AND subject = ?2 AND hash NOT IN
           (SELECT hash FROM sessions WHERE issuer = ?1 AND subject = ?2 ORDER BY since DESC LIMIT ?3)",
        params![new.issuer, new.subject, super::limit(EACH_MAX - 1)],
    )?;
    writing.put(
        "INSERT INTO sessions (hash, issuer, subject, name, groups_of, since, used_at, ends_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?6, ?7)",
        params![
            &new.hash[..],
            new.issuer,
            new.subject,
            new.name,
            serde_json::to_string(&new.groups).unwrap_or_default(),
            writing.now_ms,
            new.ends_at_ms,
        ],
    )
}

fn row(row: &Row<'_>) -> Sql<SessionRow> {
    let groups: String = row.get(3)?;
    Ok(SessionRow {
        issuer: row.get(0)?,
        subject: row.get(1)?,
        name: row.get(2)?,
        groups: serde_json::from_str(&groups).unwrap_or_default(),
        since_ms: row.get(4)?,
        used_at_ms: row.get(5)?,
        ends_at_ms: row.get(6)?,
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::commit::Commit;
    use super::super::sample::*;
    use super::*;

    async fn change(sample: &Sample, change: SessionChange) {
        let commit = Commit {
            sessions: vec![change],
            ..Commit::default()
        };
        sample.store.commit(commit).await.unwrap();
    }

    fn new(subject: &str, hash: u8) -> SessionChange {
        SessionChange::Begin(NewSession {
            hash: [hash; 32],
            issuer: "https://login.example.com".to_owned(),
            subject: subject.to_owned(),
            name: format!("{subject}@example.com"),
            groups: vec!["ops, night".to_owned(), "lead".to_owned()],
            ends_at_ms: START_MS + 60_000,
        })
    }

    #[tokio::test]
    async fn a_session_is_there_until_it_is_over_or_ended_and_nobody_has_too_many() {
        for sample in [Sample::in_a_file(), Sample::on_a_server()] {
            let session = async |hash: u8| sample.store.session([hash; 32]).await.unwrap();
            change(&sample, new("anna", 1)).await;
            let row = session(1).await.unwrap();
            assert_eq!(row.groups, ["ops, night", "lead"]);
            let now_ms = sample.store.now_ms();
            assert!(row.is_valid(now_ms, 1_000) && !row.is_valid(now_ms + 1_000, 1_000));
            assert!(!row.is_valid(START_MS + 60_000, i64::MAX));
            sample.clock.advance(Duration::from_secs(5));
            change(&sample, SessionChange::Used([1; 32])).await;
            assert!(session(1).await.unwrap().used_at_ms >= row.used_at_ms + 5_000);
            change(&sample, new("otto", 2)).await;
            change(&sample, SessionChange::End([2; 32], "otto".to_owned())).await;
            assert!(session(2).await.is_none());
            for hash in 10..40 {
                sample.clock.advance(Duration::from_millis(10));
                change(&sample, new("anna", hash)).await;
            }
            assert_eq!(sample.store.sessions().await.unwrap().len(), EACH_MAX);
            assert!(session(1).await.is_none() && session(39).await.is_some());
            change(&sample, new("otto", 3)).await;
            change(
                &sample,
                SessionChange::EndAll("anna@example.com".to_owned()),
            )
            .await;
            let left = sample.store.sessions().await.unwrap();
            assert_eq!((left.len(), &*left[0].subject), (1, "otto"));
            // What is over goes with the next one that begins.
            sample.clock.advance(Duration::from_secs(61));
            let SessionChange::Begin(mut next) = new("anna", 50) else {
                unreachable!()
            };
            next.ends_at_ms += 120_000;
            change(&sample, SessionChange::Begin(next)).await;
            assert_eq!(sample.store.sessions().await.unwrap().len(), 1);
        }
    }
}
