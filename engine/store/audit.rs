//! The audit log: who did what, when, from where, and what became of it. Rows are only added, each with a hash over the one before it, in the
//! transaction of what they tell about. What a row must not hold: bodies and secrets.

use std::borrow::Cow;
use std::sync::Arc;

use sha2::{Digest, Sha256};

use crate::failure::Failure;

use super::commit::{Commit, Committed};
use super::database::{Connection, Optional, Row, Sql, params};
use super::reader::Reader;
use super::writer::Writing;

mod acts;
pub mod verify;

/// How many characters of a reason, of a detail and of a name are kept.
const REASON_MAX: usize = 1_000;
const DETAIL_MAX: usize = 2_000;
const NAME_MAX: usize = 200;
/// How many rows a page has at most.
const PAGE_MAX: usize = 1_000;
/// What stands before the first row.
const BEGINNING: [u8; 32] = [0; 32];

/// Who acts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Acting {
    /// The name: of a user of the machine, of a token.
    pub actor: Arc<str>,
    /// What the name is one of.
    pub kind: ActorKind,
    /// Who stands behind the name: of a token who has made it, of somebody whom a provider knows the provider's own name for them.
    pub behind: Option<Arc<str>>,
    /// Through which door.
    pub via: Via,
    /// The address from which, where there is one.
    pub source: Option<Arc<str>>,
    /// The request's id, where there is one.
    pub request: Option<Arc<str>>,
}

/// What an actor is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ActorKind {
    /// A user of the machine.
    User,
    /// The holder of an API token.
    Token,
    /// The holder of an identity of a provider.
    Identity,
    /// Nobody who is known: a request without a valid token.
    Unknown,
    /// The engine itself.
    Engine,
}

/// A door.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Via {
    /// The HTTP API.
    Api,
    /// The command line, over the engine's socket or on the store itself.
    Cli,
    /// None: the engine does it by itself.
    Engine,
}

impl ActorKind {
    /// The name in the log.
    pub fn name(self) -> &'static str {
        match self {
            ActorKind::User => "user",
            ActorKind::Token => "token",
            ActorKind::Identity => "identity",
            ActorKind::Unknown => "unknown",
            ActorKind::Engine => "engine",
        }
    }
}

impl Via {
    /// The name in the log.
    pub fn name(self) -> &'static str {
        match self {
            Via::Api => "api",
            Via::Cli => "cli",
            Via::Engine => "engine",
        }
    }
}

impl Acting {
    /// A user of this machine, at the command line.
    pub fn user(name: &str) -> Acting {
        Acting {
            actor: Arc::from(name),
            kind: ActorKind::User,
            behind: None,
            via: Via::Cli,
            source: None,
            request: None,
        }
    }

    /// The engine, in whose name nobody else acts.
    pub fn engine(name: &str) -> Acting {
        Acting {
            kind: ActorKind::Engine,
            via: Via::Engine,
            ..Acting::user(name)
        }
    }
}

/// Something that was done, or tried.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Who.
    pub acting: Acting,
    /// What: `exception.discard`, `project.reload`.
    pub action: Cow<'static, str>,
    /// What kind of thing it was done to: `exception`, `run`, `token`.
    pub target_kind: &'static str,
    /// Which one; empty where there is only one.
    pub target: String,
    /// Why.
    pub reason: Option<String>,
    /// What became of it: `done`, `refused`, `denied`, `asked`.
    pub outcome: &'static str,
    /// What is worth knowing besides.
    pub detail: Option<String>,
}

/// A row of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditRow {
    /// Its number, from 1 without a gap.
    pub seq: i64,
    /// When, in milliseconds since 1970.
    pub at_ms: i64,
    /// Who.
    pub actor: String,
    /// `user`, `token`, `identity`, `unknown` or `engine`.
    pub kind: String,
    /// `api`, `cli` or `engine`.
    pub via: String,
    /// The address from which.
    pub source: Option<String>,
    /// The request's id.
    pub request: Option<String>,
    /// What.
    pub action: String,
    /// What kind of thing it was done to.
    pub target_kind: String,
    /// Which one.
    pub target: String,
    /// Why.
    pub reason: Option<String>,
    /// What became of it.
    pub outcome: String,
    /// What is worth knowing besides.
    pub detail: Option<String>,
    /// A hash over all that and over the hash of the row before.
    pub hash: Vec<u8>,
}

/// Which rows to list.
#[derive(Clone, Debug, Default)]
pub struct AuditFilter {
    /// By this actor.
    pub actor: Option<String>,
    /// Of this action, or of those that begin so: `exception`.
    pub action: Option<String>,
    /// About this: `exception:7`, or only `exception`.
    pub target: Option<String>,
    /// At this time or later, in milliseconds since 1970.
    pub since_ms: Option<i64>,
    /// With a lower number than this: the next page.
    pub before: Option<i64>,
    /// At most so many; 0 means 100.
    pub limit: usize,
}

/// The end of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// How many rows there are.
    pub count: i64,
    /// The hash of the last one, in hexadecimal digits.
    pub hash: String,
}

impl std::fmt::Display for Head {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.count, self.hash)
    }
}

impl Reader {
    /// Rows of the audit log, the newest first.
    pub async fn audit(&self, filter: AuditFilter) -> Result<Vec<AuditRow>, Failure> {
        self.read(move |connection| list(connection, &filter)).await
    }

