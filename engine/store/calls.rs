//! Who has called which API, day by day: enough to see who still uses a version that is on its way out. Written at most once a minute for
//! each client, with commits that come anyway.

use std::sync::Arc;

use crate::component::api::Calls;
use crate::failure::Failure;

use super::database::{Sql, params};
use super::reader::Reader;
use super::writer::Writing;

/// How many days are kept.
const DAYS_KEPT: i64 = 400;
const DAY_MS: i64 = 86_400_000;

/// The table. A day is a number of days since 1970.
pub(super) const TABLE: &str = "
CREATE TABLE calls (
  day INTEGER NOT NULL, api TEXT NOT NULL, client TEXT NOT NULL, count INTEGER NOT NULL, last_at INTEGER NOT NULL,
  PRIMARY KEY (day, api, client)
) STRICT, WITHOUT ROWID;
";

impl Reader {
    /// Who has called APIs since this time, in milliseconds since 1970, by API and client. Whole days are counted.
    pub async fn calls(&self, since_ms: i64) -> Result<Vec<Calls>, Failure> {
        self.read(move |connection| {
            let mut statement = connection.prepare_cached(
                "SELECT api, client, CAST(sum(count) AS BIGINT), max(last_at) FROM calls WHERE day >= ?1 GROUP BY api, client ORDER BY api, client",
            )?;
            statement.query_map(params![since_ms.div_euclid(DAY_MS)], |row| {
                Ok(Calls {
                    api: row.get::<Arc<str>>(0)?,
                    client: row.get::<Arc<str>>(1)?,
                    count: u64::try_from(row.get::<i64>(2)?).unwrap_or(0),
                    last_at_ms: row.get(3)?,
                })
            })
        })
        .await
    }
}

/// Adds calls to the day of the last of them, and forgets days that are long past.
pub(super) fn note(writing: &Writing<'_>, calls: &[Calls]) -> Sql<()> {
    let mut newest = 0;
    for calls in calls {
        let day = calls.last_at_ms.div_euclid(DAY_MS);
        newest = newest.max(day);
        writing.run(
            "INSERT INTO calls (day, api, client, count, last_at) VALUES (?1, ?2, ?3, ?4, ?5)
             ON CONFLICT (day, api, client) DO UPDATE SET count = calls.count + ?4,
               last_at = CASE WHEN calls.last_at > ?5 THEN calls.last_at ELSE ?5 END",
            params![
                day,
                calls.api,
                calls.client,
                i64::try_from(calls.count).unwrap_or(i64::MAX),
                calls.last_at_ms
            ],
        )?;
    }
    if newest > 0 {
        writing.run(
            "DELETE FROM calls WHERE day < ?1",
            params![newest - DAYS_KEPT],
        )?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::commit::Commit;
    use super::super::sample::*;
    use super::*;

    const AT_MS: i64 = 1_790_000_000_000;

    fn calls(client: &str, count: u64, days: i64) -> Calls {
        Calls {
            api: Arc::from("POST /v1/orders"),
            client: Arc::from(client),
            count,
            last_at_ms: AT_MS + days * DAY_MS,
        }
    }

    #[tokio::test]
    async fn calls_are_added_up_by_client_over_the_days_that_are_asked_for() {
        let mut sample = Sample::new();
        for calls in [
            vec![calls("acme", 3, 0), calls("zeta", 1, 0)],
            vec![calls("acme", 2, 0)],
            vec![calls("acme", 1, 9)],
        ] {
            let commit = Commit {
                calls,
                ..Commit::default()
            };
            sample.store.commit(commit).await.unwrap();
        }
        sample.reopen().await;
        let store = &sample.store;
        let all = store.calls(AT_MS).await.unwrap();
        assert_eq!(all, [calls("acme", 6, 9), calls("zeta", 1, 0)]);
        let late = store.calls(AT_MS + 5 * DAY_MS).await.unwrap();
        assert_eq!(late, [calls("acme", 1, 9)]);
        // Days that are long past go.
        let commit = Commit {
            calls: vec![calls("zeta", 1, 405)],
            ..Commit::default()
        };
        store.commit(commit).await.unwrap();
        let left = store.calls(0).await.unwrap();
        assert_eq!(left, [calls("acme", 1, 9), calls("zeta", 1, 405)]);
    }
}
