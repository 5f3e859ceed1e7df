//! Notices: what people are told of, once a cause and not once a message. They are rows of the commit that they are about; how far each
//! address has been told is a cursor. Sending is not done here.

use std::sync::Arc;

use crate::failure::{Class, Failure};

use super::commit::{NewException, RunId};
use super::database::{Connection, Optional, Sql, params};
use super::exceptions::ExceptionId;
use super::reader::Reader;
use super::writer::Writing;
use super::{personal, systems};

/// What a notice is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoticeKind {
    /// Exceptions with a cause that none had that was open.
    Issue,
    /// A source that fails again and again.
    Source,
    /// A system that went down, or refuses the credentials.
    System,
}

impl NoticeKind {
    /// The name in the store and in what is sent.
    pub fn name(self) -> &'static str {
        match self {
            NoticeKind::Issue => "issue",
            NoticeKind::Source => "source",
            NoticeKind::System => "system",
        }
    }
}

/// What people are told of.
#[derive(Clone, Debug, PartialEq)]
pub struct Notice {
    /// Its number; later ones have higher ones.
    pub id: i64,
    /// When, in milliseconds since 1970.
    pub at_ms: i64,
    /// What it is about.
    pub kind: NoticeKind,
    /// The issue's fingerprint, the source's flow, or the system.
    pub subject: String,
    /// The flow; empty for a system.
    pub flow: Arc<str>,
    /// One sentence.
    pub message: String,
    /// Of an issue: its first exception.
    pub exception: Option<ExceptionId>,
    /// Of an issue: the step and the class.
    pub cause: Option<(Arc<str>, Class)>,
    /// Of an issue: how many of its exceptions wait by now.
    pub open: u64,
    /// Of an issue: the business keys of the first message, as JSON.
    pub keys: Option<String>,
}

/// How far an address has been told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Told {
    /// The last notice that was sent or given up.
    pub notice: i64,
    /// How often the next ones were tried.
    pub attempts: u32,
    /// Not before this time, in milliseconds since 1970.
    pub next_at_ms: i64,
}

/// What the notifier has to keep.
#[derive(Clone, Debug)]
pub enum NoticeChange {
    /// How far this address has been told.
    Told(String, Told),
    /// The source of this flow fails, for this reason.
    SourceFails(Arc<str>, String),
    /// This system is in this state, for this reason. Of engines that see it so the first one says it.
    SystemDown(Arc<str>, &'static str, String),
}

/// For so long after a notice of a source that fails there is no other one of it, in milliseconds.
const SOURCE_AGAIN_MS: i64 = 3_600_000;

impl Reader {
    /// Notices after this one, in their order.
    pub async fn notices(&self, after: i64, limit: usize) -> Result<Vec<Notice>, Failure> {
        self.read(move |connection| list(connection, after, limit))
            .await
    }

    /// How far an address has been told; `None` if it is new.
    pub async fn told(&self, address: &str) -> Result<Option<Told>, Failure> {
        let address = address.to_owned();
        self.read(move |connection| {
            connection
                .prepare_cached("SELECT notice, attempts, next_at FROM told WHERE address = ?1")?
                .query_row([address], |row| {
                    Ok(Told {
                        notice: row.get(0)?,
                        attempts: row.get(1)?,
                        next_at_ms: row.get(2)?,
                    })
                })
                .optional()
        })
        .await
    }

