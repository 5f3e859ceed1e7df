//! Whether the audit log is as it was written: each row behind the one before it, none missing, none changed, and its end where it was noted.

use super::super::database::{Connection, Sql};
use super::super::reader::Reader;
use super::{BEGINNING, COLUMNS, Head, head, hex, row};
use crate::failure::Failure;

/// How many rows are looked at at a time.
const PAGE: i64 = 1_000;

/// What a look at the whole log has found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    /// The end of the log, as far as it is sound.
    pub head: Head,
    /// The first row that is not as it was written.
    pub bad: Option<Bad>,
}

/// A row that is not as it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bad {
    /// Its number.
    pub seq: i64,
    /// What is wrong with it.
    pub why: String,
}

impl Reader {
    /// Looks at every row of the audit log. `noted` is an end that was noted outside of the store, `COUNT:HASH` or only the hash: the log must
    /// have passed it.
    pub async fn verify_audit(&self, noted: Option<String>) -> Result<Verified, Failure> {
        self.read(move |connection| verify(connection, noted.as_deref()))
            .await
    }
}

fn verify(connection: &Connection, noted: Option<&str>) -> Sql<Verified> {
    let noted = noted.map(|noted| noted.rsplit(':').next().unwrap_or(noted).to_lowercase());
    let (mut seq, mut last) = (0, BEGINNING.to_vec());
    let mut passed = noted.is_none();
    let sound = |seq: i64, last: &[u8], bad: Option<Bad>| Verified {
        head: Head {
            count: seq,
            hash: hex(last),
        },
        bad,
    };
    let mut statement = connection.prepare_cached(&format!(
        "SELECT {COLUMNS} FROM audit WHERE seq > ?1 ORDER BY seq LIMIT {PAGE}"
    ))?;
    let first: i64 = connection
        .prepare_cached("SELECT coalesce(min(seq), 1) FROM audit")?
        .query_row((), |row| row.get(0))?;
    if first < 1 {
        let why = "there is a row before the first one".to_owned();
        return Ok(sound(0, &last, Some(Bad { seq: first, why })));
    }
    loop {
        let rows = statement.query_map([seq], row)?;
        if rows.is_empty() {
            break;
        }
        for row in rows {
            let why = if row.seq != seq + 1 {
                "it is missing"
            } else if row.chained(&last)[..] != row.hash[..] {
                "it was changed, or stands in the place of another one"
            } else {
                seq = row.seq;
                last = row.hash;
                passed |= noted.as_deref() == Some(&hex(&last));
                continue;
            };
            let bad = Bad {
                seq: seq + 1,
                why: why.to_owned(),
            };
            return Ok(sound(seq, &last, Some(bad)));
        }
    }
    let bad = at_the_end(connection, seq, &last)?;
    let bad = bad.or_else(|| {
        (!passed).then(|| Bad {
            seq: seq + 1,
            why: "the end that was noted outside is not in the log: it was written anew, or its end is missing".to_owned(),
        })
    });
    Ok(sound(seq, &last, bad))
}

/// Whether the log ends where the store says that it does.
fn at_the_end(connection: &Connection, seq: i64, last: &[u8]) -> Sql<Option<Bad>> {
    let (count, hash) = head(connection)?.unwrap_or((0, BEGINNING.to_vec()));
    let why = if count > seq {
        format!("it is missing, with all up to {count}: the end was cut off")
    } else if count < seq || hash[..] != *last {
        return Ok(Some(Bad {
            seq: seq.min(count + 1).max(1),
            why: "the store does not know it as the end: rows were added by another hand"
                .to_owned(),
        }));
    } else {
        return Ok(None);
    };
    Ok(Some(Bad { seq: seq + 1, why }))
}
