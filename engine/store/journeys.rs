//! Journeys: the business keys of runs, searchable over all flows, and the timeline of each run.

use std::sync::Arc;

use crate::body::write_string;
use crate::failure::Failure;
use crate::message::Names;

use super::commit::{HopId, NewRun, RunId, Trail};
use super::database::{Connection, Sql, params};
use super::hex;
use super::reader::Reader;
use super::runs::{self, RunRow};
use super::writer::Writing;

/// A line of a run's timeline, as it is shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrailLine {
    /// When, in milliseconds since 1970.
    pub at_ms: i64,
    /// The step.
    pub step: String,
    /// One word: `done`, `filtered`, `failed`, `waits`, ..
    pub what: String,
    /// A few words more.
    pub detail: Option<String>,
    /// A hash of the body that the step gave, in hexadecimal digits.
    pub hash: Option<String>,
}

/// How many runs a journey shows at most.
const JOURNEY_MAX: i64 = 1000;

impl Reader {
    /// All runs of a journey, over all flows, in the order in which they were accepted: those with this key (`SO-1001`, or
    /// `order=SO-1001`), and those that come from the same accepted messages.
    pub async fn journey(&self, key: &str) -> Result<Vec<RunRow>, Failure> {
        let key = key.to_owned();
        self.read(move |connection| {
            let (name, value) = key.split_once('=').unzip();
            let mut statement = connection.prepare_cached(&format!(
                "SELECT {} FROM runs WHERE root IN (
                   SELECT root FROM runs WHERE id IN (SELECT run FROM keys WHERE value = ?1 OR (value = ?2 AND name = ?3))
                 ) ORDER BY id LIMIT {JOURNEY_MAX}",
                runs::columns()
            ))?;
            statement.query_map(params![key, value, name], runs::row)
        })
        .await
    }
}

/// Makes a run's business keys searchable.
pub(super) fn insert_keys(writing: &Writing<'_>, run: &NewRun) -> Sql<()> {
    for (name, value) in run.keys.iter() {
        writing.put(
            "INSERT INTO keys (value, name, run) VALUES (?1, ?2, ?3) ON CONFLICT DO NOTHING",
            params![value, name, run.run.0],
        )?;
    }
    Ok(())
}

/// Gives a run these business keys instead of those that it has.
pub(super) fn change_keys(writing: &Writing<'_>, run: RunId, keys: &Names) -> Sql<()> {
    writing.put("DELETE FROM keys WHERE run = ?1", [run.0])?;
    for (name, value) in keys {
        writing.put(
            "INSERT INTO keys (value, name, run) VALUES (?1, ?2, ?3) ON CONFLICT DO NOTHING",
            params![value, name, run.0],
        )?;
    }
    writing.put(
        "UPDATE runs SET keys = ?2 WHERE id = ?1",
        params![run.0, keys_text(keys)],
    )?;
    Ok(())
}

/// Writes one line that is no hop's end: under fence 0, which no end has.
pub(super) fn insert_line(writing: &Writing<'_>, run: RunId, hop: i64, line: Trail) -> Sql<()> {
    writing.put(
        "INSERT INTO trail (run, hop, fence, lines) VALUES (?1, ?2, 0, ?3) ON CONFLICT DO NOTHING",
        params![run.0, hop, lines(&[line])],
    )?;
    Ok(())
}

/// Writes what is shown of a hop on its run's timeline.
pub(super) fn insert_lines(
    writing: &Writing<'_>,
    run: RunId,
    hop: HopId,
    fence: i64,
    trail: &[Trail],
) -> Sql<()> {
    if trail.is_empty() {
        return Ok(());
    }
    writing.put(
        "INSERT INTO trail (run, hop, fence, lines) VALUES (?1, ?2, ?3, ?4)",
        params![run.0, hop.0, fence, lines(trail)],
    )?;
    Ok(())
}

/// A line as `lines` writes it.
type Line = (i64, String, String, Option<String>, Option<String>);

/// The timeline of a run.
pub(super) fn trail_of(connection: &Connection, run: RunId) -> Sql<Vec<TrailLine>> {
    let mut statement =
        connection.prepare_cached("SELECT lines FROM trail WHERE run = ?1 ORDER BY hop, fence")?;
    let mut trail = Vec::new();
    statement.each([run.0], |row| {
        trail.extend(lines_from(&row.text(0)?));
        Ok(())
    })?;
    // What happened at the same time stays in the order of the hops.
    trail.sort_by_key(|line| line.at_ms);
    Ok(trail)
}

/// The lines of one end, from what `lines` wrote.
pub(super) fn lines_from(text: &str) -> impl Iterator<Item = TrailLine> + use<> {
    let lines: Vec<Line> = serde_json::from_str(text).unwrap_or_default();
    lines
        .into_iter()
        .map(|(at_ms, step, what, detail, hash)| TrailLine {
            at_ms,
            step,
            what,
            detail,
            hash,
        })
}

/// Business keys as the store keeps them: a JSON object.
pub(super) fn keys_text(keys: &Names) -> String {
    let mut out = vec![b'{'];
    for (at, (name, value)) in keys.iter().enumerate() {
        if at > 0 {
            out.push(b',');
        }
        write_string(&mut out, name);
        out.push(b':');
        write_string(&mut out, value);
    }
    out.push(b'}');
    String::from_utf8(out).expect("strings are written as UTF-8")
}

/// Business keys from what `keys_text` wrote.
pub(super) fn keys_from(text: &str) -> Names {
    let parsed: std::collections::BTreeMap<String, String> =
        serde_json::from_str(text).unwrap_or_default();
    parsed
        .into_iter()
        .map(|(name, value)| (Arc::from(name), value))
        .collect()
}

/// The lines of one end: `[[at, step, what, detail or null, hash or null], ..]`.
fn lines(trail: &[Trail]) -> String {
    let mut out = Vec::with_capacity(64 * trail.len());
    out.push(b'[');
    for (at, line) in trail.iter().enumerate() {
        if at > 0 {
            out.push(b',');
        }
        out.extend_from_slice(format!("[{},", line.at_ms).as_bytes());
        write_string(&mut out, &line.step);
        out.push(b',');
        write_string(&mut out, line.what);
        out.push(b',');
        match &line.detail {
            Some(detail) => write_string(&mut out, detail),
            None => out.extend_from_slice(b"null"),
        }
        out.push(b',');
        match &line.hash {
            Some(hash) => write_string(&mut out, &hex(hash)),
            None => out.extend_from_slice(b"null"),
        }
        out.push(b']');
    }
    out.push(b']');
    String::from_utf8(out).expect("strings are written as UTF-8")
}