    /// The end of the audit log; `None` if it is empty.
    pub async fn audit_head(&self) -> Result<Option<Head>, Failure> {
        let head = self.read(head).await?;
        Ok(head.map(|(count, hash)| Head {
            count,
            hash: hex(&hash),
        }))
    }
}

impl AuditRow {
    /// The hash that the row must have behind one with this hash.
    fn chained(&self, before: &[u8]) -> [u8; 32] {
        let canonical = serde_json::json!([
            self.seq,
            self.at_ms,
            self.actor,
            self.kind,
            self.via,
            self.source,
            self.request,
            self.action,
            self.target_kind,
            self.target,
            self.reason,
            self.outcome,
            self.detail,
        ]);
        let mut digest = Sha256::new();
        digest.update(before);
        digest.update(canonical.to_string().as_bytes());
        digest.finalize().into()
    }
}

/// Writes down what a commit has done, behind all that was done before.
pub(super) fn write(writing: &Writing<'_>, commit: &Commit, committed: &Committed) -> Sql<()> {
    let entries = acts::of(commit, committed);
    if entries.is_empty() {
        return Ok(());
    }
    let (mut seq, mut last) = head(writing.connection)?.unwrap_or((0, BEGINNING.to_vec()));
    for entry in entries {
        seq += 1;
        let mut row = row_of(&entry, seq, writing.now_ms);
        row.hash = row.chained(&last).to_vec();
        insert(writing, &row)?;
        last = row.hash;
    }
    writing.put(
        "INSERT INTO audit_head (id, seq, hash) VALUES (1, ?1, ?2) ON CONFLICT (id) DO UPDATE SET seq = ?1, hash = ?2",
        params![seq, &last[..]],
    )
}

fn insert(writing: &Writing<'_>, row: &AuditRow) -> Sql<()> {
    writing.put(
        "INSERT INTO audit (seq, at, actor, kind, via, source, request, action, target_kind, target, reason, outcome, detail, hash)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14)",
        params![
            row.seq,
            row.at_ms,
            row.actor,
            row.kind,
            row.via,
            row.source,
            row.request,
            row.action,
            row.target_kind,
            row.target,
            row.reason,
            row.outcome,
            row.detail,
            &row.hash[..],
        ],
    )
}

fn row_of(entry: &Entry, seq: i64, at_ms: i64) -> AuditRow {
    let acting = &entry.acting;
    let clip = |text: &Option<Arc<str>>| text.as_deref().map(|text| clipped(text, NAME_MAX));
    let long = |text: &Option<String>, max| text.as_deref().map(|text| clipped(text, max));
    AuditRow {
        seq,
        at_ms,
        actor: clipped(&acting.actor, NAME_MAX),
        kind: acting.kind.name().to_owned(),
        via: acting.via.name().to_owned(),
        source: clip(&acting.source),
        request: clip(&acting.request),
        action: clipped(&entry.action, NAME_MAX),
        target_kind: entry.target_kind.to_owned(),
        target: clipped(&entry.target, NAME_MAX),
        reason: long(&entry.reason, REASON_MAX),
        outcome: entry.outcome.to_owned(),
        detail: long(&entry.detail, DETAIL_MAX),
        hash: Vec::new(),
    }
}

/// At most so many characters of a text.
fn clipped(text: &str, max: usize) -> String {
    match text.char_indices().nth(max) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// The number and the hash of the last row.
fn head(connection: &Connection) -> Sql<Option<(i64, Vec<u8>)>> {
    connection
        .prepare_cached("SELECT seq, hash FROM audit_head WHERE id = 1")?
        .query_row((), |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()
}

const COLUMNS: &str = "seq, at, actor, kind, via, source, request, action, target_kind, target, reason, outcome, detail, hash";

fn row(row: &Row<'_>) -> Sql<AuditRow> {
    Ok(AuditRow {
        seq: row.get(0)?,
        at_ms: row.get(1)?,
        actor: row.get(2)?,
        kind: row.get(3)?,
        via: row.get(4)?,
        source: row.get(5)?,
        request: row.get(6)?,
        action: row.get(7)?,
        target_kind: row.get(8)?,
        target: row.get(9)?,
        reason: row.get(10)?,
        outcome: row.get(11)?,
        detail: row.get(12)?,
        hash: row.get(13)?,
    })
}

fn list(connection: &Connection, filter: &AuditFilter) -> Sql<Vec<AuditRow>> {
    let target = filter.target.as_deref();
    let (kind, which) = match target.and_then(|target| target.split_once(':')) {
        Some((kind, which)) => (Some(kind), Some(which)),
        None => (target, None),
    };
    let limit = match filter.limit {
        0 => 100,
        limit => limit.min(PAGE_MAX),
    };
    let mut statement = connection.prepare_cached(&format!(
        "SELECT {COLUMNS} FROM audit
         WHERE (CAST(?1 AS TEXT) IS NULL OR actor = ?1) AND (CAST(?2 AS TEXT) IS NULL OR substr(action, 1, length(?2)) = ?2)
           AND (CAST(?3 AS TEXT) IS NULL OR target_kind = ?3) AND (CAST(?4 AS TEXT) IS NULL OR target = ?4)
           AND at >= ?5 AND seq < ?6
         ORDER BY seq DESC LIMIT ?7"
    ))?;
    statement.query_map(
        params![
            filter.actor,
            filter.action,
            kind,
            which,
            filter.since_ms.unwrap_or(0),
            filter.before.unwrap_or(i64::MAX),
            super::limit(limit),
        ],
        row,
    )
}

/// Bytes in hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests;
