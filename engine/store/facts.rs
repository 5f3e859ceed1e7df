//! Facts: numbers under a name that outlive every engine, for those who keep little else. Changed only from the value that is known, so that
//! of several engines one changes it.

use crate::failure::Failure;

use super::database::{Connection, Optional, Sql, params};
use super::reader::Reader;
use super::writer::Writing;

/// A fact to be set, if it is still what it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fact {
    /// Its name: who keeps it, then what, as `queue/orders/erp`.
    pub name: String,
    /// What it was; `None` if there was none.
    pub from: Option<i64>,
    /// What it is from now on.
    pub to: i64,
}

impl Reader {
    /// The facts whose names begin so, in the order of their names.
    pub async fn facts(&self, beginning: &str) -> Result<Vec<(String, i64)>, Failure> {
        let beginning = beginning.to_owned();
        self.read(move |connection| {
            let length = i64::try_from(beginning.chars().count()).unwrap_or(i64::MAX);
            let mut statement = connection.prepare_cached(
                "SELECT name, value FROM facts WHERE substr(name, 1, ?2) = ?1 ORDER BY name",
            )?;
            statement.query_map(params![beginning, length], |row| {
                Ok((row.get(0)?, row.get(1)?))
            })
        })
        .await
    }
}

/// A number that the store remembers; `None` if it has none.
pub(super) fn get(connection: &Connection, name: &str) -> Sql<Option<i64>> {
    connection
        .query_row("SELECT value FROM facts WHERE name = ?1", [name], |row| {
            row.get(0)
        })
        .optional()
}

/// Remembers a number, whatever it was.
pub(super) fn put(connection: &Connection, name: &str, value: i64) -> Sql<()> {
    connection.put(
        "INSERT INTO facts (name, value) VALUES (?1, ?2) ON CONFLICT (name) DO UPDATE SET value = ?2",
        params![name, value],
    )
}

/// Sets a fact, if it is still what it was.
pub(super) fn set(writing: &Writing<'_>, fact: &Fact) -> Sql<()> {
    match fact.from {
        None => writing.run(
            "INSERT INTO facts (name, value) VALUES (?1, ?2) ON CONFLICT DO NOTHING",
            params![fact.name, fact.to],
        )?,
        Some(from) => writing.run(
            "UPDATE facts SET value = ?3 WHERE name = ?1 AND value = ?2",
            params![fact.name, from, fact.to],
        )?,
    };
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::commit::Commit;
    use super::super::sample::*;
    use super::*;

    #[tokio::test]
    async fn a_fact_is_changed_only_from_what_is_known() {
        let mut sample = Sample::new();
        let set = |sample: &Sample, from, to| {
            let commit = Commit {
                facts: vec![Fact {
                    name: "queue/orders/erp".to_owned(),
                    from,
                    to,
                }],
                ..Commit::default()
            };
            let store = sample.store.clone();
            async move { store.commit(commit).await.unwrap() }
        };
        set(&sample, None, 1).await;
        set(&sample, None, 7).await;
        set(&sample, Some(1), 2).await;
        set(&sample, Some(1), 9).await;
        sample.reopen().await;
        let found = sample.store.facts("queue/").await.unwrap();
        assert_eq!(found, [("queue/orders/erp".to_owned(), 2)]);
        assert_eq!(sample.store.facts("queue/x").await.unwrap(), []);
    }
}
