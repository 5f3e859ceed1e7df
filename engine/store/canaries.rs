//! Canaries: a revision that takes a share of the messages beside the one that runs. One at a time runs on a store; those that are over are
//! kept, with who has ended them and why.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::failure::Failure;

use super::database::{Row, Sql, params};
use super::reader::Reader;
use super::writer::Writing;

/// So many canaries are shown at most.
const SHOWN_MAX: usize = 100;

/// - `terms` is JSON, `share` of 10,000
/// - `first_exception` is the last one that was there at the beginning: those behind it count
/// - `canary_counts` says how many messages each side has taken in, and how many of them it has refused; its rows go with the next canary
pub(super) const TABLES: &str = "
CREATE TABLE canaries (
  id INTEGER PRIMARY KEY AUTOINCREMENT, revision TEXT NOT NULL, base TEXT NOT NULL, terms TEXT NOT NULL, share INTEGER NOT NULL,
  first_exception INTEGER NOT NULL, state TEXT NOT NULL, at INTEGER NOT NULL, who TEXT NOT NULL, why TEXT NOT NULL, ended_at INTEGER,
  ended_by TEXT, ended_why TEXT
) STRICT;
CREATE UNIQUE INDEX canaries_running ON canaries (state) WHERE state = 'running';
CREATE TABLE canary_counts (
  canary INTEGER NOT NULL, flow TEXT NOT NULL, candidate INTEGER NOT NULL, taken INTEGER NOT NULL, refused INTEGER NOT NULL,
  PRIMARY KEY (canary, flow, candidate)
) STRICT, WITHOUT ROWID;
";

/// Flows that are other ones in a canary, each with its revision before and in it.
pub type Others = BTreeMap<Arc<str>, (Arc<str>, Arc<str>)>;

/// A canary.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Canary {
    /// Its number.
    pub id: i64,
    /// The revision that is tried.
    #[schema(value_type = String)]
    pub revision: Arc<str>,
    /// The revision that ran when it began: what it is held against.
    #[schema(value_type = String)]
    pub base: Arc<str>,
    /// Which messages it takes, and when it ends by itself.
    pub terms: Terms,
    /// How many of 10,000 keys it takes. Of no account where an expression decides.
    pub share: u32,
    /// Whether it runs, or how it ended.
    pub state: CanaryState,
    /// Since when, in milliseconds since 1970; set by the store.
    pub at_ms: i64,
    /// By whom.
    pub who: String,
    /// Why.
    pub why: String,
    /// When it ended.
    pub ended_at_ms: Option<i64>,
    /// By whom.
    pub ended_by: Option<String>,
    /// Why.
    pub ended_why: Option<String>,
}

/// Which messages a canary takes, and when it ends by itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Terms {
    /// The flows of which it takes messages.
    #[schema(value_type = BTreeMap<String, Vec<String>>)]
    pub flows: Others,
    /// The name of the key by whose values messages are shared out; without it a flow's first key, or the body where it has none.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    pub by: Option<Arc<str>>,
    /// The expression that is true for the messages that it takes, instead of a share.
    #[serde(default)]
    pub when: Option<String>,
    /// It is stopped when the share of its messages that end in exceptions is larger than that of the others by more than this, of 10,000.
    pub worse_by: u32,
    /// Not before it has taken so many messages.
    pub least: u64,
    /// Whether somebody else than who began it must promote it.
    #[serde(default)]
    pub other_promotes: bool,
}

/// Whether a canary runs, or how it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum CanaryState {
    /// It takes its share.
    Running,
    /// It runs for all.
    Promoted,
    /// It takes nothing any more.
    Stopped,
}

/// A change of canaries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CanaryChange {
    /// One begins, if none runs.
    Begin(Canary),
    /// The one that runs takes another share.
    Share(i64, u32),
    /// It ends, if it runs: how, by whom, why.
    End(i64, CanaryState, String, String),
    /// So many messages of a flow more were taken in by the candidate, or by the other side.
    Taken(i64, Arc<str>, bool, Tally),
}

/// How many messages came to one side since the last time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tally {
    /// All of them.
    pub taken: u64,
    /// Those that it has refused.
    pub refused: u64,
}

/// What one side has done with its messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Side {
    /// How many it has taken in, repeats among them.
    pub taken: u64,
    /// How many of them it has refused, because the body breaks the contract.
    pub refused: u64,
    /// How many of them ended in an exception.
    pub excepted: u64,
}

/// What both sides have done with the messages of a flow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Sides {
    /// The revision that runs.
    pub base: Side,
    /// The candidate.
    pub candidate: Side,
}

impl CanaryState {
    /// The word in the store and on the screen.
    pub fn name(self) -> &'static str {
        match self {
            CanaryState::Running => "running",
            CanaryState::Promoted => "promoted",
            CanaryState::Stopped => "stopped",
        }
    }

    fn from_name(name: &str) -> CanaryState {
        match name {
            "running" => CanaryState::Running,
            "promoted" => CanaryState::Promoted,
            _ => CanaryState::Stopped,
        }
    }
}

const COLUMNS: &str =
    "id, revision, base, terms, share, state, at, who, why, ended_at, ended_by, ended_why";

