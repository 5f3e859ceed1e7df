//! Answers of the API that are given once more to who asks once more with the same `Idempotency-Key`. Bounded by count and by time.

use super::database::{Optional, Sql, params};
use super::writer::Writing;

/// How long an answer is kept, in milliseconds.
const KEPT_MS: i64 = 24 * 3_600_000;
/// How many are kept, over all actors; the oldest go first.
const KEPT_MAX: usize = 10_000;

/// A change of the answers.
#[derive(Clone, Debug)]
pub enum AnswerChange {
    /// A request with a key begins.
    Begin {
        /// Who asks.
        actor: String,
        /// The key.
        key: String,
        /// SHA-256 of what is asked for.
        hash: [u8; 32],
    },
    /// It was answered.
    End {
        /// Who has asked.
        actor: String,
        /// The key.
        key: String,
        /// The status.
        status: i64,
        /// The answer's bytes.
        body: Vec<u8>,
    },
    /// It was not begun after all: the same key may come again.
    Forget {
        /// Who has asked.
        actor: String,
        /// The key.
        key: String,
    },
}

/// What is known of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Known {
    /// Nothing: go on.
    New,
    /// The first request is under way, or its answer was lost.
    UnderWay,
    /// It came before with something else.
    Differs,
    /// This was the answer: status and bytes.
    Answered(i64, Vec<u8>),
}

/// Applies a change.
pub(super) fn change(writing: &Writing<'_>, change: &AnswerChange) -> Sql<Known> {
    match change {
        AnswerChange::Begin { actor, key, hash } => begin(writing, actor, key, hash),
        AnswerChange::End {
            actor,
            key,
            status,
            body,
        } => {
            writing.put(
                "UPDATE answers SET status = ?3, body = ?4 WHERE actor = ?1 AND key = ?2",
                params![actor, key, *status, &body[..]],
            )?;
            Ok(Known::New)
        }
        AnswerChange::Forget { actor, key } => {
            writing.put(
                "DELETE FROM answers WHERE actor = ?1 AND key = ?2",
                params![actor, key],
            )?;
            Ok(Known::New)
        }
    }
}

fn begin(writing: &Writing<'_>, actor: &str, key: &str, hash: &[u8; 32]) -> Sql<Known> {
    writing.put(
        "DELETE FROM answers WHERE at < ?1",
        [writing.now_ms - KEPT_MS],
    )?;
    let known: Option<(Vec<u8>, i64, Vec<u8>)> = writing
        .connection
        .prepare_cached("SELECT hash, status, body FROM answers WHERE actor = ?1 AND key = ?2")?
        .query_row(params![actor, key], |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?))
        })
        .optional()?;
    match known {
        Some((known, ..)) if known[..] != hash[..] => return Ok(Known::Differs),
        Some((_, 0, _)) => return Ok(Known::UnderWay),
        Some((_, status, body)) => return Ok(Known::Answered(status, body)),
        None => {}
    }
    writing.put(
        "DELETE FROM answers WHERE at < (SELECT at FROM answers ORDER BY at DESC LIMIT 1 OFFSET ?1)",
        [super::limit(KEPT_MAX)],
    )?;
    writing.put(
        "INSERT INTO answers (actor, key, at, hash, status, body) VALUES (?1, ?2, ?3, ?4, 0, ?5)",
        params![actor, key, writing.now_ms, &hash[..], &b""[..]],
    )?;
    Ok(Known::New)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::commit::Commit;
    use super::super::sample::*;
    use super::*;

    async fn ask(sample: &Sample, change: AnswerChange) -> Known {
        let commit = Commit {
            answers: vec![change],
            ..Commit::default()
        };
        let committed = sample.store.commit(commit).await.unwrap();
        committed.answers[0].clone()
    }

    fn begin(actor: &str, hash: u8) -> AnswerChange {
        AnswerChange::Begin {
            actor: actor.to_owned(),
            key: "k".to_owned(),
            hash: [hash; 32],
        }
    }

    #[tokio::test]
    async fn an_answer_is_given_again_for_a_day() {
        for sample in [Sample::in_a_file(), Sample::on_a_server()] {
            assert_eq!(ask(&sample, begin("anna", 1)).await, Known::New);
            assert_eq!(ask(&sample, begin("anna", 1)).await, Known::UnderWay);
            assert_eq!(ask(&sample, begin("anna", 2)).await, Known::Differs);
            assert_eq!(ask(&sample, begin("bert", 2)).await, Known::New);
            let (actor, key) = ("anna".to_owned(), "k".to_owned());
            let end = AnswerChange::End {
                actor,
                key,
                status: 200,
                body: b"{}".to_vec(),
            };
            ask(&sample, end).await;
            let known = Known::Answered(200, b"{}".to_vec());
            assert_eq!(ask(&sample, begin("anna", 1)).await, known);
            let (actor, key) = ("bert".to_owned(), "k".to_owned());
            ask(&sample, AnswerChange::Forget { actor, key }).await;
            assert_eq!(ask(&sample, begin("bert", 3)).await, Known::New);
            sample.clock.advance(Duration::from_secs(25 * 3600));
            assert_eq!(ask(&sample, begin("anna", 2)).await, Known::New);
        }
    }
}
