//! Versions: which version of a key was seen last. A message with an older one is stale; it must not overwrite what is newer.
//!
//! Two versions are compared as numbers if both are numbers, as times if both are times, else byte by byte as texts. Versions of different
//! kinds cannot be compared, and nobody guesses.

use std::borrow::Cow;
use std::cmp::Ordering;

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;

use crate::expression::number::{compare_text, is_json_number};
use crate::failure::Failure;
use crate::message::Guard;

use super::commit::{Seen, Sighting};
use super::database::{Connection, Optional, Sql, params};
use super::reader::Reader;
use super::writer::Writing;

/// `n` is what retention walks along; `message` lets a message that is worked on again find its own version.
pub(super) const TABLE: &str = "
CREATE TABLE versions (
  n INTEGER PRIMARY KEY, scope TEXT NOT NULL, key TEXT NOT NULL, version TEXT NOT NULL, message BLOB NOT NULL,
  seen_at INTEGER NOT NULL, keep_ms INTEGER NOT NULL, UNIQUE (scope, key)
) STRICT;
";

/// Stands before the scope of `once` among the scopes of versions: those versions are kept as long as the claim.
const ONCE: &str = "once:";

/// The scope under which the versions of a `once` scope are kept.
pub fn scope_of_once(scope: &str) -> String {
    format!("{ONCE}{scope}")
}

impl Reader {
    /// The newest version that was seen of any of these keys, if it is newer than the message's own: the message is stale.
    pub async fn newer_version(&self, guards: Vec<Guard>) -> Result<Option<String>, Failure> {
        self.read(move |connection| newer(connection, &guards))
            .await
    }
}

/// Notes a version, if it is newer than what was seen.
pub(super) fn see(writing: &Writing<'_>, sighting: &Sighting) -> Sql<Seen> {
    let guard = &sighting.guard;
    let Some((last, message, until_ms)) = last(writing.connection, guard)? else {
        set(writing, sighting)?;
        return Ok(Seen::Newest);
    };
    // Versions of `once` go with their claim, and that is held as long as its run is not over.
    if until_ms <= writing.now_ms && !guard.scope.starts_with(ONCE) {
        set(writing, sighting)?;
        return Ok(Seen::Newest);
    }
    match compare(&guard.version, &last) {
        None => Ok(Seen::Unlike(last)),
        Some(Ordering::Less) => Ok(Seen::Stale(last)),
        Some(Ordering::Equal) if message == guard.by.to_bytes() => Ok(Seen::Newest),
        Some(Ordering::Equal) => Ok(Seen::Repeat(last)),
        Some(Ordering::Greater) => {
            set(writing, sighting)?;
            Ok(Seen::Newest)
        }
    }
}

/// Notes a version, whatever was seen before.
pub(super) fn set(writing: &Writing<'_>, sighting: &Sighting) -> Sql<()> {
    let guard = &sighting.guard;
    writing.put(
        "INSERT INTO versions (scope, key, version, message, seen_at, keep_ms) VALUES (?1, ?2, ?3, ?4, ?5, ?6)
         ON CONFLICT (scope, key) DO UPDATE SET version = ?3, message = ?4, seen_at = ?5, keep_ms = ?6",
        params![
            guard.scope,
            guard.key,
            guard.version,
            guard.by.to_bytes(),
            writing.now_ms,
            sighting.keep_ms
        ],
    )?;
    Ok(())
}

/// The first version that is newer than the message's.
pub(super) fn newer(connection: &Connection, guards: &[Guard]) -> Sql<Option<String>> {
    for guard in guards {
        if let Some((last, ..)) = last(connection, guard)?
            && compare(&guard.version, &last) == Some(Ordering::Less)
        {
            return Ok(Some(last));
        }
    }
    Ok(None)
}