impl Reader {
    /// The canaries, the newest first.
    pub async fn canaries(&self, limit: usize) -> Result<Vec<Canary>, Failure> {
        self.read(move |connection| {
            let mut statement = connection.prepare_cached(&format!(
                "SELECT {COLUMNS} FROM canaries ORDER BY id DESC LIMIT ?1"
            ))?;
            statement.query_map([super::limit(limit.min(SHOWN_MAX))], canary)
        })
        .await
    }

    /// The canary that runs.
    pub async fn canary(&self) -> Result<Option<Canary>, Failure> {
        let mut last = self.canaries(1).await?;
        Ok(last.pop().filter(|last| last.state == CanaryState::Running))
    }

    /// What both sides have done, by flow.
    pub async fn canary_sides(
        &self,
        canary: &Canary,
    ) -> Result<BTreeMap<Arc<str>, Sides>, Failure> {
        let (id, flows) = (canary.id, canary.terms.flows.clone());
        self.read(move |connection| {
            let mut taken = connection.prepare_cached(
                "SELECT flow, candidate, taken, refused FROM canary_counts WHERE canary = ?1",
            )?;
            let mut excepted = connection.prepare_cached(
                "SELECT count(DISTINCT e.run) FROM canaries c JOIN exceptions e ON e.id > c.first_exception
                 JOIN runs r ON r.id = e.run WHERE c.id = ?1 AND r.flow = ?2 AND r.revision = ?3 AND r.received_at >= c.at",
            )?;
            let mut sides: BTreeMap<Arc<str>, Sides> = BTreeMap::new();
            taken.each([id], |row| {
                let many = |column| row.get(column).map(|many: i64| u64::try_from(many).unwrap_or(0));
                let of = sides.entry(row.get(0)?).or_default();
                let side = of.of(row.get::<i64>(1)? != 0);
                (side.taken, side.refused) = (many(2)?, many(3)?);
                Ok(())
            })?;
            for (flow, (base, revision)) in &flows {
                for (of, candidate) in [(base, false), (revision, true)] {
                    let many = excepted.query_map(params![id, flow, of], |row| row.get::<i64>(0))?;
                    let many = many.first().map_or(0, |many| u64::try_from(*many).unwrap_or(0));
                    sides.entry(flow.clone()).or_default().of(candidate).excepted = many;
                }
            }
            Ok(sides)
        })
        .await
    }
}

impl Sides {
    fn of(&mut self, candidate: bool) -> &mut Side {
        match candidate {
            true => &mut self.candidate,
            false => &mut self.base,
        }
    }
}

fn canary(row: &Row<'_>) -> Sql<Canary> {
    let terms: String = row.get(3)?;
    Ok(Canary {
        id: row.get(0)?,
        revision: row.get(1)?,
        base: row.get(2)?,
        terms: serde_json::from_str(&terms).unwrap_or_default(),
        share: u32::try_from(row.get::<i64>(4)?).unwrap_or(0),
        state: CanaryState::from_name(&row.get::<String>(5)?),
        at_ms: row.get(6)?,
        who: row.get(7)?,
        why: row.get(8)?,
        ended_at_ms: row.get(9)?,
        ended_by: row.get(10)?,
        ended_why: row.get(11)?,
    })
}

/// Applies a change.
pub(super) fn change(writing: &Writing<'_>, change: &CanaryChange) -> Sql<()> {
    match change {
        CanaryChange::Begin(canary) => {
            writing.put("DELETE FROM canary_counts WHERE canary IN (SELECT id FROM canaries WHERE state <> 'running')", ())?;
            writing.put(
                "INSERT INTO canaries (revision, base, terms, share, first_exception, state, at, who, why)
                 SELECT ?1, ?2, ?3, ?4, (SELECT coalesce(max(id), 0) FROM exceptions), 'running', ?5, ?6, ?7
                 WHERE NOT EXISTS (SELECT 1 FROM canaries WHERE state = 'running')",
                params![
                    canary.revision,
                    canary.base,
                    serde_json::to_string(&canary.terms).unwrap_or_default(),
                    i64::from(canary.share),
                    writing.now_ms,
                    canary.who,
                    canary.why,
                ],
            )
        }
        CanaryChange::Share(id, share) => writing.put(
            "UPDATE canaries SET share = ?2 WHERE id = ?1 AND state = 'running'",
            params![id, i64::from(*share)],
        ),
        CanaryChange::End(id, state, who, why) => writing.put(
            "UPDATE canaries SET state = ?2, ended_at = ?3, ended_by = ?4, ended_why = ?5 WHERE id = ?1 AND state = 'running'",
            params![id, state.name(), writing.now_ms, who, why],
        ),
        CanaryChange::Taken(id, flow, candidate, more) => {
            let [taken, refused] =
                [more.taken, more.refused].map(|many| i64::try_from(many).unwrap_or(i64::MAX));
            writing.put(
                "INSERT INTO canary_counts (canary, flow, candidate, taken, refused) VALUES (?1, ?2, ?3, ?4, ?5)
                 ON CONFLICT (canary, flow, candidate) DO UPDATE
                 SET taken = canary_counts.taken + excluded.taken, refused = canary_counts.refused + excluded.refused",
                params![id, flow, i64::from(*candidate), taken, refused],
            )
        }
    }
}
