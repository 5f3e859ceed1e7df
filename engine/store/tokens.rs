//! API tokens: what is known of each, never the token itself, only its hash. What a token may do is decided elsewhere.

use super::database::{Connection, Optional, Row, Sql, params};
use super::reader::Reader;
use super::writer::Writing;
use crate::failure::Failure;

/// How many tokens are listed, the newest first.
const LISTED_MAX: usize = 1_000;

/// A token to be.
#[derive(Clone, Debug)]
pub struct NewToken {
    /// Its name: no other token that is valid has it.
    pub name: String,
    /// SHA-256 of the token.
    pub hash: [u8; 32],
    /// What it may do, by name.
    pub roles: Vec<String>,
    /// For which flows: names, with `*` for any letters.
    pub flows: Vec<String>,
    /// Who made it.
    pub created_by: String,
    /// Until when it is valid, in milliseconds since 1970.
    pub expires_at_ms: i64,
}

/// A change of the tokens.
#[derive(Clone, Debug)]
pub enum TokenChange {
    /// A new one; refused if there is a valid one of its name.
    Create(NewToken),
    /// The one with this name is valid no longer; refused if there is none.
    Revoke {
        /// The name.
        name: String,
    },
    /// It was used now.
    Used {
        /// Its number.
        id: i64,
    },
}

/// What became of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Issued {
    /// It is done; the token's number.
    Done(i64),
    /// It could not be done.
    Refused,
}

/// What is known of a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenRow {
    /// Its number.
    pub id: i64,
    /// Its name.
    pub name: String,
    /// What it may do, by name.
    pub roles: Vec<String>,
    /// For which flows.
    pub flows: Vec<String>,
    /// When it was made, in milliseconds since 1970.
    pub created_at_ms: i64,
    /// By whom.
    pub created_by: String,
    /// Until when it is valid.
    pub expires_at_ms: i64,
    /// Since when it is revoked.
    pub revoked_at_ms: Option<i64>,
    /// When it was last used, as far as that was noted.
    pub used_at_ms: Option<i64>,
}

impl TokenRow {
    /// Whether it is valid at this time.
    pub fn is_valid(&self, now_ms: i64) -> bool {
        self.revoked_at_ms.is_none() && self.expires_at_ms > now_ms
    }
}

const COLUMNS: &str =
    "id, name, roles, flows, created_at, created_by, expires_at, revoked_at, used_at";

impl Reader {
    /// The token with this hash, valid or not.
    pub async fn token(&self, hash: [u8; 32]) -> Result<Option<TokenRow>, Failure> {
        self.read(move |connection| {
            connection
                .prepare_cached(&format!("SELECT {COLUMNS} FROM tokens WHERE hash = ?1"))?
                .query_row(params![&hash[..]], row)
                .optional()
        })
        .await
    }

    /// All tokens, the newest first, at most 1,000.
    pub async fn tokens(&self) -> Result<Vec<TokenRow>, Failure> {
        self.read(|connection| {
            connection
                .prepare_cached(&format!(
                    "SELECT {COLUMNS} FROM tokens ORDER BY id DESC LIMIT ?1"
                ))?
                .query_map([super::limit(LISTED_MAX)], row)
        })
        .await
    }
}