/// The version that was seen last, the message that brought it, and until when it is kept.
fn last(connection: &Connection, guard: &Guard) -> Sql<Option<(String, [u8; 16], i64)>> {
    connection
        .prepare_cached(
            "SELECT version, message, seen_at + keep_ms FROM versions WHERE scope = ?1 AND key = ?2",
        )?
        .query_row(params![guard.scope, guard.key], |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?))
        })
        .optional()
}

/// Removes what is old among the next `limit` rows behind `after`. Gives how many went, and where the next batch begins.
pub(super) fn sweep(
    connection: &Connection,
    now_ms: i64,
    after: i64,
    limit: usize,
) -> Sql<(u64, Option<i64>)> {
    let mut statement = connection.prepare_cached(&format!(
        "SELECT n, seen_at + keep_ms <= ?2 AND NOT EXISTS (
           SELECT 1 FROM claims WHERE substr(versions.scope, 1, {0}) = '{ONCE}' AND claims.scope = substr(versions.scope, {0} + 1) AND claims.key = versions.key)
         FROM versions WHERE n > ?1 ORDER BY n LIMIT ?3",
        ONCE.len()
    ))?;
    let looked: Vec<(i64, bool)> = statement
        .query_map(params![after, now_ms, super::limit(limit)], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })?;
    let next = (looked.len() >= limit).then(|| looked.last().map_or(0, |(n, _)| *n));
    let mut gone = 0;
    for (n, _) in looked.into_iter().filter(|(_, old)| *old) {
        connection.put("DELETE FROM versions WHERE n = ?1", [n])?;
        gone += 1;
    }
    Ok((gone, next))
}

/// What a version is.
enum Kind<'a> {
    Number(Cow<'a, str>),
    Time(Timestamp),
    Text(&'a str),
}

/// Which of two versions is the newer one; `None` if they are of different kinds.
pub(super) fn compare(a: &str, b: &str) -> Option<Ordering> {
    match (kind(a), kind(b)) {
        (Kind::Number(a), Kind::Number(b)) => Some(compare_text(&a, &b)),
        (Kind::Time(a), Kind::Time(b)) => Some(a.cmp(&b)),
        (Kind::Text(a), Kind::Text(b)) => Some(a.cmp(b)),
        _ => None,
    }
}

fn kind(text: &str) -> Kind<'_> {
    if let Some(number) = number(text) {
        return Kind::Number(number);
    }
    if let Ok(time) = text.parse::<Timestamp>() {
        return Kind::Time(time);
    }
    // A time without a zone is taken as UTC: among versions of one sender that is the same order.
    let time = text.parse::<DateTime>().ok();
    match time.and_then(|time| time.to_zoned(TimeZone::UTC).ok()) {
        Some(time) => Kind::Time(time.timestamp()),
        None => Kind::Text(text),
    }
}