    /// The number of the newest notice; 0 if there is none.
    pub async fn newest_notice(&self) -> Result<i64, Failure> {
        self.read(|connection| {
            connection
                .prepare_cached("SELECT coalesce(max(id), 0) FROM notices")?
                .query_row((), |row| row.get(0))
        })
        .await
    }
}

/// The first open exception of its cause.
pub(super) fn new_issue(
    writing: &Writing<'_>,
    flow: &str,
    id: ExceptionId,
    exception: &NewException,
) -> Sql<()> {
    writing.put(
        "INSERT INTO notices (at, kind, subject, flow, exception, message) VALUES (?1, 'issue', ?2, ?3, ?4, ?5)",
        params![
            writing.now_ms,
            exception.fingerprint,
            flow,
            id.0,
            exception.message
        ],
    )?;
    Ok(())
}

/// Applies a change.
pub(super) fn change(writing: &Writing<'_>, change: &NoticeChange) -> Sql<()> {
    match change {
        NoticeChange::Told(address, told) => writing.run(
            "INSERT INTO told (address, notice, attempts, next_at) VALUES (?1, ?2, ?3, ?4)
             ON CONFLICT (address) DO UPDATE SET notice = ?2, attempts = ?3, next_at = ?4",
            params![address, told.notice, told.attempts, told.next_at_ms],
        )?,
        NoticeChange::SourceFails(flow, why) => writing.run(
            "INSERT INTO notices (at, kind, subject, flow, message) SELECT ?1, 'source', ?2, ?2, ?3
             WHERE NOT EXISTS (SELECT 1 FROM notices WHERE kind = 'source' AND subject = ?2 AND at > CAST(?1 AS BIGINT) - ?4 AND at <= ?1)",
            params![writing.now_ms, flow, why, SOURCE_AGAIN_MS],
        )?,
        NoticeChange::SystemDown(system, health, why) => {
            if systems::seen_by_others(writing, system, health)? {
                return Ok(());
            }
            writing.run(
                "INSERT INTO notices (at, kind, subject, flow, message) VALUES (?1, 'system', ?2, '', ?3)",
                params![writing.now_ms, system, format!("{health}: {why}")],
            )?
        }
    };
    Ok(())
}

/// Removes notices that are older than this, at most so many.
pub(super) fn sweep(connection: &Connection, horizon: i64, limit: i64) -> Sql<()> {
    connection
        .prepare_cached(
            "DELETE FROM notices WHERE id IN (SELECT id FROM notices WHERE at <= ?1 ORDER BY id LIMIT ?2)",
        )?
        .execute([horizon, limit])?;
    Ok(())
}

fn list(connection: &Connection, after: i64, limit: usize) -> Sql<Vec<Notice>> {
    let mut statement = connection.prepare_cached(
        "SELECT notices.id, notices.at, kind, subject, notices.flow, notices.message, exception, step, class, runs.keys,
                (SELECT count(*) FROM exceptions WHERE fingerprint = subject AND state < 3), runs.id, runs.flow
         FROM notices LEFT JOIN exceptions ON exceptions.id = notices.exception LEFT JOIN runs ON runs.id = exceptions.run
         WHERE notices.id > ?1 ORDER BY notices.id LIMIT ?2",
    )?;
    let found = statement.query_map(params![after, super::limit(limit)], |row| {
        let kind: String = row.get(2)?;
        let step: Option<Arc<str>> = row.get(7)?;
        let class: Option<String> = row.get(8)?;
        let run = row.get::<Option<i64>>(11)?.map(RunId);
        let notice = Notice {
            id: row.get(0)?,
            at_ms: row.get(1)?,
            kind: match kind.as_str() {
                "source" => NoticeKind::Source,
                "system" => NoticeKind::System,
                _ => NoticeKind::Issue,
            },
            subject: row.get(3)?,
            flow: row.get(4)?,
            message: row.get(5)?,
            exception: row.get::<Option<i64>>(6)?.map(ExceptionId),
            cause: step.zip(class.and_then(|class| Class::from_name(&class))),
            keys: row.get(9)?,
            open: u64::try_from(row.get::<i64>(10)?).unwrap_or(0),
        };
        Ok((notice, run.zip(row.get::<Option<String>>(12)?)))
    })?;
    // It goes out to people: what is personal of the keys stays here.
    let veil = personal::veil(connection)?;
    let mut notices = Vec::with_capacity(found.len());
    for (mut notice, of) in found {
        if let (Some(keys), Some((run, flow))) = (&notice.keys, of) {
            notice.keys = personal::covered_keys(connection, &veil, (&flow, run), keys)?;
        }
        notices.push(notice);
    }
    Ok(notices)
}
