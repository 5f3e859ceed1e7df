//! How far a flow's source has come. A cursor moves with the messages that it stands for, and only from where the source has read it.

use rusqlite::{Connection, OptionalExtension, params};

use crate::component::Progress;
use crate::failure::{Class, Failure};

use super::Sql;
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
            let rows = statement.query_map([&flow, &prefix], |row| Ok((row.get(0)?, row.get(1)?)))?;
            rows.collect()
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