/// Applies a change.
pub(super) fn change(writing: &Writing<'_>, change: &TokenChange) -> Sql<Issued> {
    match change {
        TokenChange::Create(new) => {
            if valid(writing.connection, &new.name, writing.now_ms)?.is_some() {
                return Ok(Issued::Refused);
            }
            let id = writing.connection.query_row(
                "INSERT INTO tokens (name, hash, roles, flows, created_at, created_by, expires_at)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7) RETURNING id",
                params![
                    new.name,
                    &new.hash[..],
                    new.roles.join(","),
                    new.flows.join(","),
                    writing.now_ms,
                    new.created_by,
                    new.expires_at_ms,
                ],
                |row| row.get(0),
            )?;
            Ok(Issued::Done(id))
        }
        TokenChange::Revoke { name } => {
            let Some(id) = valid(writing.connection, name, writing.now_ms)? else {
                return Ok(Issued::Refused);
            };
            writing.put(
                "UPDATE tokens SET revoked_at = ?2 WHERE id = ?1",
                [id, writing.now_ms],
            )?;
            Ok(Issued::Done(id))
        }
        TokenChange::Used { id } => {
            writing.put(
                "UPDATE tokens SET used_at = ?2 WHERE id = ?1",
                [*id, writing.now_ms],
            )?;
            Ok(Issued::Done(*id))
        }
    }
}

fn valid(connection: &Connection, name: &str, now_ms: i64) -> Sql<Option<i64>> {
    connection
        .prepare_cached(
            "SELECT id FROM tokens WHERE name = ?1 AND revoked_at IS NULL AND expires_at > ?2",
        )?
        .query_row(params![name, now_ms], |row| row.get(0))
        .optional()
}

fn row(row: &Row<'_>) -> Sql<TokenRow> {
    let list = |text: String| text.split(',').map(str::to_owned).collect();
    Ok(TokenRow {
        id: row.get(0)?,
        name: row.get(1)?,
        roles: list(row.get(2)?),
        flows: list(row.get(3)?),
        created_at_ms: row.get(4)?,
        created_by: row.get(5)?,
        expires_at_ms: row.get(6)?,
        revoked_at_ms: row.get(7)?,
        used_at_ms: row.get(8)?,
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::commit::Commit;
    use super::super::sample::*;
    use super::*;

    async fn change(sample: &Sample, change: TokenChange) -> Issued {
        let commit = Commit {
            tokens: vec![change],
            ..Commit::default()
        };
        sample.store.commit(commit).await.unwrap().tokens[0]
    }

    fn new(name: &str, hash: u8) -> TokenChange {
        TokenChange::Create(NewToken {
            name: name.to_owned(),
            hash: [hash; 32],
            roles: vec!["viewer".to_owned(), "auditor".to_owned()],
            flows: vec!["orders-*".to_owned()],
            created_by: "anna".to_owned(),
            expires_at_ms: START_MS + 60_000,
        })
    }

    #[tokio::test]
    async fn a_name_is_one_tokens_until_it_is_revoked_or_over() {
        for sample in [Sample::in_a_file(), Sample::on_a_server()] {
            assert!(matches!(
                change(&sample, new("a", 1)).await,
                Issued::Done(_)
            ));
            assert_eq!(change(&sample, new("a", 2)).await, Issued::Refused);
            let row = sample.store.token([1; 32]).await.unwrap().unwrap();
            assert_eq!(row.roles, ["viewer", "auditor"]);
            assert!(row.is_valid(sample.store.now_ms()) && row.used_at_ms.is_none());
            change(&sample, TokenChange::Used { id: row.id }).await;
            let revoke = || TokenChange::Revoke {
                name: "a".to_owned(),
            };
            assert_eq!(change(&sample, revoke()).await, Issued::Done(row.id));
            assert_eq!(change(&sample, revoke()).await, Issued::Refused);
            let row = sample.store.token([1; 32]).await.unwrap().unwrap();
            assert!(!row.is_valid(sample.store.now_ms()) && row.used_at_ms.is_some());
            change(&sample, new("a", 3)).await;
            sample.clock.advance(Duration::from_secs(61));
            assert!(matches!(
                change(&sample, new("a", 4)).await,
                Issued::Done(_)
            ));
            let all = sample.store.tokens().await.unwrap();
            let valid = all.iter().filter(|row| row.is_valid(START_MS + 59_000));
            assert_eq!((all.len(), valid.count()), (3, 2));
            assert!(sample.store.token([9; 32]).await.unwrap().is_none());
        }
    }
}