/// The text as a JSON number: zeros and a plus in front are allowed.
fn number(text: &str) -> Option<Cow<'_, str>> {
    if is_json_number(text) {
        return Some(Cow::Borrowed(text));
    }
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    let short = digits.trim_start_matches('0');
    let zero = if short.starts_with(|c: char| c.is_ascii_digit()) {
        ""
    } else {
        "0"
    };
    let sign = if text.starts_with('-') { "-" } else { "" };
    let number = format!("{sign}{zero}{short}");
    (digits.starts_with(|c: char| c.is_ascii_digit()) && is_json_number(&number))
        .then_some(Cow::Owned(number))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::super::commit::Commit;
    use super::super::sample::*;
    use super::*;
    use crate::message::MessageId;

    #[test]
    fn versions_are_compared_as_what_they_are() {
        let check = |a: &str, b: &str, expect: Option<Ordering>| {
            assert_eq!(compare(a, b), expect, "{a} and {b}");
            assert_eq!(compare(b, a), expect.map(Ordering::reverse), "{b} and {a}");
        };
        let (less, equal) = (Some(Ordering::Less), Some(Ordering::Equal));
        check("9", "10", less);
        check("9.5", "9.50", equal);
        check("007", "8", less);
        check("-3", "+2", less);
        check("000", "0", equal);
        check("9007199254740993", "9007199254740994", less);
        check("2026-11-21T10:00:00Z", "2026-11-21T11:30:00+01:00", less);
        check("2026-11-21T10:00:00Z", "2026-11-21T11:00:00+01:00", equal);
        check("2026-11-21 09:59:59.999", "2026-11-21T10:00:00Z", less);
        check("2026-11-21", "2026-11-21T00:00:01", less);
        check("01J9ZA", "01J9ZB", less);
        check("v10", "v9", less);
        check("a", "a", equal);
        check("12", "2026-11-21", None);
        check("12", "r12", None);
        check("", "r12", less);
    }

    fn sighting(key: &str, version: &str, message: u128) -> Sighting {
        Sighting {
            guard: Guard {
                scope: Arc::from("newest:stock/latest"),
                key: key.to_owned(),
                version: version.to_owned(),
                by: MessageId(message),
            },
            keep_ms: 1000,
        }
    }

    async fn see(sample: &Sample, sighting: Sighting) -> Seen {
        let commit = Commit {
            sightings: vec![sighting],
            ..Commit::default()
        };
        let seen = sample.store.commit(commit).await.unwrap().sightings;
        seen.into_iter().next().unwrap()
    }

    #[tokio::test]
    async fn what_is_older_or_seen_is_told_with_what_was_seen() {
        let mut sample = Sample::new();
        let ten = || "10".to_owned();
        assert_eq!(see(&sample, sighting("A", "10", 1)).await, Seen::Newest);
        assert_eq!(
            see(&sample, sighting("A", "9", 2)).await,
            Seen::Stale(ten())
        );
        assert_eq!(
            see(&sample, sighting("A", "10", 2)).await,
            Seen::Repeat(ten())
        );
        sample.reopen().await;
        assert_eq!(see(&sample, sighting("A", "10", 1)).await, Seen::Newest);
        assert_eq!(
            see(&sample, sighting("A", "r11", 3)).await,
            Seen::Unlike(ten())
        );
        assert_eq!(see(&sample, sighting("B", "1", 4)).await, Seen::Newest);
        assert_eq!(see(&sample, sighting("A", "11", 3)).await, Seen::Newest);
        let eleven = Some("11".to_owned());
        let asked = async |sighting: Sighting| {
            let guards = vec![sighting.guard];
            sample.store.newer_version(guards).await.unwrap()
        };
        assert_eq!(asked(sighting("A", "10", 1)).await, eleven);
        assert_eq!(asked(sighting("A", "11", 3)).await, None);
        assert_eq!(asked(sighting("B", "1", 4)).await, None);
    }

    #[tokio::test]
    async fn a_version_is_forgotten_in_its_time() {
        for limit in [1, 100] {
            let sample = Sample::new();
            for key in ["A", "B", "C"] {
                see(&sample, sighting(key, "5", 1)).await;
            }
            let retention = crate::store::retention::Retention {
                runs_ms: 1 << 40,
                bodies_ms: 1 << 40,
                exceptions_ms: 1 << 40,
                limit,
            };
            let sweep = async || {
                let mut gone = 0;
                for _ in 0..9 {
                    let swept = sample.store.sweep(retention).await.unwrap();
                    gone += swept.versions;
                    if !swept.more {
                        break;
                    }
                }
                gone
            };
            sample.clock.advance(Duration::from_millis(999));
            assert_eq!(sweep().await, 0);
            assert_eq!(see(&sample, sighting("B", "6", 2)).await, Seen::Newest);
            sample.clock.advance(Duration::from_millis(1));
            assert_eq!(sweep().await, 2);
            assert_eq!(see(&sample, sighting("A", "4", 3)).await, Seen::Newest);
            let six = Seen::Stale("6".to_owned());
            assert_eq!(see(&sample, sighting("B", "4", 3)).await, six);
        }
    }
}
