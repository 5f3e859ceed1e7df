//! How far a flow's source has come. A cursor moves with the messages that it stands for, and only from where the source has read it.

use crate::component::Progress;
use crate::failure::{Class, Failure};

use super::database::{Connection, Optional, Sql, params};
use super::reader::Reader;

impl Reader {
    /// The value of a cursor.
    pub async fn cursor(&self, flow: &str, name: &str) -> Result<Option<String>, Failure> {
        let (flow, name) = (flow.to_owned(), name.to_owned());
        self.read(move |connection| value(connection, &flow, &name))
            .await
    }

    /// The cursors of a flow whose names begin with `prefix`, by name, with their values.
    pub async fn cursors(
        &self,
        flow: &str,
        prefix: &str,
    ) -> Result<Vec<(String, String)>, Failure> {
        let (flow, prefix) = (flow.to_owned(), prefix.to_owned());
        self.read(move |connection| {
            let mut statement = connection.prepare_cached(
                "SELECT cursor, value FROM cursors WHERE flow = ?1 AND substr(cursor, 1, length(?2)) = ?2 ORDER BY cursor",
            )?;
            statement.query_map([&flow, &prefix], |row| Ok((row.get(0)?, row.get(1)?)))
        })
        .await
    }
}

/// Moves a cursor. If it is not where `from` says, nothing is written and the inner failure is of class `conflict`.
pub(super) fn advance(
    connection: &Connection,
    flow: &str,
    progress: &Progress,
) -> Sql<Result<(), Failure>> {
    let found = value(connection, flow, &progress.cursor)?;
    if found != progress.from {
        let shown = |value: &Option<String>| match value {
            Some(value) => format!("`{value}`"),
            None => "nothing".to_owned(),
        };
        return Ok(Err(Failure::new(
            Class::Conflict,
            format!(
                "the cursor `{}` of flow {flow} is at {}, not at {}: somebody else has moved it; read it again",
                progress.cursor,
                shown(&found),
                shown(&progress.from)
            ),
        )));
    }
    match &progress.to {
        Some(to) => connection
            .prepare_cached(
                "INSERT INTO cursors (flow, cursor, value) VALUES (?1, ?2, ?3)
                 ON CONFLICT (flow, cursor) DO UPDATE SET value = ?3",
            )?
            .execute(params![flow, progress.cursor, to])?,
        None => connection
            .prepare_cached("DELETE FROM cursors WHERE flow = ?1 AND cursor = ?2")?
            .execute(params![flow, progress.cursor])?,
    };
    Ok(Ok(()))
}

fn value(connection: &Connection, flow: &str, name: &str) -> Sql<Option<String>> {
    connection
        .prepare_cached("SELECT value FROM cursors WHERE flow = ?1 AND cursor = ?2")?
        .query_row([flow, name], |row| row.get(0))
        .optional()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::commit::{Accepted, Commit};
    use super::super::sample::*;
    use super::*;

    fn step(from: Option<&str>, to: Option<&str>) -> Option<(Arc<str>, Progress)> {
        let progress = Progress {
            cursor: "file:a".to_owned(),
            from: from.map(str::to_owned),
            to: to.map(str::to_owned),
        };
        Some((Arc::from("orders"), progress))
    }

    #[tokio::test]
    async fn a_cursor_moves_with_its_messages_or_neither_does() {
        let sample = Sample::new();
        let commit = |progress| Commit {
            accepts: vec![sample.order("A", "1")],
            progress,
            ..Commit::default()
        };
        let moved = sample.store.commit(commit(step(None, Some("1")))).await;
        assert_eq!(moved.unwrap().accepts, [Accepted::New]);
        for from in [None, Some("2")] {
            let refused = sample.store.commit(commit(step(from, Some("9")))).await;
            let failure = refused.unwrap_err();
            assert_eq!(failure.class, Class::Conflict);
            assert!(failure.message.contains("is at `1`"), "{}", failure.message);
        }
        assert_eq!(sample.books().await.received, 1);
        let value = sample.store.cursor("orders", "file:a").await.unwrap();
        assert_eq!(value.as_deref(), Some("1"));
        let all = sample.store.cursors("orders", "file:").await.unwrap();
        assert_eq!(all, [("file:a".to_owned(), "1".to_owned())]);
        let gone = commit(step(Some("1"), None));
        sample.store.commit(gone).await.unwrap();
        assert!(sample.store.cursors("orders", "").await.unwrap().is_empty());
        assert_eq!(sample.store.cursor("other", "file:a").await.unwrap(), None);
    }

    #[tokio::test]
    async fn one_refused_commit_does_not_touch_the_others_of_its_transaction() {
        let sample = Sample::new();
        let commits = (0..20).map(|n| {
            let commit = Commit {
                accepts: vec![sample.order(&n.to_string(), "1")],
                progress: step(None, Some("1")).filter(|_| n % 4 == 0),
                ..Commit::default()
            };
            let store = sample.store.clone();
            tokio::spawn(async move { store.commit(commit).await })
        });
        let mut refused = 0;
        for commit in commits.collect::<Vec<_>>() {
            refused += usize::from(commit.await.unwrap().is_err());
        }
        assert_eq!(refused, 4);
        assert_eq!(sample.books().await.accepted, 16);
    }
}
